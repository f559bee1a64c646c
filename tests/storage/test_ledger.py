"""Bytes that an owner has stored: counted as they are, given back, counted anew, and refused beyond the limit."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from proxy.backup.format import write_lines
from proxy.backup.verifier import Backup
from storage import (
    BytesExceeded,
    CommitMode,
    CommitResult,
    Conflict,
    Fork,
    ForkPoint,
    Lease,
    Safeguards,
    Store,
    partition_of,
)
from storage.client.keyspace import Portion
from storage.quotas import ledger_keys
from storage.store import Hosting
from tests.fake import channels_to
from tests.storage.builders import (
    OWNER,
    PREFIX,
    RETENTION_SECONDS,
    STRANGER,
    add,
    draft,
    finished,
    ids_in,
    minted,
    open_turn,
    start,
    take_named_turn,
    take_turn,
)
from tests.storage.everything import use_everything

STORED, ENDS = ledger_keys(PREFIX, OWNER)
MOST = 2_000


@asynccontextmanager
async def counting_store(redis: Redis, most_bytes: int = 0) -> AsyncIterator[Store]:
    hosting = Hosting(Safeguards(counts_bytes=True, most_bytes=most_bytes, portion=Portion(items=3)))
    store = Store(*channels_to(redis), prefix=PREFIX, retention_seconds=RETENTION_SECONDS, hosting=hosting)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def counting(redis: Redis) -> AsyncIterator[Store]:
    async with counting_store(redis) as store:
        yield store


async def total(redis: Redis) -> int:
    return int(await redis.hget(STORED, "total") or 0)


async def wrong(store: Store) -> int:
    """How many partitions are counted wrong, as `fsck` finds it."""
    return (await store.auditor.audit()).garbage["byte counts"]


async def test_what_is_stored_is_counted(counting: Store, redis: Redis):
    conversation = await start(counting, "one", "two")
    await add(counting, conversation, "three", "four", "five", "six")
    response = await take_named_turn(counting, conversation=conversation)
    await take_turn(counting, previous=response)
    await take_turn(counting, conversation=conversation, stored=False)
    await take_turn(counting)
    last = (await ids_in(counting, conversation))[-1]
    fork = Fork(ForkPoint.AFTER, last, "draft")
    await counting.branches.create(OWNER, conversation.id, "", fork, [minted(partition_of(last), "x")])
    assert await total(redis) > 1_000
    assert await wrong(counting) == 0


async def test_what_is_deleted_is_given_back(counting: Store, redis: Redis):
    assert await total(redis) == 0
    conversation = await start(counting, "one", "two")
    response = await take_named_turn(counting, conversation=conversation)
    before = await total(redis)
    await counting.items.delete(OWNER, conversation.id, (await ids_in(counting, conversation))[0])
    after_item = await total(redis)
    await counting.responses.delete(OWNER, response)
    after_response = await total(redis)
    assert before > after_item > after_response > 0
    assert await wrong(counting) == 0
    alone = await take_turn(counting)
    assert await total(redis) > after_response
    await counting.responses.delete(OWNER, alone)
    assert await total(redis) == after_response
    await counting.conversations.delete(OWNER, conversation.id)
    assert await wrong(counting) == 0
    assert not await redis.exists(STORED, ENDS)


async def test_what_a_refused_turn_would_have_stored_is_given_back(counting: Store, redis: Redis):
    conversation = await start(counting, "one")
    before = await total(redis)
    partition = partition_of(conversation.id)
    lost = await open_turn(counting, conversation=conversation)
    await counting.turns.release(Lease(partition, lost.lock, "token"))
    await take_turn(counting, conversation=conversation)
    between = await total(redis)
    with pytest.raises(Conflict):
        await counting.turns.commit(finished(lost, partition=partition, conversation=conversation))
    assert between > before
    assert await total(redis) == between
    assert await wrong(counting) == 0


async def test_a_repeat_counts_once(counting: Store, redis: Redis):
    conversation = await start(counting, "one")
    opened = await open_turn(counting, conversation=conversation)
    commit = finished(opened, partition=partition_of(conversation.id), conversation=conversation)
    assert (await counting.turns.commit(commit)).result is CommitResult.OK
    assert (await counting.turns.commit(commit)).result is CommitResult.REPEATED
    assert await wrong(counting) == 0


async def test_an_import_is_counted(counting: Store, redis: Redis):
    conversation = await start(counting, "one", "two")
    await take_named_turn(counting, conversation=conversation)
    lines = [line async for line in write_lines(await counting.archive.export(OWNER, conversation.id))]
    await counting.conversations.delete(OWNER, conversation.id)
    await counting.archive.restore(OWNER, Backup(io.BytesIO(b"".join(lines))))
    assert await total(redis) > 0


async def test_gc_counts_anew(counting: Store, store: Store, redis: Redis):
    # by a process that does not count
    conversation = await start(store, *["x"] * 1200)
    await take_turn(store)
    kept = await start(counting, "one")
    for partition in (partition_of(kept.id), "0" * 16):
        for field in (partition, "total"):
            await redis.hincrby(STORED, field, 7)
    assert await wrong(counting) == 4
    assert (await counting.sweeper.sweep_all()).miscounts == 4
    assert await wrong(counting) == 0
    assert int(await redis.hget(STORED, partition_of(conversation.id)) or 0) > 1200 * 50
    # what has an end was noted with it
    assert await redis.zcard(ENDS) == 1
    values = await redis.hgetall(STORED)
    assert int(values.pop(b"total")) == sum(map(int, values.values()))


BEYOND: dict[str, Callable[[Store], Awaitable[object]]] = {
    "a turn": lambda store: store.ledger.require(OWNER),
    "a conversation": lambda store: store.conversations.create(OWNER, draft(), []),
}


@pytest.mark.parametrize("what", BEYOND)
async def test_beyond_the_limit_nothing_more_is_stored(redis: Redis, what: str):
    async with counting_store(redis, MOST) as store:
        conversation = await start(store, "one")
        await BEYOND[what](store)
        await add(store, conversation, "x" * MOST)
        with pytest.raises(BytesExceeded):
            await BEYOND[what](store)
        with pytest.raises(BytesExceeded):
            await add(store, conversation, "two")
        # another owner has room, and a turn that runs is stored
        await store.ledger.require(STRANGER)
        await take_turn(store, conversation=conversation)
        await store.conversations.delete(OWNER, conversation.id)
        await BEYOND[what](store)


async def test_what_has_expired_makes_room(redis: Redis):
    async with counting_store(redis, MOST) as store:
        response = await take_turn(store, says=["x" * MOST])
        with pytest.raises(BytesExceeded):
            await store.ledger.require(OWNER)
        await redis.zadd(ENDS, {partition_of(response): 1})
        await store.ledger.require(OWNER)
        assert await total(redis) == 0


async def test_conversations_that_are_kept_for_ever_have_no_end(redis: Redis, counting: Store):
    conversation = await start(counting, "one")
    response = await take_turn(counting, conversation=conversation)
    await take_turn(counting, previous=response, mode=CommitMode.CHAIN)
    assert await redis.zcard(ENDS) == 0
    await take_turn(counting)
    assert await redis.zcard(ENDS) == 1


async def test_nothing_is_counted_where_nothing_is_limited(store: Store, redis: Redis):
    await use_everything(store)
    assert [key async for key in redis.scan_iter("*quota*")] == []


async def test_a_purge_gives_everything_back(counting: Store, redis: Redis):
    await take_turn(counting, conversation=await start(counting, "one"))
    await counting.purger.purge(OWNER)
    assert not await redis.exists(STORED, ENDS)
