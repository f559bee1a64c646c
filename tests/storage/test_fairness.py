"""The queue of background responses: fair by owner, limited by owner, and nothing in it is lost or doubled."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from proxy.protocol import ids
from storage import JobEntry, OpenedTurn, QueueFull, Store, Submission, Unavailable, new_partition
from storage.client.keys import QueueKeys
from tests.storage.builders import OWNER, PREFIX, STRANGER, connect, store_on

KEYS = QueueKeys(PREFIX)


async def queue(store: Store, owner: str = OWNER, most: int = 0) -> str:
    response_id = ids.new_response_id(new_partition(), stored=True)
    facts = {"id": response_id, "object": "response", "created_at": 7, "status": "queued", "error": None, "output": []}
    submission = Submission(owner, response_id, "t", orjson.dumps(facts), "", OpenedTurn(), streamed=False)
    await store.jobs.submit(submission, most)
    return response_id


async def take(store: Store, count: int, worker: str = "w1") -> list[JobEntry]:
    """Take entries; the first look only finds out that there is a queue."""
    await store.jobs.join()
    return await store.jobs.take(worker, count)


async def drain(store: Store, entries: list[JobEntry]) -> None:
    """Leave nothing behind that the look at all keys would find."""
    for entry in entries:
        await store.jobs.cancel(entry.owner, entry.response_id)
        await store.jobs.finish(entry)


async def test_owners_have_their_turn_one_after_the_other(valkey: Redis, valkey_store: Store):
    many = [await queue(valkey_store) for _ in range(4)]
    few = [await queue(valkey_store, STRANGER) for _ in range(2)]
    entries = await take(valkey_store, 3) + await take(valkey_store, 3, "w2")
    assert [entry.response_id for entry in entries] == [many[0], few[0], many[1], few[1], many[2], many[3]]
    assert [entry.owner for entry in entries[:2]] == [OWNER, STRANGER]
    await drain(valkey_store, entries)
    assert await valkey.keys(f"{KEYS.tickets}*") == [KEYS.tickets.encode()]


async def test_one_that_is_given_back_is_its_owner_s_next(valkey_store: Store):
    first, second = [await queue(valkey_store) for _ in range(2)]
    (entry,) = await take(valkey_store, 1)
    await valkey_store.jobs.requeue(entry)
    entries = await take(valkey_store, 2, "w2")
    assert [one.response_id for one in entries] == [first, second]
    assert entries[0].queued_ms == entry.queued_ms
    await drain(valkey_store, entries)


async def test_a_ticket_whose_worker_died_before_it_drew_is_drawn_for_by_another(valkey: Redis, valkey_store: Store):
    response_id = await queue(valkey_store)
    await valkey_store.jobs.join()
    await valkey.xreadgroup("workers", "dead", {KEYS.tickets: ">"})
    (entry,) = await valkey_store.jobs.reclaim("w1", 0, 10)
    assert entry.response_id == response_id
    assert await valkey_store.jobs.reclaim("w2", 0, 10) == [entry]
    await drain(valkey_store, [entry])


async def test_an_owner_has_so_many_that_wait_and_others_have_theirs(valkey_store: Store):
    waiting = [await queue(valkey_store, most=2) for _ in range(2)]
    with pytest.raises(QueueFull):
        await queue(valkey_store, most=2)
    await queue(valkey_store, STRANGER, most=2)
    await valkey_store.jobs.cancel(OWNER, waiting[0])
    await queue(valkey_store, most=2)
    entries = await take(valkey_store, 10)
    assert len(entries) == 3
    await queue(valkey_store, most=2)
    await drain(valkey_store, entries + await take(valkey_store, 10))


async def test_they_are_counted_exactly_by_many_at_once(valkey_url: str, valkey: Redis):
    async with connect(valkey_url) as one, connect(valkey_url) as other:
        made = await asyncio.gather(
            *(queue(store, most=5) for store in (one, other) for _ in range(10)), return_exceptions=True
        )
        assert sum(isinstance(found, str) for found in made) == 5
        await drain(one, await take(one, 10))


STEPS = st.lists(
    st.sampled_from(["put a", "put b", "put c", "take 1", "take 3", "return", "finish", "cancel a", "cancel b"]),
    max_size=25,
)


class Rehearsal:
    """What owners have put and workers have taken, beside the store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.waiting: dict[str, list[str]] = defaultdict(list)
        self.held: list[JobEntry] = []

    async def step(self, name: str, what: str = "") -> None:
        await getattr(self, name)(what)

    async def put(self, owner: str) -> None:
        self.waiting[owner].append(await queue(self.store, owner))

    async def take(self, count: str) -> None:
        if not any(self.waiting.values()):
            return
        before = [owner for owner, jobs in self.waiting.items() if jobs]
        taken = await take(self.store, int(count))
        for entry in taken:
            assert self.waiting[entry.owner].pop(0) == entry.response_id
        owners = [entry.owner for entry in taken]
        # who still has some was not passed over
        assert all(owners.count(one) + 1 >= max(map(owners.count, before)) for one in before if self.waiting[one])
        self.held += taken

    async def requeue(self, _: str) -> None:
        if self.held:
            entry = self.held.pop()
            await self.store.jobs.requeue(entry)
            self.waiting[entry.owner].insert(0, entry.response_id)

    async def finish(self, _: str) -> None:
        if self.held:
            await self.store.jobs.finish(self.held.pop(0))

    async def cancel(self, owner: str) -> None:
        if self.waiting[owner]:
            await self.store.jobs.cancel(owner, self.waiting[owner].pop())


@given(STEPS)
async def test_whatever_happens_each_is_drawn_once_and_nobody_is_passed_over(valkey_url: str, steps: list[str]):
    async with Redis.from_url(valkey_url) as client, connect(valkey_url) as store:
        await client.flushall()
        rehearsal = Rehearsal(store)
        for step in steps:
            await rehearsal.step(*step.replace("return", "requeue").split())
        while any(rehearsal.waiting.values()):
            await rehearsal.take("10")
        await client.flushall()


@pytest.mark.parametrize("most", [0, 5])
async def test_what_was_queued_is_not_told_as_refused_because_it_could_not_be_listed(
    valkey: Redis, valkey_url: str, valkey_store: Store, most: int
):
    # all but the keys of owners
    keys = ["test:{*", "test:layout:*", "test:jobs:*"]
    await valkey.acl_setuser("half", enabled=True, nopass=True, keys=keys, categories=["+@all"])
    async with Redis.from_url(valkey_url, username="half", password="any") as client, store_on(client) as store:
        with pytest.raises(Unavailable) as unknown:
            await queue(store, most=most)
    assert unknown.value.unsure
    await valkey.acl_deluser("half")
    await drain(valkey_store, await take(valkey_store, 1))
