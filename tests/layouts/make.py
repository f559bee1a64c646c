"""Writes a layout with the code that is checked out: `python -m tests.layouts.make 0.1`.

A server in a process of its own, with a real Valkey and a scripted model, lives through the `story`; it is asked for
all that it can tell of it, and killed in the middle of work. What is in Valkey then is the layout. Ids and times are
new every time, so what is written differs from run to run.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from redis.asyncio import Redis

from proxy import __version__
from tests.layouts import Layout
from tests.layouts.answers import Questions, ask
from tests.layouts.snapshot import Snapshot
from tests.layouts.story import CAROL, Client, Story, let_expire
from tests.storage.servers import run_valkey
from tests.upstream import ScriptedUpstream

SETTINGS = {
    "BRANCHLINE_LOG_LEVEL": "error",
    "BRANCHLINE_SEALING_KEY": "the key of a test's store, and of nothing else",
    "BRANCHLINE_STREAMS_KEEP": "all",
    # so that others wait for the one that is being made when the server dies
    "BRANCHLINE_BACKGROUND_CONCURRENCY": "1",
    # long enough for what is held to be still held in the snapshot, however slow the machine is
    "BRANCHLINE_TURNS_LOCK_LEASE_SECONDS": "30",
}


async def make() -> Layout:
    """Live through the story and return what it left."""
    with run_valkey() as valkey:
        async with ScriptedUpstream() as upstream, aiohttp.ClientSession() as http, Redis.from_url(valkey.url) as redis:
            async with running_server(valkey.url, upstream.url, BRANCHLINE_CONVERSATIONS_RETENTION_DAYS="90") as url:
                carol = Client(http, url, CAROL)
                expiring = await let_expire(carol)
            async with running_server(valkey.url, upstream.url) as url:
                story = Story(http, url, upstream, redis)
                await story.tell()
                await story.break_off()
                responses = {client.key: client.responses for client in (story.alice, story.bob, carol)}
                answers = [answer async for answer in Questions(http, url, responses).answers()]
                running = f"/v1/responses/{story.names['running']['response']}"
                answers += [await ask(http, url, story.alice.key, path) for path in (running, f"{running}/input_items")]
            names = {"sealing_key": SETTINGS["BRANCHLINE_SEALING_KEY"], "expiring": expiring, **story.names}
            origin = f"Branchline {__version__} on Valkey {(await redis.info('server'))['valkey_version']}"
            return Layout(await Snapshot.take(redis, origin), answers, names)


@asynccontextmanager
async def running_server(redis_url: str, upstream_url: str, **settings: str) -> AsyncIterator[str]:
    """Run a server, give its URL, and kill it at the end."""
    command = ["-m", "proxy", "serve", "--port", "0", "--redis", redis_url, "--upstream", upstream_url]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BRANCHLINE_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, env=clean | SETTINGS | settings, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        block = await process.stdout.readuntil(b"OPENAI_BASE_URL=")
        found = re.search(rb'base_url = "(.+)/v1"', block)
        assert found is not None, block
        yield found[1].decode()
    finally:
        process.kill()
        await process.wait()


if __name__ == "__main__":
    asyncio.run(make()).write(sys.argv[1])
