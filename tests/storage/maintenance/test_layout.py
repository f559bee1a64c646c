"""How the store is laid out: noted, migrated when it is older, refused when it is newer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from storage import Store, UnsupportedLayout
from storage.client.keys import layout_key
from storage.maintenance.layout import MIGRATIONS, Layout, note_only
from tests.layouts import Layout as FirstLayout
from tests.storage.builders import PREFIX, start, store_on

KEY = layout_key(PREFIX)


def layout_of(store: Store, *migrations: Any) -> Layout:
    """The layout of a version of Branchline with these migrations."""
    return Layout(store._channel, store.conversations._keyspace, migrations)


async def noted(redis: Any) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = await redis.hgetall(KEY)
    return fields


async def test_an_empty_store_gets_the_newest_layout(redis: Redis, store: Store):
    await store.layout.open("Branchline 1")
    assert await noted(redis) == {b"version": b"%d" % len(MIGRATIONS), b"writer": b"Branchline 1"}
    await store.layout.open("Branchline 2")
    assert (await noted(redis))[b"writer"] == b"Branchline 1"


async def test_the_first_layout_is_migrated(redis: Redis, layout: FirstLayout):
    await layout.snapshot.load(redis)
    async with store_on(redis, prefix="branchline") as store:
        await store.layout.open("Branchline 1")
        report = await store.auditor.audit()
    assert (report.complaints, report.conversations) == ([], 12)
    assert await redis.hget(layout_key("branchline"), "version") == b"%d" % len(MIGRATIONS)


async def test_a_newer_one_is_refused_by_both_names_and_left_alone(redis: Redis, store: Store):
    await layout_of(store, note_only, note_only, note_only).open("Branchline 9.1")
    before = await noted(redis)
    with pytest.raises(UnsupportedLayout) as refused:
        await layout_of(store, note_only).open("Branchline 8")
    assert refused.value.subject == (
        "has layout 3, which Branchline 9.1 wrote; Branchline 8 knows layouts up to 1: run what wrote it, or restore a"
        " backup from before"
    )
    assert await noted(redis) == before


async def test_each_step_is_done_once_in_order_whoever_comes(redis: Redis, store: Store):
    done = []

    async def first(channel: Any, keyspace: Any, keep: Any) -> None:
        await keep()
        done.append("first")

    async def second(channel: Any, keyspace: Any, keep: Any) -> None:
        await channel.exchange([("DEL", f"{keyspace.prefix}:probe:{{x}}")])
        done.append("second")

    layout = layout_of(store, first, second)
    await asyncio.gather(*(layout.open(f"replica {i}") for i in range(5)))
    assert done == ["first", "second"]
    assert (await noted(redis))[b"version"] == b"2"


async def test_a_step_that_was_broken_off_is_begun_anew_by_the_next(redis: Redis, store: Store):
    attempts = []

    async def breaks_once(channel: Any, keyspace: Any, keep: Any) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError

    layout = layout_of(store, note_only, breaks_once)
    with pytest.raises(ConnectionError):
        await layout.open("first")
    assert (await noted(redis))[b"version"] == b"1"
    # as if the time of the one that broke had passed
    await redis.hset(KEY, "lease_until", "0")
    await layout.open("second")
    assert (await noted(redis))[b"version"] == b"2"
    assert len(attempts) == 2


async def test_where_it_could_not_be_looked_at_the_first_call_does(redis: Redis, store: Store):
    await redis.hset(KEY, mapping={"version": 99, "writer": "the future"})
    store.layout.open_later("Branchline 1")
    for _ in range(2):
        with pytest.raises(UnsupportedLayout, match="has layout 99, which the future wrote"):
            await start(store, "one")
    await redis.delete(KEY)
    await asyncio.gather(*(start(store, "one") for _ in range(3)))
    assert (await noted(redis))[b"version"] == b"%d" % len(MIGRATIONS)
