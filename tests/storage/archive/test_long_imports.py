"""Imported items that are more than one command takes: they are brought in pieces, and seen with all the rest."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from proxy.backup.format import write_lines
from proxy.backup.verifier import Backup
from storage import Conversation, ConversationNotFound, Store, Unavailable, partition_of
from tests.fake import channels_to
from tests.storage.builders import OWNER, RETENTION_SECONDS, read_all, start, take_named_turn
from tests.storage.inspection import faults_of
from tests.storage.stages import (
    PORTION,
    DyingChannel,
    MeasuringChannel,
    OvertakenChannel,
    staging_store,
    store_in_pieces,
)

LONG, OTHER = "long " * 1000, "other" * 1000
#: Exchanges of an import before the items: the owner's bytes, its beginning, the branches, and for each of both items
#: what is there of its pieces, and these.
ITEMS_AT = 3 + 2 * 6
BESIDE = 3000


@pytest.fixture
async def store(redis: Redis) -> AsyncIterator[Store]:
    async with store_in_pieces(redis) as store:
        yield store


async def pieces_in(redis: Any) -> set[bytes]:
    return {key async for key in redis.scan_iter("*:pieces:*")}


async def exported(store: Store, *, aside: bool = False) -> tuple[Conversation, bytes]:
    """Return a conversation with long items, and as a file. It is deleted, and if it may be, all of it is gone."""
    conversation = await start(store, "one", LONG, OTHER)
    if aside:
        response = await take_named_turn(store, conversation=conversation)
        await take_named_turn(store, previous=response, says=[LONG])
    lines = [line async for line in write_lines(await store.archive.export(OWNER, conversation.id))]
    await store.conversations.delete(OWNER, conversation.id)
    return conversation, b"".join(lines)


async def restore(store: Store, file: bytes) -> None:
    await store.archive.restore(OWNER, Backup(io.BytesIO(file)))


@pytest.mark.parametrize("is_gone", [False, True])
async def test_it_is_there_as_it_was_and_lives_as_long(redis: Redis, store: Store, is_gone: bool):
    conversation, file = await exported(store, aside=True)
    before = await pieces_in(redis)
    if is_gone:
        await store.purger.purge(OWNER)
    await restore(store, file)
    assert (await read_all(store, conversation))[:3] == ["one", LONG, OTHER]
    lives = {key: await redis.ttl(key) for key in await pieces_in(redis) - before}
    assert len([life for life in lives.values() if life == -1]) == 2
    assert all(life == -1 or 0 < life <= RETENTION_SECONDS for life in lives.values())
    assert await faults_of(store) == ([], 0)
    # once more changes nothing
    await restore(store, file)
    assert set(lives) == await pieces_in(redis) - before
    await store.conversations.delete(OWNER, conversation.id)
    assert all([await redis.ttl(key) > 0 for key in await pieces_in(redis)])


async def test_no_command_has_more_than_a_portion(redis: Redis, store: Store):
    conversation, file = await exported(store)
    channels = [MeasuringChannel(one) for one in channels_to(redis)]
    async with staging_store(*channels, portion=PORTION) as importing:
        await restore(importing, file)
    assert max(one.most for one in channels) < PORTION.bytes + BESIDE
    assert await read_all(store, conversation) == ["one", LONG, OTHER]


@pytest.mark.parametrize("left", range(3, ITEMS_AT + 3, 2))
async def test_whoever_dies_on_the_way_leaves_nothing_that_is_seen(redis: Redis, store: Store, left: int):
    conversation, file = await exported(store)
    await store.purger.purge(OWNER)
    async with staging_store(*(DyingChannel(one, left) for one in channels_to(redis)), portion=PORTION) as dying:
        with pytest.raises(Unavailable):
            await restore(dying, file)
    with pytest.raises(ConversationNotFound):
        await store.conversations.read(OWNER, conversation.id)
    assert all([await redis.ttl(key) > 0 for key in await pieces_in(redis)])
    assert (await faults_of(store))[0] == []
    # another file removes what is there, the same one goes on
    await restore(store, file)
    assert await read_all(store, conversation) == ["one", LONG, OTHER]
    assert await faults_of(store) == ([], 0)


async def test_another_file_takes_away_what_was_left(redis: Redis, store: Store):
    conversation, file = await exported(store)
    await store.purger.purge(OWNER)
    async with staging_store(
        *(DyingChannel(one, ITEMS_AT + 2) for one in channels_to(redis)), portion=PORTION
    ) as dying:
        with pytest.raises(Unavailable):
            await restore(dying, file)
    left = await pieces_in(redis)
    assert len(left) == 2
    keys = store.turns._keyspace.keys(conversation.id)
    await redis.hset(keys.head, "importing", f"{OWNER}\x1fanother file")
    await restore(store, file)
    assert len(await pieces_in(redis)) == 2
    assert await pieces_in(redis) & left == set()
    assert await read_all(store, conversation) == ["one", LONG, OTHER]
    assert await faults_of(store) == ([], 0)


async def test_pieces_that_are_lost_on_the_way_are_brought_again(redis: Redis, store: Store):
    for number in range(5, ITEMS_AT + 1, 3):
        conversation, file = await exported(store)
        await store.purger.purge(OWNER)

        async def lose() -> None:
            await redis.delete("nothing", *await pieces_in(redis))

        channels = (OvertakenChannel(one, number, lose) for one in channels_to(redis))
        async with staging_store(*channels, portion=PORTION) as losing:
            await restore(losing, file)
        assert await read_all(store, conversation) == ["one", LONG, OTHER]
        assert await faults_of(store) == ([], 0)
        assert partition_of(conversation.id) in str(await pieces_in(redis))
