"""What happens to a turn when something goes wrong: the table in docs/storage.md, row by row."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Self

import orjson
import pytest
from redis.asyncio import Redis

from tests.flows.conftest import Proxy, StartProxy
from tests.flows.streams import OPENING, Stream, answer_after, delta
from tests.flows.talk import items_of, new_conversation, sent, settled
from tests.items import texts
from tests.upstream import CUT, HANG, Reply


async def plain(proxy: Proxy, **body: Any) -> tuple[int, Any]:
    return await proxy.call("POST", "/v1/responses", {"model": "m", "input": "hi", **body})


async def test_a_second_turn_on_a_locked_branch_is_refused_before_the_upstream_is_called(proxy: Proxy):
    conversation = await new_conversation(proxy)
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    async with Stream(proxy, {"conversation": conversation}) as first:
        await first.until("response.output_text.delta")
        status, answer = await plain(proxy, conversation=conversation)
        assert (status, answer["error"]["code"]) == (400, "conversation_locked")
        assert answer["error"]["param"] == "conversation"
        assert len(proxy.upstream.requests) == 1
        gate.set()
        await first.until("response.completed")
        # the lock is free once the terminal event is out
        assert (await plain(proxy, conversation=conversation))[0] == 200


async def test_a_second_turn_waits_if_configured(start_proxy: StartProxy):
    proxy = await start_proxy(turns={"lock_wait_seconds": 20.0})
    conversation = await new_conversation(proxy)
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    async with Stream(proxy, {"conversation": conversation}) as first:
        await first.until("response.output_text.delta")
        second = asyncio.create_task(plain(proxy, conversation=conversation))
        gate.set()
        await first.until("response.completed")
        assert (await second)[0] == 200
    assert len(proxy.upstream.requests[-1].json["input"]) == 3


async def test_a_turn_whose_lock_was_taken_over_fails_and_appends_nothing(start_proxy: StartProxy):
    proxy = await start_proxy()
    conversation = await new_conversation(proxy)
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    async with Stream(proxy, {"conversation": conversation}) as first:
        await first.until("response.output_text.delta")
        # as if the lease had run out and another turn had come in between
        await proxy.redis.delete(*await proxy.redis.keys("*:lock:*"))
        assert (await plain(proxy, conversation=conversation, input="other"))[0] == 200
        gate.set()
        failed = await first.until("response.failed")
    assert failed["response"]["error"]["code"] == "conversation_conflict"
    assert texts(await items_of(proxy, conversation))[0] == "other"
    assert len(await items_of(proxy, conversation)) == 2
    status, stored = await proxy.call("GET", f"/v1/responses/{failed['response']['id']}")
    assert (status, stored["status"]) == (200, "failed")
    assert stored["output"][0]["content"][0]["text"] == "Once upon"


async def test_a_turn_whose_lock_ran_out_with_nobody_else_there_still_commits(proxy: Proxy):
    conversation = await new_conversation(proxy)
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    async with Stream(proxy, {"conversation": conversation}) as first:
        await first.until("response.output_text.delta")
        await proxy.redis.delete(*await proxy.redis.keys("*:lock:*"))
        gate.set()
        await first.until("response.completed")
    assert len(await items_of(proxy, conversation)) == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("reply", "status", "code", "message"),
    [
        (
            Reply.json(429, {"error": {"message": "slow", "code": "rate_limit_exceeded"}}),
            429,
            "rate_limit_exceeded",
            "slow",
        ),
        (Reply.json(400, {"detail": "bad model"}), 400, None, "bad model"),
        (Reply.sample("llama.cpp-error-context-exceeded"), 400, None, None),
        (Reply.raw(502, "text/html", b"<html>secret</html>"), 502, None, "The upstream answered 502."),
        (Reply.redirect("http://127.0.0.1:9/elsewhere", 307), 502, "upstream_error", None),
        (Reply.raw(200, "text/html", b"<html>"), 502, "upstream_error", None),
        (Reply.raw(200, "application/json", b"[]"), 502, "upstream_error", None),
        (Reply.raw(200, "application/json", chunks=[b'{"id":', CUT]), 502, "upstream_error", None),
    ],
)
async def test_an_upstream_error_before_the_first_byte_is_passed_on_and_leaves_nothing(
    proxy: Proxy, reply: Reply, status: int, code: str | None, message: str | None, stream: bool
):
    conversation = await new_conversation(proxy)
    proxy.upstream.script(reply)
    got, answer = await plain(proxy, conversation=conversation, stream=stream)
    assert (got, answer["error"]["code"]) == (status, code)
    assert message is None or answer["error"]["message"] == message
    assert await items_of(proxy, conversation) == []
    assert (await plain(proxy, conversation=conversation))[0] == 200


async def test_an_unreachable_upstream_is_a_502_and_frees_the_lock(start_proxy: StartProxy):
    proxy = await start_proxy(upstream={"url": "http://127.0.0.1:9/v1"})
    conversation = await new_conversation(proxy)
    for _ in range(2):
        status, answer = await plain(proxy, conversation=conversation)
        assert (status, answer["error"]["code"]) == (502, "upstream_unreachable")


@pytest.mark.parametrize(
    "ending",
    [[CUT], [], [b"data: {broken\n\n"], [{"type": "error", "error": {"message": "boom", "code": "server_error"}}]],
    ids=["cut", "ends early", "malformed", "error event"],
)
async def test_an_upstream_cut_in_the_middle_fails_the_response_and_appends_nothing(proxy: Proxy, ending: list[Any]):
    conversation = await new_conversation(proxy)
    proxy.upstream.script(Reply.sse([*OPENING, *ending], done=False))
    async with Stream(proxy, {"conversation": conversation}) as stream:
        failed = await stream.until("response.failed")
        assert (await stream.rest()).endswith(b"data: [DONE]\n\n")
    numbers = [event["sequence_number"] for event in stream.events]
    assert numbers == list(range(len(numbers)))
    assert failed["response"]["output"][0]["content"][0]["text"] == "Once upon"
    assert failed["response"]["output"][0]["status"] == "incomplete"
    assert await items_of(proxy, conversation) == []
    status, stored = await proxy.call("GET", f"/v1/responses/{failed['response']['id']}")
    assert (status, stored) == (200, failed["response"])
    await plain(proxy, previous_response_id=stored["id"], input="again")
    # a chain goes on from before the failed turn
    assert texts(sent(proxy)) == ["again"]


async def test_an_upstream_that_never_stops_talking_is_cut_off(start_proxy: StartProxy):
    proxy = await start_proxy(upstream={"max_response_bytes": 20_000})
    proxy.upstream.script(Reply.sse([*OPENING, *([delta("x" * 900)] * 50), HANG], done=False))
    async with Stream(proxy, {}) as stream:
        failed = await stream.until("response.failed")
    assert failed["response"]["error"]["message"] == "The upstream's answer is too large."


async def test_a_stream_without_content_type_is_read_as_one(proxy: Proxy):
    frames = Reply.sse([*OPENING, {"type": "response.completed", "response": {}}])
    proxy.upstream.script(replace(frames, headers={"Content-Type": ""}))
    async with Stream(proxy, {}) as stream:
        await stream.until("response.completed")


async def left_in_the_middle(proxy: Proxy) -> tuple[str, str]:
    """Leave a streamed conversation turn after its first delta; return the ids of conversation and response."""
    conversation = await new_conversation(proxy)
    proxy.upstream.script(Reply.sse([*OPENING, HANG], done=False))
    async with Stream(proxy, {"conversation": conversation}) as stream:
        await stream.until("response.output_text.delta")
    await proxy.upstream.client_left.wait()
    await settled(proxy)
    return conversation, stream.events[0]["response"]["id"]


async def test_keep_appends_the_input_and_the_partial_answer_when_the_client_leaves(proxy: Proxy):
    conversation, response_id = await left_in_the_middle(proxy)
    items = await items_of(proxy, conversation)
    assert texts(items) == ["hi", "Once upon"]
    assert [item["status"] for item in items] == ["completed", "incomplete"]
    status, stored = await proxy.call("GET", f"/v1/responses/{response_id}")
    assert (status, stored["status"]) == (200, "incomplete")
    assert (await plain(proxy, conversation=conversation))[0] == 200


async def test_discard_keeps_nothing_when_the_client_leaves(start_proxy: StartProxy):
    proxy = await start_proxy(turns={"on_disconnect": "discard"})
    conversation, response_id = await left_in_the_middle(proxy)
    assert await items_of(proxy, conversation) == []
    assert (await proxy.call("GET", f"/v1/responses/{response_id}"))[0] == 404
    assert (await plain(proxy, conversation=conversation))[0] == 200


async def test_finish_reads_to_the_end_and_commits_when_the_client_leaves(start_proxy: StartProxy):
    proxy = await start_proxy(turns={"on_disconnect": "finish"})
    conversation = await new_conversation(proxy)
    gate = asyncio.Event()
    proxy.upstream.script(Reply.sse([*OPENING, gate, delta(" a time"), {"type": "response.completed", "response": {}}]))
    async with Stream(proxy, {"conversation": conversation}) as stream:
        await stream.until("response.output_text.delta")
    gate.set()
    await settled(proxy)
    assert texts(await items_of(proxy, conversation)) == ["hi", "Once upon a time"]


@pytest.mark.parametrize("policy", ["keep", "finish", "discard"])
async def test_a_plain_turn_whose_client_leaves_is_finished_or_leaves_nothing(start_proxy: StartProxy, policy: str):
    proxy = await start_proxy(turns={"on_disconnect": policy})
    conversation = await new_conversation(proxy)
    gate = asyncio.Event()
    proxy.upstream.script(Reply.sse([gate, *OPENING, {"type": "response.completed", "response": {}}]))
    waiting = asyncio.create_task(plain(proxy, conversation=conversation))
    await proxy.upstream.wait_for_requests(1)
    waiting.cancel()
    if policy == "finish":
        gate.set()
    else:
        await proxy.upstream.client_left.wait()
    await settled(proxy)
    expected = {"keep": [], "finish": ["hi", "Once upon"], "discard": []}[policy]
    assert texts(await items_of(proxy, conversation)) == expected


async def test_a_conversation_deleted_during_the_turn_still_gets_its_answer_and_no_items(proxy: Proxy):
    conversation = await new_conversation(proxy)
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    async with Stream(proxy, {"conversation": conversation}) as stream:
        await stream.until("response.output_text.delta")
        assert (await proxy.call("DELETE", f"/v1/conversations/{conversation}"))[0] == 200
        gate.set()
        done = await stream.until("response.completed")
    assert (await proxy.call("GET", f"/v1/conversations/{conversation}/items"))[0] == 404
    assert (await proxy.call("GET", f"/v1/responses/{done['response']['id']}"))[0] == 200


async def test_items_added_during_a_turn_are_kept_before_it(proxy: Proxy):
    conversation = await new_conversation(proxy)
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    async with Stream(proxy, {"conversation": conversation}) as stream:
        await stream.until("response.output_text.delta")
        body = {"items": [{"role": "user", "content": "X"}]}
        assert (await proxy.call("POST", f"/v1/conversations/{conversation}/items", body))[0] == 200
        gate.set()
        done = await stream.until("response.completed")
    assert texts(await items_of(proxy, conversation)) == ["X", "hi", "Once upon"]
    await plain(proxy, previous_response_id=done["response"]["id"], input="on")
    assert texts(sent(proxy)) == ["hi", "Once upon", "on"]


async def test_a_store_that_is_down_refuses_a_turn_before_the_upstream_is_called(start_proxy: StartProxy):
    proxy = await start_proxy(redis={"url": "redis://:secret@127.0.0.1:9/0"})
    async with proxy.http.post(
        f"{proxy.url}/v1/responses",
        json={"model": "m", "input": "hi", "conversation": "conv_" + "0" * 48},
        headers={"Authorization": "Bearer k"},
    ) as response:
        answer = await response.text()
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
    assert "secret" not in answer
    assert proxy.upstream.requests == []


class Blockade:
    """Makes the store refuse writes (as when it is full), and lifts that again."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def refused(self) -> int:
        """Return how many commands the store has refused so far."""
        errors = await self._redis.info("errorstats")
        return int(errors.get("errorstat_OOM", {"count": 0})["count"])

    async def wait_for_refusal(self, before: int) -> None:
        async with asyncio.timeout(10):
            while await self.refused() == before:  # noqa: ASYNC110 (another process refuses: there is no event)
                await asyncio.sleep(0.01)

    async def __aenter__(self) -> Self:
        await self._redis.config_set("maxmemory", "1")
        return self

    async def lift(self) -> None:
        await self._redis.config_set("maxmemory", "0")

    async def __aexit__(self, *_: object) -> None:
        await self.lift()


