"""Served applications and raw sockets for the tests of the HTTP shell."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from proxy.app import create_app, create_runner
from proxy.config.settings import Config, RedisConfig, Secret, UpstreamConfig
from tests.upstream import ScriptedUpstream

#: Nothing listens there; the store connects when it is needed, and these tests do not need it.
NO_STORE = RedisConfig(url=Secret("redis://127.0.0.1:1"))

Serve = Callable[[web.Application], Awaitable[URL]]
ServeProxy = Callable[..., Awaitable[URL]]
Exchange = Callable[[URL, bytes], Awaitable[bytes]]
Complaints = Callable[[], list[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start an application as `proxy` is served; gives its origin."""
    async with AsyncExitStack() as stack:

        async def start(app: web.Application) -> URL:
            runner = create_runner(app)
            stack.push_async_callback(runner.cleanup)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return URL(f"http://127.0.0.1:{runner.addresses[0][1]}")

        yield start


@pytest.fixture
def serve_proxy(serve: Serve) -> ServeProxy:
    """Start the proxy in front of an upstream's base URL; other sections of the configuration as keywords."""

    async def start(upstream_url: str, *, api_key: str = "", **sections: Any) -> URL:
        upstream = UpstreamConfig(url=upstream_url, api_key=Secret(api_key))
        return await serve(create_app(Config(upstream=upstream, **{"redis": NO_STORE, **sections})))

    return start


@pytest.fixture
async def proxy(serve_proxy: ServeProxy, upstream: ScriptedUpstream) -> URL:
    """The origin of the proxy in front of that model server."""
    return await serve_proxy(upstream.url)


@pytest.fixture
def complaints(caplog: pytest.LogCaptureFixture) -> Complaints:
    """Gives what was logged as worse than a fact, but that there is no store: the worker says so at any time."""
    caplog.set_level("INFO")

    def logged() -> list[str]:
        bad = [record for record in caplog.records if record.levelno > logging.INFO]
        return [record.getMessage() for record in bad if record.name != "proxy.background.worker"]

    return logged


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that shows bodies and cookies as they were sent."""
    async with aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


@pytest.fixture
def exchange() -> Exchange:
    """Send bytes to an origin and return all that comes back before the connection ends."""

    async def send(origin: URL, data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(origin.host, origin.port)
        writer.write(data)
        try:
            return await reader.read()
        finally:
            writer.close()

    return send
