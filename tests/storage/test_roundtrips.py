from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from redis.asyncio import Redis

from storage import CommitMode, Conversation, Fork, ForkPoint, Lease, PageRequest, Store, partition_of
from storage.client.keyspace import Portion
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
from tests.storage.snapshots import Snapshots
from tests.storage.talks import Talk


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
        await store.condition.look()
        yield store


@pytest.fixture
async def reading_whole(counter: RoundTripCounter) -> AsyncIterator[Store]:
    """The same, for which any history is one portion."""
    async with connect(counter.url, max_connections=1, portion=Portion(bytes=1 << 30)) as store:
        await store.condition.look()
        yield store


@contextmanager
def expect(counter: RoundTripCounter, number: int) -> Iterator[None]:
    counter.reset()
    yield
    assert counter.count == number


class Place(NamedTuple):
    """Where turns happen: a conversation, a response in it, an item of it, and one of another partition.

    portions: in which its history is read for the first time.
    """

    conversation: Conversation
    response: str
    item: str
    far: str
    portions: int


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
    size = sum(map(len, (await open_turn(store, conversation=conversation, token="")).items))
    first, far = (await ids_in(store, conversation))[0], (await ids_in(store, elsewhere))[0]
    return Place(conversation, response, first, far, max(1, -(-size // Portion().bytes)))


PLACES: dict[str, Callable[[Store], Awaitable[Place]]] = {
    "history of 10": lambda store: long_history(store, 10),
    "history of 10,000": lambda store: long_history(store, 10_000),
    "chain of 1": lambda store: deep_chain(store, 1),
    "chain of 200": lambda store: deep_chain(store, 200),
}


@pytest.fixture(scope="session")
def snapshots() -> Snapshots:
    return Snapshots()


@pytest.fixture(params=PLACES)
async def at(request: pytest.FixtureRequest, snapshots: Snapshots, valkey: Redis, valkey_store: Store) -> Place:
    """Each of the places."""
    return await snapshots.make(valkey, request.param, lambda: PLACES[request.param](valkey_store))


async def test_a_turn_on_a_conversation_is_one_trip_to_open_and_one_to_commit(
    counter: RoundTripCounter, counted: Store, at: Place
):
    with expect(counter, at.portions):
        opened = await open_turn(counted, conversation=at.conversation, item_ids=[at.item, at.far], call_ids=["call_a"])
    assert set(opened.known) == {at.item, at.far}
    commit = finished(opened, partition=partition_of(at.response), conversation=at.conversation)
    with expect(counter, 1):
        await counted.turns.commit(commit)


async def test_a_turn_after_a_response_is_one_trip_to_open_and_one_to_commit(
    counter: RoundTripCounter, counted: Store, at: Place
):
    with expect(counter, at.portions):
        opened = await open_turn(counted, previous=at.response, item_ids=[at.item, at.far])
    with expect(counter, 1):
        await counted.turns.commit(finished(opened, partition=partition_of(at.response)))


async def test_every_reading_is_one_trip(counter: RoundTripCounter, counted: Store, at: Place):
    conversation_id = at.conversation.id
    readings: list[Callable[[], Awaitable[object]]] = [
        lambda: counted.conversations.read(OWNER, conversation_id),
        lambda: counted.items.list_page(OWNER, conversation_id, EVERYTHING),
        lambda: counted.items.list_page(OWNER, conversation_id, PageRequest(2, at.item, ascending=True)),
        lambda: counted.items.read(OWNER, conversation_id, at.item),
        lambda: counted.items.resolve(OWNER, [at.item, at.far]),
        lambda: counted.responses.read(OWNER, at.response),
        lambda: counted.responses.list_input(OWNER, at.response, EVERYTHING),
        lambda: counted.responses.list_input(OWNER, at.response, PageRequest(2)),
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
    leases = [Lease(f"{number:016x}", "0", "token") for number in range(100)]
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
        await counted.turns.release(Lease(partition_of(at.response), "0", "token"))
    with expect(counter, 1):
        await counted.responses.delete(OWNER, at.response)


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


async def long_talk(store: Store, items: int) -> Talk:
    """Return a conversation of that many messages, ten in the middle in a batch of their own, and two forks there."""
    talk = await Talk(store).begin("")
    middle = items // 2
    ends = [0, *range(200, middle, 200), middle, *range(middle + 10, items, 200), items]
    for first, past in pairwise(ends):
        said = " ".join(f"{role}{number}" for number in range(first, past, 2) for role in "ua")
        await store.items.append(OWNER, talk.id, "", talk.entries(said))
    await talk.draft(f"u{items // 2 + 4}")
    await talk.draft(f"a{items // 2 + 4}", name="spare")
    await talk.say("u1 a1", "draft")
    return talk


#: What is done to a branch: with a conversation, an item in its middle, and a name that is free.
Operation = Callable[[Store, Talk, str], Awaitable[object]]


def forking(point: ForkPoint, said: str = "", **fork: str) -> Operation:
    async def run(store: Store, talk: Talk, middle: str) -> object:
        return await store.branches.create(OWNER, talk.id, "", Fork(point, middle, **fork), talk.entries(said))

    return run


def forking_turn(point: ForkPoint, mode: CommitMode, **fork: str) -> Operation:
    async def run(store: Store, talk: Talk, middle: str) -> object:
        made = Fork(point, middle, **fork)
        opened = await Talk(store, talk.conversation).open(fork=made)
        return await store.turns.commit(talk.end(replace(opened, items=()), fork=made, mode=mode))

    return run


OPERATIONS: dict[str, tuple[int, Operation]] = {
    "fork": (2, forking(ForkPoint.AFTER, name="new")),
    "fork of all": (2, forking(ForkPoint.TIP, name="new")),
    "edit": (2, forking(ForkPoint.EDIT, "u2", backup="old")),
    "regenerate": (2, forking(ForkPoint.REPLY, backup="old")),
    "delete by branch": (2, forking(ForkPoint.WITHOUT, backup="old")),
    "delete by branch, cascading": (2, forking(ForkPoint.BEFORE, backup="old")),
    "travel": (2, forking(ForkPoint.AT, name="new")),
    "activate": (2, lambda store, talk, _: store.branches.activate(OWNER, talk.id, "draft")),
    "delete": (2, lambda store, talk, _: store.branches.delete(OWNER, talk.id, "draft")),
    "rename": (2, lambda store, talk, _: store.branches.update(OWNER, talk.id, "draft", new_name="new")),
    "read": (1, lambda store, talk, _: store.branches.read(OWNER, talk.id, "draft")),
    "list": (1, lambda store, talk, _: store.branches.list_page(OWNER, talk.id, PageRequest())),
    "compare": (1, lambda store, talk, _: store.branches.compare(OWNER, talk.id, "MAIN", "spare", 3)),
    "page": (
        1,
        lambda store, talk, middle: store.items.list_page(OWNER, talk.id, PageRequest(5, middle), branch="draft"),
    ),
    "page of the past": (
        1,
        lambda store, talk, middle: store.items.list_page(OWNER, talk.id, PageRequest(5), at=middle),
    ),
    "read item": (1, lambda store, talk, middle: store.items.read(OWNER, talk.id, middle)),
    "delete item": (2, lambda store, talk, middle: store.items.delete(OWNER, talk.id, middle)),
}


FORKING_TURNS = {
    "turn that forks": forking_turn(ForkPoint.AFTER, CommitMode.FORK, name="new"),
    "turn that edits": forking_turn(ForkPoint.EDIT, CommitMode.PROMOTE, backup="old"),
}

UNCOUNTED = ("info", "config", "zremrangebyrank")


async def commands_of(valkey: Redis) -> Counter[str]:
    """Return how often each command has been called, by clients and by scripts.

    But that which cuts the list of the latest responses short, with one of them in sixteen.
    """
    stats: dict[str, dict[str, int]] = await valkey.info("commandstats")
    counts = {name.removeprefix("cmdstat_"): facts["calls"] for name, facts in stats.items()}
    return Counter({name: calls for name, calls in counts.items() if not name.startswith(UNCOUNTED)})


async def two_talks(snapshots: Snapshots, valkey: Redis, valkey_store: Store) -> dict[int, Talk]:
    """Return a very long talk and a short one, by their items."""
    longest = await snapshots.make(valkey, "talk of 10,000", lambda: long_talk(valkey_store, 10_000))
    talks = {10_000: replace(longest, store=valkey_store, ids={**longest.ids}), 20: await long_talk(valkey_store, 20)}
    # the first of an owner's responses begins the list of the latest
    await take_turn(valkey_store)
    return talks


@pytest.mark.parametrize("name", OPERATIONS)
async def test_what_is_done_to_a_branch_takes_as_many_trips_and_commands_however_long_it_is(
    counter: RoundTripCounter, counted: Store, snapshots: Snapshots, valkey: Redis, valkey_store: Store, name: str
):
    trips, operate = OPERATIONS[name]
    talks = await two_talks(snapshots, valkey, valkey_store)
    spent = []
    for items, talk in talks.items():
        before = await commands_of(valkey)
        with expect(counter, trips):
            await operate(counted, talk, talk.ids[f"u{items // 2 + 4}"])
        spent.append(await commands_of(valkey) - before)
    assert spent[0] == spent[1]
    assert 2 < sum(spent[0].values()) < 120


@pytest.mark.parametrize("name", FORKING_TURNS)
async def test_a_turn_that_forks_does_nothing_more_on_a_long_branch_but_read_it(
    counter: RoundTripCounter, reading_whole: Store, snapshots: Snapshots, valkey: Redis, valkey_store: Store, name: str
):
    talks = await two_talks(snapshots, valkey, valkey_store)
    spent = []
    for items, talk in talks.items():
        before = await commands_of(valkey)
        with expect(counter, 2):
            await FORKING_TURNS[name](reading_whole, talk, talk.ids[f"u{items // 2 + 4}"])
        spent.append(await commands_of(valkey) - before)
    reads = [one.pop("lrange") for one in spent]
    assert spent[0] == spent[1]
    assert reads[1] < 10 < reads[0] < 5_000 / 8 + 10


async def test_the_commands_of_scripts_are_counted(counted: Store, valkey: Redis, valkey_store: Store):
    talk = await long_talk(valkey_store, 20)
    before = await commands_of(valkey)
    await counted.items.list_page(OWNER, talk.id, PageRequest(3))
    assert (await commands_of(valkey) - before)["lrange"] == 1


async def test_creating_is_one_trip_for_all_items_that_one_script_may_store(counter: RoundTripCounter, counted: Store):
    with expect(counter, 1):
        await start(counted, *["x" * 1_000] * 250, project_id="p", referrer="r")


async def test_what_is_more_than_a_script_may_store_takes_a_trip_a_portion_before(
    counter: RoundTripCounter, counted: Store
):
    # how much is there already, three portions, and the script that stores all
    with expect(counter, 1 + 3 + 1):
        await start(counted, *["x"] * 501)


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
