"""The short way of `POST /v1/responses`: what comes of it is what comes of the long one, byte for byte."""

from __future__ import annotations

import asyncio
import re

import pytest
from yarl import URL

from proxy.config.settings import AuthConfig, ServerConfig, TurnsConfig
from proxy.turns.entrance import FREE
from tests.proxy.conftest import Exchange, ServeProxy
from tests.upstream import Reply, ScriptedUpstream

TURN = b'{"model":"m","input":"hi","store":false}'
STREAM = b'{"model":"m","input":"hi","store":false,"stream":true}'
ANSWER = {
    "object": "response",
    "model": "m",
    "status": "completed",
    "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hello"}]}],
}
#: What differs between two answers to the same request: ids and times.
VARYING = re.compile(rb"[0-9a-f]{32,50}|Date: [^\r]*|\"(?:created|completed)_at\":\d+|[0-9.]+ ms")


def posted(target: bytes, body: bytes, headers: bytes = b"", version: bytes = b"1.1") -> bytes:
    head = b"POST %b HTTP/%b\r\nHost: localhost\r\nConnection: close\r\n" % (target, version)
    return head + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


def lines(caplog: pytest.LogCaptureFixture) -> list[bytes]:
    told = [record.getMessage() for record in caplog.records if record.name == "proxy.http.middleware"]
    return [VARYING.sub(b"", line.encode()) for line in told]


@pytest.mark.parametrize(
    ("body", "headers", "version"),
    [
        (TURN, b"", b"1.1"),
        (TURN, b"", b"1.0"),
        (STREAM, b"", b"1.1"),
        (STREAM, b"", b"1.0"),
        (TURN, b"Origin: https://app.example\r\n", b"1.1"),
        (TURN, b"Origin: https://evil.example\r\n", b"1.1"),
        (TURN, b"Authorization: Bearer sk-alice\r\n", b"1.1"),
        (TURN, b"Authorization: Bearer sk-alice\r\nx-api-key: sk-bob\r\n", b"1.1"),
        (TURN, b"Authorization: Basic c2s=\r\n", b"1.1"),
        (TURN, b"Content-Type: text/plain\r\n", b"1.1"),
        (TURN, b"Content-Type: application/json; charset=utf-8\r\n", b"1.1"),
        (TURN, b"Content-Encoding: br\r\n", b"1.1"),
        (b"[]", b"", b"1.1"),
        (b"{", b"", b"1.1"),
        (b'{"input":7}', b"", b"1.1"),
        (b'{"input":"hi","previous_response_id":"resp_1"}', b"", b"1.1"),
        (b"x" * 5000, b"", b"1.1"),
    ],
)
async def test_both_ways_give_the_same_answer_and_the_same_line(
    serve_proxy: ServeProxy, upstream: ScriptedUpstream, exchange: Exchange, caplog, body, headers, version
):
    caplog.set_level("INFO", "proxy.http.middleware")
    server = ServerConfig(cors_origins=("https://app.example",), max_body_bytes=4000)
    proxy = await serve_proxy(upstream.url, server=server)
    answers = []
    for target in (b"/v1/responses", b"/v1/%72esponses"):
        upstream.script(Reply.json(200, ANSWER))
        answers.append(VARYING.sub(b"", await exchange(proxy, posted(target, body, headers, version))))
    assert answers[0] == answers[1]
    first, second = lines(caplog)
    assert first == second


async def test_who_has_no_key_is_refused_on_the_short_way_too(
    serve_proxy: ServeProxy, upstream: ScriptedUpstream, exchange: Exchange
):
    keys = {"alice": "0" * 64}
    proxy = await serve_proxy(upstream.url, auth=AuthConfig(mode="api_keys", api_keys=keys))
    for headers in (b"", b"Authorization: Bearer sk-alice\r\n"):
        assert (await exchange(proxy, posted(b"/v1/responses", TURN, headers))).startswith(b"HTTP/1.1 401")
    assert upstream.requests == []


async def test_a_turn_that_goes_on_without_its_client_has_its_line_when_the_client_goes(
    serve_proxy: ServeProxy, upstream: ScriptedUpstream, caplog
):
    caplog.set_level("INFO", "proxy.http.middleware")
    gate = asyncio.Event()
    upstream.script(Reply.raw(200, "application/json", chunks=[gate, b"{}"]))
    proxy: URL = await serve_proxy(upstream.url, turns=TurnsConfig(on_disconnect="finish"))
    _, writer = await asyncio.open_connection(proxy.host, proxy.port)
    writer.write(posted(b"/v1/responses", TURN))
    await upstream.wait_for_requests(1)
    writer.transport.abort()
    while not lines(caplog):  # noqa: ASYNC110 (a log has no event)
        await asyncio.sleep(0.01)
    gate.set()
    assert [line.split()[:3] for line in lines(caplog)] == [[b"POST", b"/v1/responses", b"499"]]


async def test_all_streams_that_come_at_once_are_answered(
    serve_proxy: ServeProxy, upstream: ScriptedUpstream, exchange: Exchange
):
    proxy, many = await serve_proxy(upstream.url), 4 * FREE
    upstream.script(*[Reply.json(200, ANSWER)] * many)
    answers = await asyncio.gather(*(exchange(proxy, posted(b"/v1/responses", STREAM)) for _ in range(many)))
    assert [answer.count(b"event: response.completed") for answer in answers] == [1] * many
    assert len(upstream.requests) == many
