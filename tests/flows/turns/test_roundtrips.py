"""How often a request waits for the store: at most twice for a turn, once for reading, however much there is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxy.http.keys import STORE
from proxy.recording.recorder import RECORDER
from proxy.runtime import store_watch
from storage.client.library import load_scripts
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.talk import model_answer, respond, until_worker_waits
from tests.roundtrips import RoundTripCounter
from tests.upstream import Reply

ITEM = {"role": "user", "content": "hi"}


@pytest.fixture
async def counter(valkey_url: str) -> AsyncIterator[RoundTripCounter]:
    async with RoundTripCounter(Path(valkey_url.removeprefix("unix://"))) as counter:
        yield counter


@pytest.fixture(params=["off"])
async def proxy(
    request: pytest.FixtureRequest, start_proxy: StartProxy, counter: RoundTripCounter, monkeypatch: pytest.MonkeyPatch
) -> Proxy:
    # the look after the store, once a second, is no part of any request
    monkeypatch.setattr(store_watch, "LOOK_SECONDS", 600.0)
    # a worker's wait for jobs ends with the time that a command may take, and begins anew
    store = {"url": counter.url, "timeout_seconds": 600.0}
    # what is recorded of a turn is written after it has ended, see the last test
    proxy = await start_proxy(redis=store, recording={"mode": request.param})
    # sending a script to a server that has not seen it, and opening a connection, take trips of their own
    for script in load_scripts().values():
        await proxy.redis.script_load(script.source)
    await proxy.app[STORE].condition.look()
    await until_worker_waits(proxy)
    return proxy


async def grow(proxy: Proxy, turns: int, kind: str) -> dict[str, Any]:
    """Return the state that a turn after `turns` others continues, and its last response's id."""
    _, conversation = await proxy.call("POST", "/v1/conversations", {"items": [ITEM]})
    state: dict[str, Any] = {"conversation": conversation["id"]} if kind == "conversation" else {}
    for _ in range(turns):
        response = await respond(proxy, **state)
        if kind != "conversation":
            state = {"previous_response_id": response["id"]}
    return {"state": state, "conversation": conversation["id"], "response": response["id"]}


async def counted(counter: RoundTripCounter, action: Callable[[], Awaitable[Any]]) -> int:
    counter.reset()
    await action()
    return counter.count


@pytest.mark.parametrize("kind", ["conversation", "previous_response_id"])
@pytest.mark.parametrize("turns", [1, 60])
async def test_a_turn_is_two_round_trips_at_any_depth(proxy: Proxy, counter: RoundTripCounter, kind: str, turns: int):
    grown = await grow(proxy, turns, kind)
    assert await counted(counter, lambda: respond(proxy, **grown["state"])) == 2
    assert await counted(counter, lambda: proxy.client().responses.create(model="echo", input="x")) == 1
    assert await counted(counter, lambda: respond(proxy, store=False)) == 0


async def test_a_quota_of_stored_bytes_adds_no_round_trip_to_a_turn(start_proxy: StartProxy, counter: RoundTripCounter):
    store = {"url": counter.url, "timeout_seconds": 600.0}
    proxy = await start_proxy(redis=store, recording={"mode": "off"}, quotas={"stored_bytes": 1_000_000})
    grown = await grow(proxy, 2, "conversation")
    await until_worker_waits(proxy)
    counts = [await counted(counter, lambda: respond(proxy, **grown["state"])) for _ in range(5)]
    # a look after the store may come in between
    assert min(counts) == 2, counts


async def test_a_turn_with_a_long_history_and_references_is_two_round_trips(proxy: Proxy, counter: RoundTripCounter):
    first = await respond(proxy, input=[ITEM] * 2500)
    other = await respond(proxy)
    references = [{"type": "item_reference", "id": one["output"][0]["id"]} for one in (first, other)]
    turn = {"previous_response_id": first["id"], "input": [*references, ITEM]}
    assert await counted(counter, lambda: respond(proxy, **turn)) == 2


async def test_every_reading_endpoint_is_one_round_trip_and_the_listing_two(proxy: Proxy, counter: RoundTripCounter):
    grown = await grow(proxy, 30, "conversation")
    conversation, response = f"/v1/conversations/{grown['conversation']}", f"/v1/responses/{grown['response']}"
    _, page = await proxy.call("GET", f"{conversation}/items")
    item = page["data"][3]["id"]
    expected = {
        conversation: 1,
        f"{conversation}/items": 1,
        f"{conversation}/items?after={item}&order=asc&limit=7": 1,
        f"{conversation}/items/{item}": 1,
        response: 1,
        f"{response}/input_items": 1,
        f"{response}/input_items?after={item}": 1,
        "/v1/conversations": 2,
    }
    for path, trips in expected.items():
        assert await counted(counter, lambda path=path: proxy.call("GET", path)) == trips, path  # type: ignore[misc]


@pytest.mark.parametrize("proxy", ["on"], indirect=True)
async def test_a_recorded_turn_is_one_round_trip_and_none_behind_its_answer(proxy: Proxy, counter: RoundTripCounter):
    history = [ITEM]
    for _ in range(3):
        proxy.upstream.script(Reply.json(200, model_answer("ok")))
        assert await counted(counter, partial(respond, proxy, input=history)) == 1
        assert await counted(counter, lambda: proxy.app[RECORDER].notes.settle(5)) == 0
        history = [*history, {"role": "assistant", "content": "ok"}, ITEM]
