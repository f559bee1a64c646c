"""A purge leaves nothing of an owner, and everything of all others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from proxy.protocol import ids
from storage import (
    CommitMode,
    ConversationNotFound,
    KeptAnswer,
    KeyClaim,
    PageRequest,
    Purged,
    ResponseNotFound,
    Store,
    Unavailable,
    new_partition,
    partition_of,
)
from storage.client.scripts import Call
from storage.maintenance import purger as purging
from tests.storage.builders import (
    OWNER,
    STRANGER,
    add,
    connect,
    finished,
    open_turn,
    read_all,
    start,
    store_on,
    take_turn,
)
from tests.storage.everything import use_everything
from tests.storage.inspection import find_leaks, keys_of, keys_that_hold


async def write_everything(store: Store, owner: str) -> None:
    """Leave a conversation with project and chain, another one deleted, a chain of its own, an idempotency key."""
    for _ in range(2):
        made = await start(store, f"secret of {owner}", owner=owner, project_id="p", referrer="r")
        response = await take_turn(store, conversation=made, owner=owner)
        await take_turn(store, previous=response, owner=owner)
        await take_turn(store, previous=response, mode=CommitMode.RECORD, status="failed", owner=owner)
    await store.conversations.delete(owner, made.id)
    await take_turn(store, previous=await take_turn(store, owner=owner), owner=owner)
    claim = KeyClaim(owner, "ab" * 32, "t")
    await store.idempotency.claim(claim, "f", 10, 60)
    await store.idempotency.answer(claim, KeptAnswer(200, "text/plain", f"secret of {owner}".encode()), 60)


async def all_keys(redis: Any) -> set[str]:
    return {key.decode() async for key in redis.scan_iter(count=1000)}


async def test_nothing_of_the_owner_is_left_and_nothing_of_others_is_touched(redis: Redis, store: Store):
    await write_everything(store, STRANGER)
    others = await all_keys(redis)
    await write_everything(store, OWNER)
    found = (await all_keys(redis)) - others
    purged = await store.purger.purge(OWNER)
    assert await all_keys(redis) == others
    assert purged == Purged(partitions=3, conversations=1, responses=8, keys=len(found))
    assert await keys_that_hold(redis, OWNER.encode()) == []
    assert await keys_that_hold(redis, b"secret of mallory") != []


async def test_everything_that_the_store_can_write_is_deleted(redis: Redis, store: Store):
    await use_everything(store)
    await store.purger.purge(OWNER)
    left = {key for key in await all_keys(redis) if ":jobs:" not in key}
    assert left == set()


async def test_a_purge_of_nobody_deletes_nothing(redis: Redis, store: Store):
    await write_everything(store, STRANGER)
    before = await all_keys(redis)
    for owner in ("", "*", "mallor?", "mallory}:x", OWNER):
        assert await store.purger.purge(owner) == Purged()
    assert await all_keys(redis) == before


async def test_another_prefix_is_another_store(redis: Redis, store: Store):
    async with store_on(redis, prefix="test2") as other:
        made = await start(other, "stays")
        await store.purger.purge(OWNER)
        assert await read_all(other, made) == ["stays"]


async def test_partitions_with_more_keys_than_a_step_deletes_go_whole(
    redis: Redis, store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(purging, "STEP_KEYS", 2)
    response = await take_turn(store)
    for _ in range(6):
        response = await take_turn(store, previous=response)
    assert (await store.purger.purge(OWNER)).responses == 7
    assert await all_keys(redis) == set()


async def test_what_a_running_turn_writes_after_a_purge_brings_nothing_back(redis: Redis, store: Store):
    made = await start(store, "secret")
    previous = await take_turn(store, conversation=made, answers=["answer"])
    in_conversation = await open_turn(store, conversation=made)
    beside = await open_turn(store, previous=previous)
    await store.purger.purge(OWNER)
    for opened, facts in ((in_conversation, {"conversation": made}), (beside, {"mode": CommitMode.CHAIN})):
        await store.turns.commit(finished(opened, partition=partition_of(made.id), **facts))
    assert await keys_that_hold(redis, b"secret") == []
    with pytest.raises(ConversationNotFound):
        await store.conversations.read(OWNER, made.id)
    with pytest.raises(ResponseNotFound):
        await store.responses.read(OWNER, previous)
    assert (await store.conversations.list_page(OWNER, PageRequest())).conversations == []
    assert (await store.purger.purge(OWNER)).responses == 2
    assert await all_keys(redis) == set()


async def test_what_was_not_seen_yet_when_its_partition_goes_goes_with_it(redis: Redis, store: Store):
    made = await start(store, "one")
    call = Call("purge_partition", [f"test:{{{partition_of(made.id)}}}:partition"], [OWNER, 1])
    await store.conversations._scripts.run(call)
    assert await keys_of(redis, made.id) == []
    await redis.flushall()


async def test_a_partition_that_has_another_owner_by_then_stays(store: Store):
    made = await start(store, "one")
    call = Call("purge_partition", [f"test:{{{partition_of(made.id)}}}:partition"], [STRANGER, 1, "segment:0"])
    assert await store.conversations._scripts.run(call) == [0, 0]
    assert await read_all(store, made) == ["one"]


async def test_what_is_written_while_a_purge_looks_is_found_by_its_next_look(redis: Redis, store: Store):
    await start(store, "old")
    scan, late = store.purger._channel.scan, iter(["new"])

    async def scan_and_be_late(pattern: str) -> AsyncIterator[list[str]]:
        async for keys in scan(pattern):
            yield keys
        for text in late:
            await start(store, text)

    store.purger._channel.scan = scan_and_be_late  # type: ignore[method-assign]
    assert (await store.purger.purge(OWNER)).conversations == 2
    assert await all_keys(redis) == set()


async def test_turns_that_run_beside_a_purge_leave_a_sound_store(valkey: Redis, valkey_store: Store):
    conversations = [await start(valkey_store, "x") for _ in range(20)]

    async def keep_writing() -> None:
        for made in conversations * 3:
            try:
                await add(valkey_store, made, "more")
                await take_turn(valkey_store, previous=await take_turn(valkey_store))
            except ConversationNotFound:
                continue

    writing = asyncio.create_task(keep_writing())
    while not writing.done():
        await valkey_store.purger.purge(OWNER)
    await writing
    assert await find_leaks(valkey) == []
    await valkey_store.purger.purge(OWNER)
    assert await all_keys(valkey) == set()


async def test_what_an_import_has_not_finished_is_deleted_too(redis: Redis, store: Store):
    partition = new_partition()
    await redis.hset(f"test:{{{partition}}}:partition", mapping={"importing": f"{OWNER}\x1ffile", "next_segment": 1})
    await redis.rpush(f"test:{{{partition}}}:segment:0", "x")
    assert (await store.purger.purge(STRANGER)).keys == 0
    assert (await store.purger.purge(OWNER)).keys == 2
    assert await keys_of(redis, ids.new_conversation_id(partition)) == []


async def test_progress_is_told_after_each_partition(store: Store):
    for _ in range(3):
        await start(store, "x")
    seen: list[int] = []
    await store.purger.purge(OWNER, lambda purged: seen.append(purged.partitions))
    assert seen == [1, 2, 3]


async def test_a_store_that_is_not_there_is_unavailable():
    async with connect("redis://127.0.0.1:1") as store:
        with pytest.raises(Unavailable):
            await store.purger.purge(OWNER)


async def test_a_purged_owner_begins_anew(store: Store):
    await start(store, "old")
    await store.purger.purge(OWNER)
    response = await take_turn(store)
    assert (await open_turn(store, previous=response)).history
