"""Background responses in the store: who may run one, what becomes of its branch's lock, and the queue."""

from __future__ import annotations

import asyncio
import time

import orjson
import pytest
from redis.asyncio import Redis

from proxy.protocol import ids
from storage import (
    Busy,
    CommitResult,
    Conflict,
    EventBatch,
    EventLog,
    Job,
    Lease,
    Locked,
    OpenedTurn,
    ResponseNotFound,
    ResponseUnfinished,
    Store,
    Submission,
    new_partition,
    partition_of,
)
from storage.client.keys import queue_key
from storage.client.scripts import Call
from tests.storage.builders import (
    OWNER,
    PREFIX,
    STRANGER,
    connect,
    continue_from,
    input_of,
    open_turn,
    read_all,
    start,
    take_turn,
)
from tests.storage.everything import claimed, commit, status_of, submit, taken
from tests.storage.inspection import keys_of
from tests.storage.servers import run_valkey

QUEUE = queue_key(PREFIX)


async def test_a_response_is_queued_claimed_and_committed_once(valkey: Redis, valkey_store: Store):
    conversation = await start(valkey_store, "one")
    submission = await submit(valkey_store, conversation=conversation)
    assert await status_of(valkey_store, submission.response_id) == "queued"
    job = await claimed(valkey_store, "t1")
    assert (job.owner, job.job, job.attempt, job.entry.response_id) == (OWNER, "sealed", 1, submission.response_id)
    assert await status_of(valkey_store, submission.response_id) == "in_progress"
    assert isinstance(await valkey_store.jobs.claim(job.entry, "t2", 10), Busy)
    assert await commit(valkey_store, submission, job, conversation) is CommitResult.OK
    assert await commit(valkey_store, submission, job, conversation) is CommitResult.REPEATED
    assert await read_all(valkey_store, conversation) == ["one", "question", "answer"]
    assert await valkey_store.jobs.claim(job.entry, "t3", 10) is None
    await valkey_store.jobs.finish(job.entry)
    assert await valkey.xlen(QUEUE) == 0


async def test_only_the_last_who_claimed_it_can_commit(valkey_store: Store):
    conversation = await start(valkey_store, "one")
    submission = await submit(valkey_store, conversation=conversation)
    first = await claimed(valkey_store, "t1")
    assert await valkey_store.jobs.give_back(first, "nobody", 10)
    second = await claimed(valkey_store, "t2", first.entry)
    assert second.attempt == 1
    assert await valkey_store.jobs.renew([first, second], 10) == [False, True]
    assert not await valkey_store.jobs.fail(first, b"{}")
    assert not await valkey_store.jobs.give_back(first, "x", 10)
    with pytest.raises(Conflict):
        await commit(valkey_store, submission, first, conversation)
    assert await commit(valkey_store, submission, second, conversation) is CommitResult.OK
    assert await read_all(valkey_store, conversation) == ["one", "question", "answer"]
    await valkey_store.jobs.finish(second.entry)


async def test_one_whose_lease_is_over_can_be_claimed_and_that_counts(valkey_store: Store):
    submission = await submit(valkey_store)
    job = await claimed(valkey_store, "t1", lease_seconds=0.001)
    async with asyncio.timeout(20):
        while isinstance(again := await valkey_store.jobs.claim(job.entry, "t2", 10), Busy):
            pass
    assert isinstance(again, Job)
    assert again.attempt == 2
    assert await valkey_store.jobs.cancel(OWNER, submission.response_id)
    await valkey_store.jobs.finish(job.entry)


async def test_the_branch_lock_goes_with_the_response_and_ends_with_it(valkey_store: Store):
    conversation = await start(valkey_store)
    partition = partition_of(conversation.id)
    submission = await submit(valkey_store, conversation=conversation)
    lock = submission.opened.lock
    job = await claimed(valkey_store, "t1")
    held = [Lease(partition, lock, token) for token in ("token", "t1")]
    assert [one.held for one in await valkey_store.turns.renew(held, 10)] == [False, True]
    await valkey_store.jobs.give_back(job, "t2", 10)
    with pytest.raises(Locked):
        await open_turn(valkey_store, conversation=conversation, token="other")
    await valkey_store.jobs.cancel(OWNER, submission.response_id)
    await open_turn(valkey_store, conversation=conversation, token="other")
    # somebody else's now: ending the response again must leave it alone
    await valkey_store.jobs.cancel(OWNER, submission.response_id)
    await valkey_store.responses.delete(OWNER, submission.response_id)
    with pytest.raises(Locked):
        await open_turn(valkey_store, conversation=conversation, token="third")
    await valkey_store.jobs.finish(job.entry)


@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_one_that_ended_without_a_commit_cannot_be_committed(valkey_store: Store, how: str):
    conversation = await start(valkey_store, "one")
    submission = await submit(valkey_store, conversation=conversation)
    job = await claimed(valkey_store, "t1")
    log = EventLog(OWNER, submission.response_id, "t1")
    assert await valkey_store.events.claim(log, ttl_seconds=10, lease_seconds=10)
    if how == "failed":
        assert await valkey_store.jobs.fail(job, b'{"code":"x","message":"y"}')
    else:
        assert await valkey_store.jobs.cancel(OWNER, submission.response_id)
    assert await valkey_store.jobs.renew([job], 10) == [False]
    batch = EventBatch(0, 1, b"frame")
    assert not await valkey_store.events.append(log, batch, ttl_seconds=10, lease_seconds=10, last=True)
    assert await commit(valkey_store, submission, job, conversation) is CommitResult.REPEATED
    assert await read_all(valkey_store, conversation) == ["one"]
    stored = orjson.loads((await valkey_store.responses.read(OWNER, submission.response_id)).body)
    assert stored["status"] == how
    assert stored["error"] == ({"code": "x", "message": "y"} if how == "failed" else None)
    # it is gone on from as if it had not been
    assert await continue_from(valkey_store, submission.response_id) == ["one"]
    await valkey_store.jobs.finish(job.entry)


