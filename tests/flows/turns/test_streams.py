"""Streams of every shape that model servers send: valid at the client, and a base to go on from at the last event."""

from __future__ import annotations

import asyncio
import copy
import re
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Literal

import openai
import orjson
import pytest

from tests.flows.conftest import Proxy
from tests.flows.streams import OPENING, Stream, delta, frames
from tests.flows.talk import items_of, new_conversation
from tests.flows.witness import Reading, accept_follow_up, accept_response, accept_stored, answered
from tests.proxy.relay.streams import CALL, MESSAGE, REASONING, WHOLE, body, completed
from tests.upstream import Reply

Event = dict[str, Any]


def without(*keys: str) -> list[Event]:
    """The whole stream without some fields of its events, and of the items and parts in them."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(inner) for key, inner in value.items() if key not in keys}
        return [strip(inner) for inner in value] if isinstance(value, list) else value

    return [{**strip(event), "type": event["type"]} for event in WHOLE]


def renamed(rename: Callable[[int, str], str]) -> list[Event]:
    """The whole stream with other item ids; `rename` gets the event's number and the id."""
    events = copy.deepcopy(WHOLE)
    for number, event in enumerate(events):
        if "item_id" in event:
            event["item_id"] = rename(number, event["item_id"])
        items = [event["item"]] if "item" in event else event.get("response", {}).get("output", [])
        for item in items:
            item["id"] = rename(number, item["id"])
    return events


def ending(**response: Any) -> list[Event]:
    return [*WHOLE[:-1], body("completed", response={"id": "resp_up", "status": "completed", "model": "m", **response})]


def among(*strangers: Event) -> list[Event]:
    """The whole stream with events that nobody knows after each of its own."""
    told = [[event, *strangers] for event in WHOLE[:-1]]
    return [event for group in told for event in group] + WHOLE[-1:]


def pretty(event: Event) -> bytes:
    lines = orjson.dumps(event, option=orjson.OPT_INDENT_2).splitlines()
    return b"".join(b"data: %b\n" % line for line in lines) + b"\n"


STRANGERS: list[Event] = [
    {"type": "x.limits"},
    {"type": "response.future.delta", "delta": "?", "x": {"a": []}},
    {"type": "codex.rate_limits", "limits": [1, 2.5]},
]
SHAPES: dict[str, bytes] = {
    "as OpenAI sends it": frames(WHOLE, done=False),
    "with [DONE]": frames(WHOLE),
    "without a blank line at the end": frames(WHOLE, done=False).removesuffix(b"\n\n"),
    "without event names": re.sub(rb"event: .*\n", b"", frames(WHOLE)),
    "without spaces after colons": frames(WHOLE).replace(b"event: ", b"event:").replace(b"data: ", b"data:"),
    "type only as event name": frames(WHOLE).replace(b'data: {"type"', b'data: {"x_type"'),
    "CRLF": frames(WHOLE).replace(b"\n", b"\r\n"),
    "CR": frames(WHOLE).replace(b"\n", b"\r"),
    "byte order mark": b"\xef\xbb\xbf" + frames(WHOLE),
    "comments": b": hello\n\n" + frames(WHOLE).replace(b"data: ", b": inside\ndata: ").replace(b"\n\n", b"\n\n:\n\n"),
    "ids and retries": b"retry: 10\n\n" + frames(WHOLE).replace(b"data: ", b"id: 7\nretry: 5\ndata: "),
    "data on several lines": b"".join(map(pretty, WHOLE)),
    "one id for all items": frames(renamed(lambda number, item_id: "item_0")),
    "another id in every event": frames(renamed(lambda number, item_id: f"{item_id}_{number}")),
    "empty ids": frames(renamed(lambda number, item_id: "")),
    "no ids": frames(without("id", "item_id")),
    "no indexes": frames(without("output_index", "content_index", "summary_index")),
    "no ids in events and no indexes": frames(without("item_id", "output_index", "content_index", "summary_index")),
    "wrong sequence numbers": frames([{**event, "sequence_number": 7} for event in WHOLE]),
    "no status": frames(without("status")),
    "empty output at the end": frames(ending(output=[])),
    "null output at the end": frames(ending(output=None)),
    "no output at the end": frames(ending()),
    "nothing at the end": frames([*WHOLE[:-1], {"type": "response.completed"}]),
    "no first events": frames(WHOLE[2:]),
    "created twice": frames([WHOLE[0], *WHOLE]),
    "unknown events": frames(among(*STRANGERS)),
    "only the end": frames([completed(REASONING, MESSAGE, CALL, id="resp_up")]),
    "only start and end": frames([WHOLE[0], WHOLE[-1]]),
    "no announcements": frames([event for event in WHOLE if not event["type"].endswith(".added")]),
    "no deltas": frames([event for event in WHOLE if not event["type"].endswith(".delta")]),
    "only deltas": frames([event for event in WHOLE if not event["type"].endswith((".done", ".added"))]),
}


