"""Recorded answers of real model servers, seen through the proxy by the official client."""

from __future__ import annotations

from typing import Any

import openai
import orjson
import pytest

from tests.flows.conftest import Proxy
from tests.flows.talk import items_of, new_conversation
from tests.flows.witness import Reading, accept_follow_up, accept_response, accept_stored
from tests.samples import load_sample, sample_names
from tests.upstream import Reply

ANSWERS = [name for name in sample_names() if load_sample(name).status == 200]
STREAMS = [name for name in ANSWERS if load_sample(name).content_type == "text/event-stream"]
ERRORS = [name for name in sample_names() if name not in ANSWERS]


def asked(name: str) -> dict[str, Any]:
    """What was asked when `name` was recorded, without `stream`, and stored."""
    return {key: value for key, value in load_sample(name).request.items() if key not in ("stream", "store")}


def input_length(name: str) -> int:
    given = load_sample(name).request["input"]
    return 1 if isinstance(given, str) else len(given)


def said(name: str) -> str:
    """All texts and arguments that the recording tells, joined."""
    body = load_sample(name).body
    if name not in STREAMS:
        return "".join(part["text"] for item in orjson.loads(body)["output"] for part in item["content"])
    events = [orjson.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: {")]
    return "".join(event["delta"] for event in events if event["type"].endswith(".delta"))


def words_of(response: dict[str, Any]) -> str:
    return "".join(
        item.get("arguments") or "".join(part["text"] for part in item["content"]) for item in response["output"]
    )


async def accept_turn(proxy: Proxy, name: str, response: dict[str, Any], conversation: str | None) -> None:
    """Fail unless the recording was told in full, is stored under the ids that were told, and can be built on."""
    accept_response(response)
    assert response["status"] == "completed"
    assert words_of(response) == said(name)
    assert response["usage"]["total_tokens"] > 0
    await accept_stored(proxy, response)
    if conversation is not None:
        assert response["conversation"] == {"id": conversation}
        assert (await items_of(proxy, conversation))[input_length(name) :] == response["output"]
    await accept_follow_up(proxy, response, input_length(name))


async def source_of(proxy: Proxy, kind: str) -> tuple[str | None, dict[str, Any]]:
    conversation = await new_conversation(proxy) if kind == "conversation" else None
    return conversation, {"conversation": conversation} if conversation else {}


@pytest.mark.parametrize("kind", ["chain", "conversation"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_a_recording_reads_as_one_whole_response(proxy: Proxy, name: str, kind: str):
    conversation, source = await source_of(proxy, kind)
    proxy.upstream.script(Reply.sample(name))
    status, response = await proxy.call("POST", "/v1/responses", {**asked(name), **source})
    assert status == 200
    await accept_turn(proxy, name, response, conversation)


@pytest.mark.parametrize("kind", ["chain", "conversation"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_a_recording_streams_as_valid_events_and_can_be_built_on_at_the_terminal_one(
    proxy: Proxy, name: str, kind: str
):
    conversation, source = await source_of(proxy, kind)
    proxy.upstream.script(Reply.sample(name))
    async with Reading(proxy, {**asked(name), **source}) as reading:
        response = await reading.end()
        await accept_turn(proxy, name, response, conversation)
    deltas = [event["delta"] for event in reading.events if event["type"].endswith(".delta")]
    assert "".join(deltas) == said(name)


@pytest.mark.parametrize("kind", ["chain", "conversation"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_a_recording_passes_the_clients_strict_stream_helper(proxy: Proxy, name: str, kind: str):
    conversation, source = await source_of(proxy, kind)
    client = proxy.client()
    proxy.upstream.script(Reply.sample(name))
    # the helper validates tools that are to be parsed: these are sent as they are
    request = {**asked(name), **source}
    extra_body = {key: request.pop(key) for key in ("tools", "x_future") if key in request}
    async with client.responses.stream(**request, extra_body=extra_body) as stream:
        snapshots = [event.snapshot async for event in stream if event.type == "response.output_text.delta"]
        final: Any = await stream.get_final_response()
    assert not snapshots or snapshots[-1] == said(name)
    response: Any = await client.responses.retrieve(final.id)
    assert [item.id for item in response.output] == [item.id for item in final.output]
    status, stored = await proxy.call("GET", f"/v1/responses/{final.id}")
    assert status == 200
    await accept_turn(proxy, name, stored, conversation)


@pytest.mark.parametrize("chunk_bytes", [1, 7, 64])
@pytest.mark.parametrize("name", STREAMS)
async def test_a_recording_may_arrive_in_pieces_of_any_size(proxy: Proxy, name: str, chunk_bytes: int):
    conversation = await new_conversation(proxy)
    proxy.upstream.script(Reply.sample(name, chunk_bytes=chunk_bytes))
    async with Reading(proxy, {**asked(name), "conversation": conversation}) as reading:
        response = await reading.end()
        await accept_turn(proxy, name, response, conversation)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ERRORS)
async def test_a_recorded_refusal_reaches_the_client_in_openais_envelope(proxy: Proxy, name: str, stream: bool):
    recorded = orjson.loads(load_sample(name).body)["error"]
    conversation = await new_conversation(proxy)
    proxy.upstream.script(Reply.sample(name))
    with pytest.raises(openai.BadRequestError) as refused:
        await proxy.client().responses.create(model="echo", input="hi", conversation=conversation, stream=stream)
    error = refused.value
    assert (error.status_code, error.code, error.param, error.type) == (400, None, None, recorded["type"])
    assert isinstance(error.body, dict)
    assert error.body["message"] == recorded["message"]
    assert error.request_id is not None
    assert recorded.keys() <= error.body.keys()
    assert await items_of(proxy, conversation) == []
