"""Watched conversations: how their branches stand, and what watchers ask of turns that run."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from storage import (
    Conversation,
    ConversationNotFound,
    EventBatch,
    Fork,
    ForkPoint,
    Lease,
    Pulse,
    StopResult,
    Store,
    Submission,
    TurnSource,
    WatchedBranch,
    new_token,
    partition_of,
)
from tests.storage.builders import OWNER, STRANGER, add, draft, ids_in, new_log, open_turn, start, take_turn

RESPONSE = "resp_1"
TOKEN = f"{RESPONSE}/secret"


async def look(store: Store, conversation: Conversation, branch: str = "", owner: str = OWNER) -> Pulse | None:
    (pulse,) = await store.watching.look([WatchedBranch(owner, conversation.id, branch)])
    return pulse


async def seen(store: Store, conversation: Conversation, branch: str = "") -> Pulse:
    pulse = await look(store, conversation, branch)
    assert pulse is not None
    return pulse


def test_a_token_begins_with_its_response_and_is_no_other():
    assert new_token(RESPONSE).startswith(f"{RESPONSE}/")
    assert new_token(RESPONSE) != new_token(RESPONSE)


async def test_a_look_shows_how_a_branch_stands(store: Store):
    made = await start(store, "one", title="t")
    before = await seen(store, made)
    assert (before.tip, before.active_branch, before.branch_count, before.title) == ((0, 1), "MAIN", 1, "t")
    await add(store, made, "two")
    target = (await ids_in(store, made))[0]
    await store.branches.create(OWNER, made.id, "", Fork(ForkPoint.AFTER, target, "b"))
    after = await seen(store, made)
    assert (after.tip, after.branch_count) == ((0, 2), 2)
    assert after.updated_at >= before.updated_at
    assert (await seen(store, made, "b")).tip == (1, 0)


async def test_a_look_shows_what_runs_and_whether_it_can_be_followed(store: Store):
    made = await start(store, "one")
    assert (await seen(store, made)).running is None
    opened = await open_turn(store, conversation=made, token=TOKEN)
    pulse = await seen(store, made)
    assert (pulse.running, pulse.followable) == (RESPONSE, False)
    partition = partition_of(made.id)
    log = new_log(response_id=f"resp_{partition}00{'0' * 32}")
    await store.turns.release(Lease(partition, opened.lock, TOKEN))
    await open_turn(store, conversation=made, token=f"{log.response_id}/secret")
    await store.events.append(log, EventBatch(0, 1, b"x"), ttl_seconds=60, lease_seconds=10, last=False)
    pulse = await seen(store, made)
    assert (pulse.running, pulse.followable) == (log.response_id, True)


async def test_a_branch_that_a_turn_is_about_to_make_is_seen_to_run(store: Store):
    made = await start(store, "one")
    fork = Fork(ForkPoint.AFTER, (await ids_in(store, made))[0], "new")
    source = TurnSource(made.id, fork=fork)
    await store.turns.open(OWNER, source, Lease(partition_of(made.id), "", TOKEN), 10, [], [])
    pulse = await seen(store, made, "new")
    assert (pulse.running, pulse.tip) == (RESPONSE, None)
    assert (await seen(store, made)).running is None


async def test_a_turn_is_told_whether_it_is_watched(store: Store, redis: Redis):
    made = await start(store, "one")
    target = (await ids_in(store, made))[0]
    partition = partition_of(made.id)

    async def open_both() -> list[bool]:
        """Open a plain turn and one that forks."""
        plain = await open_turn(store, conversation=made, token=TOKEN)
        await store.turns.release(Lease(partition, plain.lock, TOKEN))
        source = TurnSource(made.id, fork=Fork(ForkPoint.AFTER, target, "b"))
        forking = await store.turns.open(OWNER, source, Lease(partition, "", TOKEN), 10, [], [])
        await store.turns.release(Lease(partition, forking.lock, TOKEN))
        return [plain.watched, forking.watched]

    assert await open_both() == [False, False]
    await store.watching.mark([(OWNER, made.id)])
    assert await open_both() == [True, True]
    assert 0 < await redis.pttl(f"test:{{{partition}}}:watched") <= 30_000
    assert not (await open_turn(store, previous=await take_turn(store, conversation=made))).watched


async def test_who_looks_without_a_lock_marks_nothing(store: Store, redis: Redis):
    made = await start(store, "one")
    await store.watching.mark([(STRANGER, made.id), (OWNER, draft().id)])
    await look(store, made)
    assert await redis.keys("*watched*") == []


async def test_a_turn_that_is_to_stop_learns_it_with_its_lock(store: Store):
    made = await start(store, "one")
    opened = await open_turn(store, conversation=made, token=TOKEN)
    lease = Lease(partition_of(made.id), opened.lock, TOKEN)

    async def renew() -> tuple[bool, bool, bool]:
        ((held, stop, watched),) = await store.turns.renew([lease], 10)
        return held, stop, watched

    assert await renew() == (True, False, False)
    assert await store.watching.stop(OWNER, made.id, "", RESPONSE, 10) is StopResult.MARKED
    assert await store.watching.stop(OWNER, made.id, "MAIN", RESPONSE, 10) is StopResult.MARKED
    assert await renew() == (True, True, False)
    await store.watching.mark([(OWNER, made.id)])
    assert await renew() == (True, True, True)
    # the next turn there is another one
    await store.turns.release(lease)
    assert await renew() == (False, False, False)
    await open_turn(store, conversation=made, token="resp_2/secret")
    ((held, stop, _),) = await store.turns.renew([Lease(lease.partition, lease.lock, "resp_2/secret")], 10)
    assert (held, stop) == (True, False)


async def test_only_the_turn_that_is_named_is_stopped_and_only_by_its_owner(store: Store, redis: Redis):
    made = await start(store, "one")
    assert await store.watching.stop(OWNER, made.id, "", RESPONSE, 10) is StopResult.NOT_RUNNING
    await open_turn(store, conversation=made, token=TOKEN)
    for branch, response_id in (("", "resp_2"), ("", ""), ("none", RESPONSE), ("", "resp")):
        assert await store.watching.stop(OWNER, made.id, branch, response_id, 10) is StopResult.NOT_RUNNING
    with pytest.raises(ConversationNotFound):
        await store.watching.stop(STRANGER, made.id, "", RESPONSE, 10)
    assert await redis.keys("*stop*") == []


async def test_a_response_that_waits_for_a_worker_is_told_apart(store: Store):
    made = await start(store, "one")
    response_id = new_log(response_id=f"resp_{partition_of(made.id)}00{'0' * 32}").response_id
    token = new_token(response_id)
    opened = await open_turn(store, conversation=made, token=token)
    body = b'{"id":"resp_x","object":"response","created_at":7,"status":"queued","error":null}'
    await store.jobs.submit(Submission(OWNER, response_id, token, body, "sealed", opened, streamed=False))
    assert await store.watching.stop(OWNER, made.id, "", response_id, 10) is StopResult.QUEUED
    assert await store.jobs.cancel(OWNER, response_id)
    assert await store.watching.stop(OWNER, made.id, "", response_id, 10) is StopResult.NOT_RUNNING


async def test_what_is_foreign_deleted_or_unknown_is_not_seen(store: Store):
    made = await start(store, "one")
    assert await look(store, made, owner=STRANGER) is None
    await store.conversations.delete(OWNER, made.id)
    assert await look(store, made) is None