def accept_output(output: list[dict[str, Any]]) -> None:
    reasoning, message, call = output
    assert reasoning["summary"] == [{"type": "summary_text", "text": "why"}]
    assert [part["text"] for part in message["content"]] == ["Hello"]
    assert call["arguments"] == "{}"
    assert {item.get("status", "completed") for item in output} == {"completed"}


def piece_by_piece(stream: bytes, size: int) -> Reply:
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    return Reply.raw(200, "text/event-stream", chunks=pieces)


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_stream_of_any_shape_is_valid_and_can_be_chained_on_at_its_last_event(proxy: Proxy, shape: str):
    proxy.upstream.script(piece_by_piece(SHAPES[shape], 64))
    async with Reading(proxy, {"input": "hi"}) as reading:
        response = await reading.end()
        accept_output(response["output"])
        await accept_stored(proxy, response)
        await accept_follow_up(proxy, response)


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_stream_of_any_shape_passes_the_strict_client_and_lands_in_its_conversation(proxy: Proxy, shape: str):
    conversation = await new_conversation(proxy)
    proxy.upstream.script(piece_by_piece(SHAPES[shape], 7))
    async with proxy.client().responses.stream(model="echo", input="hi", conversation=conversation) as stream:
        async for event in stream:
            if event.type == "response.completed":
                break
        told = event.response  # type: ignore[union-attr]
        kept = await items_of(proxy, conversation)
        assert [item["id"] for item in kept[1:]] == [item.id for item in told.output]
        accept_output(kept[1:])
        status, response = await proxy.call("GET", f"/v1/responses/{told.id}")
        assert status == 200
        await accept_follow_up(proxy, response)


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_stream_of_any_shape_answers_a_plain_request_too(proxy: Proxy, shape: str):
    conversation = await new_conversation(proxy)
    proxy.upstream.script(piece_by_piece(SHAPES[shape], 13))
    asked = {"model": "echo", "input": "hi", "conversation": conversation}
    status, response = await proxy.call("POST", "/v1/responses", asked)
    assert status == 200
    accept_response(response)
    accept_output(response["output"])
    await accept_stored(proxy, response)
    assert (await items_of(proxy, conversation))[1:] == response["output"]
    await accept_follow_up(proxy, response)


async def test_events_that_nobody_knows_reach_the_client_with_only_their_number_changed(proxy: Proxy):
    proxy.upstream.script(Reply.sse(among(*STRANGERS)))
    async with Reading(proxy, {"input": "hi"}) as reading:
        await reading.end()
    seen = [event for event in reading.events if event["type"] in {one["type"] for one in STRANGERS}]
    assert len(seen) == len(STRANGERS) * (len(WHOLE) - 1)
    for event, stranger in zip(seen, STRANGERS, strict=False):
        assert {key: value for key, value in event.items() if key != "sequence_number"} == stranger


