import contextlib

import pytest
from redis.asyncio import Redis

from storage import (
    BranchNotFound,
    CommitResult,
    Conflict,
    Conversation,
    ConversationNotFound,
    Fork,
    ForkPoint,
    Lease,
    Locked,
    Store,
    TurnSource,
    partition_of,
)
from tests.storage.builders import OWNER, STRANGER, add, draft, finished, open_turn, read_all, start, take_turn
from tests.storage.inspection import keys_of


def lock_key(conversation: Conversation) -> str:
    return f"test:{{{partition_of(conversation.id)}}}:lock:0"


def lease_of(conversation: Conversation, token: str) -> Lease:
    return Lease(partition_of(conversation.id), "0", token)


async def lose_lease(redis: Redis, conversation: Conversation) -> None:
    """Do what the end of the lease does."""
    assert await redis.delete(lock_key(conversation)) == 1


async def test_a_second_turn_on_a_branch_is_refused_while_the_first_runs(store: Store):
    made = await start(store)
    await open_turn(store, conversation=made, token="first")
    with pytest.raises(Locked):
        await open_turn(store, conversation=made, token="second")


async def test_the_branch_is_free_after_the_commit(store: Store):
    made = await start(store)
    await take_turn(store, conversation=made)
    await open_turn(store, conversation=made, token="second")


async def test_the_same_token_finds_its_own_lock(store: Store):
    made = await start(store, "one")
    assert await open_turn(store, conversation=made) == await open_turn(store, conversation=made)


async def test_another_conversation_is_not_locked(store: Store):
    await open_turn(store, conversation=await start(store))
    await open_turn(store, conversation=await start(store))


async def test_turns_after_a_response_take_no_lock(redis: Redis, store: Store):
    made = await start(store)
    response = await take_turn(store, conversation=made)
    await open_turn(store, previous=response, token="first")
    await open_turn(store, previous=response, token="second")
    assert await redis.exists(lock_key(made)) == 0


@pytest.mark.parametrize("missing", ["conversation", "owner", "branch"])
async def test_a_refused_turn_holds_nothing(redis: Redis, store: Store, missing: str):
    made = await start(store)
    expected = BranchNotFound if missing == "branch" else ConversationNotFound
    with pytest.raises(expected) as refused:
        await open_turn(
            store,
            conversation=draft(partition_of(made.id)) if missing == "conversation" else made,
            owner=STRANGER if missing == "owner" else "alice",
            branch="draft" if missing == "branch" else "",
        )
    assert refused.value.subject != made.id or missing == "owner"
    assert not [key for key in await keys_of(redis, made.id) if ":lock:" in key]


async def test_the_lock_ends_with_its_lease(redis: Redis, store: Store):
    made = await start(store)
    await open_turn(store, conversation=made, lease_seconds=7.5)
    assert 1_000 < await redis.pttl(lock_key(made)) <= 7_500


async def test_a_renewed_lease_starts_anew_whatever_their_number(redis: Redis, store: Store):
    conversations = [await start(store) for _ in range(3)]
    for made in conversations:
        await open_turn(store, conversation=made, lease_seconds=20)
    await store.turns.renew([lease_of(made, "token") for made in conversations], 60)
    assert all([await redis.pttl(lock_key(made)) > 40_000 for made in conversations])
    await store.turns.renew([], 60)


async def test_only_the_holder_renews(redis: Redis, store: Store):
    made = await start(store)
    await open_turn(store, conversation=made, lease_seconds=20)
    await store.turns.renew([lease_of(made, "another")], 60)
    assert await redis.pttl(lock_key(made)) <= 20_000


async def test_a_lost_lease_is_not_taken_again_by_renewing(redis: Redis, store: Store):
    made = await start(store)
    await open_turn(store, conversation=made)
    await lose_lease(redis, made)
    await store.turns.renew([lease_of(made, "token")], 60)
    assert await redis.exists(lock_key(made)) == 0


async def test_the_holder_gives_the_lock_back(store: Store):
    made = await start(store, "one")
    await open_turn(store, conversation=made, token="first")
    await store.turns.release(lease_of(made, "first"))
    await open_turn(store, conversation=made, token="second")
    assert await read_all(store, made) == ["one"]


