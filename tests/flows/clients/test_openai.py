"""OpenAI's own client against the proxy, unmodified: what its users rely on."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.flows.clients.impatient import impatient_client
from tests.flows.conftest import Proxy
from tests.flows.talk import items_of, new_conversation
from tests.proxy.relay.strict import EVENTS
from tests.upstream import HANG, Reply


class Step(BaseModel):
    """What the model is to fill in."""

    explanation: str
    number: int


class Solution(BaseModel):
    """A nested structure."""

    steps: list[Step]
    final: bool


class Lookup(BaseModel):
    """A tool's arguments."""

    city: str


def walk_with_the_sync_client(url: str) -> str:
    """A session as a script would have it; return the conversation's id."""
    with OpenAI(base_url=f"{url}/v1", api_key="sk-alice", max_retries=0) as client:
        conversation = client.conversations.create(metadata={"by": "script"})
        plain = client.responses.create(model="echo", input="one", conversation=conversation.id)
        assert plain.output_text == 'You said: "one" (I saw 0 earlier items.)'
        events = list(client.responses.create(model="echo", input="two", conversation=conversation.id, stream=True))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[-1].type == "response.completed"
        with client.responses.stream(model="echo", input="three", conversation=conversation.id) as stream:
            stream.until_done()
            assert "I saw 4 earlier items" in stream.get_final_response().output_text
        chained = client.responses.create(model="echo", input="x", previous_response_id=plain.id)
        assert "I saw 2 earlier items" in chained.output_text
        assert len(list(client.conversations.items.list(conversation.id, limit=2))) == 6
        assert [item.id for item in client.responses.input_items.list(chained.id)][2:] == [
            item.id for item in client.conversations.items.list(conversation.id, order="asc").data[:1]
        ]
        client.responses.delete(plain.id)
        assert client.conversations.update(conversation.id, metadata={"done": "yes"}).metadata == {
            "by": "script",
            "done": "yes",
        }
        return conversation.id


async def test_the_sync_client_works_too(proxy: Proxy):
    conversation = await asyncio.to_thread(walk_with_the_sync_client, proxy.url)
    assert len(await items_of(proxy, conversation)) == 6
    assert (await proxy.client().conversations.delete(conversation)).deleted


async def test_streamed_events_are_openais_and_valid(proxy: Proxy):
    stream = await proxy.client().responses.create(
        model="echo", input="hi", stream=True, reasoning={"effort": "low"}, include=["reasoning.encrypted_content"]
    )
    events: list[Any] = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    # what the client can't make an event of, it passes as a bare model
    assert {type(event) for event in events} <= set(EVENTS.values())
    assert all(event.item.id.startswith(("rs_", "msg_")) for event in events if event.type.endswith("item.done"))
    kinds = [event.type for event in events]
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds[-1] == "response.completed"


async def test_the_stream_helper_parses_structured_output(proxy: Proxy):
    client = proxy.client()
    async with client.responses.stream(model="echo", input="solve", text_format=Solution) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert isinstance(final.output_parsed, Solution)
    done = [event for event in events if event.type == "response.output_text.done"]
    assert [event.parsed for event in done] == [final.output_parsed]
    stored = await client.responses.retrieve(final.id)
    assert Solution.model_validate_json(stored.output_text) == final.output_parsed
    assert stored.text is not None
    assert stored.text.format is not None
    assert stored.text.format.type == "json_schema"


async def test_the_stream_helper_collects_tool_calls(proxy: Proxy):
    client = proxy.client()
    conversation = await new_conversation(proxy)
    tools: list[Any] = [openai.pydantic_function_tool(Lookup, name="look_up")]
    async with client.responses.stream(
        model="echo", input="call look_up Paris", tools=tools, conversation=conversation
    ) as stream:
        snapshots = [event.snapshot async for event in stream if event.type == "response.function_call_arguments.delta"]
        final = await stream.get_final_response()
    call = final.output[-1]
    assert call.type == "function_call"
    assert call.parsed_arguments == Lookup(city="Paris")
    assert snapshots[-1] == call.arguments
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    async with client.responses.stream(model="echo", input=[output], tools=tools, conversation=conversation) as stream:
        assert "sunny" in (await stream.get_final_response()).output_text
    assert [item["type"] for item in await items_of(proxy, conversation)] == [
        "message",
        "function_call",
        "function_call_output",
        "message",
    ]


async def test_parse_gives_objects_and_goes_on_in_a_chain(proxy: Proxy):
    client = proxy.client()
    first = await client.responses.parse(model="echo", input="solve", text_format=Solution)
    assert isinstance(first.output_parsed, Solution)
    tools: list[Any] = [openai.pydantic_function_tool(Lookup)]
    second = await client.responses.parse(
        model="echo", input="call Lookup Rome", tools=tools, previous_response_id=first.id
    )
    call = second.output[-1]
    assert call.type == "function_call"
    assert call.parsed_arguments == Lookup(city="Rome")