async def test_frames_leave_whole_however_they_arrive(proxy: Proxy):
    proxy.upstream.script(piece_by_piece(frames(WHOLE), 7))
    asked = {"model": "echo", "input": "hi", "stream": True}
    headers = {"Authorization": "Bearer sk-alice"}
    pieces = [b""]
    async with proxy.http.post(f"{proxy.url}/v1/responses", json=asked, headers=headers) as answer:
        async for data, ends_chunk in answer.content.iter_chunks():
            pieces[-1] += data
            if ends_chunk:
                pieces.append(b"")
    # those that announce a message, a call and parts wait for the text that comes first
    assert len(pieces) > len(WHOLE) - 4
    assert all(piece.endswith(b"\n\n") for piece in pieces[:-1])


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
async def test_a_stream_that_was_compressed_unasked_is_read_all_the_same(proxy: Proxy, coding: str):
    proxy.upstream.script(Reply.sse(WHOLE).compressed(coding))
    async with Reading(proxy, {"input": "hi"}) as reading:
        response = await reading.end()
        accept_output(response["output"])
        await accept_follow_up(proxy, response)


HOSTED: dict[str, tuple[Event, list[Event]]] = {
    "custom_tool_call": (
        {"type": "custom_tool_call", "id": "ctc_up", "call_id": "call_1", "name": "run", "input": "ls"},
        [
            body("custom_tool_call_input.delta", 0, "ctc_up", delta="ls"),
            body("custom_tool_call_input.done", 0, input="ls"),
        ],
    ),
    "web_search_call": (
        {
            "type": "web_search_call",
            "id": "ws_up",
            "status": "completed",
            "action": {"type": "search", "query": "rain"},
        },
        [body("web_search_call.searching", 0, "ws_up"), body("web_search_call.completed", 0, "ws_up")],
    ),
    "file_search_call": (
        {"type": "file_search_call", "id": "fs_up", "status": "completed", "queries": ["rain"], "results": None},
        [body("file_search_call.in_progress", 0, "fs_up"), body("file_search_call.completed", 0, "fs_up")],
    ),
    "code_interpreter_call": (
        {
            "type": "code_interpreter_call",
            "id": "ci_up",
            "status": "completed",
            "container_id": "cntr_1",
            "code": "1+1",
            "outputs": [{"type": "logs", "logs": "2"}],
        },
        [
            body("code_interpreter_call_code.delta", 0, "ci_up", delta="1+1"),
            body("code_interpreter_call_code.done", 0, "ci_up", code="1+1"),
            body("code_interpreter_call.completed", 0, "ci_up"),
        ],
    ),
    "image_generation_call": (
        {"type": "image_generation_call", "id": "ig_up", "status": "completed", "result": "iVBORw0KGgo="},
        [
            body("image_generation_call.generating", 0, "ig_up"),
            body("image_generation_call.partial_image", 0, "ig_up", partial_image_b64="iVBO", partial_image_index=0),
            body("image_generation_call.completed", 0, "ig_up"),
        ],
    ),
    "mcp_call": (
        {"type": "mcp_call", "id": "mcp_up", "server_label": "s", "name": "f", "arguments": "{}", "output": "42"},
        [
            body("mcp_call_arguments.delta", 0, "mcp_up", delta="{}"),
            body("mcp_call_arguments.done", 0, "mcp_up", arguments="{}"),
            body("mcp_call.completed", 0, "mcp_up"),
        ],
    ),
    "mcp_list_tools": (
        {"type": "mcp_list_tools", "id": "mcpl_up", "server_label": "s", "tools": []},
        [body("mcp_list_tools.in_progress", 0, "mcpl_up"), body("mcp_list_tools.completed", 0, "mcpl_up")],
    ),
    "computer_call": (
        {
            "type": "computer_call",
            "id": "cu_up",
            "call_id": "call_1",
            "status": "completed",
            "action": {"type": "screenshot"},
            "pending_safety_checks": [],
        },
        [],
    ),
    "compaction": ({"type": "compaction", "id": "cmp_up", "encrypted_content": "opaque"}, []),
}


