"""Refusals under a 200, in the first events of a stream or in place of an answer: asked again within the turn, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from proxy.protocol.sse import SseDecoder
from tests.flows.conftest import Proxy
from tests.flows.streams import OPENING, delta, read_stream
from tests.flows.talk import items_of, model_answer, new_conversation, respond, sent
from tests.proxy.relay.invariants import accept_told
from tests.upstream import Reply

SEAL = "gAAAAABo-thinker-0123456789abcdef"
THOUGHT = {"type": "reasoning", "id": "rs_up", "summary": [], "encrypted_content": SEAL}
CREATED = OPENING[0]
RUNNING = {"type": "response.in_progress", "response": CREATED["response"]}
LOST = {"code": "invalid_encrypted_content", "message": "The encrypted content gAAA could not be verified."}
NO_REASONING = {"code": "x", "message": "Reasoning input items can only be provided to a reasoning model."}
NO_INCLUDE = {"code": "unknown_parameter", "message": "Unknown parameter: 'include'.", "param": "include"}


def failed(error: Any) -> dict[str, Any]:
    return {"id": "r1", "object": "response", "status": "failed", "error": error, "output": []}


SHAPES: dict[str, Callable[[Any], Reply]] = {
    "failed at once": lambda error: Reply.sse([{"type": "response.failed", "response": failed(error)}]),
    "failed": lambda error: Reply.sse([CREATED, RUNNING, {"type": "response.failed", "response": failed(error)}]),
    "created": lambda error: Reply.sse([CREATED, {"type": "error", **error}]),
    "error at once": lambda error: Reply.sse([{"type": "error", **error}]),
    "bare": lambda error: Reply.raw(
        200, "text/event-stream", chunks=[b"data: " + orjson.dumps({"error": error}), b"\n\n"]
    ),
    "JSON": lambda error: Reply.json(200, failed(error)),
    "no response": lambda error: Reply.json(200, {"error": error}),
}
NAMED = {"seal": LOST, "reasoning": NO_REASONING, "include": NO_INCLUDE}


async def history(proxy: Proxy) -> str:
    conversation = await new_conversation(proxy)
    proxy.upstream.script(Reply.json(200, model_answer("1", THOUGHT)))
    await respond(proxy, model="thinker", input="one", conversation=conversation)
    return conversation


def told_in(stream: bytes) -> list[Any]:
    events = [orjson.loads(data) for _, data in SseDecoder(1 << 20).feed(stream) if data != b"[DONE]"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    accept_told(events)
    return events


def is_without(proxy: Proxy, named: str) -> bool:
    if named == "include":
        return "include" not in proxy.upstream.requests[-1].json
    return "reasoning" not in [item["type"] for item in sent(proxy)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("named", NAMED)
async def test_a_stream_goes_on_with_the_second_answer_and_the_next_turn_asks_right_away(
    proxy: Proxy, shape: str, named: str
):
    conversation = await history(proxy)
    proxy.upstream.script(
        SHAPES[shape](NAMED[named]), Reply.sse([*OPENING, delta("."), {"type": "response.completed", "response": {}}])
    )
    body = {"model": "thinker", "conversation": conversation, "input": "two"}
    events = told_in(await read_stream(proxy, body))
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert (kinds[0], kinds.count("created"), kinds[-1]) == ("created", 1, "completed")
    assert kinds.count("in_progress") <= 1
    assert not {"error", "failed"} & set(kinds)
    assert events[-1]["response"]["error"] is None
    assert len({event["response"]["id"] for event in events if "response" in event}) == 1
    assert len({event["response"]["created_at"] for event in events if "response" in event}) == 1
    assert len(proxy.upstream.requests) == 3
    assert is_without(proxy, named)
    assert len(await items_of(proxy, conversation)) == 5
    await respond(proxy, model="thinker", input="three", conversation=conversation)
    assert len(proxy.upstream.requests) == 4
    assert is_without(proxy, named)


@pytest.mark.parametrize("shape", ["failed", "JSON"])
async def test_it_is_asked_again_once_only(proxy: Proxy, shape: str):
    conversation = await history(proxy)
    proxy.upstream.script(SHAPES[shape](LOST), SHAPES[shape]({**LOST, "message": "Encrypted content: still no."}))
    events = told_in(await read_stream(proxy, {"model": "thinker", "conversation": conversation}))
    assert events[-1]["type"] == "response.failed"
    assert "still no" in events[-1]["response"]["error"]["message"]
    assert len(proxy.upstream.requests) == 3


async def test_what_was_left_out_for_nothing_is_not_remembered(proxy: Proxy):
    conversation = await history(proxy)
    error = {"code": "server_error", "message": "web_search_call, reasoning or a tool has failed."}
    proxy.upstream.script(SHAPES["failed"](error), SHAPES["failed"](error))
    await read_stream(proxy, {"model": "thinker", "conversation": conversation})
    assert is_without(proxy, "seal")
    await respond(proxy, model="thinker", input="three", conversation=conversation)
    assert not is_without(proxy, "seal")


@pytest.mark.parametrize(
    "error",
    [
        {"code": "rate_limit_exceeded", "message": "Rate limit reached for reasoning models; include fewer tokens."},
        {"code": "server_error", "message": "Something broke."},
    ],
)
async def test_other_failures_are_told(proxy: Proxy, error: Any):
    conversation = await history(proxy)
    proxy.upstream.script(SHAPES["failed"](error))
    events = told_in(await read_stream(proxy, {"model": "thinker", "conversation": conversation}))
    assert events[-1]["type"] == "response.failed"
    assert len(proxy.upstream.requests) == 2


async def test_a_failure_behind_some_text_is_told_and_remembered(proxy: Proxy):
    conversation = await history(proxy)
    proxy.upstream.script(Reply.sse([*OPENING, {"type": "error", **LOST}]))
    body = {"model": "thinker", "conversation": conversation}
    kinds = [event["type"] for event in told_in(await read_stream(proxy, body))]
    assert kinds[-2:] == ["error", "response.failed"]
    assert len(proxy.upstream.requests) == 2
    await respond(proxy, model="thinker", input="three", conversation=conversation)
    assert is_without(proxy, "seal")


@pytest.mark.parametrize("shape", ["failed", "created", "JSON"])
async def test_a_plain_turn_is_answered(proxy: Proxy, shape: str):
    conversation = await history(proxy)
    proxy.upstream.script(SHAPES[shape](LOST), Reply.json(200, model_answer("2")))
    response = await respond(proxy, model="thinker", input="two", conversation=conversation)
    assert (response["status"], response["error"], len(response["output"])) == ("completed", None, 1)


async def test_on_a_websocket(proxy: Proxy):
    conversation = await history(proxy)
    proxy.upstream.script(SHAPES["created"](LOST))
    headers = {"Authorization": "Bearer sk-alice"}
    async with proxy.http.ws_connect(f"{proxy.url}/v1/responses", headers=headers) as socket:
        await socket.send_json(
            {"type": "response.create", "model": "thinker", "input": "2", "conversation": conversation}
        )
        events = [await socket.receive_json()]
        while events[-1]["type"] not in ("response.completed", "response.failed", "error"):
            events.append(await socket.receive_json())
    assert events[-1]["type"] == "response.completed"
    assert [event["type"] for event in events].count("response.created") == 1
    assert is_without(proxy, "seal")


@pytest.mark.parametrize("shape", ["failed at once", "failed", "created"])
async def test_in_the_background_the_log_of_events_has_the_second_answer_alone(proxy: Proxy, shape: str):
    conversation = await history(proxy)
    proxy.upstream.script(SHAPES[shape](LOST))
    body = {"model": "thinker", "conversation": conversation, "background": True}
    events = told_in(await read_stream(proxy, body))
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:3] == ["created", "queued", "in_progress"]
    assert (kinds.count("queued"), kinds.count("in_progress"), kinds[-1]) == (1, 1, "completed")
    response = events[-1]["response"]["id"]
    async with proxy.http.get(
        f"{proxy.url}/v1/responses/{response}?stream=true", headers={"Authorization": "Bearer sk-alice"}
    ) as again:
        assert told_in(await again.read()) == events
    assert is_without(proxy, "seal")


@pytest.mark.parametrize(
    ("asked", "place"), [("two", "input"), ([{"role": "user", "content": "two"}], "input[0].content")]
)
async def test_a_place_in_a_failure_is_told_as_the_client_counts(proxy: Proxy, asked: Any, place: str):
    conversation = await history(proxy)
    error = {"code": "invalid_prompt", "message": "Invalid 'input[3].content'.", "param": "input[3].content"}
    proxy.upstream.script(SHAPES["created"](error))
    events = told_in(await read_stream(proxy, {"model": "thinker", "conversation": conversation, "input": asked}))
    assert (events[-2]["message"], events[-2]["param"]) == (f"Invalid '{place}'.", place)
    assert events[-1]["response"]["error"]["message"] == f"Invalid '{place}'."
