"""`truncation: "auto"` where the model's window is known."""

from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.flows.conftest import Proxy, StartProxy
from tests.flows.talk import sent
from tests.items import texts
from tests.upstream import Reply

OMITTED = "x-branchline-omitted-items"
WORDS = "word " * 20


async def talk(client: AsyncOpenAI, items: list[Any]) -> str:
    """Return the id of a conversation with these items; texts become a user's messages."""
    made = await client.conversations.create()
    for start in range(0, len(items), 20):
        batch: list[Any] = [
            {"type": "message", "role": "user", "content": one} if isinstance(one, str) else one
            for one in items[start : start + 20]
        ]
        await client.conversations.items.create(made.id, items=batch)
    return made.id


@pytest.fixture
async def proxy(start_proxy: StartProxy) -> Proxy:
    """A proxy that knows the echo model as one with a very small window."""
    return await start_proxy(models={"windows": {"echo*": 400}})


async def test_the_oldest_turns_are_left_out_of_the_request_and_kept_in_the_store(proxy: Proxy):
    client = proxy.client()
    conversation = await talk(client, [f"{n} {WORDS}" for n in range(40)])
    raw = await client.responses.with_raw_response.create(
        model="echo", input="now", conversation=conversation, truncation="auto"
    )
    omitted = int(raw.headers[OMITTED])
    assert 25 < omitted < 39
    assert texts(sent(proxy)) == [*(f"{n} {WORDS}" for n in range(omitted, 40)), "now"]
    assert raw.parse().truncation == "auto"
    assert proxy.upstream.requests[-1].json["truncation"] == "auto"
    stored = [item async for item in await client.conversations.items.list(conversation, limit=100)]
    assert len(stored) == 42


async def test_a_stream_says_how_many_items_were_left_out_too(proxy: Proxy):
    client = proxy.client()
    conversation = await talk(client, [WORDS] * 40)
    async with client.responses.with_streaming_response.create(
        model="echo", input="now", conversation=conversation, truncation="auto", stream=True
    ) as raw:
        assert int(raw.headers[OMITTED]) > 25
        assert "response.completed" in await raw.text()


@pytest.mark.parametrize("truncation", [None, "disabled"])
async def test_unasked_nothing_is_left_out(proxy: Proxy, truncation: Any):
    client = proxy.client()
    conversation = await talk(client, [WORDS] * 40)
    raw = await client.responses.with_raw_response.create(
        model="echo", input="now", conversation=conversation, truncation=truncation
    )
    assert OMITTED not in raw.headers
    assert len(sent(proxy)) == 41


async def test_without_a_window_the_model_server_decides(start_proxy: StartProxy):
    proxy = await start_proxy(models={"windows": {"another": 400}})
    client = proxy.client()
    conversation = await talk(client, [WORDS] * 40)
    raw = await client.responses.with_raw_response.create(
        model="echo", input="now", conversation=conversation, truncation="auto"
    )
    assert OMITTED not in raw.headers
    assert (len(sent(proxy)), proxy.upstream.requests[-1].json["truncation"]) == (41, "auto")


async def test_calls_and_outputs_go_together_and_system_messages_stay(proxy: Proxy):
    client = proxy.client()
    items: list[Any] = [{"type": "message", "role": "developer", "content": "Mind your manners."}]
    for n in range(20):
        items += [
            WORDS,
            {"type": "function_call", "call_id": f"call_{n}", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": f"call_{n}", "output": WORDS},
        ]
    conversation = await talk(client, items)
    await client.responses.create(model="echo", input="now", conversation=conversation, truncation="auto")
    shown = sent(proxy)
    assert texts(shown)[0] == "Mind your manners."
    assert 3 < len(shown) < 30
    calls = [item["call_id"] for item in shown if item["type"] == "function_call"]
    assert calls == [item["call_id"] for item in shown if item["type"] == "function_call_output"]


async def test_a_chain_of_responses_is_cut_too_and_the_next_turns_begin_alike(proxy: Proxy):
    client = proxy.client()
    previous, beginnings, cuts = None, [], []
    for n in range(40):
        raw = await client.responses.with_raw_response.create(
            model="echo",
            input=f"{n} {WORDS}",
            previous_response_id=previous,
            truncation="auto",
            max_output_tokens=40,
        )
        previous = raw.parse().id
        beginnings.append(sent(proxy)[0]["id"])
        cuts.append(int(raw.headers.get(OMITTED, 0)))
    assert cuts[0] == 0
    assert cuts[-1] > 20
    assert cuts == sorted(cuts)
    # a cut serves several turns: a prefix cache hits in most of them
    assert len(set(beginnings)) <= len(beginnings) // 2


async def test_what_must_stay_is_sent_even_if_it_is_too_long(proxy: Proxy):
    client = proxy.client()
    conversation = await talk(client, [WORDS] * 3)
    refusal = Reply.json(400, {"error": {"message": "Too long.", "code": "context_length_exceeded"}})
    proxy.upstream.script(refusal)
    status, answer = await proxy.call(
        "POST",
        "/v1/responses",
        {"model": "echo", "input": "word " * 2000, "conversation": conversation, "truncation": "auto"},
    )
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    assert len(sent(proxy)) == 1


async def test_the_room_for_the_answer_counts(proxy: Proxy):
    client = proxy.client()
    conversation = await talk(client, [WORDS] * 12)
    body = {"model": "echo", "input": "now", "conversation": conversation, "truncation": "auto", "store": False}
    await proxy.call("POST", "/v1/responses", body)
    assert len(sent(proxy)) == 13
    await proxy.call("POST", "/v1/responses", {**body, "max_output_tokens": 200})
    assert len(sent(proxy)) < 10
