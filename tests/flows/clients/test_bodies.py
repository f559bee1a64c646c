"""Answers whose head lies about their body, or is larger than usual; and bodies that are not quite JSON."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from tests.flows.conftest import Proxy
from tests.flows.streams import frames
from tests.flows.talk import items_of, new_conversation
from tests.flows.witness import Reading, accept_stored
from tests.proxy.relay.streams import MESSAGE, WHOLE, body, completed
from tests.upstream import HANG, Reply

ANSWER = b'{"id":"r","object":"response","status":"completed","output":[%b]}'
TEXT = b'{"type":"message","id":"m","role":"assistant","content":[{"type":"output_text","text":"%b"}]}'
TYPES = ["text/event-stream", "application/json", "application/octet-stream", "text/plain", ""]


async def plain(proxy: Proxy, **fields: Any) -> tuple[int, Any]:
    return await proxy.call("POST", "/v1/responses", {"model": "m", "input": "hi", **fields})


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\n\n", b": hi\n\n", b"retry: 5\n\n", b"id: 1\n"])
@pytest.mark.parametrize("content_type", TYPES)
async def test_the_first_bytes_tell_a_stream_whatever_the_head_says(proxy: Proxy, content_type: str, start: bytes):
    stream = start + frames(WHOLE)
    pieces = [stream[:1], stream[1:4], stream[4:]]
    proxy.upstream.script(*[Reply.raw(200, content_type, chunks=pieces) for _ in "ab"])
    async with Reading(proxy, {"input": "hi"}) as reading:
        response = await reading.end()
        assert len(response["output"]) == 3
    status, answer = await plain(proxy)
    assert (status, len(answer["output"])) == (200, 3)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b" \r\n "])
@pytest.mark.parametrize("content_type", TYPES)
async def test_the_first_bytes_tell_json_whatever_the_head_says(proxy: Proxy, content_type: str, start: bytes):
    answer = start + ANSWER % (TEXT % b"Hello")
    proxy.upstream.script(*[Reply.raw(200, content_type, chunks=[answer[:1], answer[1:]]) for _ in "ab"])
    async with Reading(proxy, {"input": "hi"}) as reading:
        response = await reading.end()
        assert response["output"][0]["content"][0]["text"] == "Hello"
    assert (await plain(proxy))[0] == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("page", [b"<html>", b"Internal error", b"", b"data", b"\xef\xbb"])
async def test_what_is_neither_is_no_answer(proxy: Proxy, page: bytes, stream: bool):
    proxy.upstream.script(Reply.raw(200, "text/html", page))
    status, answer = await plain(proxy, stream=stream)
    assert (status, answer["error"]["code"]) == (502, "upstream_error")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_large_head_is_taken(proxy: Proxy, stream: bool):
    headers = {f"x-report-{number}": "x" for number in range(200)} | {"x-long": "y" * 20_000}
    proxy.upstream.script(Reply.json(200, {"object": "response", "output": []}, headers))
    asked = {"model": "m", "input": "hi", "stream": stream}
    caller = {"Authorization": "Bearer k"}
    async with (
        aiohttp.ClientSession(max_field_size=32_768, max_headers=512) as http,
        http.post(f"{proxy.url}/v1/responses", json=asked, headers=caller) as answer,
    ):
        assert answer.status == 200
        assert answer.headers["x-long"] == "y" * 20_000
        assert answer.headers["x-report-199"] == "x"


@pytest.mark.parametrize(
    ("text", "read"),
    [(rb"a\ud83d", "a\ufffd"), (b"a\xff", "a\ufffd"), (rb"\ud83d\ude00", "\U0001f600"), (b"\xed\xa0\xbd", "\ufffd")],
)
async def test_a_json_answer_with_broken_characters_is_kept_and_the_conversation_goes_on(
    proxy: Proxy, text: bytes, read: str
):
    conversation = await new_conversation(proxy)
    proxy.upstream.script(Reply.raw(200, "application/json", ANSWER % (TEXT % text)[:-1] + b',"n":NaN}]}'))
    proxy.upstream.script(Reply.raw(200, "application/json", ANSWER % (TEXT % text)))
    for _ in range(2):
        status, response = await plain(proxy, conversation=conversation)
        if status == 200:
            assert response["output"][0]["content"][0]["text"] == read
            await accept_stored(proxy, response)
    status, _ = await plain(proxy, conversation=conversation)
    assert status == 200
    assert proxy.upstream.requests[-1].json["input"][1]["content"][0]["text"] == read


@pytest.mark.parametrize("text", [rb"a\ud83d", b"a\xff", rb"a\udfffb"])
async def test_a_request_with_broken_characters_does_not_stick_in_the_history(proxy: Proxy, text: bytes):
    conversation = (await new_conversation(proxy)).encode()
    data = b'\xef\xbb\xbf{"model":"m","input":"%b","temperature":NaN,"conversation":"%b"}' % (text, conversation)
    headers = {"Authorization": "Bearer sk-alice", "Content-Type": "application/json"}
    for _ in range(2):
        async with proxy.http.post(f"{proxy.url}/v1/responses", data=data, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
    kept = await items_of(proxy, conversation.decode())
    assert [item["role"] for item in kept] == ["user", "assistant"] * 2
    assert "\ufffd" in kept[0]["content"][0]["text"]


@pytest.mark.parametrize(
    "ping", [{"type": "ping"}, {"type": "keepalive", "sequence_number": 3}, b"data: ping\n\n", b"data:\n\n"]
)
async def test_a_ping_is_passed_on_as_a_comment(proxy: Proxy, ping: Any):
    gate = asyncio.Event()
    proxy.upstream.script(Reply.sse([*WHOLE[:11], ping, gate, *WHOLE[11:]]))
    async with Reading(proxy, {"input": "hi"}) as reading:
        while reading.comments == 0:
            if len(reading.events) == 10:
                gate.set()
            reading.events.append(await reading._frame())
        response = await reading.end()
        assert response["output"][1]["content"][0]["text"] == "Hello"


async def test_two_responses_in_one_stream_are_both_kept(proxy: Proxy):
    gate = asyncio.Event()
    second = [
        body("created", response={"id": "resp_2"}),
        body("output_item.done", 0, item={**MESSAGE, "id": "msg_2"}),
        completed(),
    ]
    proxy.upstream.script(Reply.sse([*WHOLE, gate, *second]))
    async with Reading(proxy, {"input": "hi"}) as reading:
        while len(reading.events) < len(WHOLE) - 1:
            reading.events.append(await reading._frame())
        gate.set()
        response = await reading.end()
        assert [item["type"] for item in response["output"]] == ["reasoning", "message", "function_call", "message"]
        await accept_stored(proxy, response)


async def test_a_stream_that_stays_open_behind_its_done_mark_is_over(proxy: Proxy):
    proxy.upstream.script(Reply.sse([*WHOLE, b"data: [DONE]\n\n", HANG], done=False))
    async with asyncio.timeout(20), Reading(proxy, {"input": "hi"}) as reading:
        assert (await reading.end())["status"] == "completed"
