"""Quotas: never more than allowed, whoever counts, and as much as allowed."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from storage import ALL_OWNERS, QuotaExceeded, Store, TurnSlot
from storage.client.keys import quota_key
from tests.storage.builders import OWNER, PREFIX, STRANGER, connect, start


def slot(token: str, owner: str = OWNER, *, most: int = 2, total: int = 3) -> TurnSlot:
    return TurnSlot(owner, token, most, total)


async def test_as_many_requests_pass_at_once_as_a_minute_has(store: Store):
    found = [await store.quotas.count_request(OWNER, 3) for _ in range(4)]
    assert [one.left for one in found] == [2, 1, 0, 0]
    assert [one.wait_seconds == 0 for one in found] == [True, True, True, False]
    assert 15 < found[-1].wait_seconds <= 20
    assert 40 < found[-2].reset_seconds <= 60
    assert (await store.quotas.count_request(STRANGER, 3)).left == 2


async def test_a_request_comes_back_after_its_part_of_the_minute(redis: Redis, store: Store):
    for _ in range(3):
        await store.quotas.count_request(OWNER, 3)
    key = quota_key("test", OWNER, "requests")
    await redis.set(key, float(await redis.get(key) or 0) - 20_000)
    found = [await store.quotas.count_request(OWNER, 3) for _ in range(2)]
    assert [one.wait_seconds == 0 for one in found] == [True, False]
    assert 0 < await redis.pttl(key) <= 60_000


async def test_requests_are_counted_exactly_by_many_at_once(valkey_url: str, valkey: Redis):
    async with connect(valkey_url) as one, connect(valkey_url) as other:
        counting = [store.quotas.count_request(OWNER, 10) for store in (one, other) for _ in range(20)]
        passed = [found for found in await asyncio.gather(*counting) if not found.wait_seconds]
    assert len(passed) == 10


async def test_only_so_many_turns_have_a_slot_and_one_that_is_given_back_is_free(store: Store):
    assert [await store.quotas.enter(slot(token)) for token in ("a", "b", "c")] == [None, None, OWNER]
    assert await store.quotas.enter(slot("a")) is None
    assert await store.quotas.enter(slot("d", STRANGER)) is None
    assert await store.quotas.enter(slot("e", STRANGER)) == ALL_OWNERS
    await store.quotas.leave(slot("a"))
    assert await store.quotas.enter(slot("e", STRANGER)) is None


async def test_one_that_is_refused_by_the_total_takes_nothing_of_its_owner_s(store: Store):
    assert await store.quotas.enter(slot("a", most=1, total=1)) is None
    assert await store.quotas.enter(slot("b", STRANGER, most=1, total=1)) == ALL_OWNERS
    await store.quotas.leave(slot("a", most=1, total=1))
    assert await store.quotas.enter(slot("c", STRANGER, most=1, total=1)) is None


async def test_slots_are_exact_over_replicas(valkey_url: str, valkey: Redis):
    async with connect(valkey_url) as one, connect(valkey_url) as other:
        entering = [
            store.quotas.enter(slot(f"{n}{name}{owner}", owner, most=5, total=8))
            for n in range(10)
            for owner in (OWNER, STRANGER)
            for name, store in (("x", one), ("y", other))
        ]
        entered = await asyncio.gather(*entering)
    assert entered.count(None) <= 8
    assert await valkey.zcard(quota_key(PREFIX, ALL_OWNERS, "turns")) == entered.count(None)


async def test_a_slot_that_nobody_renews_is_free_again(redis: Redis, store: Store):
    key = quota_key("test", OWNER, "turns")
    for token in ("dead", "alive"):
        assert await store.quotas.enter(slot(token, total=0)) is None
    await redis.zadd(key, {"dead": 1, "alive": 1})
    await store.quotas.keep([slot("alive", total=0)])
    assert [await store.quotas.enter(slot(token, total=0)) for token in ("new", "more")] == [None, OWNER]


@pytest.fixture
async def frugal(valkey_url: str, valkey: Redis):
    async with connect(valkey_url, most_conversations=2) as store:
        yield store


async def test_an_owner_has_so_many_conversations_and_others_have_theirs(frugal: Store):
    made = await start(frugal)
    await start(frugal)
    with pytest.raises(QuotaExceeded):
        await start(frugal)
    await start(frugal, owner=STRANGER)
    await frugal.conversations.delete(OWNER, made.id)
    await start(frugal)


async def test_conversations_are_counted_exactly_by_many_at_once(frugal: Store, valkey_url: str):
    async with connect(valkey_url, most_conversations=2) as other:
        made = await asyncio.gather(
            *(start(store) for store in (frugal, other) for _ in range(5)), return_exceptions=True
        )
    assert sum(not isinstance(one, QuotaExceeded) for one in made) == 2
