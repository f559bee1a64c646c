"""What is given to another process, and in which form; the processes themselves: `tests/proxy/cli/test_bulk.py`."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence

import aiohttp
import orjson
import pytest
from yarl import URL

from proxy.app import create_app
from proxy.config.settings import Config, UpstreamConfig
from proxy.http.handover import CROWDED_OBJECTS, HANDOVER, LARGE_BODY_BYTES, UNCOUNTED_BYTES, TakeConnection, is_heavy
from proxy.http.passed import Passed
from proxy.http.queue import LARGE_QUEUE, LargeQueue
from tests.proxy.conftest import NO_STORE, Serve
from tests.proxy.relay.streams import MESSAGE
from tests.upstream import HANG, Reply, ScriptedUpstream

LARGE = orjson.dumps({"model": "m", "input": "x" * LARGE_BODY_BYTES, "store": False})
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


class Elsewhere:
    """Another process that reads what is given to it to the end and answers `{}`, unless it takes nothing."""

    def __init__(self, *, finds: bool = True, takes: bool = True) -> None:
        self._finds = finds
        self._takes = takes
        self.owners: list[str] = []
        self.requests: list[tuple[list[bytes], bytes]] = []
        self.passed: list[Passed] = []

    async def find(self, owner: str) -> TakeConnection | None:
        self.owners.append(owner)
        return self._take if self._finds else None

    async def _take(self, connection: int, passed: Passed, received: Sequence[bytes]) -> bool:
        self.passed.append(passed)
        if not self._takes:
            return False
        with socket.socket(fileno=os.dup(connection)) as client:
            loop = asyncio.get_running_loop()
            head, _, body = b"".join(received).partition(b"\r\n\r\n")
            lines = head.split(b"\r\n")
            length = next(int(line[16:]) for line in lines if line.lower().startswith(b"content-length: "))
            while len(body) < length:
                body += await loop.sock_recv(client, 1 << 20)
            self.requests.append((lines, body))
            await loop.sock_sendall(client, ANSWER)
        return True


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as running:
        running.script(*[Reply.json(200, {"object": "response", "output": [MESSAGE]})] * 3)
        yield running


async def serve_beside(serve: Serve, upstream: ScriptedUpstream, elsewhere: Elsewhere) -> URL:
    app = create_app(Config(upstream=UpstreamConfig(url=upstream.url), redis=NO_STORE))
    app[HANDOVER] = elsewhere
    return await serve(app) / "v1/responses"


async def chunks(body: bytes) -> AsyncIterator[bytes]:
    yield body[:1000]
    yield body[1000:]


@pytest.mark.parametrize("chunked", [False, True])
async def test_it_gets_the_request_as_it_came_with_the_length_of_its_body(
    serve: Serve, upstream: ScriptedUpstream, client: aiohttp.ClientSession, chunked: bool
):
    elsewhere = Elsewhere()
    url = (await serve_beside(serve, upstream, elsewhere)).with_query(a="%2F")
    headers = {"Authorization": "Bearer k", "Content-Type": "application/json", "X-Own": "1", "Expect": "100-continue"}
    async with client.post(url, data=chunks(LARGE) if chunked else LARGE, headers=headers) as answer:
        assert await answer.json(content_type=None) == {}
    ((lines, body),) = elsewhere.requests
    assert body == LARGE
    assert lines[0] == f"POST {url.raw_path_qs} HTTP/1.1".encode()
    names = [line.partition(b":")[0].lower() for line in lines[1:]]
    assert sorted(names) == sorted(set(names))
    assert {b"authorization", b"content-type", b"x-own", b"host", b"content-length"} <= set(names)
    assert not {b"expect", b"transfer-encoding"} & set(names)


@pytest.mark.parametrize("chunked", [False, True])
async def test_where_nobody_takes_it_it_is_answered_here(
    serve: Serve, upstream: ScriptedUpstream, client: aiohttp.ClientSession, chunked: bool
):
    elsewhere = Elsewhere(finds=False)
    url = await serve_beside(serve, upstream, elsewhere)
    headers = {"Content-Type": "application/json"}
    async with client.post(url, data=chunks(LARGE) if chunked else LARGE, headers=headers) as answer:
        assert (await answer.json())["status"] == "completed"
    assert len(elsewhere.owners) == 1
    (asked,) = await upstream.wait_for_requests(1)
    assert asked.json["input"][0]["content"][0]["text"] == "x" * LARGE_BODY_BYTES


async def test_who_takes_it_and_then_can_not_has_it_tried_again(
    serve: Serve, upstream: ScriptedUpstream, client: aiohttp.ClientSession
):
    url = await serve_beside(serve, upstream, Elsewhere(takes=False))
    async with client.post(url, data=LARGE, headers={"Content-Type": "application/json"}) as answer:
        assert (answer.status, answer.headers["Retry-After"], answer.headers["Connection"]) == (503, "1", "close")


async def test_large_requests_begin_one_after_the_other_until_their_models_are_asked(
    serve: Serve, client: aiohttp.ClientSession
):
    async with ScriptedUpstream() as upstream:
        upstream.script(Reply.sse([HANG]), Reply.json(200, {"object": "response", "output": [MESSAGE]}))
        app = create_app(Config(upstream=UpstreamConfig(url=upstream.url), redis=NO_STORE))
        queue = app[LARGE_QUEUE] = LargeQueue(1, 0.05)
        url = await serve(app) / "v1/responses"
        headers = {"Content-Type": "application/json", "Authorization": "Bearer k"}
        hanging = asyncio.create_task(client.post(url, data=LARGE, headers=headers))
        await upstream.wait_for_requests(1)
        async with client.post(url, data=LARGE, headers=headers) as answer:
            assert answer.status == 200
        place = await queue.enter("another")
        async with client.post(url, data=LARGE, headers=headers) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert (await answer.json())["error"]["code"] == "server_busy"
        place.leave()
        async with client.post(url, data=b"[", headers=headers) as answer:
            assert answer.status == 400
        # a refusal has left it as well
        (await queue.enter("another")).leave()
        hanging.cancel()


async def test_ordinary_requests_never_come_there(
    serve: Serve, upstream: ScriptedUpstream, client: aiohttp.ClientSession
):
    elsewhere = Elsewhere()
    url = await serve_beside(serve, upstream, elsewhere)
    ordinary = {"model": "m", "input": "x" * (LARGE_BODY_BYTES // 2), "store": False}
    async with client.post(url, json=ordinary) as answer:
        assert answer.status == 200
    assert elsewhere.owners == []


def test_a_body_is_heavy_by_its_bytes_or_its_objects():
    assert is_heavy(b" " * LARGE_BODY_BYTES)
    assert is_heavy(b"{" * (CROWDED_OBJECTS + 1) + b" " * UNCOUNTED_BYTES)
    assert not is_heavy(b"{" * CROWDED_OBJECTS + b" " * UNCOUNTED_BYTES)
    assert not is_heavy(b"{" * UNCOUNTED_BYTES)
