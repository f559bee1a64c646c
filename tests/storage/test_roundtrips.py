from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from redis.asyncio import Redis

from proxy.ids import partition_of
from storage import Conversation, Lease, PageRequest, Store
from tests.roundtrips import RoundTripCounter
from tests.storage.builders import (
    EVERYTHING,
    OWNER,
    add,
    connect,
    finished,
    ids_in,
    load_all,
    minted,
    open_turn,
    start,
    take_turn,
)


@pytest.fixture
async def counter(valkey_url: str, valkey: Redis) -> AsyncIterator[RoundTripCounter]:
    """A counter in front of the real server, which knows all scripts."""
    await load_all(valkey)
    async with RoundTripCounter(Path(valkey_url.removeprefix("unix://"))) as counter:
        yield counter


@pytest.fixture
async def counted(counter: RoundTripCounter) -> AsyncIterator[Store]:
    """A store that reaches the server through the counter, on a connection that is open already."""
    async with connect(counter.url, max_connections=1) as store:
        await store.ping()
        yield store


@contextmanager
def expect(counter: RoundTripCounter, number: int) -> Iterator[None]:
    counter.reset()
    yield
    assert counter.count == number


class Place(NamedTuple):
    """Where turns happen: a conversation, a response in it, an item of it, and one of another partition."""

    conversation: Conversation
    response: str
    item: str
    far: str


async def long_history(store: Store, items: int) -> Place:
    """Return a conversation with that many items."""
    conversation = await start(store, *map(str, range(items - 2)))
    response = await take_turn(store, conversation=conversation)
    return await _place(store, conversation, response)


async def deep_chain(store: Store, forks: int) -> Place:
    """Return a conversation with a response whose history lies in that many segments more."""
    conversation = await start(store, "one")
    response = await take_turn(store, conversation=conversation)
    for _ in range(forks):
        await take_turn(store, previous=response, says=[], answers=["other"])
        response = await take_turn(store, previous=response, says=[], answers=["main line"])
    return await _place(store, conversation, response)


async def _place(store: Store, conversation: Conversation, response: str) -> Place:
    elsewhere = await start(store, "elsewhere")
    return Place(conversation, response, (await ids_in(store, conversation))[0], (await ids_in(store, elsewhere))[0])


PLACES: dict[str, Callable[[Store], Awaitable[Place]]] = {
    "history of 10": lambda store: long_history(store, 10),
    "history of 10,000": lambda store: long_history(store, 10_000),
    "chain of 1": lambda store: deep_chain(store, 1),
    "chain of 200": lambda store: deep_chain(store, 200),
}
everywhere = pytest.mark.parametrize("place", PLACES)


@everywhere
async def test_a_turn_on_a_conversation_is_one_trip_to_open_and_one_to_commit(
    counter: RoundTripCounter, counted: Store, valkey_store: Store, place: str
):
    at = await PLACES[place](valkey_store)
    with expect(counter, 1):
        opened = await open_turn(counted, conversation=at.conversation, item_ids=[at.item, at.far], call_ids=["call_a"])
    assert set(opened.known) == {at.item, at.far}
    commit = finished(opened, partition=partition_of(at.response), conversation=at.conversation)
    with expect(counter, 1):
        await counted.turns.commit(commit)


@everywhere
async def test_a_turn_after_a_response_is_one_trip_to_open_and_one_to_commit(
    counter: RoundTripCounter, counted: Store, valkey_store: Store, place: str
):
    at = await PLACES[place](valkey_store)
    with expect(counter, 1):
        opened = await open_turn(counted, previous=at.response, item_ids=[at.item, at.far])
    with expect(counter, 1):
        await counted.turns.commit(finished(opened, partition=partition_of(at.response)))


@everywhere
async def test_every_reading_is_one_trip(counter: RoundTripCounter, counted: Store, valkey_store: Store, place: str):
    at = await PLACES[place](valkey_store)
    conversation_id = at.conversation.id
    readings: list[Callable[[], Awaitable[object]]] = [
        lambda: counted.conversations.read(OWNER, conversation_id),
        lambda: counted.items.list_page(OWNER, conversation_id, EVERYTHING),
        lambda: counted.items.list_page(OWNER, conversation_id, PageRequest(2, at.item, ascending=True)),
        lambda: counted.items.read(OWNER, conversation_id, at.item),
        lambda: counted.items.resolve(OWNER, [at.item, at.far]),
        lambda: counted.turns.read_response(OWNER, at.response),
        lambda: counted.turns.list_input(OWNER, at.response, EVERYTHING),
        lambda: counted.turns.list_input(OWNER, at.response, PageRequest(2)),
    ]
    for read in readings:
        with expect(counter, 1):
            await read()


async def test_a_page_of_conversations_is_two_trips(counter: RoundTripCounter, counted: Store, valkey_store: Store):
    for _ in range(30):
        await start(valkey_store, "one", project_id="p")
    for filters in ({}, {"project_id": "p"}):
        with expect(counter, 2):
            await counted.conversations.list_page(OWNER, PageRequest(20), **filters)
        with expect(counter, 2):
            await counted.conversations.list_page(OWNER, PageRequest(100), **filters)


async def test_leases_of_many_turns_are_renewed_in_one_trip(counter: RoundTripCounter, counted: Store):
    leases = [Lease(f"{number:016x}", "MAIN", "token") for number in range(100)]
    with expect(counter, 1):
        await counted.turns.renew(leases, 10)
    with expect(counter, 0):
        await counted.turns.renew([], 10)


async def test_releasing_a_lock_and_deleting_a_response_are_one_trip(
    counter: RoundTripCounter, counted: Store, valkey_store: Store
):
    at = await long_history(valkey_store, 10)
    await open_turn(valkey_store, conversation=at.conversation)
    with expect(counter, 1):
        await counted.turns.release(Lease(partition_of(at.response), "MAIN", "token"))
    with expect(counter, 1):
        await counted.turns.delete_response(OWNER, at.response)


async def test_a_change_is_one_trip_and_one_for_the_listing(
    counter: RoundTripCounter, counted: Store, valkey_store: Store
):
    at = await long_history(valkey_store, 10)
    with expect(counter, 2):
        await add(counted, at.conversation, "one")
    with expect(counter, 2):
        await counted.conversations.update(OWNER, at.conversation.id, {"project_id": "q", "m:a": "b"})
    with expect(counter, 2):
        await counted.items.delete(OWNER, at.conversation.id, at.item)
    with expect(counter, 2):
        await counted.conversations.delete(OWNER, at.conversation.id)


async def test_creating_is_one_trip_however_many_items_come_along(counter: RoundTripCounter, counted: Store):
    with expect(counter, 1):
        await start(counted, *["x" * 10_000] * 500, project_id="p", referrer="r")


async def test_the_counter_counts_what_a_client_waits_for(counter: RoundTripCounter):
    async with Redis.from_url(counter.url) as client:
        await client.ping()
        with expect(counter, 3):
            for _ in range(3):
                await client.ping()
        pipeline = client.pipeline(transaction=False)
        for _ in range(50):
            pipeline.set("other:long", minted("0" * 16, "x" * 100_000).data, ex=5)
        with expect(counter, 1):
            await pipeline.execute()
        await client.delete("other:long")
