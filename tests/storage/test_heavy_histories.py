"""Histories that whoever asks does not want to read, because they are large: found out before all of them is read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from storage import Conversation, HeavyHistory, HistoryLimit, Lease, OpenedTurn, Store, TurnSource, partition_of
from storage.client.channel import Channel, Command
from storage.client.keyspace import Portion
from tests.fake import channels_to
from tests.storage.builders import OWNER, add, load_all, start, take_turn
from tests.storage.stages import staging_store

PORTION = Portion(bytes=1000, head=200)
TEXTS = [f"{number} {'text ' * 20}" for number in range(60)]
ANY = 1_000_000


class CountingChannel(Channel):
    """Counts exchanges."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.count = 0

    async def exchange(self, requests: Sequence[Command]) -> list[Any]:
        self.count += 1
        return await self._channel.exchange(requests)

    async def close(self) -> None:
        await self._channel.close()


@pytest.fixture
async def channels(redis: Redis) -> list[CountingChannel]:
    await load_all(redis)
    return [CountingChannel(one) for one in channels_to(redis)]


@pytest.fixture
async def store(channels: list[CountingChannel]) -> AsyncIterator[Store]:
    async with staging_store(*channels, portion=PORTION) as store:
        yield store


async def opened(store: Store, conversation: Conversation, items: int, size: int, token: str = "mine") -> OpenedTurn:
    lease = Lease(partition_of(conversation.id), "", token)
    source = TurnSource(conversation.id)
    return await store.turns.open(OWNER, source, lease, 10, [], [], HistoryLimit(items, size))


async def refused(store: Store, conversation: Conversation, items: int, size: int) -> str:
    """The lock that a turn is left with which did not want to read so much."""
    with pytest.raises(HeavyHistory) as heavy:
        await opened(store, conversation, items, size)
    assert heavy.value.subject == conversation.id
    return heavy.value.lock


async def test_a_history_within_the_limit_is_read(store: Store):
    conversation = await start(store, *TEXTS)
    assert len((await opened(store, conversation, 61, ANY)).items) == 60
    assert len((await opened(store, conversation, ANY, 60 * 300)).items) == 60


async def test_items_are_counted_before_they_are_read(store: Store, channels: list[CountingChannel]):
    conversation = await start(store, *TEXTS)
    before = sum(channel.count for channel in channels)
    await refused(store, conversation, 60, ANY)
    assert sum(channel.count for channel in channels) == before + 1


async def test_bytes_are_counted_while_they_are_read(store: Store, channels: list[CountingChannel]):
    conversation = await start(store, *TEXTS)
    before = sum(channel.count for channel in channels)
    await refused(store, conversation, ANY, 3000)
    # the first portion, and one more: not all seven
    assert before + 2 <= sum(channel.count for channel in channels) <= before + 3


async def test_an_item_in_pieces_has_all_of_its_weight(store: Store, channels: list[CountingChannel]):
    conversation = await start(store, "x" * 20_000)
    before = sum(channel.count for channel in channels)
    await refused(store, conversation, ANY, 20_000)
    assert sum(channel.count for channel in channels) == before + 1
    assert len((await opened(store, conversation, ANY, ANY)).items) == 1


async def test_what_is_known_already_counts_too(store: Store):
    conversation = await start(store, *TEXTS[:30])
    await take_turn(store, conversation=conversation)
    await add(store, conversation, *TEXTS[30:])
    await refused(store, conversation, 62, ANY)
    await refused(store, conversation, ANY, 60 * 200)


async def test_its_lock_is_given_back_by_name(store: Store):
    conversation = await start(store, *TEXTS)
    lock = await refused(store, conversation, 10, ANY)
    await store.turns.release(Lease(partition_of(conversation.id), lock, "mine"))
    assert len((await opened(store, conversation, ANY, ANY, token="another")).items) == 60
