"""Streams of real servers through the proxy, as openai's client reads them: raw, and with its strict stream helper."""

from __future__ import annotations

from typing import Any

import pytest

from tests.flows.conftest import Proxy
from tests.flows.talk import items_of, new_conversation
from tests.flows.witness import Reading, accept_follow_up, accept_stored
from tests.proxy.relay.invariants import accept_told
from tests.samples import load_stream, stream_names
from tests.upstream import Reply


def script(proxy: Proxy, name: str) -> None:
    stream = load_stream(name)
    frames = [frame + b"\n\n" for frame in stream.body.split(b"\n\n") if frame]
    proxy.upstream.script(Reply.raw(200, stream.content_type, chunks=frames))


@pytest.mark.parametrize("name", stream_names())
async def test_a_real_servers_stream_is_told_and_stored_alike_and_can_be_built_on(proxy: Proxy, name: str):
    script(proxy, name)
    conversation = await new_conversation(proxy)
    async with Reading(proxy, {"input": "hi", "conversation": conversation}) as reading:
        response = await reading.end()
        load_stream(name).accept(reading.events)
        accept_told(reading.events)
        assert (await items_of(proxy, conversation))[1:] == response["output"]
        await accept_stored(proxy, response)
        await accept_follow_up(proxy, response)


@pytest.mark.parametrize("name", stream_names())
async def test_a_real_servers_stream_is_read_raw_by_the_official_client(proxy: Proxy, name: str):
    script(proxy, name)
    client = proxy.client()
    stream: Any = await client.responses.create(model="m", input="hi", stream=True)
    events = [event.to_dict() async for event in stream]
    load_stream(name).accept(events)
    accept_told(events)
    stored: Any = await client.responses.retrieve(events[-1]["response"]["id"])
    assert [item.id for item in stored.output] == [item["id"] for item in events[-1]["response"]["output"]]


@pytest.mark.parametrize("name", stream_names())
async def test_a_real_servers_stream_passes_the_strict_helper_of_the_official_client(proxy: Proxy, name: str):
    script(proxy, name)
    client, expected = proxy.client(), load_stream(name).expected
    async with client.responses.stream(model="m", input="hi") as stream:
        seen = [event async for event in stream]
        final: Any = await stream.get_final_response()
    snapshots = [event.snapshot for event in seen if event.type == "response.output_text.delta"]
    assert (snapshots or [""])[-1] == expected["text"] == final.output_text
    assert [item.type for item in final.output] == expected["output"]
    stored: Any = await client.responses.retrieve(final.id)
    assert stored.output_text == expected["text"]


@pytest.mark.parametrize("name", stream_names())
async def test_a_real_servers_stream_answers_a_plain_request(proxy: Proxy, name: str):
    script(proxy, name)
    status, response = await proxy.call("POST", "/v1/responses", {"model": "m", "input": "hi"})
    assert (status, [item["type"] for item in response["output"]]) == (200, load_stream(name).expected["output"])
    await accept_stored(proxy, response)
