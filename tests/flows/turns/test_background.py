"""Background responses: answered at once, made by whichever replica takes them, and ended one way or another."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from proxy.background.worker import WORKER
from proxy.config.settings import Secret
from proxy.http.keys import STORE
from proxy.protocol import ids
from storage import OpenedTurn, Submission, new_partition, partition_of
from storage.client.keys import queue_key
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.talk import stored_keys
from tests.proxy.relay.streams import WHOLE
from tests.upstream import HANG, Reply

KEY = Secret("a sealing key that is long enough for this")
QUEUE = queue_key("branchline")
SLOW_LEASE = {"lock_lease_seconds": 30.0}
#: Less than passes before such a lease is renewed.
SOON_SECONDS = 8.0


def hanging() -> Reply:
    """An answer that begins and does not end."""
    return Reply.sse([*WHOLE[:4], HANG])


async def ended(client: AsyncOpenAI, response_id: str) -> Any:
    """Poll a response as its client would, until it is terminal."""
    async with asyncio.timeout(20):
        while True:
            response = await client.responses.retrieve(response_id)
            if response.status not in {"queued", "in_progress"}:
                return response
            await asyncio.sleep(0.02)


async def started(proxy: Proxy) -> None:
    """Wait until the upstream was asked."""
    await proxy.upstream.wait_for_requests(1)


async def emptied(proxy: Proxy) -> None:
    """Wait until nothing is queued any more."""
    async with asyncio.timeout(20):
        while await proxy.redis.xlen(QUEUE):  # noqa: ASYNC110 (another connection: there is no event)
            await asyncio.sleep(0.01)


async def said(client: AsyncOpenAI, conversation: str) -> list[str]:
    """The texts of a conversation, oldest first."""
    items: Any = await client.conversations.items.list(conversation, order="asc")
    return [item.content[0].text for item in items.data]


async def test_it_is_answered_at_once_and_made_then(proxy: Proxy):
    client = proxy.client()
    go = asyncio.Event()
    proxy.upstream.script(Reply.raw(200, "application/json", chunks=[go, b"{}"]))
    queued = await client.responses.create(model="echo", input="hi", background=True, metadata={"a": "b"})
    assert (queued.status, queued.background, queued.output, queued.usage) == ("queued", True, [], None)
    await started(proxy)
    running = await client.responses.retrieve(queued.id)
    assert running.status == "in_progress"
    assert running.model_dump(exclude={"status"}) == queued.model_dump(exclude={"status"})
    assert "background" not in proxy.upstream.requests[0].json
    go.set()
    assert (await ended(client, queued.id)).error is not None

    queued = await client.responses.create(model="echo", input="hi", background=True)
    done = await ended(client, queued.id)
    assert (done.id, done.status, done.background, done.created_at) == (queued.id, "completed", True, queued.created_at)
    assert done.output_text
    assert done.completed_at >= done.created_at
    await emptied(proxy)
    after = await client.responses.create(model="echo", input="and?", previous_response_id=done.id)
    assert [item["role"] for item in proxy.upstream.requests[-1].json["input"]] == ["user", "assistant", "user"]
    assert after.previous_response_id == done.id


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"store": False}, 400, "invalid_value"),
        ({"conversation": "conv_" + "0" * 48}, 404, None),
        ({"previous_response_id": "resp_" + "0" * 50}, 400, "previous_response_not_found"),
        ({"input": [{"type": "item_reference", "id": "msg_nope"}]}, 404, None),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": ""}]}, 400, None),
    ],
)
async def test_what_a_turn_would_be_refused_for_is_refused_before_it_is_queued(
    proxy: Proxy, body: Any, status: int, code: str | None
):
    turn = {"model": "echo", "input": "hi", "background": True, **body}
    got, answer = await proxy.call("POST", "/v1/responses", turn)
    assert (got, answer["error"]["code"]) == (status, code)
    assert await stored_keys(proxy) == []


async def test_a_refused_one_leaves_its_conversation_free(proxy: Proxy):
    client = proxy.client()
    conversation = await client.conversations.create()
    item: Any = {"type": "item_reference", "id": "msg_nope"}
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="echo", input=[item], conversation=conversation.id, background=True)
    await client.responses.create(model="echo", input="hi", conversation=conversation.id)


async def test_its_conversation_is_its_own_from_the_moment_it_is_accepted(start_proxy: StartProxy):
    proxy = await start_proxy(background={"concurrency": 1})
    client = proxy.client()
    conversation = (await client.conversations.create()).id
    proxy.upstream.script(hanging())
    blocker = await client.responses.create(model="echo", input="block", background=True, stream=True)
    await started(proxy)
    first = await client.responses.create(model="echo", input="first", conversation=conversation, background=True)
    for background in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(
                model="echo", input="second", conversation=conversation, background=background
            )
        assert refused.value.code == "conversation_locked"
    blocked = (await anext(aiter(blocker))).response.id  # type: ignore[union-attr]
    await client.responses.cancel(blocked)
    done = await ended(client, first.id)
    assert done.conversation is not None
    assert done.conversation.id == conversation
    await client.responses.create(model="echo", input="second", conversation=conversation)
    texts = await said(client, conversation)
    assert [texts[0], texts[2], len(texts)] == ["first", "second", 4]


async def test_a_cancelled_one_ends_wherever_it_runs_and_leaves_nothing(start_proxy: StartProxy):
    here = await start_proxy(sealing={"key": KEY}, turns=SLOW_LEASE)
    client = here.client()
    conversation = (await client.conversations.create()).id
    here.upstream.script(hanging())
    queued = await client.responses.create(
        model="echo", input="hi", background=True, stream=True, conversation=conversation
    )
    await started(here)
    there = await start_proxy(sealing={"key": KEY}, turns=SLOW_LEASE)
    response_id = (await anext(aiter(queued))).response.id  # type: ignore[union-attr]
    cancelled = await there.client().responses.cancel(response_id)
    assert (cancelled.status, cancelled.output, cancelled.error) == ("cancelled", [], None)
    async with asyncio.timeout(SOON_SECONDS):
        await here.upstream.client_left.wait()
    assert await there.client().responses.cancel(response_id) == cancelled
    assert await client.responses.retrieve(response_id) == cancelled
    await client.responses.create(model="echo", input="next", conversation=conversation)
    assert (await said(client, conversation))[0] == "next"
    await emptied(here)


async def test_the_stream_of_a_cancelled_one_ends(proxy: Proxy):
    client = proxy.client()
    proxy.upstream.script(hanging())
    stream = await client.responses.create(model="echo", input="hi", background=True, stream=True)
    events = []
    async for event in stream:
        events.append(event)
        if len(events) == 3:
            await client.responses.cancel(events[0].response.id)  # type: ignore[union-attr]
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.status == "cancelled"
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_one_that_waits_is_cancelled_without_being_begun(start_proxy: StartProxy):
    proxy = await start_proxy(background={"concurrency": 1})
    client = proxy.client()
    proxy.upstream.script(hanging())
    first = await client.responses.create(model="echo", input="1", background=True)
    await started(proxy)
    second = await client.responses.create(model="echo", input="2", background=True)
    assert (await client.responses.cancel(second.id)).status == "cancelled"
    await client.responses.cancel(first.id)
    await emptied(proxy)
    assert len(proxy.upstream.requests) == 1


async def test_cancelling_changes_nothing_that_is_over(proxy: Proxy):
    client = proxy.client()
    queued = await client.responses.create(model="echo", input="hi", background=True)
    done = await ended(client, queued.id)
    assert await client.responses.cancel(done.id) == done
    with pytest.raises(openai.NotFoundError):
        await proxy.client("sk-bob").responses.cancel(done.id)
    waited_for = await client.responses.create(model="echo", input="hi")
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        await client.responses.cancel(waited_for.id)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_upstream_refuses_fails_and_is_not_tried_again(proxy: Proxy, stream: bool):
    client = proxy.client()
    refusal = {"message": "Too much.", "type": "requests", "code": "rate_limit_exceeded", "param": None}
    proxy.upstream.script(Reply.json(429, {"error": refusal}))
    conversation = (await client.conversations.create()).id
    body = {"model": "echo", "input": "hi", "background": True, "conversation": conversation}
    if stream:
        events = [event async for event in await client.responses.create(**body, stream=True)]  # type: ignore[call-overload]
        assert events[-1].type == "response.failed"
        response_id = events[-1].response.id
    else:
        response_id = (await client.responses.create(**body)).id  # type: ignore[call-overload]
    failed = await ended(client, response_id)
    assert (failed.status, failed.error.code, failed.error.message) == ("failed", "rate_limit_exceeded", "Too much.")
    assert len(proxy.upstream.requests) == 1
    await client.responses.create(model="echo", input="next", conversation=conversation)
    assert (await said(client, conversation))[0] == "next"


async def test_a_failed_one_is_gone_on_from_as_if_it_had_not_been(proxy: Proxy):
    client = proxy.client()
    first = await client.responses.create(model="echo", input="one")
    proxy.upstream.script(Reply.json(500, {"error": {"message": "Oh."}}))
    asked = await client.responses.create(model="echo", input="two", previous_response_id=first.id, background=True)
    assert (await ended(client, asked.id)).status == "failed"
    await client.responses.create(model="echo", input="three", previous_response_id=asked.id)
    sent = proxy.upstream.requests[-1].json["input"]
    assert [item["role"] for item in sent] == ["user", "assistant", "user"]


async def test_a_deleted_one_stops(start_proxy: StartProxy):
    proxy = await start_proxy(turns=SLOW_LEASE)
    client = proxy.client()
    conversation = (await client.conversations.create()).id
    proxy.upstream.script(Reply.raw(200, "application/json", chunks=[HANG]))
    queued = await client.responses.create(model="echo", input="hi", background=True, conversation=conversation)
    await started(proxy)
    await client.responses.delete(queued.id)
    async with asyncio.timeout(SOON_SECONDS):
        await proxy.upstream.client_left.wait()
    await client.responses.create(model="echo", input="next", conversation=conversation)
    assert (await said(client, conversation))[0] == "next"
    await emptied(proxy)


async def test_nothing_goes_on_from_one_that_is_not_finished(proxy: Proxy):
    client = proxy.client()
    conversation = (await client.conversations.create()).id
    proxy.upstream.script(Reply.raw(200, "application/json", chunks=[HANG]))
    queued = await client.responses.create(model="echo", input="hi", background=True, conversation=conversation)
    await started(proxy)
    at: Any = {"id": conversation, "at": queued.id, "branch": "b"}
    for changes in ({"previous_response_id": queued.id}, {"conversation": at}):
        for background in (False, True):
            with pytest.raises(openai.BadRequestError) as refused:
                await client.responses.create(model="echo", input="x", background=background, **changes)
            assert refused.value.code == "response_not_finished"
            assert refused.value.param in {"previous_response_id", "conversation.at"}
    assert (await client.responses.input_items.list(queued.id)).data == []
    await client.responses.cancel(queued.id)
    await client.responses.create(model="echo", input="x", previous_response_id=queued.id)


async def test_it_forks_like_any_turn(proxy: Proxy):
    client = proxy.client()
    conversation = (await client.conversations.create()).id
    await client.responses.create(model="echo", input="one", conversation=conversation)
    items = await client.conversations.items.list(conversation, order="asc")
    fork: Any = {"id": conversation, "fork_from": items.data[0].id}
    queued = await client.responses.create(model="echo", input="other", conversation=fork, background=True)
    branch = queued.conversation.branch  # type: ignore[union-attr]
    assert (await ended(client, queued.id)).conversation.branch == branch
    _, page = await proxy.call("GET", f"/v1/conversations/{conversation}/items?branch={branch}&order=asc")
    assert [item["content"][0]["text"] for item in page["data"][:2]] == ["one", "other"]
    _, branches = await proxy.call("GET", f"/v1/conversations/{conversation}/branches")
    assert len(branches["data"]) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_it_was_created_when_it_was_accepted_whatever_the_upstream_says(proxy: Proxy, stream: bool):
    client = proxy.client()
    told = {"object": "response", "status": "completed", "created_at": 5, "output": []}
    event = {"type": "response.completed", "response": told}
    proxy.upstream.script(Reply.sse([event]) if stream else Reply.json(200, told))
    started_at = time.time()
    body: Any = {"model": "m", "input": "hi", "background": True}
    if stream:
        events = [event async for event in await client.responses.create(**body, stream=True)]
        responses = [event.response for event in events]
    else:
        queued = await client.responses.create(**body)
        responses = [queued, await ended(client, queued.id)]
    (created_at,) = {response.created_at for response in responses}
    assert created_at >= int(started_at)


async def test_its_events_are_told_to_all_who_ask_wherever_it_runs(start_proxy: StartProxy):
    here = await start_proxy(sealing={"key": KEY})
    there = await start_proxy(sealing={"key": KEY}, background={"concurrency": 1})
    go = asyncio.Event()
    for proxy in (here, there):
        proxy.upstream.script(Reply.sse([*WHOLE[:5], go, *WHOLE[5:]]))
    stream = await here.client().responses.create(model="echo", input="hi", background=True, stream=True)
    first = [await anext(aiter(stream)) for _ in range(3)]
    response_id = first[0].response.id  # type: ignore[union-attr]
    late = await there.client().responses.retrieve(response_id, stream=True, starting_after=1)
    go.set()
    whole = [*first, *[event async for event in stream]]
    assert [event async for event in late] == whole[2:]
    assert whole[-1].type == "response.completed"
    assert [event.sequence_number for event in whole] == list(range(len(whole)))
    again = await there.client().responses.retrieve(response_id, stream=True)
    assert [event async for event in again] == whole


async def test_a_replica_that_stops_gives_back_what_it_cannot_finish(start_proxy: StartProxy):
    options: dict[str, Any] = {"sealing": {"key": KEY}, "turns": SLOW_LEASE, "background": {"max_attempts": 1}}
    old = await start_proxy(**options, server={"shutdown_timeout_seconds": 0.1})
    client = old.client()
    conversation = (await client.conversations.create()).id
    old.upstream.script(hanging())
    queued = await client.responses.create(model="echo", input="hi", background=True, conversation=conversation)
    await started(old)
    new = await start_proxy(**options)
    await old.runner.cleanup()
    done = await ended(new.client(), queued.id)
    assert done.status == "completed"
    assert len(await said(new.client(), conversation)) == 2
    assert len(new.upstream.requests) == 1


async def test_one_whose_replicas_die_again_and_again_fails(start_proxy: StartProxy):
    proxy = await start_proxy(background={"max_attempts": 2})
    store = proxy.app[STORE]
    response_id = ids.new_response_id(new_partition(), stored=True)
    head = f'{{"id":"{response_id}","object":"response","created_at":1,"status":"queued","error":null,"model":"m"'
    await proxy.app[WORKER].drain(0)
    submission = Submission("local", response_id, "t", head.encode() + b"}", "sealed", OpenedTurn(), streamed=False)
    await store.jobs.submit(submission)
    await store.jobs.join()
    (entry,) = await store.jobs.take("dead", 1)
    for _ in range(2):
        assert await store.jobs.claim(entry, "dead", 0.001) is not None
        async with asyncio.timeout(20):
            while (await store.jobs.renew([], 1)) or not await expired(proxy, response_id):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    other = await start_proxy(background={"max_attempts": 2}, auth={"mode": "none"}, turns={"lock_lease_seconds": 1.0})
    failed = await ended(other.client(), response_id)
    assert (failed.status, failed.error.code) == ("failed", "server_error")
    assert "2 times" in failed.error.message
    await emptied(other)


async def expired(proxy: Proxy, response_id: str) -> bool:
    """Whether the lease of a response is over."""
    key = f"branchline:{{{partition_of(response_id)}}}:response:{response_id}"
    redis: Any = proxy.redis
    until = await redis.hget(key, "lease_until")
    seconds, microseconds = await proxy.redis.time()
    return int(until) < seconds * 1000 + microseconds / 1000


async def test_one_that_waits_too_long_fails(start_proxy: StartProxy):
    proxy = await start_proxy(background={"max_queue_seconds": 1e-9})
    client = proxy.client()
    failed = await ended(client, (await client.responses.create(model="echo", input="hi", background=True)).id)
    assert failed.status == "failed"
    assert "waited too long" in failed.error.message
    assert proxy.upstream.requests == []


async def test_what_waits_in_the_store_shows_no_key_and_no_input(start_proxy: StartProxy):
    proxy = await start_proxy(background={"concurrency": 1})
    client = proxy.client("sk-very-secret", default_headers={"X-Mine": "header-of-mine"})
    proxy.upstream.script(hanging())
    first = await client.responses.create(model="echo", input="hi", background=True)
    await started(proxy)
    second = await client.responses.create(model="echo", input="a private thing", background=True)
    for response in (first, second):
        key = f"branchline:{{{partition_of(response.id)}}}:response:{response.id}"
        redis: Any = proxy.redis
        kept = b"".join((await redis.hgetall(key)).values())
        for secret in (b"sk-very-secret", b"header-of-mine", b"private"):
            assert secret not in kept
    await client.responses.cancel(first.id)
    await ended(client, second.id)
    asked = proxy.upstream.requests[1]
    assert asked.headers["Authorization"] == "Bearer sk-very-secret"
    assert asked.headers["X-Mine"] == "header-of-mine"


async def test_a_replica_with_another_key_leaves_it_to_one_that_has_it(start_proxy: StartProxy):
    lease = {"lock_lease_seconds": 1.0}
    old = await start_proxy(sealing={"key": KEY}, server={"shutdown_timeout_seconds": 0.1}, turns=lease)
    old.upstream.script(hanging())
    queued = await old.client().responses.create(model="echo", input="hi", background=True)
    await started(old)
    foreign = await start_proxy(sealing={"key": Secret("another sealing key that is long enough")}, turns=lease)
    await old.runner.cleanup()
    knows = await start_proxy(sealing={"key": KEY}, turns=lease)
    assert (await ended(knows.client(), queued.id)).status == "completed"
    assert foreign.upstream.requests == []
