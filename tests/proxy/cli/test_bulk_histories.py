"""Small requests on large histories: answered by the process for such, from the first on, whichever way they come."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest

from benchmarks.processes import free_port
from proxy.http.handover import HEAVY_HISTORY_BYTES, HEAVY_HISTORY_ITEMS
from tests.proxy.cli.conftest import Serve
from tests.proxy.cli.scraping import TURNS, total
from tests.proxy.cli.serving import Served, bulk_workers

SMALL: dict[str, Any] = {"model": "m", "input": "hello"}
ITEM = {"role": "user", "content": "x" * (HEAVY_HISTORY_BYTES // 4)}
BYTES: dict[str, Any] = {"model": "m", "input": [ITEM] * 4}
ITEMS: dict[str, Any] = {"model": "m", "input": [{"role": "user", "content": "a"}] * HEAVY_HISTORY_ITEMS}
ONE: dict[str, Any] = {"model": "m", "input": "x" * HEAVY_HISTORY_BYTES}


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer sk-alice"}) as session:
        yield session


async def answered(
    served: Served, client: aiohttp.ClientSession, body: dict[str, Any], path: str = "responses", **headers: str
) -> tuple[str, dict[str, Any]]:
    """The process that has answered a request, '' for the one that listens, and its answer."""
    data, typed = io.BytesIO(orjson.dumps(body)), {"Content-Type": "application/json"}
    async with client.post(f"{served.url}/{path}", data=data, headers={**typed, **headers}) as answer:
        assert answer.status == 200, await answer.text()
        told: dict[str, Any] = await answer.json()
    (process,) = await served.logged(rf"proxy.http.middleware(?:\[(\d+)\])?: POST .* {answer.headers['x-request-id']}")
    return process, told


@pytest.mark.parametrize("large", [BYTES, ITEMS, ONE], ids=["bytes", "items", "one item"])
async def test_the_first_one_and_all_behind_it_are_answered_there(
    serve: Serve, client: aiohttp.ClientSession, large: dict[str, Any]
):
    port = free_port()
    served = await serve(BRANCHLINE_METRICS_PORT=str(port))
    _, made = await answered(served, client, large)
    (bulk,) = bulk_workers(served)
    for _ in range(3):
        process, made = await answered(served, client, {**SMALL, "previous_response_id": made["id"]})
        assert process == bulk
    assert (await answered(served, client, SMALL))[0] == ""
    assert await total(port, TURNS) == 5


async def test_a_history_that_has_grown_large_is_given_away(serve: Serve, client: aiohttp.ClientSession):
    served = await serve()
    small = {"role": "user", "content": "x" * 250_000}
    asked = {"model": "m", "input": [small], "conversation": await conversation(served, client)}
    times = HEAVY_HISTORY_BYTES // 250_000 + 3
    told = [process for process, _ in [await answered(served, client, asked) for _ in range(times)]]
    assert told[-1:] == bulk_workers(served)
    assert told[0] == ""


async def test_its_key_goes_along(serve: Serve, client: aiohttp.ClientSession):
    served = await serve()
    talk = await conversation(served, client)
    await answered(served, client, {**BYTES, "conversation": talk})
    body = {**SMALL, "conversation": talk}
    answers = [await answered(served, client, body, **{"Idempotency-Key": key}) for key in ("a", "a", "b", "a")]
    (bulk,) = bulk_workers(served)
    # what was answered is known here too
    assert [process for process, _ in answers] == [bulk, "", bulk, ""]
    ids = [told["id"] for _, told in answers]
    assert ids == [ids[0], ids[0], ids[2], ids[0]]
    assert ids[0] != ids[2]
    assert await length(served, client, talk) == 4 + 1 + 2 * 2


async def test_a_response_in_the_background_is_accepted_and_made_there(serve: Serve, client: aiohttp.ClientSession):
    served = await serve()
    _, made = await answered(served, client, BYTES)
    later = {**SMALL, "previous_response_id": made["id"], "background": True}
    process, queued = await answered(served, client, later)
    assert [process] == bulk_workers(served)
    runs = await served.logged(rf"background\.worker(?:\[(\d+)\])?: background response {queued['id']} ran for")
    assert runs == bulk_workers(served)
    async with client.get(f"{served.url}/responses/{queued['id']}") as answer:
        told = await answer.json()
        assert (told["status"], len(told["output"])) == ("completed", 1)


async def test_a_message_of_a_websocket_goes_there_with_all_behind_it(serve: Serve, client: aiohttp.ClientSession):
    port = free_port()
    served = await serve(BRANCHLINE_METRICS_PORT=str(port), BRANCHLINE_QUOTAS_REQUESTS_PER_MINUTE="9")
    talk = await conversation(served, client)
    _, made = await answered(served, client, {**BYTES, "conversation": talk})
    after, within = {"previous_response_id": made["id"]}, {"conversation": talk}
    texts = [("", "0", {}), ("a", "1", within), ("a", "2", within), ("b", "3", after), ("a", "4", within)]
    async with client.ws_connect(f"{served.url}/responses") as socket:
        for lane, text, where in texts:
            named = {"stream_id": lane} if lane else {}
            body = {"type": "response.create", "model": "m", "input": text, **where, **named}
            await socket.send_str(orjson.dumps(body).decode())
        ends: list[tuple[str, str]] = []
        while len(ends) < len(texts):
            told = orjson.loads(await socket.receive_str(timeout=40))
            if told["type"] in ("response.completed", "error"):
                ends.append((told["type"], told.get("stream_id", "")))
    assert sorted(ends) == sorted(("response.completed", lane) for lane, _, _ in texts)
    (bulk,) = bulk_workers(served)
    ended = await served.logged(r"proxy\.websocket\.connection(\S*): \S+ turn completed", len(texts))
    assert sorted(ended) == ["", *[f"[{bulk}]"] * 4]
    async with client.get(f"{served.url}/conversations/{talk}/items?limit=100&order=asc") as listed:
        told = await listed.json()
        assert listed.status == 200, f"{told}\n{served.log}"
        items = told["data"]
    said = [item["content"][0]["text"] for item in items if item["role"] == "user"][4:]
    assert said == ["1", "2", "4"]
    assert await total(port, TURNS) == 6
    # three requests before it, the upgrade and five messages: there is none left
    async with client.post(f"{served.url}/responses", json=SMALL) as answer:
        assert answer.status == 429


@pytest.mark.parametrize("path", ["responses/input_tokens", "responses/compact"])
async def test_what_only_looks_at_it_is_done_there_too(serve: Serve, client: aiohttp.ClientSession, path: str):
    served = await serve()
    _, made = await answered(served, client, BYTES)
    process, _ = await answered(served, client, {**SMALL, "previous_response_id": made["id"]}, path)
    assert [process] == bulk_workers(served)


async def test_where_no_such_process_can_be_it_is_answered_here(serve: Serve, client: aiohttp.ClientSession):
    served = await serve(BRANCHLINE_SERVER_BULK_WORKERS="0")
    _, made = await answered(served, client, BYTES)
    process, _ = await answered(served, client, {**SMALL, "previous_response_id": made["id"]})
    assert process == ""


async def conversation(served: Served, client: aiohttp.ClientSession) -> str:
    async with client.post(f"{served.url}/conversations", json={}) as made:
        return str((await made.json())["id"])


async def length(served: Served, client: aiohttp.ClientSession, talk: str) -> int:
    """How many items a conversation has; fewer than a page."""
    async with client.get(f"{served.url}/conversations/{talk}/items?limit=100") as listed:
        return len((await listed.json())["data"])
