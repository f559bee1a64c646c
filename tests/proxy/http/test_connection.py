"""Connections: what is not HTTP, how long a client may take, how many there may be, and clients that only read."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import orjson
import pytest
from aiohttp import web
from yarl import URL

from proxy.app import create_app
from proxy.config.settings import Config, ErrorsConfig, ServerConfig, UpstreamConfig
from proxy.http.connection import RESERVED_DESCRIPTORS, most_connections
from tests.proxy.conftest import NO_STORE, Exchange, Serve, ServeProxy
from tests.upstream import HANG, Reply, ScriptedUpstream

COMPLETED = {"type": "response.completed", "response": {"status": "completed", "output": []}}
HEAD = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n"


@asynccontextmanager
async def connected(origin: URL) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(origin.host, origin.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read one answer with a length; return status and body."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    return int(head.split()[1]), await reader.readexactly(length)


# What is not HTTP


@pytest.mark.parametrize(
    "sent",
    [
        b"rubbish\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        HEAD + b"Authorization: Bearer sk-secret\r\nbad header\r\n\r\n",
        HEAD + b"Content-Length: sk-secret\r\n\r\n",
        HEAD + b"X: " + b"sk-secret" * 10_000 + b"\r\n\r\n",
        b"GET /v1/" + b"sk-secret" * 10_000 + b" HTTP/1.1\r\n\r\n",
        HEAD + b"".join(b"H%d: sk-secret\r\n" % i for i in range(2000)) + b"\r\n",
        HEAD + b"Expect: sk-secret\r\nConnection: close\r\n\r\n",
    ],
)
async def test_what_is_not_http_gets_an_error_of_ours_that_quotes_nothing(proxy, exchange: Exchange, sent, caplog):
    caplog.set_level("DEBUG")
    head, _, body = (await exchange(proxy, sent)).partition(b"\r\n\r\n")
    error = orjson.loads(body)
    assert error["error"]["type"] == "invalid_request_error"
    assert f"x-request-id: {error['request_id']}".encode() in head
    assert b"Server: branchline" in head
    assert b"Content-Type: application/json" in head
    assert b"aiohttp" not in head.lower() + body.lower()
    for told in (head, body, caplog.text.encode()):
        assert b"sk-secret" not in told


async def test_such_an_error_is_flat_where_that_is_configured(serve_proxy: ServeProxy, exchange: Exchange):
    proxy = await serve_proxy("http://127.0.0.1:1/v1", errors=ErrorsConfig(format="flat"))
    _, _, body = (await exchange(proxy, b"rubbish\r\n\r\n")).partition(b"\r\n\r\n")
    assert isinstance(orjson.loads(body)["error"], str)


# Time


async def test_half_a_head_is_told_that_it_took_too_long(serve_proxy: ServeProxy, upstream: ScriptedUpstream):
    proxy = await serve_proxy(upstream.url, server=ServerConfig(header_timeout_seconds=0.1))
    async with connected(proxy) as (reader, writer):
        writer.write(HEAD)
        status, body = await read_answer(reader)
        assert (status, orjson.loads(body)["code"]) == (408, "request_timeout")
        assert await reader.read() == b""


async def test_so_is_one_behind_a_request_and_one_that_comes_in_drops(serve_proxy: ServeProxy, upstream):
    proxy = await serve_proxy(upstream.url, server=ServerConfig(header_timeout_seconds=0.2))
    async with connected(proxy) as (reader, writer):
        writer.write(HEAD + b"\r\n")
        assert (await read_answer(reader))[0] == 200
        writer.write(HEAD)
        dripping = asyncio.create_task(_drip(writer))
        assert (await read_answer(reader))[0] == 408
        dripping.cancel()


async def _drip(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"X: y\r\n")
        await asyncio.sleep(0.02)


async def test_a_connection_that_asks_for_nothing_is_closed(serve_proxy: ServeProxy, upstream: ScriptedUpstream):
    proxy = await serve_proxy(upstream.url, server=ServerConfig(idle_timeout_seconds=0.5))
    async with connected(proxy) as (silent, _), connected(proxy) as (reader, writer):
        writer.write(HEAD + b"\r\n")
        assert (await read_answer(reader))[0] == 200
        assert await silent.read() == b""
        assert await reader.read() == b""


async def test_a_body_that_takes_too_long_as_a_whole_is_refused(serve_proxy: ServeProxy, upstream: ScriptedUpstream):
    proxy = await serve_proxy(upstream.url, server=ServerConfig(body_timeout_seconds=0.3))
    async with connected(proxy) as (reader, writer):
        writer.write(b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        dripping = asyncio.create_task(_drip_chunks(writer))
        status, body = await read_answer(reader)
        dripping.cancel()
        assert (status, orjson.loads(body)["code"]) == (408, "request_timeout")


async def _drip_chunks(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"1\r\n \r\n")
        await asyncio.sleep(0.02)


async def test_a_client_that_does_not_read_its_answer_is_cut_off(serve: Serve, upstream: ScriptedUpstream):
    lost = asyncio.Event()
    watching: list[asyncio.Task[None]] = []

    async def answer(request: web.Request) -> web.Response:
        transport = request.transport
        assert transport is not None
        transport.set_write_buffer_limits(high=64 * 1024 * 1024)
        watching.append(asyncio.create_task(_wait_closed(transport, lost)))
        return web.Response(body=bytes(32 * 1024 * 1024))

    config = Config(upstream=UpstreamConfig(url=upstream.url), redis=NO_STORE, server=ServerConfig(unread_seconds=0.1))
    app = create_app(config)
    app.router.add_get("/v1/test", answer)
    origin = await serve(app)
    with socket.create_connection((origin.host or "", origin.port or 0)) as client:
        client.sendall(b"GET /v1/test HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(20):
            await lost.wait()


async def _wait_closed(transport: asyncio.Transport, lost: asyncio.Event) -> None:
    while not transport.is_closing():  # noqa: ASYNC110 (a transport has no event)
        await asyncio.sleep(0.02)
    lost.set()


# How many


async def test_one_that_waits_makes_room_and_where_none_does_a_new_one_is_refused(
    serve_proxy: ServeProxy, upstream: ScriptedUpstream
):
    proxy = await serve_proxy(upstream.url, server=ServerConfig(max_connections=2))
    endless = Reply.raw(200, "text/plain", chunks=[b"x", HANG])
    upstream.script(endless, endless, path="/v1/models")
    async with AsyncExitStack() as stack:
        (busy, busy_writer), (idle, _) = [await stack.enter_async_context(connected(proxy)) for _ in range(2)]
        busy_writer.write(HEAD + b"\r\n")
        await busy.readuntil(b"\r\n\r\n")
        third, third_writer = await stack.enter_async_context(connected(proxy))
        assert await idle.read() == b""
        third_writer.write(HEAD + b"\r\n")
        await third.readuntil(b"\r\n\r\n")
        fourth, _ = await stack.enter_async_context(connected(proxy))
        status, body = await read_answer(fourth)
        assert (status, orjson.loads(body)["code"]) == (503, "too_many_connections")
        assert await fourth.read() == b""


@contextmanager
def file_limit(soft: int):
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


def test_as_many_connections_as_there_are_descriptors_for():
    with file_limit(512):
        assert most_connections(0) == (512 - RESERVED_DESCRIPTORS) // 2
        assert most_connections(300) >= 300


# Clients that only read


async def half_closed(origin: URL, sent: bytes) -> bytes:
    async with connected(origin) as (reader, writer):
        writer.write(sent)
        writer.write_eof()
        return await reader.read()


async def test_a_client_that_sends_no_more_gets_its_answers(proxy: URL, upstream: ScriptedUpstream):
    gate = asyncio.Event()
    upstream.script(Reply.raw(200, "text/plain", chunks=[gate, b"late"]), path="/v1/models")
    asked = asyncio.create_task(half_closed(proxy, HEAD + b"\r\n" + HEAD + b"\r\n"))
    await upstream.wait_for_requests(1)
    gate.set()
    answers = await asked
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert b"late" in answers


async def test_so_does_one_whose_request_has_a_body(proxy: URL, upstream: ScriptedUpstream):
    upstream.script(Reply.json(200, COMPLETED["response"]))
    body = b'{"model":"m","input":"hi","store":false}'
    head = b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    answer = await half_closed(proxy, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert b'"completed"' in answer


@pytest.mark.parametrize("sent", [b"", HEAD, HEAD + b"Content-Length: 9\r\n\r\n"])
async def test_one_that_asks_for_nothing_is_closed(proxy: URL, sent: bytes):
    async with asyncio.timeout(10):
        assert await half_closed(proxy, sent) == b""


async def test_a_client_that_has_closed_is_noticed_before_its_answer_begins(proxy: URL, upstream: ScriptedUpstream):
    upstream.script(Reply.raw(200, "text/plain", chunks=[HANG]), path="/v1/models")
    async with connected(proxy) as (_, writer):
        writer.write(HEAD + b"\r\n")
        await upstream.wait_for_requests(1)
    async with asyncio.timeout(10):
        await upstream.client_left.wait()


async def test_a_stream_goes_on_to_its_end_for_a_client_that_sends_no_more(proxy: URL, upstream: ScriptedUpstream):
    gate = asyncio.Event()
    upstream.script(Reply.sse([{"type": "response.created", "response": {}}, gate, COMPLETED]))
    body = b'{"model":"m","input":"hi","stream":true,"store":false}'
    head = b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    async with connected(proxy) as (reader, writer):
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await reader.readuntil(b"response.created")
        writer.write_eof()
        # what it is probed with is a comment
        await reader.readuntil(b": keep-alive")
        gate.set()
        assert b"response.completed" in await reader.read()
