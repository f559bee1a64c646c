from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from storage import (
    EventBatch,
    EventLog,
    EventPage,
    EventQuery,
    ResponseNotFound,
    Store,
    Unavailable,
    partition_of,
)
from storage.event_logs import TRIP_BYTES
from tests.roundtrips import RoundTripCounter
from tests.storage.builders import OWNER, STRANGER, connect, new_log, take_turn
from tests.storage.inspection import keys_of
from tests.storage.logs import LEASE, LIMIT, TTL, accept, append, batch, claim, finish, read
from tests.storage.servers import run_valkey


async def test_a_log_gives_back_its_batches_from_any_event_on(store: Store):
    log = new_log()
    assert await append(store, log, 0, "a", "b", "c")
    assert await append(store, log, 3, "d")
    assert await append(store, log, 4, "e", "f", last=True)
    whole = [batch(0, "a", "b", "c"), batch(3, "d"), batch(4, "e", "f")]
    for first, batches in [(0, whole), (2, whole), (3, whole[1:]), (4, whole[2:]), (5, whole[2:]), (6, []), (99, [])]:
        page = await read(store, log, first)
        assert (page.batches, page.ended, page.running, page.status) == (batches, True, False, ""), first


async def test_a_log_runs_until_its_last_batch_or_until_its_writer_gives_up(redis: Redis, store: Store):
    log, other = new_log(), new_log()
    for one in (log, other):
        await append(store, one, 0, "a")
        page = await read(store, one, 1)
        assert (page.batches, page.running, page.ended, page.kept) == ([], True, False, True)
    await append(store, log, 1, "b", last=True)
    assert (await read(store, log, 1)).ended
    await store.events.release(other)
    page = await read(store, other, 1)
    assert (page.running, page.ended) == (False, False)


async def test_a_writer_s_lock_is_renewed_like_any_other(redis: Any, store: Store):
    log = new_log()
    await append(store, log, 0, "a")
    (lock,) = [key for key in await keys_of(redis, log.response_id) if ":lock:" in key]
    assert 0 < await redis.pttl(lock) <= LEASE * 1000
    await store.turns.renew([store.events.lease(log)], 500)
    assert LEASE * 1000 < await redis.pttl(lock) <= 500_000


async def test_a_repeated_batch_changes_nothing(store: Store):
    log = new_log()
    for _ in range(2):
        assert await append(store, log, 0, "a", "b")
    for _ in range(2):
        assert await append(store, log, 2, "c", last=True)
    page = await read(store, log)
    assert page.batches == [batch(0, "a", "b"), batch(2, "c")]


@pytest.mark.parametrize(("first", "events"), [(1, "x"), (3, "x"), (0, "xy"), (0, "x")])
async def test_a_batch_that_does_not_follow_on_the_last_is_refused(store: Store, first: int, events: str):
    log = new_log()
    await append(store, log, 0, "a", "b")
    assert not await append(store, log, first, *events)
    assert (await read(store, log)).batches == [batch(0, "a", "b")]


async def test_nothing_follows_the_last_batch_and_a_deleted_log_stays_deleted(redis: Redis, store: Store):
    log = new_log()
    await append(store, log, 0, "a", last=True)
    assert not await append(store, log, 1, "b")
    assert not await append(store, new_log(), 1, "b")
    assert [key for key in await keys_of(redis, log.response_id) if ":lock:" in key] == []


async def test_each_write_starts_the_log_s_life_anew(redis: Any, store: Store):
    log = new_log()
    await append(store, log, 0, "a")
    key = next(key for key in await keys_of(redis, log.response_id) if ":events:" in key)
    await redis.expire(key, 5)
    await append(store, log, 1, "b")
    assert TTL - 5 < await redis.ttl(key) <= TTL


async def test_a_long_log_is_read_in_pages(store: Store):
    log = new_log()
    for i in range(100):
        await append(store, log, i, "x" * 100, last=i == 99)
    got: list[EventBatch] = []
    pages = 0
    while True:
        page = await read(store, log, len(got), limit=4000)
        pages += 1
        got += page.batches
        if page.ended:
            break
    assert got == [batch(i, "x" * 100) for i in range(100)]
    assert pages == 2


async def test_logs_of_others_are_unknown(redis: Redis, store: Store):
    log = new_log()
    await append(store, log, 0, "a")
    finished = await take_turn(store)
    for owner, response_id in [(STRANGER, log.response_id), (STRANGER, finished), (OWNER, new_log().response_id)]:
        with pytest.raises(ResponseNotFound) as caught:
            await store.events.read(EventQuery(owner, response_id, 0), LIMIT)
        assert caught.value.subject == response_id


async def test_a_response_whose_events_are_not_kept_has_no_log(redis: Redis, store: Store):
    page = await read(store, new_log(response_id=await take_turn(store)))
    assert (page.kept, page.running, page.status) == (False, False, "completed")
    queued = await accept(redis, store, "t1", status="queued", streamed=False)
    assert not (await read(store, queued)).kept
    await finish(redis, queued)


