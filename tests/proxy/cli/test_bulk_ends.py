"""Large turns that do not come to their own end: stopped, without room, in a server that stops or that dies."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest

from tests.flows.telemetry.collector import Collector
from tests.proxy.cli.conftest import Serve
from tests.proxy.cli.serving import Served, bulk_workers
from tests.proxy.relay.streams import WHOLE
from tests.upstream import HANG, Reply, ScriptedUpstream

LARGE: dict[str, Any] = {"model": "m", "input": "x" * 600_000}
STREAM = {**LARGE, "stream": True}
MESSAGE: dict[str, Any] = {**LARGE, "type": "response.create"}
ALICE, BOB = {"Authorization": "Bearer sk-alice"}, {"Authorization": "Bearer sk-bob"}
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers=ALICE) as session:
        yield session


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as running:
        yield running


async def conversation(served: Served, client: aiohttp.ClientSession) -> str:
    async with client.post(f"{served.url}/conversations", json={}) as made:
        return str((await made.json())["id"])


async def begun(answer: aiohttp.ClientResponse) -> str:
    """The id of a response whose stream has begun to tell its output."""
    head = await answer.content.readuntil(b"event: response.output_text.delta")
    found: bytes = re.findall(rb'"id":"(resp_\w+)"', head)[0]
    return found.decode()


async def message_of(socket: aiohttp.ClientWebSocketResponse, kind: str) -> dict[str, Any]:
    """The next message of a kind."""
    while (told := orjson.loads(await socket.receive_str(timeout=40)))["type"] != kind:
        pass
    message: dict[str, Any] = told
    return message


async def test_it_is_stopped_from_the_page(serve: Serve, client: aiohttp.ClientSession, upstream: ScriptedUpstream):
    served = await serve("--upstream", upstream.url, BRANCHLINE_TURNS_LOCK_LEASE_SECONDS="3")
    upstream.script(Reply.sse([*WHOLE[:11], HANG]))
    talk = await conversation(served, client)
    async with client.post(f"{served.url}/responses", json={**STREAM, "conversation": talk}) as answer:
        response = await begun(answer)
        form = {"branch": "MAIN", "response": response}
        page, own = f"{served.url.removesuffix('/v1')}/ui/c/{talk}/stop", {"Sec-Fetch-Site": "same-origin"}
        async with client.post(page, data=form, headers=own, allow_redirects=False) as told:
            assert told.status == 303
        assert b"event: response.incomplete" in await answer.read()
    async with client.get(f"{served.url}/responses/{response}") as answer:
        assert (await answer.json())["status"] == "incomplete"
    assert len(bulk_workers(served)) == 1


async def test_where_there_is_no_room_for_it_that_is_said(
    serve: Serve, client: aiohttp.ClientSession, upstream: ScriptedUpstream
):
    served = await serve("--upstream", upstream.url, BRANCHLINE_SERVER_MAX_HELD_BYTES="1000000")
    upstream.script(Reply.sse([*WHOLE[:11], HANG]), Reply.sse(WHOLE))
    async with client.post(f"{served.url}/responses", json=STREAM) as answer:
        await begun(answer)
        async with client.ws_connect(f"{served.url}/responses", headers=BOB) as socket:
            await socket.send_bytes(orjson.dumps(MESSAGE))
            async with client.post(f"{served.url}/responses", json=LARGE, headers=BOB) as refused:
                assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
                assert (await refused.json())["error"]["code"] == "server_busy"
            told = await message_of(socket, "error")
            assert (told["status"], told["error"]["code"]) == (503, "server_busy")
            assert told["error"]["headers"] == {"retry-after": "1"}
            answer.close()
            await served.logged(r"middleware\[\d+\]: POST /v1/responses 499")
            # what has gone has left its room to others
            await socket.send_bytes(orjson.dumps(MESSAGE))
            await message_of(socket, "response.completed")
    assert await served.logged(r"middleware\[(\d+)\]: POST /v1/responses 503") == bulk_workers(served)


async def test_it_is_one_trace(serve: Serve, client: aiohttp.ClientSession, upstream: ScriptedUpstream):
    async with Collector() as collector:
        served = await serve(
            "--upstream",
            upstream.url,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_BSP_SCHEDULE_DELAY="20",
            OTEL_TRACES_SAMPLER="parentbased_always_on",
        )
        upstream.script(Reply.sse(WHOLE), Reply.sse(WHOLE))
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
        async with client.post(f"{served.url}/responses", json=STREAM, headers=headers) as answer:
            await answer.read()
        spans = await collector.until("POST /v1/responses")
        async with client.ws_connect(f"{served.url}/responses", headers=headers) as socket:
            await socket.send_bytes(orjson.dumps(MESSAGE))
            await message_of(socket, "response.completed")
        turns = await collector.until("websocket turn")
        assert {span.trace_id for span in (*spans, *turns)} == {TRACE}
        (first,) = [span for span in spans if span.name == "POST /v1/responses"]
        assert first.parent == SPAN
        assert len(bulk_workers(served)) == 1
        # the model server is asked as a part of it
        calls = {span.span_id for span in spans if span.kind == "CLIENT"}
        _, trace, parent, _ = upstream.requests[0].headers["traceparent"].split("-")
        assert trace == TRACE
        assert parent in calls


async def test_a_server_that_stops_waits_for_turns_of_each_kind(
    serve: Serve, client: aiohttp.ClientSession, upstream: ScriptedUpstream
):
    served = await serve("--upstream", upstream.url)
    gates = [asyncio.Event(), asyncio.Event()]
    upstream.script(*[Reply.sse([*WHOLE[:11], gate, *WHOLE[11:]]) for gate in gates])
    async with client.ws_connect(f"{served.url}/responses") as socket:
        await socket.send_bytes(orjson.dumps(MESSAGE))
        await message_of(socket, "response.output_text.delta")
        async with client.post(f"{served.url}/responses", json={**LARGE, "background": True}) as answer:
            response = (await answer.json())["id"]
        await upstream.wait_for_requests(2)
        served.process.terminate()
        await served.logged(r"\[\d+\]: waiting for 1 background responses")
        for gate in gates:
            gate.set()
        await message_of(socket, "response.completed")
        closing = await socket.receive(timeout=40)
        assert (closing.type, closing.data) == (aiohttp.WSMsgType.CLOSE, aiohttp.WSCloseCode.GOING_AWAY)
    assert (await served.end())[0] == 0
    again = await serve("--upstream", upstream.url)
    async with client.get(f"{again.url}/responses/{response}") as answer:
        assert (await answer.json())["status"] == "completed"


async def test_a_server_that_stops_ends_what_takes_too_long(
    serve: Serve, client: aiohttp.ClientSession, upstream: ScriptedUpstream
):
    served = await serve("--upstream", upstream.url, BRANCHLINE_SERVER_SHUTDOWN_TIMEOUT_SECONDS="1")
    upstream.script(Reply.sse([*WHOLE[:11], HANG]))
    async with client.post(f"{served.url}/responses", json=STREAM) as answer:
        await begun(answer)
        served.process.terminate()
        assert b"event: response.incomplete" in await answer.read()
    assert (await served.end())[0] == 0


async def test_a_message_whose_process_dies_is_refused_and_its_branch_is_free_again(
    serve: Serve, client: aiohttp.ClientSession, upstream: ScriptedUpstream
):
    served = await serve("--upstream", upstream.url, BRANCHLINE_TURNS_LOCK_LEASE_SECONDS="2")
    upstream.script(Reply.sse([*WHOLE[:11], HANG]), Reply.sse(WHOLE))
    talk = {"conversation": await conversation(served, client)}
    async with client.ws_connect(f"{served.url}/responses") as socket:
        await socket.send_bytes(orjson.dumps({**MESSAGE, **talk}))
        await message_of(socket, "response.output_text.delta")
        os.kill(int(bulk_workers(served)[0]), signal.SIGKILL)
        told = await message_of(socket, "error")
        assert (told["status"], told["error"]["code"]) == (503, "server_busy")
        assert (await socket.receive(timeout=40)).type is aiohttp.WSMsgType.CLOSE
    async with asyncio.timeout(40):
        # nobody gives its lock back, and nobody renews it
        while (told := await asked(served, client, {**LARGE, **talk})).get("code") == "conversation_locked":  # noqa: ASYNC110 (a lease)
            await asyncio.sleep(0.1)
    assert told.get("status") == "completed", f"{told}\n{served.log}"
    async with client.get(f"{served.url}/conversations/{talk['conversation']}/items") as listed:
        # the message, and what the model said to it in the end
        assert [item["role"] for item in (await listed.json())["data"] if item["type"] == "message"] == [
            "assistant",
            "user",
        ]


async def test_a_streamed_response_in_the_background_is_told_on_when_its_process_has_died(
    serve: Serve, client: aiohttp.ClientSession, upstream: ScriptedUpstream
):
    served = await serve("--upstream", upstream.url, BRANCHLINE_TURNS_LOCK_LEASE_SECONDS="2")
    upstream.script(Reply.sse([*WHOLE[:11], HANG]), Reply.sse(WHOLE))
    async with client.post(f"{served.url}/responses", json={**STREAM, "background": True}) as answer:
        response = await begun(answer)
        os.kill(int(bulk_workers(served)[0]), signal.SIGKILL)
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    async with client.get(f"{served.url}/responses/{response}?stream=true") as told:
        events = re.findall(rb"^event: (\S+)$", await told.read(), re.MULTILINE)
    assert events[-1] == b"response.completed"
    first, second = await served.logged(rf"\[(\d+)\]: background response {response} begins", times=2)
    assert [first, second] == bulk_workers(served)


async def asked(served: Served, client: aiohttp.ClientSession, body: dict[str, Any]) -> dict[str, Any]:
    async with client.post(f"{served.url}/responses", json=body) as answer:
        return dict(await answer.json())
