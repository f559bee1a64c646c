"""The checker: each invariant is broken by hand, and it has to say so; beside a busy server it has to say nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis

from storage import Conversation, Fork, ForkPoint, Report, Store, Unavailable, new_partition, partition_of
from storage.client.keys import probe_key
from storage.maintenance.auditor import READINGS
from storage.maintenance.invariants import complaints
from tests.fake import connect_fake
from tests.storage.builders import OWNER, PREFIX, STRANGER, add, connect, id_of, minted, start, store_on, take_turn
from tests.storage.servers import run_valkey


@dataclass
class World:
    """A conversation with two branches, a response, an aside, a deleted item, and a call that waits."""

    redis: Any
    store: Store
    made: Conversation
    ids: list[str]
    response: str
    aside: str

    def key(self, name: str) -> str:
        return f"{PREFIX}:{{{partition_of(self.made.id)}}}:{name}"

    async def set(self, name: str, field: str, value: Any) -> None:
        await self.redis.hset(self.key(name), field, value)

    async def complaints(self) -> list[str]:
        """What one reading of the conversation's partition finds."""
        reader = self.store.auditor._reader
        name = partition_of(self.made.id)
        return list(complaints(await reader.read(name, await reader.names(name))))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    redis = connect_fake()
    await redis.flushall()
    async with store_on(redis) as store:
        made = await start(store, "one", "two", project_id="p")
        ids = await add(store, made, "three", minted(partition_of(made.id), "called", "+call_1"))
        await store.items.delete(OWNER, made.id, ids[0])
        response = await take_turn(store, conversation=made)
        aside = await take_turn(store, previous=response)
        await store.branches.create(OWNER, made.id, "", Fork(ForkPoint.AFTER, ids[1], name="draft"), [])
        entries = [minted(partition_of(made.id), "far")]
        far = [id_of(item) for item in await store.items.append(OWNER, made.id, "draft", entries)]
        yield World(redis, store, made, [*ids, *far], response, aside)
    await redis.aclose()


async def test_nothing_is_wrong_with_a_store_that_was_only_used(world: World):
    report = await world.store.auditor.audit()
    assert report == Report(partitions=1, conversations=1, items=8, complaints=[], garbage=report.garbage)
    assert not any(report.garbage.values())


async def reindex(world: World, value: str) -> None:
    await world.set("index", world.ids[1], value)


async def copy_item(world: World) -> None:
    """Put an item into the draft that it inherits already, as an append that did not look would."""
    bytes_ = await world.redis.lindex(world.key("segment:0"), 3)
    await world.redis.rpush(world.key("segment:2"), bytes_)
    await reindex(world, "0:3,2:1 +call_1")


async def does_not_wait(world: World) -> None:
    """Let the draft have no gap, and a call that it does not know of."""
    await world.set("branch:2", "chain", "2:0:")
    await world.redis.delete(world.key("holders:0"))
    await world.set("index", world.ids[2], "2:0 +call_2")
    await world.set("index", "call:call_2", world.ids[2])


async def tell_otherwise(world: World) -> None:
    """Let the journal tell of another call that waits behind the first two items."""
    assert await world.redis.zrem(world.key("journal"), "@0:2\x1f\x1f") == 1
    await world.redis.zadd(world.key("journal"), {"@0:2\x1f\x1fcall_1": 2})


async def log(world: World, *entries: tuple[str, dict[str, Any]], owner: str = OWNER) -> None:
    """Write a log of events; entries: ids and fields behind the first."""
    key = world.key(f"events:{world.aside}")
    await world.redis.delete(key)
    for entry_id, fields in [("0-1", {"owner": owner, "generation": "g"}), *entries]:
        await world.redis.xadd(key, fields, id=entry_id)
    await world.redis.expire(key, 99)


async def headless_log(world: World) -> None:
    key = world.key(f"events:{world.aside}")
    await world.redis.xadd(key, {"events": 1, "frames": "x"}, id="1-0")
    await world.redis.expire(key, 99)


async def test_a_sound_log_of_events_is_nothing_to_complain_of(world: World):
    await log(world, ("2-0", {"events": 2, "frames": "x"}), ("3-0", {"events": 1, "frames": "x", "last": 1}))
    assert await world.complaints() == []


