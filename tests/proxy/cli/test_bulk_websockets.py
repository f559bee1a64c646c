"""Large messages of WebSockets: answered by a process that is there for such, as all others of their connection are."""

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

from benchmarks.processes import free_port
from tests.proxy.cli.conftest import Serve
from tests.proxy.cli.scraping import TURNS, total
from tests.proxy.cli.serving import Served, bulk_workers
from tests.proxy.relay.streams import WHOLE
from tests.upstream import HANG, Reply, ScriptedUpstream

SMALL: dict[str, Any] = {"type": "response.create", "model": "m", "input": "hello"}
LARGE: dict[str, Any] = {**SMALL, "input": "x" * 600_000}
ENDS = {"response.completed", "response.failed", "response.incomplete", "error"}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer sk-alice"}) as session:
        yield session


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as running:
        yield running


async def answer_to(socket: aiohttp.ClientWebSocketResponse, message: dict[str, Any]) -> dict[str, Any]:
    """The last event of a turn."""
    await socket.send_str(orjson.dumps(message).decode())
    while (told := orjson.loads(await socket.receive_str(timeout=40)))["type"] not in ENDS:
        pass
    answered: dict[str, Any] = told
    return answered


async def turn(socket: aiohttp.ClientWebSocketResponse, message: dict[str, Any]) -> str:
    """The id of a response that is completed."""
    told = await answer_to(socket, message)
    assert told["type"] == "response.completed", told
    assert told.get("stream_id", "") == message.get("stream_id", "")
    return str(told["response"]["id"])


def who_answered(served: Served) -> list[str]:
    """The processes that have answered turns of WebSockets, '' for the one that listens."""
    return re.findall(r"proxy.websocket.connection(?:\[(\d+)\])?: \S+ turn ", served.log)


async def test_a_large_message_and_all_behind_it_are_answered_elsewhere(serve: Serve, session: aiohttp.ClientSession):
    port = free_port()
    served = await serve(BRANCHLINE_METRICS_PORT=str(port))
    async with session.ws_connect(f"{served.url}/responses") as socket:
        previous = await turn(socket, SMALL)
        for message in (LARGE, SMALL, LARGE):
            previous = await turn(socket, {**message, "previous_response_id": previous})
    async with session.get(f"{served.url}/responses/{previous}/input_items?limit=100&order=asc") as answer:
        texts = [item["content"][0]["text"] for item in (await answer.json())["data"] if item["role"] == "user"]
    assert [len(text) for text in texts] == [5, 600_000, 5, 600_000]
    (bulk,) = bulk_workers(served)
    await served.logged("proxy.websocket.connection.* turn ", times=4)
    assert who_answered(served) == ["", bulk, bulk, bulk]
    await served.logged(r"GET /v1/responses (?:101|499)")
    assert await total(port, TURNS) == 4
    # the upgrade, and one that lists
    assert await total(port, "branchline_http_requests_total") == 2


async def test_it_is_open_once(serve: Serve, session: aiohttp.ClientSession):
    port = free_port()
    served = await serve(BRANCHLINE_METRICS_PORT=str(port))
    async with session.ws_connect(f"{served.url}/responses") as socket:
        await turn(socket, LARGE)
        # each process looks at what it has open with every beat of this timer
        beats = await total(port, "branchline_loop_lag_seconds_count")
        async with asyncio.timeout(40):
            while await total(port, "branchline_loop_lag_seconds_count") < beats + 10:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await total(port, "branchline_websockets") == 1
        assert await total(port, "branchline_http_requests_running") == 1


async def test_lanes_keep_their_names_and_their_order(serve: Serve, session: aiohttp.ClientSession):
    served = await serve()
    async with session.ws_connect(f"{served.url}/responses") as socket:
        sent = [(SMALL, "a"), (LARGE, "a"), (LARGE, "b"), (SMALL, ""), (SMALL, "a")]
        for message, lane in sent:
            named = {**message, **({"stream_id": lane} if lane else {})}
            await socket.send_str(orjson.dumps(named).decode())
        ends: list[tuple[str, str]] = []
        while len(ends) < len(sent):
            told = orjson.loads(await socket.receive_str(timeout=40))
            if told["type"] in ENDS:
                ends.append((told["type"], told.get("stream_id", "")))
    assert sorted(ends) == sorted(("response.completed", lane) for _, lane in sent)


async def test_what_is_not_stored_is_gone_on_with_where_it_is_known(serve: Serve, session: aiohttp.ClientSession):
    served = await serve()
    unstored = {"store": False}
    async with session.ws_connect(f"{served.url}/responses") as socket:
        here = await turn(socket, {**SMALL, **unstored})
        here = await turn(socket, {**LARGE, **unstored, "previous_response_id": here})
        there = await turn(socket, {**LARGE, **unstored, "stream_id": "b"})
        here = await turn(socket, {**SMALL, **unstored, "previous_response_id": here})
        await turn(socket, {**SMALL, **unstored, "stream_id": "b", "previous_response_id": there})
    await served.logged("proxy.websocket.connection.* turn ", times=5)
    (bulk,) = bulk_workers(served)
    assert who_answered(served) == ["", "", bulk, "", bulk]


async def test_refusals_and_quotas_are_those_of_any_message(serve: Serve, session: aiohttp.ClientSession):
    served = await serve(BRANCHLINE_QUOTAS_REQUESTS_PER_MINUTE="5")
    refused = []
    async with session.ws_connect(f"{served.url}/responses") as socket:
        for message in ({**LARGE, "input": [7] * 200_000}, LARGE, {"type": "no such"}, SMALL, LARGE, SMALL, LARGE):
            told = await answer_to(socket, message)
            refused.append(told.get("status"))
    # the upgrade is the first, what is refused by its form is not counted
    assert refused == [400, None, 400, None, None, None, 429]


async def test_who_is_given_to_one_that_dies_is_told_so(
    serve: Serve, session: aiohttp.ClientSession, upstream: ScriptedUpstream
):
    served = await serve("--upstream", upstream.url)
    upstream.script(Reply.sse(WHOLE), Reply.sse(WHOLE))
    async with session.ws_connect(f"{served.url}/responses") as socket:
        await turn(socket, LARGE)
        os.kill(int(bulk_workers(served)[0]), signal.SIGKILL)
        told = orjson.loads(await socket.receive_str(timeout=40))
        assert (told["type"], told["status"], told["error"]["code"]) == ("error", 503, "server_busy")
        assert (await socket.receive(timeout=40)).type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == aiohttp.WSCloseCode.INTERNAL_ERROR
    async with session.ws_connect(f"{served.url}/responses") as socket:
        await turn(socket, LARGE)


async def test_a_stop_closes_it_as_any_other(serve: Serve, session: aiohttp.ClientSession):
    served = await serve()
    async with session.ws_connect(f"{served.url}/responses") as socket:
        await turn(socket, LARGE)
        served.process.terminate()
        assert (await socket.receive(timeout=40)).type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == aiohttp.WSCloseCode.GOING_AWAY
    assert (await served.end())[0] == 0


async def test_a_client_that_leaves_ends_what_runs_there(
    serve: Serve, session: aiohttp.ClientSession, upstream: ScriptedUpstream
):
    served = await serve("--upstream", upstream.url)
    upstream.script(Reply.sse([*WHOLE[:4], HANG]))
    async with session.ws_connect(f"{served.url}/responses") as socket:
        await socket.send_str(orjson.dumps(LARGE).decode())
        await socket.receive_str(timeout=40)
    (bulk,) = bulk_workers(served)
    assert await served.logged(r"proxy.websocket.connection\[(\d+)\]: \S+ turn ") == [bulk]
