"""Quotas over HTTP and WebSockets: what is refused, what is said, and what others may do meanwhile."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from tests.flows.conftest import Proxy, StartProxy
from tests.flows.connection import Connection
from tests.flows.streams import Stream, answer_after
from tests.flows.talk import new_conversation, post
from tests.upstream import HANG, Reply

TURN = {"model": "echo", "input": "hi"}


async def test_every_answer_says_how_requests_stand_and_one_too_many_is_refused(start_proxy: StartProxy):
    proxies = [await start_proxy(quotas={"requests_per_minute": 3}) for _ in range(2)]
    for number in range(3):
        answer = await post(proxies[number % 2], "/v1/responses", TURN, None)
        assert answer.status == 200
        assert answer.headers["x-ratelimit-limit-requests"] == "3"
        assert answer.headers["x-ratelimit-remaining-requests"] == str(2 - number)
        assert re.fullmatch(r"[0-9.]+s", answer.headers["x-ratelimit-reset-requests"])
    refused = await post(proxies[1], "/v1/conversations", {}, None)
    assert (refused.status, refused.json["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(refused.headers["Retry-After"]) <= 20
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert (await post(proxies[0], "/v1/responses", TURN, None, owner="sk-bob")).status == 200


async def test_nothing_is_said_where_nothing_is_limited(start_proxy: StartProxy):
    answer = await post(await start_proxy(), "/v1/responses", TURN, None)
    assert not [name for name in answer.headers if name.lower().startswith("x-ratelimit")]


@pytest.mark.parametrize("quotas", [{"turns": 1}, {"total_turns": 1}])
async def test_only_so_many_turns_run_at_a_time_over_all_replicas(start_proxy: StartProxy, quotas: dict[str, int]):
    one, other = [await start_proxy(quotas=quotas) for _ in range(2)]
    gate = asyncio.Event()
    one.upstream.script(answer_after(gate))
    async with Stream(one, {}) as stream:
        await stream.until("response.output_text.delta")
        conversation = await new_conversation(other)
        refused = await post(other, "/v1/responses", {**TURN, "conversation": conversation}, None)
        assert (refused.status, refused.json["error"]["code"]) == (429, "rate_limit_exceeded")
        assert refused.headers["Retry-After"] == "1"
        foreign = await post(other, "/v1/responses", TURN, None, owner="sk-bob")
        assert foreign.status == (200 if "turns" in quotas else 429)
        gate.set()
        await stream.until("response.completed")
    assert (await post(one, "/v1/responses", {**TURN, "conversation": conversation}, None)).status == 200


async def test_a_websocket_s_turns_count_too(start_proxy: StartProxy):
    proxy = await start_proxy(quotas={"turns": 1})
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    async with Connection(proxy) as connection:
        await connection.create(input="slow", stream_id="a")
        await connection.until("response.output_text.delta")
        error = await connection.refused(input="quick", stream_id="b")
        assert (error["status"], error["code"]) == (429, "rate_limit_exceeded")
        assert error["headers"]["retry-after"] == "1"
        gate.set()
        await connection.until("response.completed")


async def test_each_of_its_turns_is_a_request(start_proxy: StartProxy):
    proxy = await start_proxy(quotas={"requests_per_minute": 3})
    async with Connection(proxy) as connection:
        for _ in range(2):
            await connection.turn(input="hi")
        error = await connection.refused(input="hi")
        assert (error["status"], error["code"]) == (429, "rate_limit_exceeded")
        assert int(error["headers"]["retry-after"]) >= 1


async def test_turns_that_fail_or_are_left_give_their_slot_back(start_proxy: StartProxy):
    proxy = await start_proxy(quotas={"turns": 1})
    proxy.upstream.script(Reply.json(500, {"error": {"message": "no"}}), Reply.raw(200, "text/plain", chunks=[HANG]))
    assert (await post(proxy, "/v1/responses", TURN, None)).status == 500
    leaving = asyncio.create_task(post(proxy, "/v1/responses", TURN, None))
    await proxy.upstream.wait_for_requests(2)
    leaving.cancel()
    await proxy.upstream.client_left.wait()
    async with asyncio.timeout(10):
        while (await post(proxy, "/v1/responses", TURN, None)).status != 200:
            pass


async def test_an_owner_has_so_many_conversations(start_proxy: StartProxy):
    proxy = await start_proxy(quotas={"conversations": 1})
    conversation = await new_conversation(proxy)
    refused = await post(proxy, "/v1/conversations", {}, None)
    assert (refused.status, refused.json["error"]["code"]) == (429, "insufficient_quota")
    assert refused.headers["x-should-retry"] == "false"
    await proxy.call("DELETE", f"/v1/conversations/{conversation}")
    await new_conversation(proxy)


async def test_an_owner_stores_so_many_bytes_over_all_replicas(start_proxy: StartProxy):
    one, other = [await start_proxy(quotas={"stored_bytes": 20_000}) for _ in range(2)]
    conversation = await new_conversation(one)
    turn = {**TURN, "conversation": conversation}
    assert (await post(one, "/v1/responses", {**turn, "input": "x" * 20_000}, None)).status == 200
    asked = len(one.upstream.requests) + len(other.upstream.requests)
    for proxy, path, body in (
        (other, "/v1/responses", turn),
        (one, "/v1/responses", TURN),
        (one, "/v1/responses", {**TURN, "background": True}),
        (one, "/v1/conversations", {}),
        (other, f"/v1/conversations/{conversation}/items", {"items": [{"role": "user", "content": "hi"}]}),
    ):
        refused = await post(proxy, path, body, None)
        assert (refused.status, refused.json["error"]["code"]) == (429, "insufficient_quota"), path
        assert refused.headers["x-should-retry"] == "false"
    # nothing of what was refused was asked of the model
    assert len(one.upstream.requests) + len(other.upstream.requests) == asked
    # what stores nothing may go on, and so may others
    assert (await post(one, "/v1/responses", {**TURN, "store": False}, None)).status == 200
    assert (await post(one, "/v1/responses", TURN, None, owner="sk-bob")).status == 200
    await one.call("DELETE", f"/v1/conversations/{conversation}")
    assert (await post(other, "/v1/responses", TURN, None)).status == 200


async def test_an_owner_has_so_many_background_responses_waiting(start_proxy: StartProxy):
    proxy = await start_proxy(quotas={"queued_jobs": 1}, background={"concurrency": 1})
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    background: dict[str, Any] = {**TURN, "background": True}
    await _accepted(proxy, background)
    await proxy.upstream.wait_for_requests(1)
    waiting = await _accepted(proxy, background)
    refused = await post(proxy, "/v1/responses", background, None)
    assert (refused.status, refused.json["error"]["code"]) == (429, "rate_limit_exceeded")
    assert refused.headers["Retry-After"] == "10"
    assert (await post(proxy, "/v1/responses", background, None, owner="sk-bob")).status == 200
    await proxy.call("POST", f"/v1/responses/{waiting}/cancel")
    await _accepted(proxy, background)
    gate.set()


async def _accepted(proxy: Proxy, body: dict[str, Any]) -> str:
    answer = await post(proxy, "/v1/responses", body, None)
    assert answer.status == 200
    return str(answer.json["id"])
