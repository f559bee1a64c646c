"""A running proxy for the flows: the real HTTP stack, a real Valkey, a real scripted upstream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from redis.asyncio import Redis

from proxy.app import create_app, create_runner
from proxy.config.settings import Config, Secret
from proxy.http.queue import LARGE_QUEUE, LargeQueue
from proxy.recording.recorder import RECORDER
from proxy.stores import open_store
from tests.upstream import Reply, ScriptedUpstream


@dataclass
class Proxy:
    """A proxy under test: where it listens, what it leads to, and ways to talk to it."""

    url: str
    app: web.Application
    upstream: ScriptedUpstream
    http: aiohttp.ClientSession
    redis: Redis
    runner: web.AppRunner
    stack: AsyncExitStack

    def client(self, key: str = "sk-alice", **options: Any) -> AsyncOpenAI:
        """Return the official client, as an app would make it; it is closed with the proxy."""
        # the official client's own, but for the certificates, which take 40 ms to load and are not needed
        options = {"http_client": DefaultAsyncHttpxClient(verify=False), **options}
        client = AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **options)
        self.stack.push_async_callback(client.close)
        return client

    async def call(
        self, method: str, path: str, body: Any = None, *, key: str = "sk-alice", **options: Any
    ) -> tuple[int, Any]:
        """Send one raw request; return status and JSON."""
        headers = {"Authorization": f"Bearer {key}"}
        async with self.http.request(method, self.url + path, json=body, headers=headers, **options) as response:
            return response.status, await response.json(content_type=None)


StartProxy = Callable[..., Awaitable[Proxy]]


def configure(config: Config, changes: dict[str, dict[str, Any]]) -> Config:
    """Return `config` with sections' keys replaced."""
    sections: dict[str, Any] = {}
    for name, keys in changes.items():
        before = getattr(config, name)
        sections[name] = keys if isinstance(before, dict) else msgspec.structs.replace(before, **keys)
    return msgspec.structs.replace(config, **sections)


async def think(app: web.Application) -> None:
    """Return once it is known where those turns belong that the store was asked for: a model takes longer than that."""
    searching = app[RECORDER].taken._searching
    asked = set(searching)
    while not asked.isdisjoint(searching):  # noqa: ASYNC110 (nobody is told)
        await asyncio.sleep(0.001)


@asynccontextmanager
async def running_proxy(
    redis_url: str,
    script: Sequence[Reply] = (),
    routes: Sequence[web.RouteDef] = (),
    queue: LargeQueue | None = None,
    **changes: dict[str, Any],
) -> AsyncIterator[Proxy]:
    """Run a proxy on a free port.

    script: the model's first answers; routes: of the test's own; queue: as in a process for large requests; changes:
    configuration sections.
    """
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream())
        upstream.script(*script)
        base: dict[str, dict[str, Any]] = {
            "redis": {"url": Secret(redis_url)},
            "upstream": {"url": upstream.url},
            "server": {"shutdown_timeout_seconds": 5.0},
        }
        for name, keys in changes.items():
            base[name] = {**base.get(name, {}), **keys}
        app = create_app(configure(Config(), base))
        app.add_routes(routes)
        if queue is not None:
            app[LARGE_QUEUE] = queue
        upstream.thinks = partial(think, app)
        runner = create_runner(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        http = await stack.enter_async_context(aiohttp.ClientSession())
        client = Redis.from_url(redis_url)
        stack.push_async_callback(client.aclose)
        yield Proxy(f"http://{host}:{port}", app, upstream, http, client, runner, stack)


@asynccontextmanager
async def proxies(valkey_url: str) -> AsyncIterator[StartProxy]:
    """Start proxies with a configuration of the test's own, on an empty store that they share; check it at the end."""
    async with AsyncExitStack() as stack:
        client = Redis.from_url(valkey_url)
        await client.flushall()
        await client.aclose()

        async def start(**changes: Any) -> Proxy:
            return await stack.enter_async_context(running_proxy(valkey_url, **changes))

        yield start
    async with open_store(configure(Config(), {"redis": {"url": Secret(valkey_url)}})) as store:
        assert (await store.auditor.audit()).complaints == []


@pytest.fixture
async def start_proxy(valkey_url: str) -> AsyncIterator[StartProxy]:
    """Start proxies with a configuration of the test's own, on an empty store that they share."""
    async with proxies(valkey_url) as start:
        yield start


@pytest.fixture
async def proxy(start_proxy: StartProxy) -> Proxy:
    """A proxy with the default configuration."""
    return await start_proxy()
