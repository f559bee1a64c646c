"""The writer of a log: how often it writes, and what it does where another run, or an outage, came in between."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from proxy.config.settings import Config, StreamsConfig
from proxy.delivery import TurnOutput, Unattended
from proxy.protocol import sse
from proxy.protocol.sse import FrameBytes
from proxy.runtime.leases import Leases
from proxy.services import Services
from proxy.streams import event_log as eventlog
from proxy.streams.event_log import EventLogWriter, StreamLog, split_frames
from storage import EventBatch, EventLog, EventQuery, ResponseNotFound, Store, partition_of
from tests.storage.builders import OWNER, connect, new_log, take_turn
from tests.storage.servers import run_valkey

LIMIT = 64 * 1024 * 1024
#: Events that come together.
FEW = 5


def services_on(store: Store, retention_seconds: float = 100.0) -> Services:
    config = msgspec.structs.replace(Config(), streams=StreamsConfig(retention_seconds=retention_seconds))
    unused: dict[str, Any] = {field.name: None for field in dataclasses.fields(Services)}
    return Services(**{**unused, "store": store, "config": config, "leases": Leases(store, 10.0)})


def frame(text: str) -> bytes:
    return sse.encode("e", text.encode())


def end(text: str = "end") -> bytes:
    return frame(text) + sse.DONE


async def batches(store: Store, log: EventLog) -> list[EventBatch]:
    return (await store.events.read(EventQuery(OWNER, log.response_id, 0), LIMIT)).batches


async def texts(store: Store, log: EventLog) -> list[str]:
    """Return what the events of a log say."""
    told = b"".join([batch.frames for batch in await batches(store, log)])
    return [one.partition(b"data: ")[2].strip().decode() for one in split_frames(told)]


def response_key(log: EventLog) -> str:
    return f"test:{{{partition_of(log.response_id)}}}:response:{log.response_id}"


async def accept(redis: Any, store: Store, token: str, log: EventLog | None = None) -> EventLog:
    """Give an unfinished response, a new one or the next run of that one."""
    response_id = log.response_id if log else await take_turn(store)
    accepted = EventLog(OWNER, response_id, token)
    await redis.hset(response_key(accepted), mapping={"status": "in_progress", "token": token})
    return accepted


async def finish(redis: Any, log: EventLog) -> None:
    await redis.hset(response_key(log), "status", "completed")
    await redis.hdel(response_key(log), "token")


async def crash(writer: EventLogWriter, *frames: bytes) -> None:
    """Let a run write all of this, and stop without a word."""
    for one in frames:
        await writer.write(one)
    await writer._flush()


async def test_a_short_stream_is_kept_with_one_write(store: Store):
    log = new_log()
    async with EventLogWriter(services_on(store), log) as writer:
        for i in range(100):
            await writer.write(frame(str(i)))
        await writer.write(end())
    assert await texts(store, log) == [*map(str, range(100)), "end"]
    # a tick of the clock may come in between
    assert len(await batches(store, log)) <= 2


@pytest.mark.parametrize("token", ["", "t1"])
async def test_events_are_kept_soon_but_not_one_by_one(redis: Redis, store: Store, token: str):
    log = await accept(redis, store, token) if token else new_log()
    seconds = eventlog.BATCH_SECONDS if token else eventlog.ORDINARY_BATCH_SECONDS
    start = asyncio.get_running_loop().time()
    async with EventLogWriter(services_on(store), log) as writer:
        while True:
            for _ in range(FEW):
                await writer.write(frame("x"))
            await asyncio.sleep(0.001)
            with contextlib.suppress(ResponseNotFound):
                if len(kept := await batches(store, log)) == 4:
                    break
        passed = asyncio.get_running_loop().time() - start
        # the first may come at once, by the clock that all writers share
        assert passed > 3 * seconds
        assert all(batch.count >= FEW for batch in kept)
        if token:
            await finish(redis, log)
        await writer.write(end())


async def test_an_end_that_overtakes_a_write_ends_the_log(store: Store):
    log = new_log()
    async with EventLogWriter(services_on(store), log) as writer:
        await writer.write(frame("0"))
        writes = [asyncio.create_task(writer._flush())]
        await asyncio.sleep(0)
        await writer.write(frame("1"))
        writes.append(asyncio.create_task(writer._flush()))
        await writer.write(end())
        await asyncio.gather(*writes)
    assert await texts(store, log) == ["0", "1", "end"]
    assert (await store.events.read(EventQuery(OWNER, log.response_id, 0), LIMIT)).ended


async def test_many_bytes_are_kept_at_once(store: Store):
    log = new_log()
    async with EventLogWriter(services_on(store), log) as writer:
        await writer.write(frame("x" * eventlog.BATCH_BYTES))
        assert len(await batches(store, log)) == 1
        await writer.write(end())


async def test_the_log_lives_as_long_as_configured_and_longer_while_its_upstream_may_be_silent(
    redis: Any, store: Store
):
    log = new_log()
    services = services_on(store, 50.0)
    async with EventLogWriter(services, log) as writer:
        await writer.write(frame("0"))
        await writer._flush()
        key = response_key(log).replace(":response:", ":events:")
        running = await redis.ttl(key)
        assert running > services.config.upstream.read_timeout_seconds
        await writer.write(end())
    assert 40 < await redis.ttl(key) <= 50


async def test_the_writer_s_lock_is_renewed_while_it_writes_and_given_up_with_it(redis: Any, store: Store):
    log = new_log()
    services = services_on(store)
    lock = response_key(log).replace(":response:", ":lock:~")
    async with EventLogWriter(services, log) as writer:
        await writer.write(frame("0"))
        await writer._flush()
        assert services.leases._held == {store.events.lease(log)}
        assert await redis.exists(lock)
    assert not services.leases._held
    assert not await redis.exists(lock)
    other = new_log()
    async with EventLogWriter(services, other) as writer:
        await writer.write(frame("0"))
        await writer._flush()
        await writer.write(end())
        assert not services.leases._held


@pytest.mark.parametrize("together", [False, True])
async def test_a_run_that_says_the_same_goes_on_where_the_one_before_it_stopped(
    redis: Redis, store: Store, together: bool
):
    first = await accept(redis, store, "t1")
    async with EventLogWriter(services_on(store), first) as crashed:
        await crash(crashed, *[frame(str(i)) for i in range(5)])
        before = await store.events.read(EventQuery(OWNER, first.response_id, 0), LIMIT)
    second = await accept(redis, store, "t2", first)
    told = [frame(str(i)) for i in range(8)]
    async with EventLogWriter(services_on(store), second) as writer:
        for one in [b"".join(told)] if together else told:
            await writer.write(one)
        await finish(redis, second)
        await writer.write(end())
    after = await store.events.read(EventQuery(OWNER, first.response_id, 0), LIMIT)
    assert await texts(store, second) == [*map(str, range(8)), "end"]
    assert after.ended
    assert after.generation == before.generation
    assert after.batches[: len(before.batches)] == before.batches


@pytest.mark.parametrize("told", [["0", "1", "x", "3", "4", "5"], ["0", "1"], ["x"], []])
async def test_a_run_that_says_something_else_begins_the_log_anew(redis: Redis, store: Store, told: list[str]):
    first = await accept(redis, store, "t1")
    async with EventLogWriter(services_on(store), first) as crashed:
        await crash(crashed, *[frame(str(i)) for i in range(5)])
        before = await store.events.read(EventQuery(OWNER, first.response_id, 0), LIMIT)
    second = await accept(redis, store, "t2", first)
    async with EventLogWriter(services_on(store), second) as writer:
        for one in told:
            await writer.write(frame(one))
        await writer.write(frame("last"))
        await writer._flush()
        await finish(redis, second)
        await writer.write(end())
    after = await store.events.read(EventQuery(OWNER, first.response_id, 0), LIMIT)
    assert await texts(store, second) == [*told, "last", "end"]
    assert (after.ended, after.batches[0].first_number) == (True, 0)
    assert after.generation != before.generation


async def test_a_run_that_was_replaced_writes_nothing_more(redis: Redis, store: Store):
    first = await accept(redis, store, "t1")
    async with EventLogWriter(services_on(store), first) as replaced:
        await replaced.write(frame("0"))
        await replaced._flush()
        second = await accept(redis, store, "t2", first)
        async with EventLogWriter(services_on(store), second) as writer:
            await writer.write(frame("0"))
            await crash(replaced, frame("x"))
            await replaced.write(end("x"))
            await writer.write(frame("1"))
            await finish(redis, second)
            await writer.write(end())
    assert await texts(store, second) == ["0", "1", "end"]


async def test_a_run_of_a_response_that_is_finished_writes_nothing(redis: Redis, store: Store):
    log = EventLog(OWNER, await take_turn(store), "t1")
    async with EventLogWriter(services_on(store), log) as writer:
        await writer.write(frame("0"))
        await writer.write(end())
    assert await batches(store, log) == []


async def test_whoever_ends_a_run_in_the_middle_of_a_write_does_not_break_the_log(store: Store):
    log = new_log()
    async with EventLogWriter(services_on(store), log) as writer:
        long = "x" * eventlog.BATCH_BYTES
        run = asyncio.create_task(writer.write(frame(long)))
        await asyncio.sleep(0)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        assert run.cancelled()
        await writer.write(frame("1"))
        await writer.write(end())
    assert await texts(store, log) == [long, "1", "end"]


async def test_an_outage_delays_events_and_loses_none():
    with run_valkey() as server:
        async with (
            connect(server.url, timeout_seconds=0.5) as store,
            connect(server.url) as witness,
            Redis.from_url(server.url) as admin,
        ):
            log = new_log()
            async with EventLogWriter(services_on(store), log) as writer:
                await writer.write(frame("0"))
                await writer._flush()
                await admin.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
                for i in range(1, 10):
                    await writer.write(frame(str(i)))
                    await asyncio.sleep(0.01)
                await writer._flush()
                assert writer._failing
                await admin.execute_command("CLIENT", "UNPAUSE")
                await writer.write(frame("x" * eventlog.BATCH_BYTES))
                await writer.write(end())
            assert await texts(witness, log) == [*map(str, range(10)), "x" * eventlog.BATCH_BYTES, "end"]


async def test_a_store_that_is_gone_ends_the_log_and_not_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(eventlog, "CLOSING_SECONDS", 0.1)
    with run_valkey() as server:
        async with connect(server.url) as store:
            log = new_log()
            async with EventLogWriter(services_on(store), log) as writer:
                await writer.write(frame("0"))
                await writer._flush()
                server.kill()
                await writer.write(frame("secret"))
                await writer.write(end())
                await writer.write(frame("secret"))
    assert f"events of {log.response_id} are not kept any further" in caplog.text
    assert "secret" not in caplog.text


async def test_what_waits_for_a_store_that_is_gone_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(eventlog, "MAX_WAITING_BYTES", 1000)
    with run_valkey() as server:
        async with connect(server.url) as store, EventLogWriter(services_on(store), new_log()) as writer:
            server.kill()
            await writer.write(frame("0"))
            await writer.write(frame("x" * 2000))
            await writer._flush()
            assert writer._over
            assert not writer._leases._held


async def test_a_turn_without_a_client_has_all_its_frames_in_the_log(redis: Redis, store: Store):
    log = await accept(redis, store, "t1")
    async with EventLogWriter(services_on(store), log) as writer:
        for sinks in ([], [writer]):
            output = TurnOutput(Unattended(), sinks)
            assert not output.started
            output.begin({"x": "y"})
            assert await output.send(frame("0"))
            assert (output.started, output.delivery.gone) == (True, False)
            await output.delivery.keep_alive(0)
        await output.secure()
        assert await texts(store, log) == ["0"]
        await finish(redis, log)
        assert await output.send(end())
    assert await texts(store, log) == ["0", "end"]


async def test_the_last_event_is_kept_before_the_client_gets_it(store: Store):
    response_id = new_log().response_id
    ended: list[bool] = []

    class Watching(Unattended):
        async def send(self, frames: FrameBytes) -> bool:
            with contextlib.suppress(ResponseNotFound):
                ended.append((await store.events.read(EventQuery(OWNER, response_id, 0), LIMIT)).ended)
            return False

    log = StreamLog(services_on(store), OWNER)
    log.begun()
    await log.identified(response_id, lambda: False)
    output = TurnOutput(Watching(), [log])
    for frames in (frame("0"), frame("1"), end()):
        assert not await output.send(frames)
        log.left()
    await log.ended(None)
    assert ended[-1]
    assert not any(ended[:-1])


async def test_a_turn_that_is_refused_before_it_has_an_id_leaves_no_log(store: Store):
    log = StreamLog(services_on(store), OWNER)
    log.begun()
    await log.write(frame("0"))
    await log.secure()
    await log.ended(ValueError())
