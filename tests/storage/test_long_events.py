"""Events that are more than one command takes: they lie in pieces beside their log, and nobody sees a part of one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from storage import BackupHead, EventBatch, EventLog, EventPage, EventQuery, ResponseNotFound, Store, Unavailable
from storage.client.scripts import Call
from storage.client.staging import STAGED_SECONDS
from tests.fake import channels_to
from tests.storage.builders import OWNER, STRANGER, load_all, new_log, take_turn
from tests.storage.logs import TTL, accept, append, batch, claim, finish, read
from tests.storage.servers import run_valkey
from tests.storage.stages import (
    PORTION,
    DyingChannel,
    MeasuringChannel,
    OvertakenChannel,
    staging_store,
    store_in_pieces,
)

#: Events in pieces, and how many.
LONG, OTHER, PIECES = "long " * 1000, "other" * 1000, 5
#: Exchanges of one: its pieces, and the batch.
TRIPS = PIECES + 1
BESIDE = 2000


@pytest.fixture
async def store(redis: Redis) -> AsyncIterator[Store]:
    async with store_in_pieces(redis) as store:
        yield store


async def pieces_in(redis: Any) -> list[int]:
    return [await redis.llen(key) async for key in redis.scan_iter("*:event_pieces:*")]


async def faults_of(store: Store) -> list[str]:
    # those that are accepted here have no job
    return [one for one in (await store.auditor.audit()).complaints if not one.endswith("run it")]


async def poll(store: Store, log: EventLog, first: int) -> EventPage:
    (page,) = await store.events.read_all([EventQuery(log.owner, log.response_id, first)], 1 << 20)
    assert isinstance(page, EventPage)
    return page


async def test_they_are_told_from_any_event_on(redis: Redis, store: Store):
    log = new_log()
    for first, events in ((0, [LONG]), (1, ["a", "b"]), (3, ["c", OTHER, "d"]), (6, ["e"])):
        assert await append(store, log, first, *events)
    assert await append(store, log, 7, LONG, "end", last=True)
    whole = [batch(0, LONG), batch(1, "a", "b"), batch(3, "c", OTHER, "d"), batch(6, "e"), batch(7, LONG, "end")]
    for first, batches in [(0, whole), (1, whole[1:]), (4, whole[2:]), (6, whole[3:]), (7, whole[4:]), (8, whole[4:])]:
        page = await read(store, log, first)
        assert (page.batches, page.ended, page.running, page.is_whole) == (batches, True, False, True), first
    assert (await read(store, log, 9)).ended
    # what one has in pieces counts for a page
    assert [one.count for one in (await read(store, log, limit=2000)).batches] == [1, 2, 3, 1, 2]
    assert await pieces_in(redis) == [3 * PIECES + 2]
    assert await faults_of(store) == []


async def test_whoever_follows_many_logs_is_told_that_there_is_one(store: Store):
    log = new_log()
    await append(store, log, 0, "a")
    await append(store, log, 1, LONG)
    await append(store, log, 2, "b", last=True)
    page = await poll(store, log, 0)
    assert (page.batches, page.is_whole, page.ended) == ([batch(0, "a")], False, False)
    page = await poll(store, log, 1)
    assert (page.batches, page.is_whole, page.ended) == ([], False, False)
    assert (await read(store, log, 1)).batches == [batch(1, LONG), batch(2, "b")]
    page = await poll(store, log, 2)
    assert (page.batches, page.is_whole, page.ended) == ([batch(2, "b")], True, True)


async def test_a_repeat_changes_nothing_and_another_one_is_refused(redis: Redis, store: Store):
    log = new_log()
    for _ in range(2):
        assert await append(store, log, 0, LONG)
    for _ in range(2):
        assert await append(store, log, 1, OTHER, last=True)
    assert await pieces_in(redis) == [2 * PIECES]
    assert not await append(store, log, 1, LONG + OTHER, last=True)
    assert not await append(store, log, 2, LONG)
    assert not await append(store, new_log(response_id=log.response_id, token="t"), 2, LONG)
    assert await pieces_in(redis) == [2 * PIECES]
    assert (await read(store, log)).batches == [batch(0, LONG), batch(1, OTHER)]


async def test_no_command_and_no_reply_has_more_than_a_portion(redis: Redis):
    channels = [MeasuringChannel(one) for one in channels_to(redis)]
    async with staging_store(*channels, portion=PORTION) as store:
        log = new_log()
        await append(store, log, 0, LONG, LONG, last=True)
        assert (await read(store, log)).batches == [batch(0, LONG, LONG)]
        await poll(store, log, 0)
    assert max(one.most for one in channels) < PORTION.bytes + BESIDE


@pytest.mark.parametrize("left", range(TRIPS))
@pytest.mark.parametrize("first", [0, 1])
async def test_whoever_dies_between_two_pieces_leaves_nothing_that_is_seen(
    redis: Redis, store: Store, left: int, first: int
):
    log = await accept(redis, store, "token")
    await claim(store, log)
    await append(store, log, 0, LONG)
    async with staging_store(*(DyingChannel(one, left) for one in channels_to(redis)), portion=PORTION) as dying:
        with pytest.raises(Unavailable):
            await append(dying, log, 1, OTHER)
    assert (await read(store, log)).batches == [batch(0, LONG)]
    assert await pieces_in(redis) == [PIECES + left]
    assert await faults_of(store) == []
    # the run that takes over says something else: what was brought is swept, or goes with the log
    assert await claim(store, log, empty=first == 0)
    if first == 0:
        assert await pieces_in(redis) == []
    assert await append(store, log, first, LONG, "x")
    assert await append(store, log, first + 2, OTHER, last=True)
    read_on = await read(store, log, first)
    assert read_on.batches == [batch(first, LONG, "x"), batch(first + 2, OTHER)]
    assert await pieces_in(redis) == [first * PIECES + 2 * PIECES + 1]
    await finish(redis, log)
    assert await faults_of(store) == []


async def test_of_the_first_batch_nothing_is_seen_before_it_is_whole(redis: Redis, store: Store):
    log = new_log()
    async with staging_store(*(DyingChannel(one, 3) for one in channels_to(redis)), portion=PORTION) as dying:
        with pytest.raises(Unavailable):
            await append(dying, log, 0, LONG)
    with pytest.raises(ResponseNotFound):
        await read(store, log)
    (key,) = [key async for key in redis.scan_iter("*:event_pieces:*")]
    assert 0 < await redis.ttl(key) <= STAGED_SECONDS
    assert await faults_of(store) == []
    await append(store, log, 0, "a")
    assert (await read(store, log)).batches == [batch(0, "a")]


@pytest.mark.parametrize("left", [3, TRIPS - 1, TRIPS])
async def test_a_server_that_is_killed_between_two_pieces_has_what_was_acknowledged(tmp_path: Path, left: int):
    options = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(tmp_path))
    log = new_log()
    with run_valkey(*options) as server:
        async with Redis.from_url(server.url) as redis:
            await load_all(redis)
            async with staging_store(*channels_to(redis), portion=PORTION) as store:
                await append(store, log, 0, "a")
            channels = (DyingChannel(one, left) for one in channels_to(redis))
            async with staging_store(*channels, portion=PORTION) as dying:
                if left < TRIPS:
                    with pytest.raises(Unavailable):
                        await append(dying, log, 1, LONG)
                else:
                    await append(dying, log, 1, LONG)
            server.kill()
    with run_valkey(*options) as server:
        async with Redis.from_url(server.url) as redis, staging_store(*channels_to(redis), portion=PORTION) as store:
            told = [batch(0, "a"), *([batch(1, LONG)] if left == TRIPS else [])]
            assert (await read(store, log)).batches == told
            assert await append(store, log, 1, LONG)
            assert (await read(store, log)).batches == [batch(0, "a"), batch(1, LONG)]
            assert await faults_of(store) == []


async def test_pieces_that_are_lost_on_the_way_are_brought_again(redis: Redis, store: Store):
    for number in range(1, TRIPS):
        log = new_log()

        async def lose() -> None:
            await redis.delete("nothing", *[key async for key in redis.scan_iter("*:event_pieces:*")])

        channels = (OvertakenChannel(one, number, lose) for one in channels_to(redis))
        async with staging_store(*channels, portion=PORTION) as losing:
            assert await append(losing, log, 0, LONG, last=True)
        assert (await read(store, log)).batches == [batch(0, LONG)]
        await redis.flushall()
        await load_all(redis)


async def test_pieces_that_are_lost_later_are_missed(redis: Redis, store: Store):
    log = new_log()
    await append(store, log, 0, LONG, last=True)
    await redis.delete(*[key async for key in redis.scan_iter("*:event_pieces:*")])
    assert len(await faults_of(store)) == 1
    with pytest.raises(Unavailable):
        await read(store, log)
    await redis.flushall()


async def test_a_log_that_is_begun_anew_while_it_is_read_is_read_anew(redis: Redis, store: Store):
    for is_deleted in (False, True):
        log = await accept(redis, store, "token")
        await claim(store, log)
        await append(store, log, 0, LONG)

        async def happens(log: EventLog = log, is_deleted: bool = is_deleted) -> None:
            if is_deleted:
                await store.responses.delete(OWNER, log.response_id)
                return
            key = store.events._keyspace.keys(log.response_id).response(log.response_id)
            await redis.hset(key, "token", "next")
            following = EventLog(OWNER, log.response_id, "next")
            await claim(store, following, empty=True)
            await append(store, following, 0, OTHER)

        channels = (OvertakenChannel(one, 3, happens) for one in channels_to(redis))
        async with staging_store(*channels, portion=PORTION) as reader:
            if is_deleted:
                with pytest.raises(ResponseNotFound):
                    await read(reader, log)
                assert await pieces_in(redis) == []
                continue
            page = await read(reader, log)
        assert (page.batches, page.generation) == ([batch(0, OTHER)], "next")
        await store.responses.delete(OWNER, log.response_id)


async def test_pieces_live_as_long_as_their_log(redis: Redis, store: Store):
    log = new_log()
    keys = store.events._keyspace.keys(log.response_id)
    await append(store, log, 0, LONG)
    await redis.expire(keys.events(log.response_id), 10)
    await redis.expire(keys.event_pieces(log.response_id), 10)
    long, last = EventBatch(2, 1, OTHER.encode()), EventBatch(3, 1, b"b")
    await append(store, log, 1, "a")
    lives = [await redis.ttl(key) for key in (keys.events(log.response_id), keys.event_pieces(log.response_id))]
    assert lives[0] - 2 < lives[1] <= TTL
    assert await store.events.append(log, long, ttl_seconds=1000, lease_seconds=10, last=False)
    assert await store.events.append(log, last, ttl_seconds=500, lease_seconds=10, last=True)
    assert 400 < await redis.ttl(keys.event_pieces(log.response_id)) <= 500
    assert await faults_of(store) == []


async def test_a_stranger_reads_no_piece_and_a_purge_takes_them(redis: Redis, store: Store):
    response_id = await take_turn(store)
    log = EventLog(OWNER, response_id)
    await append(store, log, 0, LONG)
    keys = store.events._keyspace.keys(response_id)
    names = [keys.events(response_id), keys.event_pieces(response_id)]
    for owner, generation, kind in ((STRANGER, response_id, int), (OWNER, "x", int), (OWNER, response_id, bytes)):
        (found,) = await store.events._scripts.run(Call("read_piece_of_log", names, [owner, generation, 0]))
        assert type(found) is kind
    with pytest.raises(ResponseNotFound):
        await store.events.read(EventQuery(STRANGER, response_id, 0), 1000)
    await store.purger.purge(OWNER)
    assert await pieces_in(redis) == []


async def test_a_backup_has_the_pieces(redis: Redis, store: Store):
    log = EventLog(OWNER, await take_turn(store))
    await append(store, log, 0, "a", LONG)
    await append(store, log, 2, OTHER, last=True)
    parts = [part async for part in store.copier.copy()]
    await redis.flushall()
    await load_all(redis)
    head = BackupHead(1, "a test", 0, "a server", "")
    await store.restorer.prepare(head, replace=False)
    await store.restorer.restore(head, parts)
    await store.layout.open("a test")
    assert (await read(store, log)).batches == [batch(0, "a", LONG), batch(2, OTHER)]
    assert await faults_of(store) == []
