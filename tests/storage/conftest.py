"""Fixtures of the store's tests: every test that uses Redis fails if it leaves a key behind that leaks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis

from storage import Store
from tests.storage.builders import store_on
from tests.storage.inspection import find_leaks

PIECE_BYTES = 4096


def feed_in_pieces(fake: FakeAsyncRedis) -> None:
    """Let a fake read long pipelines in pieces: its parser copies the rest of what it was given for each argument."""
    kind: Any = fake.connection_pool.connection_class

    class InPieces(kind):  # type: ignore[misc]
        async def send_packed_command(self, command: bytes | list[bytes], check_health: bool = True) -> None:
            whole = command if isinstance(command, bytes) else b"".join(command)
            pieces = [whole[i : i + PIECE_BYTES] for i in range(0, len(whole), PIECE_BYTES)]
            await super().send_packed_command(pieces, check_health)

    fake.connection_pool.connection_class = InPieces


@pytest.fixture
async def redis(redis: Redis) -> AsyncIterator[Redis]:
    """The empty server of every suite, whose keys are inspected after the test."""
    if isinstance(redis, FakeAsyncRedis):
        feed_in_pieces(redis)
    yield redis
    assert await find_leaks(redis) == []


@pytest.fixture
async def valkey(valkey_url: str) -> AsyncIterator[Redis]:
    """An empty real server, for what a fake can't show; its keys are inspected after the test."""
    async with Redis.from_url(valkey_url) as client:
        await client.flushall()
        yield client
        assert await find_leaks(client) == []


@pytest.fixture
async def valkey_store(valkey: Redis) -> AsyncIterator[Store]:
    """The store on the real server."""
    async with store_on(valkey) as store:
        yield store
