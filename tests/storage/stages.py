"""Stores that bring and read nearly everything in portions, and processes that die or are overtaken while they do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio import Redis

from storage import Safeguards, Store
from storage.client.channel import Channel, Command, Uncopied
from storage.client.keyspace import Portion
from storage.store import Hosting
from tests.fake import channels_to
from tests.storage.builders import PREFIX, RETENTION_SECONDS, load_all

#: So little that everything with three items is staged.
TINY = Portion(items=2)
#: So little that a text of some words is in pieces.
PORTION = Portion(bytes=1000, head=200)


@asynccontextmanager
async def staging_store(*channels: Channel, portion: Portion = TINY) -> AsyncIterator[Store]:
    """Give a store of which one script stores no more than a portion."""
    store = Store(
        *channels, prefix=PREFIX, retention_seconds=RETENTION_SECONDS, hosting=Hosting(Safeguards(portion=portion))
    )
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def store_in_pieces(redis: Redis) -> AsyncIterator[Store]:
    """Give a store on a server whose portions are a PORTION, and of which each call is one exchange."""
    await load_all(redis)
    async with staging_store(*channels_to(redis), portion=PORTION) as store:
        yield store


class DyingChannel(Channel):
    """Passes on so many exchanges; then nothing comes through any more, as if its process had been killed."""

    def __init__(self, channel: Channel, left: int) -> None:
        self._channel = channel
        self._left = left

    async def exchange(self, requests: Sequence[Command]) -> list[Any]:
        if self._left == 0:
            raise redis_errors.ConnectionError
        self._left -= 1
        return await self._channel.exchange(requests)

    async def close(self) -> None:
        await self._channel.close()


def size_of(value: Any) -> int:
    if isinstance(value, list | tuple):
        return sum(map(size_of, value))
    return len(value) if isinstance(value, bytes | str | Uncopied) else 8


class MeasuringChannel(Channel):
    """Notes the most bytes that a command, or a reply, had; but not a script's text."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.most = 0

    async def exchange(self, requests: Sequence[Command]) -> list[Any]:
        replies = await self._channel.exchange(requests)
        self.most = max([self.most, *(size_of(one[2:]) for one in requests), *map(size_of, replies)])
        return replies

    async def close(self) -> None:
        await self._channel.close()


class OvertakenChannel(Channel):
    """Has something done by others before the exchange of a number, from 0."""

    def __init__(self, channel: Channel, number: int, happens: Callable[[], Awaitable[object]]) -> None:
        self._channel = channel
        self._left = number
        self._happens = happens

    async def exchange(self, requests: Sequence[Command]) -> list[Any]:
        if self._left == 0:
            await self._happens()
        self._left -= 1
        return await self._channel.exchange(requests)

    async def close(self) -> None:
        await self._channel.close()
