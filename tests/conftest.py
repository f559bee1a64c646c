"""Fixtures of every suite: the store on a fake and on a real server, a scripted model server, old stores."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Generator, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from redis import Redis
from redis import utils as redis_library
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import ConnectionError as RedisConnectionError

from storage import Store
from storage.embedded import find_binary
from tests.depth import DEEP, examples
from tests.fake import channels_to, connect_fake
from tests.layouts import NAMES, Layout
from tests.upstream import ScriptedUpstream

# A shared or busy machine makes data slowly (the first text it makes takes seconds); that is no failure.
settings.register_profile(
    "branchline", max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("branchline")

# A connection of redis-py's looks its package's version up anew, in half a millisecond; a test opens several.
redis_library.get_lib_version = cache(redis_library.get_lib_version)

RETENTION_SECONDS = 30 * 86_400


def pytest_configure(config: pytest.Config) -> None:
    """Take Ctrl-C: what a script runs in the background ignores it, and so would every process that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "STALLS" in os.environ:
        config.pluginmanager.import_plugin("tests.stalls")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without the garbage collector: what is made then stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """Keep what is loaded by now out of the garbage collector: to look through it takes a tenth of all."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """URL of a real Valkey that lives as long as the test session; nothing it holds is kept."""
    folder = Path(tempfile.mkdtemp(prefix="branchline-test-"))
    socket = folder / "valkey.sock"
    command = [find_binary(), "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no"]
    server = subprocess.Popen([*map(str, command), "--dir", str(folder), "--logfile", str(folder / "log")])
    with Redis(unix_socket_path=str(socket)) as client:
        deadline = time.monotonic() + 20
        while True:
            try:
                client.ping()
                break
            except RedisConnectionError:
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.02)
    yield f"unix://{socket}"
    server.terminate()
    server.wait(10)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["fake", "valkey"] if DEEP else ["valkey"])
async def redis(request: pytest.FixtureRequest) -> AsyncIterator[AsyncRedis]:
    """An empty server: a real Valkey; in a deep run, and where a test is `on_both_servers`, fakeredis too."""
    fake = request.param == "fake"
    client: AsyncRedis = connect_fake() if fake else AsyncRedis.from_url(request.getfixturevalue("valkey_url"))
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
async def store(redis: AsyncRedis) -> AsyncIterator[Store]:
    """The store on that server."""
    store = Store(*channels_to(redis), prefix="test", retention_seconds=RETENTION_SECONDS)
    yield store
    await store.close()


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """A model server that answers as the test says."""
    async with ScriptedUpstream() as server:
        yield server


@pytest.fixture(params=NAMES)
def layout(request: pytest.FixtureRequest) -> Layout:
    """A store as an earlier version left it, one after the other."""
    return Layout.read(request.param)