async def test_what_it_continues_lives_as_long_as_it_does(valkey: Redis, valkey_store: Store):
    first = await take_turn(valkey_store)
    for key in await keys_of(valkey, first):
        await valkey.expire(key, 100)
    submission = await submit(valkey_store, previous=first)
    assert await input_of(valkey_store, submission.response_id) == ["question", "answer"]
    # and the checker, which runs after every test, compares the lives
    assert await valkey_store.jobs.cancel(OWNER, submission.response_id)
    assert await valkey_store.jobs.take("w1", 1) == []


async def test_nobody_else_can_cancel_it_and_no_other_response_can_be_cancelled(valkey_store: Store):
    submission = await submit(valkey_store)
    with pytest.raises(ResponseNotFound):
        await valkey_store.jobs.cancel(STRANGER, submission.response_id)
    with pytest.raises(ResponseUnfinished):
        await open_turn(valkey_store, previous=submission.response_id)
    assert not await valkey_store.jobs.cancel(OWNER, await take_turn(valkey_store))
    assert await valkey_store.jobs.cancel(OWNER, submission.response_id)
    assert await valkey_store.jobs.take("w1", 1) == []


async def test_it_does_not_go_into_another_owners_partition(valkey: Redis, valkey_store: Store):
    theirs = await take_turn(valkey_store, owner=STRANGER)
    response_id = ids.new_response_id(partition_of(theirs), stored=True)
    with pytest.raises(Conflict):
        await valkey_store.jobs.submit(Submission(OWNER, response_id, "t", b"{}", "", OpenedTurn(), streamed=False))
    assert not await valkey.exists(f"{PREFIX}:{{{partition_of(theirs)}}}:response:{response_id}")
    assert await valkey_store.jobs.take("w1", 1) == []


async def test_an_entry_whose_response_never_came_is_dropped_and_keeps_it_from_coming(
    valkey: Redis, valkey_store: Store
):
    response_id = ids.new_response_id(new_partition(), stored=True)
    await valkey.xadd(QUEUE, {"response": response_id}, id="1-0")
    entry = await taken(valkey_store)
    assert await valkey_store.jobs.claim(entry, "t1", 10) is None
    await valkey_store.jobs.finish(entry)
    with pytest.raises(Conflict):
        await valkey_store.jobs.submit(Submission(OWNER, response_id, "t", b"{}", "", OpenedTurn(), streamed=False))
    assert await valkey_store.jobs.take("w1", 1) == []


async def test_entries_of_a_silent_worker_are_taken_over_those_of_a_busy_one_not(valkey: Redis, valkey_store: Store):
    await submit(valkey_store)
    job = await claimed(valkey_store, "t1")
    await valkey.xclaim(QUEUE, "workers", "w1", 0, [job.entry.id], idle=60_000)
    await valkey_store.jobs.renew([job], 10)
    assert await valkey_store.jobs.reclaim("w2", 30, 10) == [job.entry]
    await valkey.xclaim(QUEUE, "workers", "w1", 0, [job.entry.id], idle=60_000)
    await valkey_store.jobs.renew([job], 10, worker="w1")
    assert await valkey_store.jobs.reclaim("w2", 30, 10) == []
    await valkey_store.jobs.fail(job, b"{}")
    await valkey_store.jobs.finish(job.entry)


async def test_workers_that_are_long_gone_are_forgotten_unless_they_hold_something(valkey: Redis, valkey_store: Store):
    await submit(valkey_store)
    entry = await taken(valkey_store, "holds")
    await valkey.execute_command("XGROUP", "CREATECONSUMER", QUEUE, "workers", "idle")
    await valkey_store.jobs._scripts.run(Call("join_queue", [QUEUE], ["workers", -1]))
    assert [one["name"] for one in await valkey.xinfo_consumers(QUEUE, "workers")] == [b"holds"]
    await valkey_store.jobs.cancel(OWNER, entry.response_id)
    await valkey_store.jobs.finish(entry)


async def test_a_queue_that_nobody_uses_leaves_no_key(valkey: Redis, valkey_store: Store):
    await valkey_store.jobs.join()
    assert await valkey_store.jobs.reclaim("w1", 0, 10) == []
    assert await valkey.keys("*") == []


async def test_one_that_nobody_will_run_is_found_by_the_checker():
    with run_valkey() as server:
        async with connect(server.url) as store:
            submission = await submit(store)
            assert (await store.auditor.audit()).complaints == []
            await store.jobs.finish(await taken(store))
            (complaint,) = (await store.auditor.audit()).complaints
            assert submission.response_id in complaint


async def test_waiting_for_jobs_holds_up_nothing_else():
    with run_valkey() as server:
        async with connect(server.url, max_connections=1) as store:
            waiting = asyncio.create_task(store.jobs.take("w1", 1))
            await store.condition.look()
            await submit(store)
            await waiting
            assert await taken(store)


async def test_what_waits_is_counted_with_the_oldest_of_it(valkey_store: Store):
    store = valkey_store
    assert (await store.jobs.survey()) == (0, 0.0)
    before = time.time()
    for _ in range(3):
        await submit(store)
    waiting = await store.jobs.survey()
    assert waiting.jobs == 3
    assert before - 1 < waiting.since < time.time() + 1
    await taken(store)
    left = await store.jobs.survey()
    assert left.jobs == 2
    assert left.since >= waiting.since
