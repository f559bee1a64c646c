"""Fixtures of the store's tests: every test that uses Redis fails if it leaves a key behind that leaks."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from storage import Store
from tests.storage.builders import store_on
from tests.storage.inspection import find_leaks


@pytest.fixture
async def redis(redis: Redis) -> AsyncIterator[Redis]:
    """The empty server of every suite, whose keys are inspected after the test."""
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
