"""Metrics: what a turn, its model server, the store and all else leave behind in numbers."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from proxy.http.keys import STORE
from proxy.telemetry.surveyor import SURVEYOR
from proxy.telemetry.telemetry import TELEMETRY
from storage.client.keys import queue_key
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.connection import Connection
from tests.flows.streams import OPENING, Stream, answer_after, read_stream
from tests.flows.talk import model_answer, new_conversation, post, respond, settled
from tests.flows.telemetry.counted import number, series, text_of, until_number
from tests.upstream import CUT, HANG, Reply

TURN = {"route": "/v1/responses", "method": "POST"}
USAGE = {
    "input_tokens": 11,
    "input_tokens_details": {"cached_tokens": 3},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 18,
}


async def test_a_plain_turn(proxy: Proxy):
    upstream = proxy.upstream.url.removeprefix("http://")
    proxy.upstream.script(Reply.json(200, model_answer("hello", usage=USAGE)))
    conversation = await new_conversation(proxy)
    await respond(proxy, input="one", conversation=conversation)
    await respond(proxy, input="two", conversation=conversation)
    app = proxy.app
    assert series(app, "turns_total") == [
        {"mode": "plain", "outcome": "completed", "upstream": upstream, "model": "other"}
    ]
    assert number(app, "turns_total") == number(app, "turn_seconds_count", mode="plain", upstream=upstream) == 2
    assert number(app, "turn_first_output_seconds_count", upstream=upstream) == 2
    for phase in ("open", "prepare", "commit"):
        assert number(app, "turn_overhead_seconds_count", phase=phase) == 2
    assert number(app, "history_items_bucket", le="0.0") == 1
    assert number(app, "history_items_sum") == 2
    told = {kind: number(app, "tokens_total", type=kind) for kind in ("cached", "reasoning")}
    assert told == {"cached": 3, "reasoning": 2}
    assert number(app, "tokens_total", type="input") > 11
    assert number(app, "upstream_requests_total", upstream=upstream, status="200") == 2
    assert number(app, "upstream_seconds_count") == number(app, "upstream_first_byte_seconds_count") == 2
    assert number(app, "http_requests_total", **TURN, status="200") == 2
    assert number(app, "http_requests_total", route="/v1/conversations", method="POST", status="200") == 1
    assert number(app, "http_request_seconds_count") == 3
    assert number(app, "store_calls_total", script="open_turn", outcome="ok") == 2
    assert number(app, "store_calls_total", script="commit_turn", outcome="ok") == 2
    assert number(app, "store_call_seconds_count", script="commit_turn") == 2
    assert number(app, "store_up") == number(app, "upstream_available", upstream=upstream) == 1
    assert number(app, "turns_running") == 0


async def test_modes(proxy: Proxy):
    await respond(proxy)
    await read_stream(proxy, {"model": "echo", "input": "hi", "stream": True})
    async with Connection(proxy) as connection:
        await connection.turn(input="hi")
        await until_number(proxy.app, 1, "websockets")
    await respond(proxy, background=True)
    await until_number(proxy.app, 1, "background_runs_total", outcome="completed")
    for mode in ("plain", "stream", "websocket", "background"):
        assert number(proxy.app, "turns_total", mode=mode, outcome="completed") == 1
    await until_number(proxy.app, 0, "websockets")
    assert number(proxy.app, "http_requests_total", route="/v1/responses", method="GET", status="101") == 1


async def test_a_turn_runs_until_it_is_over(proxy: Proxy):
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    async with Stream(proxy, {}) as stream:
        await stream.until("response.output_text.delta")
        assert number(proxy.app, "turns_running", mode="stream") == 1
        await until_number(proxy.app, 1, "http_requests_running")
        gate.set()
        await stream.until("response.completed")
    await settled(proxy)
    assert number(proxy.app, "turns_running") == 0
    await until_number(proxy.app, 0, "http_requests_running")


FAILED = {
    "type": "response.failed",
    "response": {"status": "failed", "error": {"code": "server_error", "message": "x"}},
}


@pytest.mark.parametrize(
    ("reply", "status", "outcome"),
    [
        (Reply.json(429, {"error": {"message": "slow down"}}), "429", "refused"),
        (Reply.json(500, {"error": {"message": "oops"}}), "500", "failed"),
        (Reply.raw(200, "application/json", b"not json"), "malformed", "failed"),
        (Reply.raw(200, "application/json", chunks=[b"{", CUT]), "cut", "failed"),
        (Reply.sse([*OPENING, CUT], done=False), "cut", "failed"),
        (Reply.sse([*OPENING], done=False), "cut", "failed"),
        (Reply.sse([OPENING[0], FAILED]), "in_band", "failed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_a_model_server_does_wrong(proxy: Proxy, reply: Reply, status: str, outcome: str):
    proxy.upstream.rules.strict = False
    proxy.upstream.script(reply)
    await proxy.call("POST", "/v1/responses", {"model": "m", "input": "hi"})
    assert [one["status"] for one in series(proxy.app, "upstream_requests_total")] == [status]
    assert [one["outcome"] for one in series(proxy.app, "turns_total")] == [outcome]


async def test_a_model_server_that_is_not_there(start_proxy: StartProxy):
    proxy = await start_proxy(upstream={"url": "http://127.0.0.1:1/v1"})
    assert (await proxy.call("POST", "/v1/responses", {"model": "m", "input": "hi"}))[0] == 502
    assert [one["status"] for one in series(proxy.app, "upstream_requests_total")] == ["connect"]


async def test_a_model_server_that_says_nothing(start_proxy: StartProxy):
    proxy = await start_proxy(upstream={"read_timeout_seconds": 0.05})
    proxy.upstream.script(Reply.raw(200, "application/json", chunks=[HANG]))
    assert (await proxy.call("POST", "/v1/responses", {"model": "m", "input": "hi"}))[0] == 504
    assert [one["status"] for one in series(proxy.app, "upstream_requests_total")] == ["timeout"]
    assert number(proxy.app, "upstream_first_byte_seconds_count") == 0


async def test_a_turn_that_is_refused_asks_nobody(proxy: Proxy):
    body = {"model": "m", "input": "hi", "previous_response_id": f"resp_{'0' * 48}"}
    assert (await proxy.call("POST", "/v1/responses", body))[0] == 400
    assert series(proxy.app, "turns_total") == [
        {"mode": "plain", "outcome": "refused", "upstream": "none", "model": "other"}
    ]
    assert number(proxy.app, "store_calls_total", script="open_turn", outcome="refused") == 1


async def test_a_branch_that_is_taken(proxy: Proxy):
    gate, conversation = asyncio.Event(), await new_conversation(proxy)
    proxy.upstream.script(answer_after(gate))
    async with Stream(proxy, {"conversation": conversation}) as stream:
        await stream.until("response.output_text.delta")
        await respond(proxy, conversation=conversation, expect=400)
        gate.set()
        await stream.until("response.completed")
    assert number(proxy.app, "turns_total", outcome="locked") == 1


async def test_a_client_that_leaves(proxy: Proxy):
    proxy.upstream.script(Reply.sse([*OPENING, HANG]))
    async with Stream(proxy, {}) as stream:
        await stream.until("response.output_text.delta")
    await settled(proxy)
    await until_number(proxy.app, 1, "turns_total", outcome="left")
    assert number(proxy.app, "http_requests_total", **TURN, status="499") == 1
    assert number(proxy.app, "turns_total") == 1


async def test_requests_that_come_again(proxy: Proxy):
    body: dict[str, Any] = {"model": "echo", "input": "hi"}
    for _ in range(3):
        assert (await post(proxy, "/v1/responses", body)).status == 200
    assert (await post(proxy, "/v1/responses", {**body, "input": "other"})).status == 422
    assert number(proxy.app, "repeats_total", kind="key") == 2
    assert number(proxy.app, "repeats_total", kind="mismatch") == 1
    assert number(proxy.app, "turns_total") == 1


async def test_no_name_of_a_client_becomes_a_label(proxy: Proxy):
    secret = "sk-very-secret"
    conversation = (await proxy.call("POST", "/v1/conversations", key=secret))[1]["id"]
    for number_of_model in range(3):
        body = {"model": f"whatever-{number_of_model}", "input": "words of mine", "conversation": conversation}
        _, response = await proxy.call("POST", "/v1/responses", body, key=secret)
    await proxy.call("GET", "/v1/whatever/../../else", key=secret)
    await proxy.call("GET", "/nowhere/in/particular")
    async with proxy.http.request("BREW", f"{proxy.url}/v1/responses") as answer:
        assert answer.status in (400, 405)
    text = text_of(proxy.app)
    for name in ("whatever", secret, "words", conversation, response["id"], "particular", "BREW"):
        assert name not in text
    assert number(proxy.app, "http_requests_total", route="unknown", status="404") >= 1


async def test_a_list_of_models_that_goes_by_vouches_for_their_names(proxy: Proxy):
    proxy.upstream.script(Reply.json(200, {"object": "list", "data": [{"id": "listed"}]}), path="/v1/models")
    await proxy.call("GET", "/v1/models")
    for model in ("listed", "unlisted"):
        await respond(proxy, model=model)
    assert [one["model"] for one in series(proxy.app, "turns_total")] == ["listed", "other"]
    assert number(proxy.app, "upstream_requests_total", status="200") == 3


async def test_the_store_is_not_there(start_proxy: StartProxy):
    proxy = await start_proxy(redis={"prefix": "elsewhere"})
    store_called = proxy.app[TELEMETRY].store_called
    store_called("open_turn", 0.0, "unavailable")
    assert number(proxy.app, "store_up") == 0
    store_called("open_turn", 0.0, "refused")
    assert number(proxy.app, "store_up") == 1


async def test_what_is_looked_at_from_time_to_time(start_proxy: StartProxy):
    proxy = await start_proxy(background={"concurrency": 1})
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    for _ in range(3):
        await respond(proxy, background=True)
    await proxy.upstream.wait_for_requests(1)
    async with asyncio.timeout(10):
        while (await proxy.app[SURVEYOR].survey()).jobs != 2:  # noqa: ASYNC110 (a worker's)
            await asyncio.sleep(0.02)
    assert number(proxy.app, "background_waiting") == 2
    assert 0 < number(proxy.app, "background_oldest_seconds") < 60
    assert number(proxy.app, "loop_lag_seconds_count") > 0
    await until_number(proxy.app, 1, "turns_running", mode="background")
    gate.set()
    await until_number(proxy.app, 3, "background_runs_total", outcome="completed")
    await proxy.app[STORE].condition.look()
    used, _ = proxy.app[STORE].condition.memory
    await until_number(proxy.app, used, "store_memory_bytes", kind="used")
    assert used > 0


async def test_a_background_response_that_is_given_back(start_proxy: StartProxy):
    lease = {"lock_lease_seconds": 1.0}
    first = await start_proxy(turns=lease, server={"shutdown_timeout_seconds": 0.0})
    first.upstream.script(Reply.sse([*OPENING, HANG]))
    response = await respond(first, background=True)
    await first.upstream.wait_for_requests(1)
    await first.runner.cleanup()
    assert number(first.app, "background_runs_total", outcome="given_back") == 1
    assert number(first.app, "turns_total", mode="background") == 0
    second = await start_proxy(turns=lease)
    await until_number(second.app, 1, "background_runs_total", outcome="completed")
    assert (await second.call("GET", f"/v1/responses/{response['id']}"))[1]["status"] == "completed"


async def test_a_background_response_whose_worker_has_died_is_taken_over(
    start_proxy: StartProxy, caplog: pytest.LogCaptureFixture
):
    proxy = await start_proxy(turns={"lock_lease_seconds": 2.0}, background={"concurrency": 1})
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    await respond(proxy, background=True)
    await proxy.upstream.wait_for_requests(1)
    response = await respond(proxy, background=True)
    # as a replica has done that was killed then, some time ago
    queue, redis = queue_key("branchline"), cast("Any", proxy.redis)
    ((_, [(entry, _)]),) = await redis.xreadgroup("workers", "dead", {queue: ">"})
    await redis.xclaim(queue, "workers", "dead", 0, [entry], idle=60_000)
    gate.set()
    await until_number(proxy.app, 1, "background_runs_total", outcome="taken_over")
    await until_number(proxy.app, 2, "background_runs_total", outcome="completed")
    (warning,) = [record for record in caplog.records if "is taken over" in record.getMessage()]
    assert warning.levelname == "WARNING"
    assert response["id"] in warning.getMessage()
