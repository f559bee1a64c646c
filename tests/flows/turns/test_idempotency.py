"""The same request twice: under one Idempotency-Key it is carried out once, and answered twice."""

from __future__ import annotations

import asyncio
import gzip
import time
from dataclasses import replace
from typing import Any

import aiohttp
import orjson
import pytest

from benchmarks.processes import free_port
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.servers import running_server
from tests.flows.talk import Answer, answer_when, idempotency_records, items_of, new_conversation, post
from tests.upstream import CUT, HANG, Reply

HELLO = {"model": "echo", "input": "hello"}


async def lose_the_answer(proxy: Proxy) -> None:
    """Make the only record look as if its replica had died after the commit, before it wrote the answer down."""
    (key,) = await idempotency_records(proxy)
    await proxy.redis.hdel(key, "status", "type", "body")
    await proxy.redis.hset(key, mapping={"token": "dead", "lease": "0"})


async def test_a_plain_turn_is_carried_out_once_and_answered_twice(proxy: Proxy):
    conversation = await new_conversation(proxy)
    body = {**HELLO, "conversation": conversation}
    first = await post(proxy, "/v1/responses", body)
    second = await post(proxy, "/v1/responses", body)
    assert (first.status, first.replayed) == (200, False)
    assert (second.status, second.replayed, second.body) == (200, True, first.body)
    assert second.headers["Content-Type"] == first.headers["Content-Type"]
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert len(proxy.upstream.requests) == 1
    assert len(await items_of(proxy, conversation)) == 2
    assert "Idempotency-Key" not in proxy.upstream.requests[0].headers


@pytest.mark.parametrize("kept", ["background", "all"])
async def test_a_stream_is_replayed_as_the_same_bytes(start_proxy: StartProxy, kept: str):
    proxy = await start_proxy(streams={"keep": kept})
    body = {**HELLO, "stream": True}
    first = await post(proxy, "/v1/responses", body)
    second = await post(proxy, "/v1/responses", body)
    assert first.body.endswith(b"data: [DONE]\n\n")
    assert (second.replayed, second.body) == (True, first.body)
    assert second.headers["Content-Type"].startswith("text/event-stream")
    assert len(proxy.upstream.requests) == 1


async def test_the_same_key_with_another_request_is_refused(proxy: Proxy):
    await post(proxy, "/v1/responses", HELLO)
    for path, body in (("/v1/responses", {**HELLO, "input": "other"}), ("/v1/conversations", HELLO)):
        refused = await post(proxy, path, body)
        assert (refused.status, refused.json["error"]["code"]) == (422, "idempotency_key_reused")
    assert len(proxy.upstream.requests) == 1


async def test_keys_of_two_owners_have_nothing_to_do_with_each_other(proxy: Proxy):
    first = await post(proxy, "/v1/responses", HELLO)
    other = await post(proxy, "/v1/responses", {**HELLO, "input": "mine"}, owner="sk-bob")
    assert (other.status, other.replayed) == (200, False)
    assert other.json["id"] != first.json["id"]


async def test_a_repeat_waits_for_the_first_also_on_another_replica(start_proxy: StartProxy):
    proxy, other = await start_proxy(), await start_proxy()
    gate = asyncio.Event()
    proxy.upstream.script(answer_when(gate, "once"))
    first = asyncio.create_task(post(proxy, "/v1/responses", HELLO))
    await proxy.upstream.wait_for_requests(1)
    repeats = [asyncio.create_task(post(one, "/v1/responses", HELLO)) for one in (proxy, other)]
    done, _ = await asyncio.wait(repeats, timeout=0.3)
    assert not done
    gate.set()
    answers = await asyncio.gather(first, *repeats)
    assert len({answer.body for answer in answers}) == 1
    assert [answer.replayed for answer in answers] == [False, True, True]
    assert len(proxy.upstream.requests) + len(other.upstream.requests) == 1


async def test_a_repeat_does_not_wait_for_ever(start_proxy: StartProxy):
    proxy = await start_proxy(idempotency={"wait_seconds": 0.1})
    gate = asyncio.Event()
    proxy.upstream.script(answer_when(gate, "once"))
    first = asyncio.create_task(post(proxy, "/v1/responses", HELLO))
    await proxy.upstream.wait_for_requests(1)
    repeat = await post(proxy, "/v1/responses", HELLO)
    assert (repeat.status, repeat.json["error"]["code"]) == (409, "request_in_progress")
    assert "Retry-After" in repeat.headers
    gate.set()
    assert (await first).status == 200


