"""What a deleted branch leaves behind is freed in the background, and nothing that goes wrong there matters."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.config.settings import Config, RedisConfig, Secret
from proxy.runtime.reclaimer import MAX_WAITING_CONVERSATIONS, Reclaimer
from proxy.runtime.tasks import Tasks
from proxy.stores import open_store
from storage import Store, Swept, Unavailable


class Sweeper:
    """Notes what is swept; waits for `go`, and fails for ids that say so."""

    def __init__(self) -> None:
        self.swept: list[str] = []
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    async def sweep(self, some_id: str) -> Swept:
        self.begun.set()
        await self.go.wait()
        self.swept.append(some_id)
        if some_id == "away":
            raise Unavailable("ConnectionError")
        if some_id == "broken":
            raise ValueError
        return Swept()


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[Store]:
    async with open_store(Config(redis=RedisConfig(url=Secret(valkey_url)))) as store:
        yield store


@pytest.fixture
def sweeper(store: Any) -> Sweeper:
    sweeper = store.sweeper = Sweeper()
    return sweeper


async def test_conversations_are_swept_in_order_and_each_once_while_it_waits(store: Store, sweeper: Sweeper):
    async with Reclaimer(store).running(Tasks()) as one:
        one.reclaim("first")
        await sweeper.begun.wait()
        for name in ("second", "first", "second", "third"):
            one.reclaim(name)
        sweeper.go.set()
        await one.wait()
    assert sweeper.swept == ["first", "second", "first", "third"]


async def test_too_many_at_once_are_dropped(store: Store, sweeper: Sweeper):
    names = [f"conversation {number}" for number in range(MAX_WAITING_CONVERSATIONS + 1)]
    async with Reclaimer(store).running(Tasks()) as one:
        for name in names:
            one.reclaim(name)
        sweeper.go.set()
        await one.wait()
        assert sweeper.swept == names[:-1]
        one.reclaim("another")
        await one.wait()
    assert sweeper.swept == [*names[:-1], "another"]


async def test_a_failure_is_logged_without_an_id_and_the_rest_is_swept(
    store: Store, sweeper: Sweeper, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "proxy.runtime.reclaimer")
    sweeper.go.set()
    async with Reclaimer(store).running(Tasks()) as one:
        for name in ("away", "broken", "last"):
            one.reclaim(name)
        await one.wait()
    assert sweeper.swept == ["away", "broken", "last"]
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "nothing was reclaimed: the store is not available (ConnectionError)",
        "a conversation could not be swept",
    ]


async def test_the_end_does_not_wait_for_a_sweep(store: Store, sweeper: Sweeper):
    async with Reclaimer(store).running(Tasks()) as one:
        one.reclaim("first")
        await sweeper.begun.wait()
    assert sweeper.swept == []