async def test_what_the_client_gave_back_can_be_given_in_again(proxy: Proxy):
    client = proxy.client()
    history: list[Any] = [{"role": "user", "content": "one"}]
    for number in range(3):
        response = await client.responses.create(model="echo", input=history, reasoning={"effort": "low"})
        assert f"I saw {3 * number} earlier item" in response.output_text
        history += [*response.output, {"role": "user", "content": "more"}]


async def test_raw_and_streaming_responses_show_the_request_id(proxy: Proxy):
    client = proxy.client()
    raw = await client.responses.with_raw_response.create(model="echo", input="hi")
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.parse().output_text.startswith("You said")
    assert raw.parse()._request_id == raw.headers["x-request-id"]
    async with client.responses.with_streaming_response.create(model="echo", input="hi", stream=True) as streaming:
        assert streaming.headers["x-request-id"].startswith("req_")
        assert streaming.headers["x-request-id"] != raw.headers["x-request-id"]
        assert streaming.headers["content-type"] == "text/event-stream"
        lines = [line async for line in streaming.iter_lines()]
    assert lines[-2:] == ["data: [DONE]", ""] or lines[-1] == "data: [DONE]"
    made = await client.conversations.with_raw_response.create()
    assert made.headers["x-request-id"].startswith("req_")


async def test_conversations_and_items_are_made_read_changed_and_deleted(proxy: Proxy):
    client = proxy.client()
    conversation = await client.conversations.create(
        items=[{"type": "message", "role": "system", "content": "Be kind."}], metadata={"a": "1"}
    )
    items: list[Any] = [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "42"},
    ]
    made = await client.conversations.items.create(conversation.id, items=items)
    assert [item.type for item in made.data] == ["message", "function_call", "function_call_output"]
    for item in made.data:
        assert item.id is not None
        read = await client.conversations.items.retrieve(item.id, conversation_id=conversation.id)
        assert read == item
        assert (await client.conversations.items.delete(item.id, conversation_id=conversation.id)).id == conversation.id
        with pytest.raises(openai.NotFoundError):
            await client.conversations.items.retrieve(item.id, conversation_id=conversation.id)
    assert [item.type async for item in client.conversations.items.list(conversation.id)] == ["message"]
    assert (await client.conversations.update(conversation.id, metadata={"b": "2"})).metadata == {"a": "1", "b": "2"}
    assert (await client.conversations.retrieve(conversation.id)).created_at == conversation.created_at
    assert (await client.conversations.delete(conversation.id)).object == "conversation.deleted"
    with pytest.raises(openai.NotFoundError):
        await client.conversations.items.create(conversation.id, items=items[:1])


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [None, 1, 7, 20, 100])
async def test_the_client_pages_through_45_items_by_itself(proxy: Proxy, order: Any, limit: int | None):
    client = proxy.client()
    conversation = await client.conversations.create()
    texts = [f"message {number}" for number in range(45)]
    for start in (0, 20, 40):
        batch: Any = [{"role": "user", "content": text} for text in texts[start : start + 20]]
        await client.conversations.items.create(conversation.id, items=batch)
    asked: Any = {} if limit is None else {"limit": limit}
    pages = client.conversations.items.list(conversation.id, order=order, **asked)
    listed: list[Any] = [item async for item in pages]
    wanted = texts if order == "asc" else texts[::-1]
    assert [item.content[0].text for item in listed] == wanted
    after: Any = client.conversations.items.list(conversation.id, order=order, after=listed[39].id)
    assert [item.content[0].text async for item in after] == wanted[40:]
    response = await client.responses.create(model="echo", input="how many?", conversation=conversation.id)
    inputs = client.responses.input_items.list(response.id, order=order, **asked)
    assert len({item.id async for item in inputs}) == 46


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("layout", ["XXY", "XYX", "YXX", "XYXY"])
async def test_paging_over_an_item_that_is_there_twice_comes_to_an_end(proxy: Proxy, layout: str, order: Any):
    client = proxy.client()
    source = await client.conversations.create(items=[{"role": "user", "content": name} for name in "XY"])
    ids = dict(zip("XY", [item["id"] for item in await items_of(proxy, source.id)], strict=True))
    references: Any = [{"type": "item_reference", "id": ids[name]} for name in layout]
    conversation = await client.conversations.create(items=references)
    listed: list[Any] = []
    async for item in client.conversations.items.list(conversation.id, order=order, limit=1):
        listed.append(item.id)
        assert len(listed) <= len(layout)
    wanted = [ids[name] for name in layout]
    assert listed == (wanted if order == "asc" else wanted[::-1])