async def test_a_long_turn_keeps_its_key(start_proxy: StartProxy):
    proxy = await start_proxy(turns={"lock_lease_seconds": 3.0}, idempotency={"wait_seconds": 3.5})
    gate = asyncio.Event()
    proxy.upstream.script(answer_when(gate, "late"))
    first = asyncio.create_task(post(proxy, "/v1/responses", HELLO))
    await proxy.upstream.wait_for_requests(1)
    # longer than the lease: without renewal the repeat would run
    assert (await post(proxy, "/v1/responses", HELLO)).status == 409
    gate.set()
    assert (await first).status == 200
    assert len(proxy.upstream.requests) == 1


async def test_a_refusal_is_kept_and_a_failure_is_not(proxy: Proxy):
    proxy.upstream.script(
        Reply.json(400, {"error": {"message": "bad", "code": "bad", "type": "invalid_request_error"}}),
        Reply.json(500, {"error": {"message": "down"}}),
        Reply.json(429, {"error": {"message": "slow down"}}),
        Reply.raw(200, "application/json", chunks=[b"{", CUT]),
    )
    first, again = await post(proxy, "/v1/responses", HELLO, "a"), await post(proxy, "/v1/responses", HELLO, "a")
    assert (first.status, again.status, again.body, again.replayed) == (400, 400, first.body, True)
    statuses = []
    for _ in range(4):
        answer = await post(proxy, "/v1/responses", HELLO, "b")
        statuses.append((answer.status, answer.replayed))
    assert statuses == [(500, False), (429, False), (502, False), (200, False)]
    assert (await post(proxy, "/v1/responses", HELLO, "b")).replayed


async def test_a_failed_response_is_not_kept(proxy: Proxy):
    proxy.upstream.script(Reply.sse([b": \n\n", CUT]), Reply.sse([b": \n\n", CUT]))
    body = {**HELLO, "stream": True}
    first = await post(proxy, "/v1/responses", body)
    assert b"event: response.failed" in first.body
    second = await post(proxy, "/v1/responses", body)
    assert (second.replayed, b"event: response.failed" in second.body) == (False, True)
    third = await post(proxy, "/v1/responses", body)
    assert (third.replayed, b"event: response.completed" in third.body) == (False, True)


async def test_a_request_that_was_never_valid_is_refused_the_same_way_again(proxy: Proxy):
    answers = [await post(proxy, "/v1/responses", b"{nonsense") for _ in range(2)]
    assert [(answer.status, answer.replayed) for answer in answers] == [(400, False), (400, True)]
    assert answers[0].body == answers[1].body


async def test_conversations_items_and_branches_are_made_once(proxy: Proxy):
    made = [await post(proxy, "/v1/conversations", b"", "c") for _ in range(2)]
    assert made[0].body == made[1].body
    path = f"/v1/conversations/{made[0].json['id']}"
    items = {"items": [{"role": "user", "content": "x"}]}
    added = [await post(proxy, f"{path}/items", items, "i") for _ in range(2)]
    assert (added[0].body, added[1].replayed) == (added[1].body, True)
    assert len(await items_of(proxy, made[0].json["id"])) == 1
    forked = [await post(proxy, f"{path}/branches", {"name": "b"}, "b") for _ in range(2)]
    assert [(one.status, one.body) for one in forked] == [(201, forked[0].body)] * 2
    edit = {"content": "y", "regenerate": True, "model": "echo", "stream": True}
    item = added[0].json["data"][0]["id"]
    edits = [await post(proxy, f"{path}/items/{item}/edit", edit, "e") for _ in range(2)]
    assert (edits[0].body, edits[1].replayed) == (edits[1].body, True)
    assert len((await proxy.call("GET", f"{path}/branches"))[1]["data"]) == 3
    status, listing = await proxy.call("GET", "/v1/conversations")
    assert (status, len(listing["data"])) == (200, 1)


async def test_the_body_counts_as_it_is_without_its_coding(proxy: Proxy):
    body = orjson.dumps(HELLO)
    packed: Any = {"headers": {"Content-Encoding": "gzip"}}
    first = await post(proxy, "/v1/responses", gzip.compress(body, mtime=1), **packed)
    assert (first.status, first.replayed) == (200, False)
    assert (await post(proxy, "/v1/responses", gzip.compress(body, mtime=2), **packed)).body == first.body
    assert (await post(proxy, "/v1/responses", body)).replayed