Break = Callable[[World], Awaitable[Any]]
#: What is broken, and what the checker says.
BREAKS: dict[str, tuple[Break, str]] = {
    "foreign key": (lambda w: w.redis.set(w.key("thing"), 1, ex=100), "thing is no key of the store"),
    "wrong type": (lambda w: w.redis.lpush(w.key("holders:7"), "x"), "holders:7 is of a wrong type"),
    "no item": (lambda w: w.redis.lset(w.key("segment:0"), 0, "x"), "segment:0 has an element 0 that is no item"),
    "expiring segment": (lambda w: w.redis.expire(w.key("segment:0"), 9999), "segment:0 expires although"),
    "expiring branch": (lambda w: w.redis.expire(w.key("branch:2"), 9999), "branch:2 expires although"),
    "expiring journal": (lambda w: w.redis.expire(w.key("journal"), 9999), "journal expires although"),
    "lasting aside": (lambda w: w.redis.persist(w.key("segment:1")), "segment:1 never expires"),
    "no partition": (lambda w: w.redis.delete(w.key("partition")), "partition is missing"),
    "no owner": (lambda w: w.redis.hdel(w.key("partition"), "owner"), "partition has no owner"),
    "not kept": (lambda w: w.redis.hdel(w.key("partition"), "kept"), "partition is not kept, and its conversation"),
    "still kept": (lambda w: w.set("conversation", "deleted_at", 1), "partition is kept, and there is no living"),
    "next segment": (lambda w: w.set("partition", "next_segment", 2), "next_segment is 2, and number 2 is in use"),
    "wrong id": (
        lambda w: w.set("conversation", "id", f"conv_{'0' * 32}{new_partition()}"),
        "belongs to another partition",
    ),
    "unlisted": (lambda w: w.redis.delete(f"{PREFIX}:owner:{{{OWNER}}}:project:p"), "project:p lacks conv_"),
    "damaged response": (lambda w: w.redis.hdel(w.key(f"response:{w.aside}"), "body"), "is damaged: body"),
    "response's chain": (lambda w: w.set(f"response:{w.aside}", "output", "0:0:"), "is damaged: a chain that is none"),
    "lost segment": (lambda w: w.redis.delete(w.key("segment:1")), "reads segment 1, which is not there"),
    "short segment": (
        lambda w: w.redis.ltrim(w.key("segment:1"), 0, 0),
        "reads segment 1 up to 2, which has 1 elements",
    ),
    "long response": (lambda w: w.redis.expire(w.key("segment:1"), 99), "lives longer than segment:1"),
    "unnoted reach": (lambda w: w.redis.hdel(w.key("partition"), "reach:1"), "reads 1 up to 2 for 259"),
    "short reach": (lambda w: w.set("partition", "reach:0", "9999999999999:2"), "reads 0 up to 6"),
    "early reach": (lambda w: w.set("partition", "reach:0", "1:9"), "reads 0 up to 6"),
    "headless log": (headless_log, "does not say whose it is"),
    "foreign log": (lambda w: log(w, owner=STRANGER), "is another owner's than its partition"),
    "gap in a log": (lambda w: log(w, ("2-0", {"events": 1, "frames": "x"})), "has a gap before 2-0"),
    "events without bytes": (lambda w: log(w, ("1-0", {"events": 1})), "has a gap before 1-0"),
    "log that goes on": (
        lambda w: log(
            w, ("1-0", {"events": 1, "frames": "x", "last": 1}), ("2-0", {"events": 1, "frames": "x", "last": 1})
        ),
        "goes on after its end",
    ),
    "no MAIN": (lambda w: w.redis.zrem(w.key("branches"), "MAIN"), "MAIN is no branch"),
    "no active": (lambda w: w.set("conversation", "active_branch", "x"), "the active branch 'x' is no branch"),
    "no line": (lambda w: w.redis.delete(w.key("branch:2")), "branch draft is line 2, which is not there"),
    "nameless line": (lambda w: w.redis.zrem(w.key("branches"), "draft"), "line 2 has no name"),
    "other name": (lambda w: w.set("branch:2", "name", "x"), "branch draft is line 2, which has the name x"),
    "damaged branch": (lambda w: w.redis.hdel(w.key("branch:2"), "created_at"), "line 2 is damaged: created_at"),
    "no chain": (lambda w: w.set("branch:2", "chain", "0:0:4"), "line 2 is damaged: a chain that is none"),
    "foreign segment": (lambda w: w.set("branch:2", "chain", "2:0:1,0:4:"), "line 2 writes in segment 0"),
    "start": (lambda w: w.set("branch:2", "chain", "0:0:4,2:0:1,2:3:"), "line 2 starts at 3 in segment 2, which has 1"),
    "empty span": (lambda w: w.set("branch:2", "chain", "0:2:2,2:0:"), "line 2 has an empty span"),
    "branch too long": (lambda w: w.set("branch:2", "chain", "0:0:9,2:0:"), "line 2 reads segment 0 up to 9"),
    "branch of nothing": (lambda w: w.set("branch:2", "chain", "7:0:4,2:0:"), "line 2 reads segment 7, which is not"),
    "not all its own": (lambda w: w.set("branch:2", "chain", "0:0:4,2:1:"), "line 2 does not have all of its own"),
    "staged elsewhere": (lambda w: w.set("branch:2", "staged", "1"), "line 2 does not read segment 1, which was"),
    "twice": (copy_item, "in two places"),
    "unindexed": (lambda w: w.redis.hdel(w.key("index"), w.ids[1]), "at 0:3 is not in the index"),
    "wrong place": (lambda w: reindex(w, "0:2,0:3 +call_1"), "leads to 0:2, where it is not"),
    "no place": (lambda w: reindex(w, "x +call_1"), "names no place"),
    "unknown call": (lambda w: w.redis.hdel(w.key("index"), "call:call_1"), "the call of item"),
    "no holder": (lambda w: w.redis.delete(w.key("holders:0")), "holders:0 are {} instead of {'2': 4}"),
    "short holder": (lambda w: w.redis.zadd(w.key("holders:0"), {"2": 3}), "holders:0 are {'2': 3} instead of"),
    "dead holder": (lambda w: w.redis.zadd(w.key("holders:0"), {"9": 3}), "holders:0 are {'2': 4, '9': 3} instead of"),
    "no tombstone": (lambda w: w.redis.delete(w.key("tombstones")), "the deleted item at 0:2 is not noted"),
    "odd tombstone": (lambda w: w.redis.zadd(w.key("tombstones"), {"0:1": 1}), "tombstone 0:1 stands where nothing"),
    "odd journal": (lambda w: w.redis.zadd(w.key("journal"), {"x": 1}), "journal entry x at 0:1 is damaged"),
    "moved journal": (
        lambda w: w.redis.zadd(w.key("journal"), {"@0:1\x1f\x1f": 2}),
        "journal entry @0:1 at 0:2 is damaged",
    ),
    "far journal": (lambda w: w.redis.zadd(w.key("journal"), {"@0:99\x1f\x1f": 99}), "ends at 99 in segment 0, which"),
    "waits for nothing": (
        lambda w: reindex(w, "0:3 ~call_1"),
        "line 2 waits for an output of call call_1, which it does not have",
    ),
    "tells otherwise": (tell_otherwise, "line 2 has other calls that wait at 0:2 than the journal tells"),
    "does not wait": (does_not_wait, "line 2 does not wait for an output of call call_2"),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_a_broken_invariant_is_told(world: World, name: str):
    assert await world.complaints() == []
    breaks, sentence = BREAKS[name]
    await breaks(world)
    assert [text for text in await world.complaints() if sentence in text] != [], await world.complaints()


async def test_keys_outside_of_partitions_and_listings_are_told(world: World):
    await world.redis.set(f"{PREFIX}:stray", 1)
    await world.redis.set(f"{PREFIX}:owner:{{x}}:things", 1)
    await world.redis.zadd(f"{PREFIX}:owner:{{{STRANGER}}}:conversations", {world.made.id: 1})
    await world.redis.expire(f"{PREFIX}:owner:{{{STRANGER}}}:conversations", 99)
    report = await world.store.auditor.audit()
    assert sorted(report.complaints) == [
        f"{PREFIX}:owner:{{{STRANGER}}}:conversations expires",
        f"{PREFIX}:owner:{{x}}:things is no key of the store",
        f"{PREFIX}:stray is no key of the store",
    ]
    assert report.garbage["listing entries"] == 1


async def test_what_a_sweep_would_free_is_counted_and_is_no_complaint(world: World):
    await world.redis.hset(world.key("index"), mapping={"msg_gone": "99:0", "call:gone": "msg_gone_too"})
    await world.redis.zadd(world.key("tombstones"), {"99:0": 99 * 2**30})
    report = await world.store.auditor.audit()
    assert report.complaints == []
    assert {kind: number for kind, number in report.garbage.items() if number} == {"index entries": 2, "notes": 1}
    swept = await world.store.sweeper.sweep_all()
    assert (swept.entries, swept.notes) == (2, 0)


async def test_only_what_belongs_to_an_owner_is_checked_if_one_is_given(world: World):
    other = await world.store.conversations.create(
        STRANGER, Conversation(f"conv_{new_partition()}{'0' * 32}", 0, 0), []
    )
    await world.redis.set(f"{PREFIX}:stray", 1)
    report = await world.store.auditor.audit(STRANGER)
    assert (report.partitions, report.conversations, report.complaints) == (1, 1, [])
    await world.redis.hdel(f"{PREFIX}:{{{partition_of(other[0].id)}}}:branch:0", "name")
    assert (await world.store.auditor.audit(OWNER)).complaints == []
    assert len((await world.store.auditor.audit(STRANGER)).complaints) > 0


async def test_progress_is_told_after_each_partition(world: World):
    await start(world.store)
    told: list[int] = []
    await world.store.auditor.audit(on_progress=lambda report: told.append(report.partitions))
    assert told == [1, 2]


async def test_what_was_wrong_for_a_moment_is_no_complaint(world: World, monkeypatch: pytest.MonkeyPatch):
    reader = world.store.auditor._reader
    readings = 0

    async def heal(name: str, keys: set[str]) -> Any:
        nonlocal readings
        readings += 1
        partition = await type(reader).read(reader, name, keys)
        await world.redis.persist(world.key("index"))
        return partition

    monkeypatch.setattr(reader, "read", heal)
    await world.redis.expire(world.key("index"), 9_999_999)
    assert (await world.store.auditor.audit()).complaints == []
    assert readings == 2
    await world.redis.delete(world.key("tombstones"))
    assert len((await world.store.auditor.audit()).complaints) == 1
    assert readings == 2 + READINGS


async def test_a_long_partition_is_read_in_pages(valkey: Any, valkey_store: Store):
    made = await start(valkey_store)
    await add(valkey_store, made, *(f"item {number}" for number in range(1_200)))
    report = await valkey_store.auditor.audit()
    assert (report.items, report.complaints) == (1_200, [])
    key = f"{PREFIX}:{{{partition_of(made.id)}}}:segment:0"
    whole = await valkey.lindex(key, 1_100)
    await valkey.lset(key, 1_100, "")
    assert [text.partition(": ")[2] for text in (await valkey_store.auditor.audit()).complaints][-1] == (
        "the deleted item at 0:1100 is not noted"
    )
    await valkey.lset(key, 1_100, whole)


async def test_a_busy_store_gives_no_false_alarm(valkey: Redis, valkey_store: Store, valkey_url: str):
    made = await start(valkey_store, "one")
    stop = asyncio.Event()

    async def work(number: int) -> int:
        done = 0
        async with connect(valkey_url) as store:
            while not stop.is_set():
                name = f"b{number}.{done}"
                await store.branches.create(OWNER, made.id, "", Fork(ForkPoint.TIP, name=name), [])
                await store.items.append(OWNER, made.id, name, [minted(partition_of(made.id), "x")])
                await store.branches.delete(OWNER, made.id, name)
                done += 1
        return done

    workers = [asyncio.create_task(work(number)) for number in range(4)]
    for _ in range(3):
        assert (await valkey_store.auditor.audit()).complaints == []
    stop.set()
    assert min(await asyncio.gather(*workers)) > 0


async def test_what_a_server_is_asked_with_is_no_fault(redis: Redis, store: Store):
    key = probe_key(PREFIX, new_partition())
    await redis.set(key, "", px=60_000)
    assert (await store.auditor.audit()).complaints == []
    await redis.delete(key)


async def test_a_server_that_is_gone_is_unavailable():
    with run_valkey() as server:
        async with connect(server.url) as store:
            await store.condition.look()
            server.kill()
            with pytest.raises(Unavailable):
                await store.auditor.audit()
            with pytest.raises(Unavailable):
                await store.sweeper.sweep_all()