@pytest.mark.parametrize("kind", HOSTED)
async def test_items_of_hosted_tools_are_told_kept_and_given_back_to_the_model(proxy: Proxy, kind: str):
    item, events = HOSTED[kind]
    told = [
        body("created", response={"id": "r"}),
        body("output_item.added", 0, item=item),
        *events,
        body("output_item.done", 0, item=item),
        body("output_item.added", 1, item={**MESSAGE, "content": []}),
        body("output_text.delta", 1, "msg_up", content_index=0, delta="Hello"),
        body("output_item.done", 1, item=MESSAGE),
    ]
    conversation = await new_conversation(proxy)
    proxy.upstream.script(Reply.sse([*told, completed()]), Reply.sse([*told, completed()]))
    async with Reading(proxy, {"input": "hi", "conversation": conversation}) as reading:
        response = await reading.end()
        got = response["output"][0]
        assert {**got, "id": item["id"]} == {**got, **item}
        assert (await items_of(proxy, conversation))[1:] == response["output"]
        await accept_stored(proxy, response)
        named = [{"id": got["id"]}, *answered([got])]
        status, answer = await proxy.call("POST", "/v1/responses", {"model": "echo", "input": named})
        assert (status, answer.get("error")) == (200, None)
        assert {**proxy.upstream.requests[-1].json["input"][0], "id": got["id"]} == got


async def test_what_an_upstream_adds_to_a_delta_stays_on_it(proxy: Proxy):
    proxy.upstream.script(Reply.sse(WHOLE))
    async with Reading(proxy, {"input": "hi", "stream_options": {"include_obfuscation": True}}) as reading:
        await reading.end()
    first = next(event for event in reading.events if event["type"] == "response.output_text.delta")
    assert first["obfuscation"] == "x9"


@pytest.mark.parametrize("reason", ["max_output_tokens", "content_filter"])
async def test_an_incomplete_answer_is_kept_and_built_on(proxy: Proxy, reason: str):
    conversation = await new_conversation(proxy)
    end = {"id": "resp_up", "status": "incomplete", "incomplete_details": {"reason": reason}, "output": []}
    cut = [*WHOLE[:11], body("incomplete", response=end)]
    proxy.upstream.script(Reply.sse(cut))
    async with Reading(proxy, {"input": "hi", "conversation": conversation}) as reading:
        response = await reading.end()
        assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": reason})
        assert [item.get("status", "completed") for item in response["output"]] == ["completed", "incomplete"]
        assert response["output"][1]["content"][0]["text"] == "Hel"
        assert (await items_of(proxy, conversation))[1:] == response["output"]
        await accept_stored(proxy, response)
        await accept_follow_up(proxy, response)


async def test_two_items_that_share_an_id_are_told_apart_and_referred_to_one_by_one(proxy: Proxy):
    texts = ("one", "two")
    messages = [{**MESSAGE, "id": "msg_0", "content": [{"type": "output_text", "text": text}]} for text in texts]
    told = [body("created", response={"id": "r"})]
    for index, message in enumerate(messages):
        told.append(body("output_item.added", index, item={**message, "content": []}))
        told.append(body("output_text.delta", index, "msg_0", content_index=0, delta=texts[index]))
        told.append(body("output_item.done", index, item=message))
    proxy.upstream.script(Reply.sse([*told, completed(*messages)]))
    async with Reading(proxy, {"input": "hi"}) as reading:
        response = await reading.end()
    for item, text in zip(response["output"], texts, strict=True):
        reference = {"type": "item_reference", "id": item["id"]}
        status, _ = await proxy.call("POST", "/v1/responses", {"model": "echo", "input": [reference]})
        assert status == 200
        assert proxy.upstream.requests[-1].json["input"][0]["content"][0]["text"] == text


TURNS = 20


async def talk(proxy: Proxy, conversation: str | None) -> None:
    """Take turns, each sent as soon as the one before is completed and before its stream was read to the end."""
    source = {"conversation": conversation} if conversation else {}
    async with AsyncExitStack() as open_streams:
        for number in range(TURNS):
            stream = Stream(proxy, {"model": "echo", "input": f"turn {number}", **source})
            await open_streams.enter_async_context(stream)
            response = (await stream.until("response.completed"))["response"]
            told = response["output"][0]["content"][0]["text"]
            assert told.startswith(f'You said: "turn {number}" (I saw {2 * number} earlier item')
            source = source if conversation else {"previous_response_id": response["id"]}