@pytest.mark.parametrize("key", ["x" * 256, "ümlaut", "", "  "])
async def test_a_key_that_is_none_is_refused(proxy: Proxy, key: str):
    refused = await post(proxy, "/v1/responses", HELLO, key)
    assert (refused.status, refused.json["error"]["param"]) == (400, "Idempotency-Key")
    assert proxy.upstream.requests == []
    assert (await post(proxy, "/v1/responses", HELLO, "x" * 255)).status == 200


async def test_two_keys_are_refused(proxy: Proxy):
    headers = [("Authorization", "Bearer sk-alice"), ("Idempotency-Key", "k1"), ("Idempotency-Key", "k2")]
    async with proxy.http.post(f"{proxy.url}/v1/responses", json=HELLO, headers=headers) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "Idempotency-Key"


async def test_without_a_key_nothing_is_written_and_other_paths_know_no_keys(proxy: Proxy):
    assert (await proxy.call("POST", "/v1/responses", HELLO))[0] == 200
    await post(proxy, "/v1/chat/completions", {"model": "echo", "messages": []})
    assert await idempotency_records(proxy) == []
    assert proxy.upstream.requests[-1].headers["Idempotency-Key"] == "k1"


async def test_an_answer_that_was_lost_with_its_replica_is_made_from_the_stored_response(proxy: Proxy):
    first = await post(proxy, "/v1/responses", HELLO)
    await lose_the_answer(proxy)
    second = await post(proxy, "/v1/responses", HELLO)
    assert (second.status, second.replayed, second.json) == (200, True, first.json)
    assert (await post(proxy, "/v1/responses", HELLO)).body == second.body
    assert len(proxy.upstream.requests) == 1


async def test_a_stream_that_was_lost_with_its_replica_has_the_same_response(proxy: Proxy):
    body = {**HELLO, "stream": True, "conversation": await new_conversation(proxy)}
    first = await post(proxy, "/v1/responses", body)
    await lose_the_answer(proxy)
    second = await post(proxy, "/v1/responses", body)
    ends = [orjson.loads(one.body.split(b"\ndata: ")[-2].split(b"\n\n")[0]) for one in (first, second)]
    assert second.replayed
    assert ends[1]["response"] == ends[0]["response"]
    numbers = [
        orjson.loads(frame.partition(b"data: ")[2])["sequence_number"] for frame in second.body.split(b"\n\n")[:-2]
    ]
    assert numbers == list(range(len(numbers)))
    assert len(proxy.upstream.requests) == 1


async def test_a_replica_that_died_before_the_commit_leaves_the_key_to_the_next_request(proxy: Proxy):
    first = await post(proxy, "/v1/responses", HELLO)
    await lose_the_answer(proxy)
    await proxy.client().responses.delete(first.json["id"])
    second = await post(proxy, "/v1/responses", HELLO)
    assert (second.status, second.replayed) == (200, False)
    assert len(proxy.upstream.requests) == 2


async def test_an_answer_that_is_too_large_is_made_from_the_stored_response_or_refused(start_proxy: StartProxy):
    proxy = await start_proxy(idempotency={"max_answer_bytes": 100})
    first = await post(proxy, "/v1/responses", HELLO)
    assert (await post(proxy, "/v1/responses", HELLO)).json == first.json
    unstored = {**HELLO, "store": False, "stream": True}
    assert (await post(proxy, "/v1/responses", unstored, "k2")).status == 200
    refused = await post(proxy, "/v1/responses", unstored, "k2")
    assert (refused.status, refused.json["error"]["code"]) == (409, "answer_not_kept")
    assert refused.headers["x-should-retry"] == "false"
    assert len(proxy.upstream.requests) == 2


async def leave_while_running(proxy: Proxy, body: dict[str, Any]) -> None:
    """Send a turn whose answer does not come, and go away."""
    leaving = asyncio.create_task(post(proxy, "/v1/responses", body))
    await proxy.upstream.wait_for_requests(1)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)


async def test_a_client_that_leaves_before_the_answer_frees_its_key(proxy: Proxy):
    proxy.upstream.script(Reply.raw(200, "application/json", chunks=[HANG]))
    await leave_while_running(proxy, HELLO)
    await proxy.upstream.client_left.wait()
    again = await post(proxy, "/v1/responses", HELLO)
    assert (again.status, again.replayed) == (200, False)


async def test_a_turn_that_is_finished_without_its_client_answers_the_repeat(start_proxy: StartProxy):
    proxy = await start_proxy(turns={"on_disconnect": "finish"})
    gate = asyncio.Event()
    proxy.upstream.script(answer_when(gate, "in the end"))
    await leave_while_running(proxy, HELLO)
    repeat = asyncio.create_task(post(proxy, "/v1/responses", HELLO))
    gate.set()
    answer = await repeat
    assert (answer.status, answer.replayed) == (200, True)
    assert answer.json["output"][0]["content"][0]["text"] == "in the end"
    assert len(proxy.upstream.requests) == 1


