"""DELETE /v1/responses, and retention as a server is configured with it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from storage import partition_of
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.talk import items_of, new_conversation, post
from tests.storage.inspection import keys_that_hold
from tests.upstream import HANG, Reply

HELLO: dict[str, Any] = {"model": "echo", "input": "my secret"}


async def leave_traces(proxy: Proxy, owner: str) -> str:
    """Use all that writes something; return the id of a conversation."""
    client = proxy.client(owner)
    conversation = (await client.conversations.create(items=[{"role": "user", "content": "my secret"}])).id
    first = await client.responses.create(**HELLO, conversation=conversation)
    await client.responses.create(**HELLO, previous_response_id=first.id)
    deleted = await client.conversations.create(items=[{"role": "user", "content": "my secret"}])
    await client.conversations.delete(deleted.id)
    await post(proxy, "/v1/responses", HELLO, owner=owner)
    stream = await client.responses.create(**HELLO, background=True, stream=True)
    assert [event async for event in stream][-1].type == "response.completed"
    return conversation


async def test_no_key_of_the_caller_is_left_and_all_of_others(proxy: Proxy):
    kept = await leave_traces(proxy, "sk-bob")
    others = set(await proxy.redis.keys("*"))
    await leave_traces(proxy, "sk-alice")
    status, answer = await proxy.call("DELETE", "/v1/responses")
    assert (status, answer) == (200, {"object": "responses.deleted", "deleted": True, "deleted_count": 4})
    assert set(await proxy.redis.keys("*")) - others == set()
    assert (await proxy.call("GET", f"/v1/conversations/{kept}", key="sk-bob"))[0] == 200
    assert (await proxy.call("DELETE", "/v1/responses"))[1]["deleted_count"] == 0


async def test_deleting_all_conversations_keeps_the_chains_and_deleting_all_responses_does_not(proxy: Proxy):
    client = proxy.client()
    conversation = await new_conversation(proxy)
    first = await client.responses.create(**HELLO, conversation=conversation)
    await proxy.call("DELETE", "/v1/conversations")
    second = await client.responses.create(**HELLO, previous_response_id=first.id)
    assert "I saw 2 earlier items" in second.output_text
    await proxy.call("DELETE", "/v1/responses")
    assert (await proxy.call("GET", f"/v1/responses/{second.id}"))[0] == 404
    assert await keys_that_hold(proxy.redis, b"my secret") == []


async def test_a_turn_that_runs_meanwhile_stores_nothing_but_itself(proxy: Proxy):
    client = proxy.client()
    conversation = await new_conversation(proxy)
    await client.responses.create(**HELLO, conversation=conversation)
    gate = asyncio.Event()
    done = {"type": "response.completed", "response": {"id": "r", "object": "response", "output": []}}
    proxy.upstream.script(Reply.sse([gate, done]))
    running = asyncio.create_task(client.responses.create(model="echo", input="later", conversation=conversation))
    await proxy.upstream.wait_for_requests(2)
    await proxy.call("DELETE", "/v1/responses")
    gate.set()
    response = await running
    assert response.status == "completed"
    assert await keys_that_hold(proxy.redis, b"my secret") == []
    assert (await proxy.call("GET", f"/v1/conversations/{conversation}"))[0] == 404
    await proxy.call("DELETE", "/v1/responses")
    assert await proxy.redis.keys(f"*{partition_of(response.id)}*") == []


async def test_a_running_background_response_is_gone_and_stops(proxy: Proxy):
    proxy.upstream.script(Reply.sse([HANG]))
    response = await proxy.client().responses.create(**HELLO, background=True)
    await proxy.upstream.wait_for_requests(1)
    await proxy.call("DELETE", "/v1/responses")
    await asyncio.wait_for(proxy.upstream.client_left.wait(), 10)
    assert (await proxy.call("GET", f"/v1/responses/{response.id}"))[0] == 404
    assert await keys_that_hold(proxy.redis, b"my secret") == []


@pytest.mark.parametrize(("days", "seconds"), [(30.0, 30 * 86_400), (0.0, 100 * 365 * 86_400)])
async def test_responses_are_kept_as_long_as_configured(start_proxy: StartProxy, days: float, seconds: int):
    proxy = await start_proxy(responses={"retention_days": days}, recording={"mode": "off"})
    response = await proxy.client().responses.create(**HELLO)
    lives = [await proxy.redis.ttl(key) for key in await proxy.redis.keys(f"*{{{partition_of(response.id)}}}*")]
    assert lives
    assert all(seconds - 10 <= life <= seconds for life in lives)
    assert (await proxy.client().responses.create(**HELLO, previous_response_id=response.id)).status == "completed"


async def test_conversations_are_kept_as_long_as_configured(start_proxy: StartProxy):
    proxy = await start_proxy(responses={"retention_days": 1.0}, conversations={"retention_days": 2.0})
    conversation = await new_conversation(proxy)
    await proxy.client().responses.create(**HELLO, conversation=conversation)
    keys = await proxy.redis.keys(f"*{{{partition_of(conversation)}}}*")
    lives = [await proxy.redis.ttl(key) for key in keys if b"response:" not in key]
    assert all(2 * 86_400 <= life <= 2.2 * 86_400 for life in lives)
    await proxy.redis.delete(f"branchline:{{{partition_of(conversation)}}}:partition")
    assert (await proxy.call("GET", f"/v1/conversations/{conversation}"))[0] == 404
    assert (await proxy.call("GET", "/v1/conversations"))[1]["data"] == []
    await proxy.redis.flushall()


async def test_conversations_are_kept_for_ever_by_default(proxy: Proxy):
    conversation = await new_conversation(proxy)
    await proxy.client().responses.create(**HELLO, conversation=conversation)
    assert len(await items_of(proxy, conversation)) == 2
    assert await proxy.redis.ttl(f"branchline:{{{partition_of(conversation)}}}:partition") == -1