async def test_the_log_of_a_queued_response_is_waited_for(redis: Redis, store: Store):
    log = await accept(redis, store, "t1", status="queued")
    page = await read(store, log)
    assert (page.kept, page.running, page.ended, page.status) == (True, True, False, "queued")
    await finish(redis, log, "cancelled")
    assert not (await read(store, log)).kept


async def test_only_the_token_of_an_unfinished_response_writes_its_log(redis: Redis, store: Store):
    log = await accept(redis, store, "t1")
    stale = EventLog(OWNER, log.response_id, "t0")
    assert not await claim(store, stale)
    assert not await append(store, stale, 0, "x")
    assert await claim(store, log)
    assert await append(store, log, 0, "a")
    assert not await append(store, stale, 1, "x")
    assert not await append(store, new_log("t0"), 0, "x")
    await finish(redis, log)
    assert not await append(store, stale, 1, "x")
    assert not await claim(store, log, empty=True)
    assert await append(store, log, 1, "b", last=True)
    assert [one.frames for one in (await read(store, log)).batches] == [b"a", b"b"]


async def test_after_its_commit_a_run_that_was_replaced_can_t_end_the_log(redis: Any, store: Store):
    log = await accept(redis, store, "t1")
    await claim(store, log)
    await append(store, log, 0, "a")
    key = f"test:{{{partition_of(log.response_id)}}}:response:{log.response_id}"
    await redis.hset(key, "token", "t2")
    second = EventLog(OWNER, log.response_id, "t2")
    assert await claim(store, second)
    assert (await read(store, log)).batches == [batch(0, "a")]
    await finish(redis, log)
    assert not await append(store, log, 1, "x", last=True)
    assert await append(store, second, 1, "b", last=True)


async def test_a_log_that_is_begun_anew_has_another_generation(redis: Any, store: Store):
    log = await accept(redis, store, "t1")
    await claim(store, log)
    await append(store, log, 0, "a", "b")
    before = await read(store, log)
    key = f"test:{{{partition_of(log.response_id)}}}:response:{log.response_id}"
    await redis.hset(key, "token", "t2")
    second = EventLog(OWNER, log.response_id, "t2")
    await claim(store, second)
    assert (await read(store, log)).generation == before.generation
    await claim(store, second, empty=True)
    page = await read(store, log)
    assert (page.batches, page.kept, page.running) == ([], True, True)
    assert page.generation != before.generation
    assert await append(store, second, 0, "c")
    await finish(redis, log)
    await store.events.release(second)


async def test_many_logs_are_read_together_and_one_refusal_leaves_the_others_alone(store: Store):
    logs = [new_log() for _ in range(3)]
    for i, log in enumerate(logs[:2]):
        await append(store, log, 0, f"{i}", last=True)
    pages = await store.events.read_all([EventQuery(OWNER, log.response_id, 0) for log in logs], LIMIT)
    assert isinstance(pages[2], ResponseNotFound)
    assert [page.batches for page in pages[:2] if isinstance(page, EventPage)] == [[batch(0, "0")], [batch(0, "1")]]


async def test_a_deleted_response_takes_its_log_along(redis: Redis, store: Store):
    response_id = await take_turn(store)
    log = new_log(response_id=response_id)
    await append(store, log, 0, "a", last=True)
    await store.responses.delete(OWNER, response_id)
    assert await keys_of(redis, response_id) == []


async def test_events_are_bytes_of_any_kind(store: Store):
    log = new_log()
    frames = bytes(range(256)) * 300
    await store.events.append(log, EventBatch(0, 1, frames), ttl_seconds=TTL, lease_seconds=LEASE, last=True)
    assert (await read(store, log)).batches == [EventBatch(0, 1, frames)]


async def test_what_several_logs_get_at_the_same_time_goes_together():
    with run_valkey() as server:
        async with (
            RoundTripCounter(Path(server.url.removeprefix("unix://"))) as counter,
            connect(counter.url, max_connections=1) as store,
        ):
            # the script is sent whole once, and a connection takes some trips of its own
            await append(store, new_log(), 0, "a", last=True)
            for size, trips in ((10, 1), (TRIP_BYTES // 8, 3)):
                logs = [new_log() for _ in range(20)]
                counter.reset()
                assert all(await asyncio.gather(*(append(store, log, 0, "x" * size, last=True) for log in logs)))
                assert counter.count == trips
                assert [(await read(store, log)).ended for log in logs] == [True] * 20


async def test_when_the_server_is_gone_everybody_who_waits_is_told():
    with run_valkey() as server:
        async with connect(server.url) as store:
            server.kill()
            appends = [append(store, new_log(), 0, "x") for _ in range(3)]
            results = await asyncio.gather(*appends, return_exceptions=True)
            assert [type(result) for result in results] == [Unavailable] * 3
