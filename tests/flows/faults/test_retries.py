"""A client's retries without key: an answer that was stored and never taken is delivered, not generated again."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import openai
import orjson
import pytest
from aiohttp.test_utils import make_mocked_request

from proxy.auth.caller import CALLER, Caller
from proxy.http.delivery import HttpDelivery
from proxy.http.middleware import RUNNING
from proxy.idempotency.turns import keep_answer
from proxy.protocol.errors import BadGateway
from proxy.protocol.request import read_request
from proxy.turns.observer import TurnResult
from proxy.turns.options import TurnOptions
from tests.flows.clients.impatient import impatient_client
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.talk import Answer, answer_when, idempotency_records, items_of, new_conversation, post
from tests.upstream import HANG, Reply

FINISH = {"on_disconnect": "finish"}
HELLO = {"model": "echo", "input": "hello"}


async def attempt(proxy: Proxy, body: Any, number: int, path: str = "/v1/responses", owner: str = "sk-alice") -> Answer:
    """Send a request as the official clients do: with the number of times that it was sent before, and without key."""
    return await post(proxy, path, body, None, owner=owner, headers={"x-stainless-retry-count": str(number)})


async def leave(proxy: Proxy, body: Any, *, gate: asyncio.Event, path: str = "/v1/responses") -> None:
    """Send a first attempt, go away once the model server has it, and let that answer."""
    before, earlier = len(proxy.upstream.requests), await noted(proxy)
    leaving = asyncio.create_task(attempt(proxy, body, 0, path))
    await proxy.upstream.wait_for_requests(before + 1)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    while await noted(proxy) <= earlier:
        continue
    gate.set()


async def noted(proxy: Proxy) -> set[bytes]:
    """Return which turns are noted for their retries, by their tokens: two turns of one request share a record."""
    tokens = [await proxy.redis.hget(key, "token") for key in await idempotency_records(proxy)]
    return {token for token in tokens if isinstance(token, bytes)}


def late(proxy: Proxy, text: str = "late") -> asyncio.Event:
    """Let the next answer wait for an event."""
    gate = asyncio.Event()
    proxy.upstream.script(answer_when(gate, text))
    return gate


async def test_openais_client_gets_the_answer_that_it_timed_out_for(start_proxy: StartProxy):
    proxy = await start_proxy(turns=FINISH)
    conversation = await new_conversation(proxy)
    gate = late(proxy, "worth waiting for")
    client = impatient_client(proxy)
    call = asyncio.create_task(client.responses.create(model="echo", input="hi", conversation=conversation))
    while not await idempotency_records(proxy):
        continue
    gate.set()
    response = await call
    assert response.output_text == "worth waiting for"
    assert len(proxy.upstream.requests) == 1
    assert len(await items_of(proxy, conversation)) == 2
    assert (await client.responses.retrieve(response.id)).output_text == "worth waiting for"


async def test_openais_client_gets_a_stream_that_it_timed_out_for(start_proxy: StartProxy):
    proxy = await start_proxy(turns=FINISH)
    gate = late(proxy, "in pieces")
    client = impatient_client(proxy)
    call = asyncio.create_task(client.responses.create(model="echo", input="hi", stream=True))
    while not await idempotency_records(proxy):
        continue
    gate.set()
    events: list[Any] = [event async for event in await call]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].response.output_text == "in pieces"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") in {"", "in pieces"}
    assert len(proxy.upstream.requests) == 1


async def test_by_default_a_turn_that_timed_out_is_given_up_and_the_retry_makes_the_only_answer(proxy: Proxy):
    conversation = await new_conversation(proxy)
    proxy.upstream.script(Reply.raw(200, "application/json", chunks=[HANG]))
    client = impatient_client(proxy)
    response = await client.responses.create(model="echo", input="hi", conversation=conversation)
    assert response.output_text.startswith("You said")
    assert len(await items_of(proxy, conversation)) == 2
    assert await idempotency_records(proxy) == []


async def test_the_answer_is_delivered_once(start_proxy: StartProxy):
    proxy = await start_proxy(turns=FINISH)
    await leave(proxy, HELLO, gate=late(proxy))
    first, second = await attempt(proxy, HELLO, 1), await attempt(proxy, HELLO, 1)
    assert [one.replayed for one in (first, second)] == [True, False]
    assert first.json["id"] != second.json["id"]
    assert await idempotency_records(proxy) == []


async def test_a_retry_waits_for_the_first_attempt_also_on_another_replica(start_proxy: StartProxy):
    proxy, other = await start_proxy(turns=FINISH), await start_proxy(turns=FINISH)
    conversation = await new_conversation(proxy)
    body, gate = {**HELLO, "conversation": conversation}, asyncio.Event()
    proxy.upstream.script(answer_when(gate, "late"))
    await leave(proxy, body, gate=asyncio.Event())
    retry = asyncio.create_task(attempt(other, body, 1))
    done, _ = await asyncio.wait([retry], timeout=0.3)
    assert not done
    gate.set()
    answer = await retry
    assert (answer.status, answer.replayed) == (200, True)
    assert other.upstream.requests == []
    assert len(await items_of(proxy, conversation)) == 2


@pytest.mark.parametrize("other", [{"input": "bye"}, {"stream": True}, {"metadata": {"a": "b"}}])
async def test_another_body_or_a_first_attempt_or_another_owner_gets_none_of_it(start_proxy: StartProxy, other: Any):
    proxy = await start_proxy(turns=FINISH)
    await leave(proxy, HELLO, gate=late(proxy))
    answers = [
        await attempt(proxy, {**HELLO, **other}, 1),
        await attempt(proxy, HELLO, 0),
        await attempt(proxy, HELLO, 1, owner="sk-bob"),
    ]
    assert [answer.replayed for answer in answers] == [False] * 3
    assert (await attempt(proxy, HELLO, 1)).replayed


class Attended(asyncio.Transport):
    """A connection whose other end is there."""

    def is_closing(self) -> bool:
        """Nobody has closed it."""
        return False


class Watched:
    """What keeps the answer of a turn, told of it step by step: a client leaves at the very moment that is meant."""

    def __init__(self, proxy: Proxy, body: Any) -> None:
        request = make_mocked_request("POST", "/v1/responses", app=proxy.app, transport=Attended())
        request[CALLER] = Caller(f"token:{hashlib.sha256(b'sk-alice').hexdigest()}", {})
        self._running, self._delivery = proxy.app[RUNNING], HttpDelivery(request, 60.0)
        observer = keep_answer(request, read_request(body), self._delivery, TurnOptions()).observer
        assert observer is not None
        self._observer = observer

    def deliver(self) -> None:
        """The client has been sent a stream to its end."""
        self._delivery.delivered = True

    def leave(self) -> None:
        """The client leaves."""
        self._delivery.gone = True
        self._observer.left()

    async def store(self, *, gone: bool) -> None:
        """What the turn made is about to be stored. gone: the client is not there, and nobody has told that yet."""
        self._delivery.gone = gone
        await self._observer.storing(0)

    async def run(self, end: TurnResult | BaseException, *, leaves: str) -> None:
        """Go through a turn; return when all that it began is done."""
        await self._observer.identified("resp_1", lambda: False)
        if leaves == "before":
            self.leave()
        ending = asyncio.create_task(self._observer.ended(end))
        await asyncio.sleep(0)
        if leaves == "meanwhile":
            self.leave()
        await ending
        self.leave()
        await asyncio.gather(*self._running)


@pytest.mark.parametrize("leaves", ["before", "meanwhile", "after"])
async def test_a_client_that_leaves_just_when_its_turn_ends_is_answered_at_its_next_attempt(
    start_proxy: StartProxy, leaves: str
):
    """Its handler is told that it left when the turn is over already, and before the answer went out."""
    proxy = await start_proxy(idempotency={"wait_seconds": 1.0})
    first = await attempt(proxy, HELLO, 0)
    await Watched(proxy, HELLO).run(TurnResult(first.json["id"], "completed", first.body), leaves=leaves)
    answer = await attempt(proxy, HELLO, 1)
    assert (answer.status, answer.replayed, answer.body) == (200, True, first.body)
    assert len(proxy.upstream.requests) == 1
    assert await idempotency_records(proxy) == []


async def test_what_is_stored_for_a_client_that_has_gone_is_noted_before_for_its_retry(proxy: Proxy):
    watched = Watched(proxy, HELLO)
    await watched.store(gone=False)
    assert await noted(proxy) == set()
    await watched.store(gone=True)
    assert len(await noted(proxy)) == 1
    await watched.run(TurnResult("resp_1"), leaves="before")


@pytest.mark.parametrize("leaves", ["meanwhile", "after"])
async def test_a_stream_that_was_delivered_is_not_kept_for_anybody(proxy: Proxy, leaves: str):
    watched = Watched(proxy, HELLO)
    watched.deliver()
    await watched.run(TurnResult("resp_1", "completed"), leaves=leaves)
    assert await idempotency_records(proxy) == []


async def test_a_client_that_leaves_with_its_whole_stream_leaves_nothing_behind(start_proxy: StartProxy):
    # the end of the log is written after the end of the stream
    proxy = await start_proxy(streams={"keep": "all"})
    for _ in range(20):
        headers = {"Authorization": "Bearer sk-alice", "Connection": "close"}
        async with proxy.http.post(f"{proxy.url}/v1/responses", json={**HELLO, "stream": True}, headers=headers) as it:
            await it.content.readuntil(b"[DONE]")
    await asyncio.gather(*proxy.app[RUNNING], return_exceptions=True)
    assert await idempotency_records(proxy) == []


@pytest.mark.parametrize("leaves", ["before", "meanwhile", "after"])
@pytest.mark.parametrize(
    ("end", "fields"),
    [
        (BadGateway("The upstream broke off."), {}),
        (TurnResult("resp_1"), {}),
        (TurnResult("resp_1", "failed", b"{}"), {}),
        (TurnResult("resp_1", "completed", b"{}"), {"store": False}),
    ],
)
async def test_where_nothing_was_stored_nobody_waits_for_a_turn_that_is_over(
    start_proxy: StartProxy, end: TurnResult | BadGateway, fields: dict[str, Any], leaves: str
):
    proxy = await start_proxy(idempotency={"wait_seconds": 1.0})
    await Watched(proxy, {**HELLO, **fields}).run(end, leaves=leaves)
    assert await idempotency_records(proxy) == []
    assert not (await attempt(proxy, {**HELLO, **fields}, 1)).replayed


async def test_an_unstored_turn_is_not_kept(start_proxy: StartProxy):
    proxy = await start_proxy(turns=FINISH)
    body = {**HELLO, "store": False}
    await leave(proxy, body, gate=late(proxy))
    assert not (await attempt(proxy, body, 1)).replayed
    assert await idempotency_records(proxy) == []


async def test_a_later_attempt_that_came_to_nothing_hides_the_earlier_answer(start_proxy: StartProxy):
    proxy = await start_proxy(turns=FINISH)
    await leave(proxy, HELLO, gate=late(proxy, "first"))
    proxy.upstream.script(Reply.json(500, {"error": {"message": "no"}}))
    gate = asyncio.Event()
    proxy.upstream.script(Reply.raw(500, "application/json", chunks=[gate, b"{}"]))
    assert (await attempt(proxy, HELLO, 0)).status == 500
    await leave(proxy, HELLO, gate=gate)
    answer = await attempt(proxy, HELLO, 1)
    assert not answer.replayed


async def test_an_edit_is_not_made_twice(start_proxy: StartProxy):
    proxy = await start_proxy(turns=FINISH)
    conversation = await new_conversation(proxy)
    item = (
        await proxy.client().conversations.items.create(conversation, items=[{"role": "user", "content": "x"}])
    ).data
    path = f"/v1/conversations/{conversation}/items/{item[0].id}/edit"
    for stream in (False, True):
        body = {"content": "y", "regenerate": True, "model": "echo", "stream": stream}
        await leave(proxy, body, gate=late(proxy), path=path)
        answer = await attempt(proxy, body, 1, path)
        assert answer.replayed
        text = answer.body if not stream else answer.body.split(b"\ndata: ")[-2].split(b"\n\n")[0]
        assert orjson.loads(text)["branch_created"] is True
        branches = (await proxy.call("GET", f"/v1/conversations/{conversation}/branches"))[1]["data"]
        assert len(branches) == 2 + stream


async def test_a_partial_answer_that_was_kept_is_not_generated_again(proxy: Proxy):
    conversation = await new_conversation(proxy)
    body = {**HELLO, "conversation": conversation, "stream": True}
    delta = {
        "type": "response.output_text.delta",
        "item_id": "m",
        "output_index": 0,
        "content_index": 0,
        "delta": "par",
    }
    proxy.upstream.script(Reply.sse([{**delta, "delta": "par"}, HANG]))
    headers = {"Authorization": "Bearer sk-alice"}
    async with proxy.http.post(f"{proxy.url}/v1/responses", json=body, headers=headers) as response:
        await response.content.readuntil(b"par")
    while len(await items_of(proxy, conversation)) < 2:
        continue
    answer = await attempt(proxy, body, 1)
    assert (answer.replayed, b"event: response.incomplete" in answer.body) == (True, True)
    assert len(proxy.upstream.requests) == 1
    assert [item["status"] for item in await items_of(proxy, conversation)] == ["completed", "incomplete"]


async def test_it_can_be_turned_off(start_proxy: StartProxy):
    proxy = await start_proxy(turns=FINISH, idempotency={"retry_minutes": 0.0})
    gate = late(proxy)
    leaving = asyncio.create_task(attempt(proxy, HELLO, 0))
    await proxy.upstream.wait_for_requests(1)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    gate.set()
    assert not (await attempt(proxy, HELLO, 1)).replayed
    assert await idempotency_records(proxy) == []


async def test_openais_client_repeats_a_409_of_a_first_attempt_that_still_runs(start_proxy: StartProxy):
    proxy = await start_proxy(turns=FINISH, idempotency={"wait_seconds": 0.0})
    gate = late(proxy)
    await leave(proxy, HELLO, gate=asyncio.Event())
    with pytest.raises(openai.ConflictError) as refused:
        await proxy.client().responses.create(
            model="echo", input="hello", extra_headers={"x-stainless-retry-count": "1"}
        )
    assert refused.value.code == "request_in_progress"
    gate.set()