REFUSALS: list[tuple[int, type[openai.APIStatusError]]] = [
    (400, openai.BadRequestError),
    (401, openai.AuthenticationError),
    (403, openai.PermissionDeniedError),
    (404, openai.NotFoundError),
    (409, openai.ConflictError),
    (418, openai.APIStatusError),
    (422, openai.UnprocessableEntityError),
    (429, openai.RateLimitError),
    (500, openai.InternalServerError),
    (503, openai.InternalServerError),
    (529, openai.InternalServerError),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "kind"), REFUSALS)
async def test_the_upstreams_status_is_the_clients_error(
    proxy: Proxy, status: int, kind: type[openai.APIStatusError], stream: bool
):
    error = {"message": "no", "type": "some_error", "param": "model", "code": "some_code", "x_more": 1}
    proxy.upstream.script(Reply.json(status, {"error": error}, {"x-request-id": "req_theirs", "retry-after-ms": "1"}))
    with pytest.raises(kind) as raised:
        await proxy.client().responses.create(model="echo", input="hi", stream=stream)
    told = raised.value
    assert type(told) is kind
    assert (told.status_code, told.type, told.param, told.code) == (status, "some_error", "model", "some_code")
    assert told.body == error
    assert told.request_id is not None
    assert told.request_id.startswith("req_")
    assert told.request_id != "req_theirs"
    assert told.response.headers["retry-after-ms"] == "1"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
async def test_the_clients_own_retries_do_not_double_a_turn(proxy: Proxy, status: int, stream: bool):
    conversation = await new_conversation(proxy)
    refusal = Reply.json(status, {"error": {"message": "later"}}, {"retry-after-ms": "1"})
    proxy.upstream.script(refusal, refusal)
    client = proxy.client().with_options(max_retries=2)
    result: Any = await client.responses.create(model="echo", input="hi", conversation=conversation, stream=stream)
    response = [event async for event in result][-1].response if stream else result
    assert "I saw 0 earlier items" in response.output_text
    counts = [request.headers["x-stainless-retry-count"] for request in proxy.upstream.requests]
    assert counts == ["0", "1", "2"]
    assert [item["role"] for item in await items_of(proxy, conversation)] == ["user", "assistant"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_retry_after_the_clients_own_timeout_does_not_double_the_input(proxy: Proxy, stream: bool):
    conversation = await new_conversation(proxy)
    proxy.upstream.script(Reply.raw(200, "text/event-stream", chunks=[HANG]))
    client = impatient_client(proxy)
    result: Any = await client.responses.create(model="echo", input="hi", conversation=conversation, stream=stream)
    response = [event async for event in result][-1].response if stream else result
    assert proxy.upstream.requests[-1].headers["x-stainless-retry-count"] == "1"
    assert [item["role"] for item in await items_of(proxy, conversation)] == ["user", "assistant"]
    assert "I saw 0 earlier items" in response.output_text


async def test_an_upstream_that_wants_no_retry_is_obeyed(proxy: Proxy):
    refusal = Reply.json(500, {"error": {"message": "never"}}, {"x-should-retry": "false"})
    proxy.upstream.script(refusal)
    with pytest.raises(openai.InternalServerError):
        await proxy.client().with_options(max_retries=2).responses.create(model="echo", input="hi")
    assert len(proxy.upstream.requests) == 1


async def test_rate_limit_headers_reach_the_program(proxy: Proxy):
    headers = {"x-ratelimit-remaining-requests": "7", "openai-processing-ms": "12", "openai-version": "2020-10-01"}
    sample = Reply.sample("llama.cpp-plain")
    proxy.upstream.script(Reply(200, {**sample.headers, **headers}, sample.steps))
    raw = await proxy.client().responses.with_raw_response.create(model="echo", input="hi")
    assert {name: raw.headers[name] for name in headers} == headers


async def test_a_turn_that_finds_its_conversation_busy_is_not_retried_by_the_base_client(proxy: Proxy):
    conversation = await new_conversation(proxy)
    gate = asyncio.Event()
    proxy.upstream.script(Reply.sse([gate], done=False))
    client = proxy.client().with_options(max_retries=2)
    first = asyncio.create_task(client.responses.create(model="echo", input="one", conversation=conversation))
    await proxy.upstream.wait_for_requests(1)
    with pytest.raises(openai.BadRequestError) as busy:
        await client.responses.create(model="echo", input="two", conversation=conversation)
    assert (busy.value.code, busy.value.param) == ("conversation_locked", "conversation")
    assert len(proxy.upstream.requests) == 1
    gate.set()
    assert (await first).status == "failed"
    third = await client.responses.create(model="echo", input="three", conversation=conversation)
    assert "I saw 0 earlier items" in third.output_text
