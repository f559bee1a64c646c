"""What the page's screens take on the server, in a conversation of 5,000 items and in one of 200 branches.

    python -m benchmarks.costs.screens [--rounds 50]

A Valkey of its own that keeps nothing, the whole application in this process, requests one after the other. Timed is
all from the request to the last byte of the HTML: reads, rendering, templates. The first view of a text renders it; the
median is of those after. Bar: half a second.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

import aiohttp
from aiohttp import web

from benchmarks.costs.branches import make, wait_for
from benchmarks.costs.views import BAR_SECONDS, BRANCHES, ITEMS, make_forest
from benchmarks.processes import valkey
from proxy.app import create_app, create_runner
from proxy.config.settings import AuthConfig, Config, RedisConfig, Secret
from storage import Store


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    with valkey() as (url, _):
        store = Store.connect(url, prefix="bench", timeout_seconds=30, max_connections=1, retention_seconds=86_400)
        await wait_for(store)
        long = await make(store, ITEMS)
        forest, deepest = await make_forest(store)
        await store.close()
        redis = RedisConfig(url=Secret(url), prefix="bench")
        runner = create_runner(create_app(Config(redis=redis, auth=AuthConfig(mode="none"))))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        base = "http://{}:{}".format(*runner.addresses[0][:2])
        try:
            slow = await measure(base, long.id, forest, deepest, options.rounds)
        finally:
            await runner.cleanup()
    raise SystemExit(1 if slow else 0)


async def measure(base: str, long: str, forest: str, deepest: str, rounds: int) -> int:
    """Print what each screen takes; return how many took longer than they may."""
    screens = {
        f"{ITEMS:,} items, at the tip": f"/ui/c/{long}?branch=base",
        f"{ITEMS:,} items, search": f"/ui/c/{long}/search?q=no-such-word",
        f"{BRANCHES} branches, the deepest": f"/ui/c/{forest}?branch={deepest}",
        f"{BRANCHES} branches, the tree": f"/ui/c/{forest}/branches?earlier=1",
        f"{BRANCHES} branches, compared": f"/ui/c/{forest}/compare?a=MAIN&b={deepest}",
        "the list": "/ui/",
    }
    print("ms                               first  median   worst")
    slow = 0
    async with aiohttp.ClientSession() as http:
        for name, path in screens.items():
            times = []
            for _ in range(rounds):
                start = time.perf_counter()
                async with http.get(base + path) as answer:
                    await answer.read()
                    assert answer.status == 200, path
                times.append((time.perf_counter() - start) * 1000)
            slow += max(times[1:]) > BAR_SECONDS * 1000
            print(f"{name:30}{times[0]:8.1f}{statistics.median(times[1:]):8.1f}{max(times[1:]):8.1f}")
    return slow


if __name__ == "__main__":
    asyncio.run(main())