async def test_a_commit_waits_for_the_store_and_nothing_is_lost(proxy: Proxy):
    conversation = await new_conversation(proxy)
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    async with Stream(proxy, {"conversation": conversation}) as stream:
        await stream.until("response.output_text.delta")
        async with Blockade(proxy.redis) as blockade:
            before = await blockade.refused()
            gate.set()
            await blockade.wait_for_refusal(before)
            await blockade.lift()
            await stream.until("response.completed")
    assert len(await items_of(proxy, conversation)) == 2


async def test_a_commit_that_never_succeeds_fails_with_the_text_delivered(start_proxy: StartProxy):
    proxy = await start_proxy(turns={"commit_retry_seconds": 0.3})
    conversation = await new_conversation(proxy)
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    async with Stream(proxy, {"conversation": conversation}) as stream:
        await stream.until("response.output_text.delta")
        async with Blockade(proxy.redis):
            gate.set()
            failed = await stream.until("response.failed")
    assert failed["response"]["error"]["code"] == "insufficient_storage"
    assert failed["response"]["output"][0]["content"][0]["text"] == "Once upon"


async def test_a_silent_stream_is_kept_alive_with_comments(start_proxy: StartProxy):
    proxy = await start_proxy(server={"keepalive_seconds": 0.1})
    proxy.upstream.script(Reply.sse([*OPENING, HANG], done=False))
    async with Stream(proxy, {}) as stream:
        await stream.until("response.output_text.delta")
        while not (await stream.response.content.readline()).startswith(b": "):
            pass


