"""Background responses whose request is more than one command takes: it lies in pieces until the response is over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from proxy.protocol import ids
from storage import (
    BackupHead,
    Busy,
    CommitResult,
    Conflict,
    Job,
    JobEntry,
    LargeJob,
    OpenedTurn,
    Store,
    Submission,
    Unavailable,
    new_partition,
    partition_of,
)
from storage.client.keys import PartitionKeys, QueueKeys
from storage.client.staging import STAGED_SECONDS
from tests.fake import channels_to
from tests.storage.builders import (
    OWNER,
    PREFIX,
    RETENTION_SECONDS,
    STRANGER,
    finished,
    load_all,
)
from tests.storage.servers import run_valkey
from tests.storage.stages import (
    PORTION,
    DyingChannel,
    MeasuringChannel,
    OvertakenChannel,
    staging_store,
    store_in_pieces,
)

#: A job in pieces, and how many; and one that is none.
LONG, PIECES, SHORT = "long " * 1000, 5, "x" * 1000
#: Exchanges of its submission: what is there already, its pieces, the queue with the record.
TRIPS = 1 + PIECES + 1
LEASE_SECONDS = 30.0
#: More than the arguments or the reply of any script has beside a portion.
BESIDE = 2000


@pytest.fixture
async def store(redis: Redis) -> AsyncIterator[Store]:
    async with store_in_pieces(redis) as store:
        yield store


def submission(job: str = LONG, response_id: str = "", token: str = "token") -> Submission:
    response_id = response_id or ids.new_response_id(new_partition(), stored=True)
    facts = {"id": response_id, "object": "response", "created_at": 7, "status": "queued", "error": None}
    return Submission(OWNER, response_id, token, orjson.dumps(facts), job, OpenedTurn(), streamed=False)


def keys_of(response_id: str) -> PartitionKeys:
    return PartitionKeys(PREFIX, partition_of(response_id))


async def claim(store: Store, given: Submission, token: str = "mine", **facts: Any) -> Any:
    entry = JobEntry("0-1", given.response_id, 0, OWNER)
    return await store.jobs.claim(entry, token, LEASE_SECONDS, **facts)


async def lists_in(redis: Any) -> list[str]:
    """Return what pieces there are, brought or kept."""
    found = [key.decode() async for key in redis.scan_iter("*") if b":job:" in key or b":staged:" in key]
    return sorted(found)


async def faults_of(store: Store) -> list[str]:
    return (await store.auditor.audit()).complaints


async def drain(redis: Redis, store: Store, given: Submission) -> None:
    """Leave nothing of it."""
    await store.responses.delete(OWNER, given.response_id)
    await redis.delete(*[key async for key in redis.scan_iter(f"{QueueKeys(PREFIX).tickets}*")])


async def test_it_is_claimed_as_it_was_submitted(redis: Redis, store: Store):
    for text in (LONG, SHORT, LONG[:1001], LONG[:2000]):
        given = submission(text)
        await store.jobs.submit(given)
        assert await lists_in(redis) == [keys_of(given.response_id).job(given.response_id)] * (text != SHORT)
        assert await faults_of(store) == []
        claimed = await claim(store, given)
        assert (claimed.job, claimed.owner, claimed.attempt) == (text, OWNER, 1)
        assert isinstance(await claim(store, given, "other"), Busy)
        # another attempt finds it too
        await store.jobs.give_back(claimed, "nobody", 0.001)
        assert (await claim(store, given, "other")).job == text
        await drain(redis, store, given)
        assert await lists_in(redis) == []


async def test_it_is_large_before_it_is_read(redis: Redis, store: Store):
    given = submission()
    await store.jobs.submit(given)
    assert await claim(store, given, most_bytes=len(LONG) - 1) == LargeJob(len(LONG))
    assert isinstance(await claim(store, given, most_bytes=len(LONG)), Job)
    await drain(redis, store, given)


async def test_its_pieces_go_when_it_is_over(redis: Redis, store: Store):
    for end in ("commit", "fail", "cancel", "delete", "purge"):
        given = submission()
        await store.jobs.submit(given)
        job = await claim(store, given)
        assert len(await lists_in(redis)) == 1
        if end == "commit":
            partition, token = partition_of(given.response_id), "mine"
            commit = finished(OpenedTurn(), partition=partition, response_id=given.response_id, job_token=token)
            assert (await store.turns.commit(commit)).result is CommitResult.OK
        elif end == "fail":
            assert await store.jobs.fail(job, b"{}")
        elif end == "cancel":
            assert await store.jobs.cancel(OWNER, given.response_id)
        elif end == "delete":
            await store.responses.delete(OWNER, given.response_id)
        else:
            await store.purger.purge(OWNER)
        assert await lists_in(redis) == []
        assert [one for one in await faults_of(store) if "queue" not in one] == []
        await redis.flushall()
        await load_all(redis)


async def test_no_command_and_no_reply_has_more_than_a_portion(redis: Redis):
    channels = [MeasuringChannel(one) for one in channels_to(redis)]
    async with staging_store(*channels, portion=PORTION) as store:
        given = submission()
        await store.jobs.submit(given)
        await claim(store, given)
        await drain(redis, store, given)
    assert max(one.most for one in channels) < PORTION.bytes + BESIDE


@pytest.mark.parametrize("left", range(TRIPS))
async def test_whoever_dies_between_two_pieces_leaves_nothing_that_is_seen(redis: Redis, store: Store, left: int):
    given = submission()
    async with staging_store(*(DyingChannel(one, left) for one in channels_to(redis)), portion=PORTION) as dying:
        with pytest.raises(Unavailable):
            await dying.jobs.submit(given)
    keys = keys_of(given.response_id)
    assert await lists_in(redis) == ([keys.staged("token")] if left > 1 else [])
    assert all([0 < await redis.ttl(key) <= STAGED_SECONDS for key in await lists_in(redis)])
    assert await faults_of(store) == []
    # and whoever repeats it goes on
    await store.jobs.submit(given)
    await store.jobs.submit(given)
    # the second one was over before it had come
    await redis.delete(keys.staged("token"))
    assert STAGED_SECONDS < await redis.ttl(keys.job(given.response_id)) <= RETENTION_SECONDS
    assert (await claim(store, given)).job == LONG
    assert await faults_of(store) == []
    await drain(redis, store, given)


@pytest.mark.parametrize("left", [3, TRIPS - 1, TRIPS])
async def test_a_server_that_is_killed_between_two_pieces_has_what_was_acknowledged(tmp_path: Path, left: int):
    options = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(tmp_path))
    given = submission()
    with run_valkey(*options) as server:
        async with Redis.from_url(server.url) as redis:
            await load_all(redis)
            channels = (DyingChannel(one, left) for one in channels_to(redis))
            async with staging_store(*channels, portion=PORTION) as dying:
                if left < TRIPS:
                    with pytest.raises(Unavailable):
                        await dying.jobs.submit(given)
                else:
                    await dying.jobs.submit(given)
            server.kill()
    with run_valkey(*options) as server:
        async with Redis.from_url(server.url) as redis, staging_store(*channels_to(redis), portion=PORTION) as store:
            found = await claim(store, submission(response_id=given.response_id))
            assert (getattr(found, "job", None) == LONG) is (left == TRIPS)
            assert [one for one in await faults_of(store) if "queue" not in one] == []


@pytest.mark.parametrize("number", range(2, TRIPS))
async def test_pieces_that_are_lost_on_the_way_are_an_error(redis: Redis, store: Store, number: int):
    given = submission()

    async def lose() -> None:
        await redis.delete(keys_of(given.response_id).staged("token"))

    channels = (OvertakenChannel(one, number, lose) for one in channels_to(redis))
    async with staging_store(*channels, portion=PORTION) as losing:
        if number < TRIPS - 1:
            # they are brought again
            await losing.jobs.submit(given)
            assert (await claim(store, given)).job == LONG
            await drain(redis, store, given)
            return
        with pytest.raises(Unavailable):
            await losing.jobs.submit(given)
    assert (await store.jobs.survey()).jobs == 0
    assert await redis.exists(keys_of(given.response_id).response(given.response_id)) == 0
    await redis.flushall()


async def test_pieces_that_are_lost_later_leave_a_job_that_nobody_can_read(redis: Redis, store: Store):
    given = submission()
    await store.jobs.submit(given)
    await redis.delete(keys_of(given.response_id).job(given.response_id))
    assert len(await faults_of(store)) == 1
    assert (await claim(store, given)).job == ""
    await drain(redis, store, given)


async def test_who_is_cancelled_or_overtaken_while_it_is_read_does_not_run(redis: Redis, store: Store):
    for take_over in (False, True):
        given = submission()
        await store.jobs.submit(given)

        async def happens(given: Submission = given, take_over: bool = take_over) -> None:
            if take_over:
                keys = keys_of(given.response_id)
                await redis.hset(keys.response(given.response_id), "lease_until", 0)
                await claim(store, given, "other")
            else:
                await store.jobs.cancel(OWNER, given.response_id)

        channels = (OvertakenChannel(one, 3, happens) for one in channels_to(redis))
        async with staging_store(*channels, portion=PORTION) as slow:
            found = await claim(slow, given)
        assert isinstance(found, Busy) if take_over else found is None
        await drain(redis, store, given)


async def test_another_owner_s_partition_takes_none(redis: Redis, store: Store):
    given = submission()
    await store.jobs.submit(given)
    other = submission(response_id=ids.new_response_id(partition_of(given.response_id), stored=True), token="other")
    with pytest.raises(Conflict):
        await store.jobs.submit(Submission(STRANGER, *(getattr(other, one) for one in other.__slots__[1:])))
    assert (await claim(store, given)).job == LONG
    await redis.delete(keys_of(other.response_id).staged("other"))
    await drain(redis, store, given)


async def test_a_backup_has_the_pieces(redis: Redis, store: Store):
    given = submission()
    await store.jobs.submit(given)
    parts = [part async for part in store.copier.copy()]
    await redis.flushall()
    await load_all(redis)
    await store.restorer.prepare(BackupHead(1, "a test", 0, "a server", ""), replace=False)
    await store.restorer.restore(BackupHead(1, "a test", 0, "a server", ""), parts)
    await store.layout.open("a test")
    assert await faults_of(store) == []
    assert (await claim(store, given)).job == LONG
    await drain(redis, store, given)
