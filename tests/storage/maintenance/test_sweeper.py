"""Reclaiming: what nobody reaches is gone from the server, what anybody reaches is untouched."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from redis.asyncio import Redis

from storage import CommitResult, Conversation, Entry, Fork, ForkPoint, Store, Swept, new_partition, partition_of
from storage.maintenance.sweeper import STEP_ITEMS
from tests.depth import few
from tests.storage.builders import (
    EVERYTHING,
    OWNER,
    PREFIX,
    brought,
    continue_from,
    finished,
    id_of,
    ids_in,
    load_all,
    minted,
    open_turn,
    output_of,
    reference,
    start,
    store_on,
    take_turn,
    texts,
)
from tests.storage.inspection import audit, keys_that_hold

#: Commands of one step: two for each of its items, and some more.
MOST_COMMANDS = 3 * STEP_ITEMS


async def fork(
    store: Store, made: Conversation, name: str, point: ForkPoint = ForkPoint.TIP, target: str = "", source: str = ""
) -> None:
    await store.branches.create(OWNER, made.id, source, Fork(point, target, name=name), [])


async def add_to(store: Store, made: Conversation, branch: str, *items: str | Entry) -> list[str]:
    """Append items to a branch; return their ids."""
    entries = [minted(partition_of(made.id), item) if isinstance(item, str) else item for item in items]
    return [id_of(item) for item in await store.items.append(OWNER, made.id, branch, entries)]


async def turn_on(
    store: Store, made: Conversation, branch: str, says: str = "question", answers: str = "answer"
) -> str:
    """Take a turn on a branch; return the id of its response."""
    opened = await open_turn(store, conversation=made, branch=branch, token=says)
    commit = finished(
        opened, partition=partition_of(made.id), conversation=made, says=[says], answers=[answers], token=says
    )
    assert (await store.turns.commit(commit)).result is CommitResult.OK
    return commit.response_id


async def read(store: Store, made: Conversation, branch: str) -> list[str]:
    """Return the texts of a branch."""
    return texts((await store.items.list_page(OWNER, made.id, EVERYTHING, branch=branch)).items)


async def garbage_on(redis: Redis) -> dict[str, int]:
    return {kind: number for kind, number in (await audit(redis))[PREFIX].garbage.items() if number}


def key_of(made: Conversation, name: str) -> str:
    return f"{PREFIX}:{{{partition_of(made.id)}}}:{name}"


async def test_a_deleted_branch_is_gone_from_the_server_and_the_others_are_as_they_were(redis: Redis, store: Store):
    made = await start(store, "one", "two")
    await fork(store, made, "draft")
    ids = await add_to(store, made, "draft", "three", minted(partition_of(made.id), "four", "+call_4"))
    before = await store.branches.read(OWNER, made.id, "MAIN")
    await store.branches.delete(OWNER, made.id, "draft")
    await store.sweeper.sweep(made.id)
    for needle in (b"three", b"four", b"call_4", *(one.encode() for one in ids), b"draft"):
        assert await keys_that_hold(redis, needle) == []
    assert await read(store, made, "") == ["one", "two"]
    assert await store.branches.read(OWNER, made.id, "MAIN") == before
    assert not await redis.exists(key_of(made, "tombstones"))
    assert await redis.zcard(key_of(made, "journal")) == 1
    assert await garbage_on(redis) == {}


async def test_what_another_branch_has_of_a_deleted_one_stays_and_the_rest_goes(redis: Redis, store: Store):
    made = await start(store, "one")
    await fork(store, made, "draft")
    ids = await add_to(store, made, "draft", "two", "three", "four")
    await fork(store, made, "final", ForkPoint.AFTER, ids[0], "draft")
    await add_to(store, made, "final", "end")
    await store.branches.delete(OWNER, made.id, "draft")
    assert (await garbage_on(redis))["items"] == 2
    swept = await store.sweeper.sweep(made.id)
    assert (swept.items, swept.segments) == (2, 0)
    assert await keys_that_hold(redis, ids[1].encode()) == await keys_that_hold(redis, b"four") == []
    assert await read(store, made, "final") == ["one", "two", "end"]
    assert await store.items.read(OWNER, made.id, ids[0])
    assert await garbage_on(redis) == {}


async def test_an_item_in_the_middle_that_no_branch_has_goes(redis: Redis, store: Store):
    made = await start(store, "one")
    await fork(store, made, "draft")
    ids = await add_to(store, made, "draft", "two", "three", "four")
    await fork(store, made, "final", ForkPoint.WITHOUT, ids[1], "draft")
    await store.branches.delete(OWNER, made.id, "draft")
    assert (await store.sweeper.sweep(made.id)).items == 1
    assert await keys_that_hold(redis, b"three") == await keys_that_hold(redis, ids[1].encode()) == []
    assert await read(store, made, "final") == ["one", "two", "four"]
    assert (await store.branches.read(OWNER, made.id, "final")).item_count == 3
    await store.items.delete(OWNER, made.id, ids[2])
    assert (await store.branches.read(OWNER, made.id, "final")).item_count == 2


async def test_what_a_response_reads_outlives_its_branch_and_what_came_after_it_does_not(redis: Redis, store: Store):
    made = await start(store, "one")
    await fork(store, made, "draft")
    response = await turn_on(store, made, "draft")
    await add_to(store, made, "draft", "later")
    await store.branches.delete(OWNER, made.id, "draft")
    assert (await store.sweeper.sweep(made.id)).items == 1
    assert await keys_that_hold(redis, b"later") == []
    assert await output_of(store, response) == ["answer"]
    assert await continue_from(store, response) == ["one", "question", "answer"]
    aside = await take_turn(store, previous=response, says=["aside"])
    await store.sweeper.sweep(made.id)
    assert await continue_from(store, aside) == ["one", "question", "answer", "aside", "answer"]


async def test_what_was_read_by_a_response_goes_when_its_time_is_over(redis: Redis, store: Store):
    made = await start(store, "one")
    await fork(store, made, "draft")
    response = await turn_on(store, made, "draft")
    await store.branches.delete(OWNER, made.id, "draft")
    await store.responses.delete(OWNER, response)
    await redis.hset(key_of(made, "partition"), mapping={"reach:0": "1:3", "reach:1": "1:2"})
    swept = await store.sweeper.sweep(made.id)
    assert (swept.segments, swept.items) == (1, 2)
    assert await keys_that_hold(redis, b"question") == await keys_that_hold(redis, b"reach:1") == []
    assert await read(store, made, "") == ["one"]


async def test_a_segment_that_expires_and_whose_readers_are_not_known_is_left_to_its_time(redis: Redis, store: Store):
    made = await start(store, "one")
    response = await take_turn(store, conversation=made)
    aside = await take_turn(store, previous=response, says=["aside"])
    await redis.hdel(key_of(made, "partition"), "reach:1")
    assert (await store.sweeper.sweep(made.id)).items == 0
    assert await continue_from(store, aside) == ["one", "question", "answer", "aside", "answer"]
    await redis.hset(key_of(made, "partition"), "reach:1", (await redis.hget(key_of(made, "partition"), "reach:0")))


async def test_a_call_of_a_deleted_branch_belongs_to_the_item_that_is_left(redis: Redis, store: Store):
    made = await start(store, "one")
    await add_to(store, made, "", minted(partition_of(made.id), "called", "+call_1"))
    await fork(store, made, "draft")
    await add_to(store, made, "draft", minted(partition_of(made.id), "again", "+call_1"))
    await store.branches.delete(OWNER, made.id, "draft")
    await store.sweeper.sweep(made.id)
    assert (await keys_that_hold(redis, b"again")) == []
    # the checker of every test sees that the call is still known


async def test_an_item_that_lies_in_two_places_loses_the_one_that_goes(redis: Redis, store: Store):
    made = await start(store, "one")
    await fork(store, made, "draft")
    await add_to(store, made, "draft", brought("msg_mine", "mine"))
    await redis.hset(key_of(made, "index"), "msg_mine", "0:1,1:0 ~call_1")
    await redis.rpush(key_of(made, "segment:0"), brought("msg_mine", "mine").data)
    await redis.hset(key_of(made, "index"), "call:call_1", "msg_mine")
    await store.branches.delete(OWNER, made.id, "draft")
    await store.sweeper.sweep(made.id)
    assert await redis.hget(key_of(made, "index"), "msg_mine") == b"0:1 ~call_1"
    assert await read(store, made, "") == ["one", "mine"]


async def test_an_item_keeps_its_other_place_when_a_segment_is_cut(redis: Redis, store: Store):
    made = await start(store, "one")
    await fork(store, made, "draft")
    ids = await add_to(store, made, "draft", "two", brought("msg_mine", "mine"))
    await fork(store, made, "final", ForkPoint.AFTER, ids[0], "draft")
    await redis.rpush(key_of(made, "segment:0"), brought("msg_mine", "mine").data)
    await redis.hset(key_of(made, "index"), "msg_mine", "0:1,1:1 -call_1")
    await store.branches.delete(OWNER, made.id, "draft")
    assert await store.sweeper._run("sweep_segment", partition_of(made.id), [1, 0, 10, 10, "edition"]) == [0, 1, 0]
    assert await redis.hget(key_of(made, "index"), "msg_mine") == b"0:1 -call_1"


async def test_index_entries_that_lead_to_something_else_are_dropped(redis: Redis, store: Store):
    made = await start(store, "one", "two")
    await store.items.delete(OWNER, made.id, (await ids_in(store, made))[0])
    await redis.hset(key_of(made, "index"), mapping={"msg_deleted": "0:0", "msg_other": "0:1", "msg_far": "0:9"})
    assert (await store.sweeper.sweep(made.id)).entries == 3
    assert await redis.hlen(key_of(made, "index")) == 1


async def test_no_step_does_anything_once_the_conversation_is_deleted(redis: Redis, store: Store):
    made = await start(store, "one")
    await fork(store, made, "draft")
    await add_to(store, made, "draft", "two")
    await fork(store, made, "final", ForkPoint.TIP, source="draft")
    await store.branches.delete(OWNER, made.id, "draft")
    await store.branches.delete(OWNER, made.id, "final")
    await redis.rpush(key_of(made, "segment:1"), brought("msg_mine").data)
    await store.conversations.delete(OWNER, made.id)
    await redis.hset(key_of(made, "partition"), "reach:1", "1:1")
    partition = partition_of(made.id)
    assert await store.sweeper._run("sweep_segment", partition, [1, 0, 10, 10]) == [-1, 0, 0]
    assert await store.sweeper._run("sweep_index", partition, ["0", 10, "items"]) == [b"0", 0]
    await redis.delete(key_of(made, "segment:1"))


async def test_an_index_entry_whose_item_came_back_elsewhere_is_kept(redis: Redis, store: Store):
    made = await start(store, "one")
    await fork(store, made, "draft")
    await add_to(store, made, "draft", brought("msg_mine", "mine"))
    await add_to(store, made, "", reference("msg_mine"))
    await store.branches.delete(OWNER, made.id, "draft")
    await store.sweeper.sweep(made.id)
    assert await read(store, made, "") == ["one", "mine"]
    assert await redis.hget(key_of(made, "index"), "msg_mine") == b"1:0"


async def test_partitions_without_a_living_conversation_are_left_alone(redis: Redis, store: Store):
    response = await take_turn(store)
    gone = await start(store, "one")
    await store.conversations.delete(OWNER, gone.id)
    before = {key: await redis.dump(key) for key in await redis.keys()}
    assert await store.sweeper.sweep_all() == Swept(partitions=2)
    assert {key: await redis.dump(key) for key in await redis.keys()} == before
    assert await output_of(store, response) == ["answer"]
    assert await store.sweeper.sweep_partition(new_partition()) == Swept(partitions=1)


async def test_a_sweep_of_everything_tells_how_far_it_is(redis: Redis, store: Store):
    for _ in range(3):
        made = await start(store, "one")
        await fork(store, made, "draft")
        await add_to(store, made, "draft", "two", "three")
        await store.branches.delete(OWNER, made.id, "draft")
    told: list[Swept] = []
    swept = await store.sweeper.sweep_all(told.append)
    assert [one.partitions for one in told] == [1, 2, 3]
    assert swept == told[-1]
    assert (swept.entries, swept.notes) == (6, 3)


async def test_a_prefix_is_no_pattern(redis: Redis):
    async with store_on(redis, prefix="a*") as store, store_on(redis, prefix="ab") as other:
        made, hidden = await start(store), await start(other)
        assert [one async for one in store.sweeper.partitions()] == [partition_of(made.id)]
        assert [one async for one in other.sweeper.partitions()] == [partition_of(hidden.id)]


async def commands_of_each_script(valkey: Redis, work: Any) -> list[int]:
    """Return how many commands each script ran that was called during `work`."""
    counts: list[int] = []
    async with valkey.monitor() as monitor:
        await work
        await valkey.echo("the end")
        async for seen in monitor.listen():
            if seen["command"].upper().startswith("ECHO"):
                return counts
            if seen["client_type"] != "lua":
                counts.append(0)
            else:
                counts[-1] += 1
    return counts


@pytest.mark.parametrize("kept", [0, 1, 10_000])
async def test_no_step_is_long_however_much_there_is_to_free(valkey: Redis, valkey_store: Store, kept: int):
    store = valkey_store
    await load_all(valkey)
    made = await start(store, "one")
    await fork(store, made, "draft")
    ids = await add_to(store, made, "draft", *(f"item {number}" for number in range(10_000)))
    if kept:
        # one item is cut out, so that all others are looked at one by one
        point = ForkPoint.AFTER if kept == 1 else ForkPoint.WITHOUT
        await fork(store, made, "final", point, ids[0] if kept == 1 else ids[5_000], "draft")
    await store.branches.delete(OWNER, made.id, "draft")
    counts = await commands_of_each_script(valkey, store.sweeper.sweep(made.id))
    assert max(counts) <= MOST_COMMANDS
    assert await valkey.hlen(key_of(made, "index")) == {0: 1, 1: 2, 10_000: 10_000}[kept]


async def test_an_item_that_only_the_last_of_many_branches_has_is_kept(valkey: Redis, valkey_store: Store):
    store = valkey_store
    made = await start(store, "one")
    await fork(store, made, "draft")
    ids = await add_to(store, made, "draft", "two", "three", "four")
    for number in range(45):
        await fork(store, made, f"final{number}", ForkPoint.WITHOUT, ids[1], "draft")
    await fork(store, made, "short", ForkPoint.AFTER, ids[1], "draft")
    await store.branches.delete(OWNER, made.id, "draft")
    assert (await store.sweeper.sweep(made.id)).items == 0
    assert await read(store, made, "short") == ["one", "two", "three"]


async def test_an_item_is_found_free_among_many_branches_that_have_it_not(valkey: Redis, valkey_store: Store):
    store = valkey_store
    made = await start(store, "one")
    await fork(store, made, "draft")
    ids = await add_to(store, made, "draft", "two", "three", "four")
    for number in range(60):
        await fork(store, made, f"final{number}", ForkPoint.WITHOUT, ids[1], "draft")
    await store.branches.delete(OWNER, made.id, "draft")
    assert (await store.sweeper.sweep(made.id)).items == 1
    for number in range(60):
        assert await read(store, made, f"final{number}") == ["one", "two", "four"]


class Crowd:
    """A conversation that is changed at random, with a plain model beside it: branch -> texts."""

    def __init__(self, store: Store, made: Conversation, seed: int) -> None:
        self.store, self.made, self.random = store, made, random.Random(seed)
        self.branches: dict[str, list[str]] = {"MAIN": []}
        self.responses: dict[str, list[str]] = {}
        self.ids: dict[str, str] = {}
        self.count = 0

    def text(self) -> str:
        self.count += 1
        return f"text {self.count}"

    async def append(self, branch: str) -> None:
        said = [self.text() for _ in range(self.random.randint(1, 4))]
        for text, item_id in zip(said, await add_to(self.store, self.made, branch, *said), strict=True):
            self.ids[text] = item_id
        self.branches[branch] += said

    async def turn(self, branch: str) -> None:
        said, answered = self.text(), self.text()
        response = await turn_on(self.store, self.made, branch, said, answered)
        self.branches[branch] += [said, answered]
        self.responses[response] = list(self.branches[branch])

    async def aside(self, _: str) -> None:
        if self.responses:
            previous = self.random.choice(list(self.responses))
            said = self.text()
            response = await take_turn(self.store, previous=previous, says=[said], answers=[])
            self.responses[response] = [*self.responses[previous], said]

    async def fork(self, branch: str) -> None:
        texts = [text for text in self.branches[branch] if text in self.ids]
        name = f"b{self.text()[5:]}"
        if not texts:
            await fork(self.store, self.made, name, source=branch)
            self.branches[name] = list(self.branches[branch])
            return
        text = self.random.choice(texts)
        point = self.random.choice([ForkPoint.AFTER, ForkPoint.BEFORE, ForkPoint.WITHOUT])
        await fork(self.store, self.made, name, point, self.ids[text], branch)
        at = self.branches[branch].index(text)
        rest = self.branches[branch][at + 1 :] if point is ForkPoint.WITHOUT else []
        self.branches[name] = self.branches[branch][: at + (point is ForkPoint.AFTER)] + rest

    async def delete(self, branch: str) -> None:
        if branch != "MAIN":
            await self.store.branches.delete(OWNER, self.made.id, branch)
            del self.branches[branch]

    async def delete_item(self, branch: str) -> None:
        texts = [text for text in self.branches[branch] if text in self.ids]
        if texts:
            text = self.random.choice(texts)
            await self.store.items.delete(OWNER, self.made.id, self.ids[text])
            for history in (*self.branches.values(), *self.responses.values()):
                history[:] = [one for one in history if one != text]

    async def step(self) -> None:
        """Do something while a sweep is under way."""
        kinds = [self.append, self.turn, self.aside, self.fork, self.fork, self.delete, self.delete, self.delete_item]
        work = self.random.choice(kinds)(self.random.choice(list(self.branches)))
        await asyncio.gather(self.store.sweeper.sweep(self.made.id), work)

    async def check(self) -> None:
        for branch, history in self.branches.items():
            assert await read(self.store, self.made, branch) == history
            assert (await self.store.branches.read(OWNER, self.made.id, branch)).item_count == len(history)
        for response, history in self.responses.items():
            assert await continue_from(self.store, response) == history


@pytest.mark.parametrize("seed", few(range(6), 3))
async def test_sweeps_beside_everything_else_lose_nothing_and_leave_nothing(
    valkey: Redis, valkey_store: Store, seed: int
):
    crowd = Crowd(valkey_store, await start(valkey_store), seed)
    for _ in range(60):
        await crowd.step()
    await crowd.check()
    await valkey_store.sweeper.sweep(crowd.made.id)
    await crowd.check()
    assert await garbage_on(valkey) == {}