@pytest.mark.parametrize("policy", ["keep", "finish"])
async def test_a_client_that_stops_reading_counts_as_gone(start_proxy: StartProxy, policy: str):
    proxy = await start_proxy(server={"unread_seconds": 0.2, "keepalive_seconds": 0.3}, turns={"on_disconnect": policy})
    conversation = await new_conversation(proxy)
    flood = [delta("x" * 100_000)] * 200
    proxy.upstream.script(Reply.sse([*OPENING, *flood, {"type": "response.completed", "response": {}}]))
    body = orjson.dumps({"model": "m", "stream": True, "input": "hi", "conversation": conversation})
    head = "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sk-alice\r\n"
    head += f"Content-Length: {len(body)}\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2]), limit=16_384)
    try:
        writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        await reader.readuntil(b"Once upon")
        async with asyncio.timeout(20):
            await settled(proxy)
        items = await items_of(proxy, conversation)
        assert [item["role"] for item in items] == ["user", "assistant"]
        assert items[1]["status"] == {"keep": "incomplete", "finish": "completed"}[policy]
        assert (await plain(proxy, conversation=conversation))[0] == 200
    finally:
        writer.transport.abort()


async def test_a_lock_is_renewed_while_its_turn_runs(start_proxy: StartProxy):
    proxy = await start_proxy(turns={"lock_lease_seconds": 3.0})
    conversation = await new_conversation(proxy)
    proxy.upstream.script(Reply.sse([*OPENING, HANG], done=False))
    async with Stream(proxy, {"conversation": conversation}) as stream:
        await stream.until("response.output_text.delta")
        (lock,) = await proxy.redis.keys("*:lock:0")
        before = await proxy.redis.pttl(lock)
        async with asyncio.timeout(20):
            while (left := await proxy.redis.pttl(lock)) <= before:
                assert left > 0
                before = left
                await asyncio.sleep(0.05)


async def test_stopping_lets_turns_finish_then_ends_them_as_if_their_clients_had_left(start_proxy: StartProxy):
    proxy = await start_proxy(server={"shutdown_timeout_seconds": 0.2})
    conversation = await new_conversation(proxy)
    proxy.upstream.script(Reply.sse([*OPENING, HANG], done=False))
    async with Stream(proxy, {"conversation": conversation}) as stream:
        await stream.until("response.output_text.delta")
        stopping = asyncio.create_task(proxy.runner.cleanup())
        ended = await stream.until("response.incomplete")
        assert (await stream.rest()).endswith(b"data: [DONE]\n\n")
        await stopping
    assert ended["response"]["output"][0]["content"][0]["text"] == "Once upon"
    again = await start_proxy()
    assert texts(await items_of(again, conversation)) == ["hi", "Once upon"]