async def test_whoever_sees_the_end_of_a_turn_finds_all_of_it_in_the_next(proxy: Proxy):
    conversations = [await new_conversation(proxy) for _ in range(4)]
    await asyncio.gather(*(talk(proxy, source) for source in [*conversations, *[None] * 4]))
    for conversation in conversations:
        kept = [item["content"][0]["text"] for item in await items_of(proxy, conversation)]
        assert kept[::2] == [f"turn {number}" for number in range(TURNS)]
        assert len(kept) == 2 * TURNS


async def test_a_stream_is_refused_with_a_status_before_it_has_begun(proxy: Proxy):
    with pytest.raises(openai.NotFoundError):
        await proxy.client().responses.create(model="echo", input="hi", conversation="conv_" + "0" * 48, stream=True)


async def test_an_error_in_the_middle_is_an_event_for_the_program_and_then_a_failed_response(proxy: Proxy):
    failure = {"type": "error", "error": {"type": "server_error", "code": "server_is_overloaded", "message": "busy"}}
    proxy.upstream.script(Reply.sse([*WHOLE[:11], failure], done=False))
    stream = await proxy.client().responses.create(model="echo", input="hi", stream=True)
    events: list[Any] = [event async for event in stream]
    error, failed = events[-2:]
    assert (error.type, error.code, error.message, error.param) == ("error", "server_is_overloaded", "busy", None)
    assert (failed.type, failed.response.status) == ("response.failed", "failed")
    assert failed.response.error.message == "busy"
    stored = await proxy.client().responses.retrieve(failed.response.id)
    assert stored.status == "failed"
    assert stored.output_text == "Hel"


class Mark(asyncio.Event):
    """A place in a stream that holds nothing up; it notes that the model server got there."""

    async def wait(self) -> Literal[True]:
        self.set()
        return True


async def test_a_client_that_reads_late_gets_everything_and_makes_the_model_server_wait(proxy: Proxy):
    # more than the system's buffers of two connections take, which is up to 20 MB
    marks = [Mark() for _ in range(72)]
    flood = [step for mark in marks for step in (delta("x" * 500_000), mark)]
    ends = {"type": "response.completed", "response": {}}
    proxy.upstream.script(Reply.sse([*OPENING, *flood, ends]))
    async with Stream(proxy, {}) as stream:
        reached, before = 0, -1
        while reached != before:
            before = reached
            await asyncio.sleep(0.2)
            reached = sum(mark.is_set() for mark in marks)
        assert 0 < reached < len(marks)
        told = await stream.response.read()
    assert told.endswith(b"data: [DONE]\n\n")
    assert told.count(b'"delta":"' + b"x" * 500_000 + b'"') == len(marks)


async def test_a_client_of_http_1_0_gets_the_frames_alone(proxy: Proxy):
    gate = asyncio.Event()
    ends = {"type": "response.completed", "response": {}}
    proxy.upstream.script(Reply.sse([*OPENING, gate, delta(" a time"), gate, ends]))
    sent = orjson.dumps({"model": "m", "input": "hi", "stream": True})
    reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2]))
    head = b"POST /v1/responses HTTP/1.0\r\nAuthorization: Bearer sk-alice\r\nContent-Type: application/json\r\n"
    writer.write(head + b"Content-Length: %d\r\n\r\n" % len(sent) + sent)
    assert b"chunked" not in await reader.readuntil(b"\r\n\r\n")
    told = await reader.readuntil(b'"delta":"Once upon"')
    gate.set()
    told += await reader.read()
    writer.close()
    lines = told.splitlines()
    assert {line.partition(b": ")[0] for line in lines} == {b"event", b"data", b""}
    assert b'"delta":" a time"' in told
    assert lines[-2:] == [b"data: [DONE]", b""]