async def test_only_the_holder_gives_the_lock_back(store: Store):
    made = await start(store)
    await open_turn(store, conversation=made, token="first")
    await store.turns.release(lease_of(made, "second"))
    with pytest.raises(Locked):
        await open_turn(store, conversation=made, token="second")


async def test_releasing_twice_is_no_error(store: Store):
    made = await start(store)
    await open_turn(store, conversation=made)
    await store.turns.release(lease_of(made, "token"))
    await store.turns.release(lease_of(made, "token"))


@pytest.mark.parametrize(
    "fork",
    [None, Fork(ForkPoint.TIP, name="draft"), Fork(ForkPoint.TIP)],
    ids=["a branch", "a new branch", "a new MAIN"],
)
async def test_an_opening_is_undone_by_its_token_whatever_it_locked(redis: Redis, store: Store, fork: Fork | None):
    made, other = await start(store, "one"), await start(store)
    await store.branches.create(OWNER, made.id, "", Fork(ForkPoint.TIP, name="other"), [])
    partition, source = partition_of(made.id), TurnSource(made.id, fork=fork)
    await store.turns.open(OWNER, source, Lease(partition, "", "mine"), 60, [], [])
    await open_turn(store, conversation=made, branch="other", token="theirs")
    await open_turn(store, conversation=other, token="mine")
    name = fork.name if fork else ""
    for token, freed in (("theirs", False), ("mine", True), ("mine", True)):
        if token == "mine":
            await store.turns.withdraw(partition, token, name)
        with contextlib.ExitStack() as stack:
            if not freed:
                stack.enter_context(pytest.raises(Locked))
            await store.turns.open(OWNER, source, Lease(partition, "", "next"), 60, [], [])
        if freed:
            await store.turns.withdraw(partition, "next", name)
    with pytest.raises(Locked):
        await open_turn(store, conversation=made, branch="other", token="next")
    with pytest.raises(Locked):
        await open_turn(store, conversation=other, token="next")


async def test_a_turn_that_lost_its_lease_commits_if_nobody_came_in_between(redis: Redis, store: Store):
    made = await start(store)
    opened = await open_turn(store, conversation=made)
    await lose_lease(redis, made)
    commit = finished(opened, partition=partition_of(made.id), conversation=made)
    assert (await store.turns.commit(commit)).result is CommitResult.OK
    assert await read_all(store, made) == ["question", "answer"]


@pytest.mark.parametrize("second_turn", ["runs", "is over", "gave up"])
async def test_a_turn_that_lost_its_lease_to_another_is_refused_and_writes_nothing(
    redis: Redis, store: Store, second_turn: str
):
    made = await start(store, "one")
    opened = await open_turn(store, conversation=made, token="first")
    await lose_lease(redis, made)
    second = await open_turn(store, conversation=made, token="second")
    commit = finished(
        second, partition=partition_of(made.id), conversation=made, token="second", says=["2"], answers=[]
    )
    if second_turn == "is over":
        await store.turns.commit(commit)
    elif second_turn == "gave up":
        await store.turns.release(lease_of(made, "second"))
    keys, items = await keys_of(redis, made.id), await read_all(store, made)
    first = finished(opened, partition=partition_of(made.id), conversation=made, token="first")
    with pytest.raises(Conflict):
        await store.turns.commit(first)
    assert (await keys_of(redis, made.id), await read_all(store, made)) == (keys, items)
    if second_turn == "runs":
        assert (await store.turns.commit(commit)).result is CommitResult.OK
        assert await read_all(store, made) == ["one", "2"]


async def test_items_added_during_a_turn_come_before_it_and_are_no_conflict(store: Store):
    made = await start(store, "one")
    opened = await open_turn(store, conversation=made)
    await add(store, made, "meanwhile")
    await store.turns.commit(finished(opened, partition=partition_of(made.id), conversation=made))
    assert await read_all(store, made) == ["one", "meanwhile", "question", "answer"]
