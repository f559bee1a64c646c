"""Readers of logs, many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.protocol.errors import BadRequest
from proxy.runtime.tasks import Tasks
from proxy.streams.follower import POLL_SECONDS, Broken, Followers, LogReader, frames_from, read_starting_after
from storage import EventBatch, EventLog, EventQuery, ResponseNotFound, Store
from tests.roundtrips import RoundTripCounter
from tests.storage.builders import OWNER, connect, new_log, take_turn
from tests.storage.servers import run_valkey


async def append(store: Store, log: EventLog, number: int, frames: bytes = b"e\n\n", *, last: bool = False) -> None:
    assert await store.events.append(log, EventBatch(number, 1, frames), ttl_seconds=100, lease_seconds=30, last=last)


def after(log: EventLog, number: int) -> EventQuery:
    return EventQuery(OWNER, log.response_id, number)


@pytest.fixture
async def followers(store: Store) -> AsyncIterator[Followers]:
    async with Followers(store, 15.0).serving(Tasks()) as followers:
        yield followers


async def test_a_reader_gets_what_is_new_and_the_end(followers: Followers, store: Store):
    log = new_log()
    await append(store, log, 0)
    waiting = asyncio.create_task(followers.next(after(log, 1)))
    await asyncio.sleep(2 * POLL_SECONDS)
    assert not waiting.done()
    await append(store, log, 1, last=True)
    page = await waiting
    assert (page.batches, page.ended) == ([EventBatch(1, 1, b"e\n\n")], True)
    assert (await followers.next(after(log, 2))).ended


async def test_a_reader_learns_that_nobody_writes_any_more_and_that_there_is_no_log(followers: Followers, store: Store):
    log = new_log()
    await append(store, log, 0)
    waiting = asyncio.create_task(followers.next(after(log, 1)))
    await store.events.release(log)
    page = await waiting
    assert (page.batches, page.ended, page.running) == ([], False, False)
    with pytest.raises(ResponseNotFound):
        await followers.next(after(new_log(), 0))


async def test_a_stream_is_told_again_to_whoever_comes_before_its_first_events_are_kept(store: Store):
    response_id = await take_turn(store)
    log = EventLog(OWNER, response_id)
    reader = LogReader(Followers(store, 15.0, ordinary_logs=True), after(log, 0), show_encrypted=False)
    beginning = asyncio.create_task(reader.begin())
    await asyncio.sleep(POLL_SECONDS)
    await append(store, log, 0, last=True)
    await beginning
    assert not reader.waits


async def test_nobody_waits_for_events_that_are_not_kept(store: Store):
    response_id = await take_turn(store)
    reader = LogReader(Followers(store, 15.0), after(EventLog(OWNER, response_id), 0), show_encrypted=False)
    with pytest.raises(BadRequest, match="not kept"):
        await reader.begin()


async def test_a_stopped_follower_breaks_off_those_that_wait_and_those_that_come(followers: Followers, store: Store):
    log = new_log()
    await append(store, log, 0)
    waiting = asyncio.create_task(followers.next(after(log, 1)))
    await asyncio.sleep(0)
    followers.stop()
    with pytest.raises(Broken):
        await waiting
    with pytest.raises(Broken):
        await followers.next(after(log, 1))
    await store.events.release(log)


async def test_all_readers_together_take_one_round_trip_a_look():
    with run_valkey() as server:
        async with (
            connect(server.url) as writer,
            RoundTripCounter(Path(server.url.removeprefix("unix://"))) as counter,
            connect(counter.url, max_connections=1) as store,
            Followers(store, 15.0).serving(Tasks()) as followers,
        ):
            logs = [new_log() for _ in range(20)]
            for log in logs:
                await append(writer, log, 0)
            # the script is sent whole once, and a connection takes some trips of its own
            await store.events.read(after(logs[0], 0), 1000)
            counter.reset()
            start = asyncio.get_running_loop().time()
            waiting = [asyncio.create_task(followers.next(after(log, 1))) for log in logs for _ in range(5)]
            while counter.count < 3:  # noqa: ASYNC110 (counted by another task)
                await asyncio.sleep(POLL_SECONDS)
            for log in logs:
                await append(writer, log, 1, last=True)
            pages = await asyncio.gather(*waiting)
            passed = asyncio.get_running_loop().time() - start
            assert len(pages) == 100
            assert all(page.ended for page in pages)
            assert counter.count <= passed / POLL_SECONDS + 1


async def test_nobody_who_waits_costs_nothing(followers: Followers, store: Store):
    log = new_log()
    await append(store, log, 0)
    waiting = asyncio.create_task(followers.next(after(log, 1)))
    await asyncio.sleep(2 * POLL_SECONDS)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.sleep(4 * POLL_SECONDS)
    assert not followers._wanted.is_set()
    assert not followers._waiting
    await store.events.release(log)


async def test_readers_wait_out_an_outage():
    with run_valkey() as server:
        async with connect(server.url, timeout_seconds=0.2) as store, connect(server.url) as writer:
            log = new_log()
            await append(writer, log, 0)
            async with Followers(store, 15.0).serving(Tasks()) as followers:
                waiting = asyncio.create_task(followers.next(after(log, 1)))
                channel = writer._channel
                await channel.exchange([("CLIENT", "PAUSE", 600)])
                await append(writer, log, 1, last=True)
                assert (await waiting).ended


def test_frames_are_told_from_an_event_on():
    batches = [EventBatch(4, 3, b"4\n\n5\n\n6\n\n"), EventBatch(7, 1, b"7\n\n")]
    assert frames_from(batches, 0) == frames_from(batches, 4) == b"4\n\n5\n\n6\n\n7\n\n"
    assert frames_from(batches, 6) == b"6\n\n7\n\n"
    assert frames_from(batches[1:], 6) == b"7\n\n"


def test_starting_after_is_a_number_of_an_event():
    assert [read_starting_after(query) for query in ({}, {"starting_after": ""}, {"starting_after": "0"})] == [
        -1,
        -1,
        0,
    ]
    assert read_starting_after({"starting_after": "9" * 15}) == 10**15 - 1
    for text in ("-1", "+1", " 1", "1.0", "x", "²", "9" * 16):
        with pytest.raises(BadRequest) as caught:
            read_starting_after({"starting_after": text})
        assert caught.value.param == "starting_after"