async def test_an_addition_is_finished_and_kept_although_its_client_left(start_proxy: StartProxy):
    # whoever comes again does not have to wait until a lease is over
    proxy = await start_proxy(idempotency={"wait_seconds": 1.0})
    conversation = await new_conversation(proxy)
    path, body = f"/v1/conversations/{conversation}/items", {"items": [{"role": "user", "content": "x"}]}
    keys = [f"key {number}" for number in range(30)]
    began = time.monotonic()
    await post(proxy, path, body)
    usual_seconds = time.monotonic() - began
    for number, key in enumerate(keys):
        leaving = asyncio.create_task(post(proxy, path, body, key))
        # somewhere between the arrival of the request and its answer
        await asyncio.wait([leaving], timeout=usual_seconds * number / len(keys))
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
    answers = [await post(proxy, path, body, key) for key in keys]
    assert {answer.status for answer in answers} == {200}
    assert any(answer.replayed for answer in answers)
    assert len(await items_of(proxy, conversation)) == 1 + len(keys)


async def test_a_background_response_is_made_once(proxy: Proxy):
    body = {**HELLO, "background": True}
    first, second = await post(proxy, "/v1/responses", body), await post(proxy, "/v1/responses", body)
    assert (first.json["status"], second.replayed, second.body) == ("queued", True, first.body)
    body["stream"] = True
    streams = [await post(proxy, "/v1/responses", body, "s") for _ in range(2)]
    assert streams[0].body.endswith(b"data: [DONE]\n\n")
    events = [[frame for frame in one.body.split(b"\n\n") if not frame.startswith(b":")] for one in streams]
    assert events[0] == events[1]
    assert len(proxy.upstream.requests) <= 2


async def test_a_compaction_is_made_once(proxy: Proxy):
    body = {"model": "echo", "input": [{"role": "user", "content": "a long story"}]}
    answers = [await post(proxy, "/v1/responses/compact", body) for _ in range(2)]
    assert [(answer.status, answer.replayed) for answer in answers] == [(200, False), (200, True)]
    assert answers[0].body == answers[1].body


async def test_unreachable_store_refuses_before_anything_is_done(start_proxy: StartProxy):
    proxy = await start_proxy()
    await proxy.redis.config_set("maxmemory", "1")
    try:
        refused = await post(proxy, "/v1/responses", HELLO)
    finally:
        await proxy.redis.config_set("maxmemory", "0")
    assert (refused.status, refused.json["error"]["code"]) == (507, "insufficient_storage")
    assert proxy.upstream.requests == []


async def test_what_a_killed_replica_was_asked_is_done_once_by_the_others(start_proxy: StartProxy, valkey_url: str):
    proxy = await start_proxy(turns={"lock_lease_seconds": 1.0, "lock_wait_seconds": 10.0})
    keys = {f"key {number}": await new_conversation(proxy) for number in range(24)}

    def body(conversation: str) -> dict[str, Any]:
        return {**HELLO, "conversation": conversation}

    # however fast the others are answered, the model has not answered these when the replica dies
    gate = asyncio.Event()
    proxy.upstream.script(*[answer_when(gate, "too late")] * 8)
    options = ("--upstream", proxy.upstream.url, "--redis", valkey_url)
    async with running_server(free_port(), *options, TURNS_LOCK_LEASE_SECONDS="1") as server:
        doomed = replace(proxy, url=server.url)
        asked = [
            asyncio.create_task(post(doomed, "/v1/responses", body(conversation), key))
            for key, conversation in keys.items()
        ]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        server.process.kill()
        told = await asyncio.gather(*asked, return_exceptions=True)
    gate.set()
    assert any(isinstance(answer, aiohttp.ClientError) for answer in told)
    answers = await asyncio.gather(
        *(post(proxy, "/v1/responses", body(conversation), key) for key, conversation in keys.items())
    )
    assert {answer.status for answer in answers} == {200}
    for first, second in zip(told, answers, strict=True):
        if isinstance(first, Answer):
            assert (second.replayed, second.body) == (True, first.body)
    for answer, conversation in zip(answers, keys.values(), strict=True):
        items = await items_of(proxy, conversation)
        assert [item["id"] for item in items[1:]] == [item["id"] for item in answer.json["output"]]
