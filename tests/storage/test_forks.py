"""Turns that make a branch, and what happens to branches while turns run on them."""

import pytest
from redis.asyncio import Redis

from storage import (
    BranchExists,
    BranchNotFound,
    CommitMode,
    CommitResult,
    Conflict,
    ForkPoint,
    Locked,
    PageRequest,
    ResponseNotFound,
    Store,
    partition_of,
)
from tests.depth import size
from tests.storage.builders import OWNER, continue_from, history_of, list_ids, load_all, output_of, take_turn
from tests.storage.inspection import keys_of
from tests.storage.talks import Talk


@pytest.fixture
async def talk(store: Store) -> Talk:
    """A conversation of four messages with a branch `draft` that has two of them."""
    talk = await Talk(store).begin("u1 a1 u2 a2")
    await talk.draft("a1")
    return talk


async def lose_lease(redis: Redis, talk: Talk, lock: str) -> None:
    """Do what the end of the lease does."""
    assert await redis.delete(f"{talk.tag}lock:{lock}") == 1


# A branch while a turn runs on it


async def test_two_branches_run_turns_at_once_and_one_does_not(talk: Talk):
    main, draft = await talk.open(token="1"), await talk.open("draft", token="2")
    for branch in ("", "MAIN", "draft"):
        with pytest.raises(Locked):
            await talk.open(branch, token="3")
    await talk.commit(talk.end(draft, "u3", "a3", token="2"))
    await talk.commit(talk.end(main, "u4", "a4", token="1"))
    assert (await talk.on(), await talk.on("draft")) == ("u1 a1 u2 a2 u4 a4", "u1 a1 u3 a3")


async def test_a_turn_lands_on_its_line_under_the_name_that_this_has_got(talk: Talk):
    opened = await talk.open("draft")
    await talk.store.branches.update(OWNER, talk.id, "draft", new_name="final")
    with pytest.raises(Locked):
        await talk.open("final", token="other")
    assert (await talk.draft(name="draft")).branch.item_count == 4
    await talk.commit(talk.end(opened))
    assert (await talk.on("final"), await talk.on("draft")) == ("u1 a1 u9 a9", "u1 a1 u2 a2")
    await talk.open("final", token="other")


async def test_a_turn_on_main_lands_on_the_backup_that_main_has_become(talk: Talk):
    opened = await talk.open()
    await talk.fork(talk.point(ForkPoint.EDIT, "u2", backup="old"), "u3")
    second = await talk.open(token="second")
    await talk.commit(talk.end(opened))
    await talk.commit(talk.end(second, "u4", "a4", token="second"))
    assert (await talk.on("MAIN"), await talk.on("old")) == ("u1 a1 u3 u4 a4", "u1 a1 u2 a2 u9 a9")


async def test_a_turn_on_the_active_branch_stays_where_it_was_opened(talk: Talk):
    opened = await talk.open()
    await talk.store.branches.activate(OWNER, talk.id, "draft")
    await talk.commit(talk.end(opened))
    assert (await talk.on("MAIN"), await talk.on("draft")) == ("u1 a1 u2 a2 u9 a9", "u1 a1")


async def test_a_fork_of_a_branch_on_which_a_turn_runs_has_what_was_there(talk: Talk):
    opened = await talk.open()
    await talk.draft(name="aside")
    await talk.commit(talk.end(opened))
    assert await talk.on("aside") == "u1 a1 u2 a2"


async def test_a_turn_whose_branch_was_deleted_is_dropped_and_can_be_read(redis: Redis, talk: Talk):
    opened = await talk.open("draft")
    await lose_lease(redis, talk, opened.lock)
    await talk.store.branches.delete(OWNER, talk.id, "draft")
    commit = talk.end(opened)
    assert (await talk.commit(commit)).result is CommitResult.DROPPED
    assert await talk.names() == ["MAIN"]
    assert await talk.on() == "u1 a1 u2 a2"
    assert await output_of(talk.store, commit.response_id) == ["a9"]
    assert await continue_from(talk.store, commit.response_id) == ["u1", "a1", "u9", "a9"]
    assert await list_ids(talk.store) == [talk.id]


async def test_a_dropped_turn_of_a_branch_that_came_again_is_not_on_it(redis: Redis, talk: Talk):
    opened = await talk.open("draft")
    await lose_lease(redis, talk, opened.lock)
    await talk.store.branches.delete(OWNER, talk.id, "draft")
    await talk.draft("u1")
    assert (await talk.commit(talk.end(opened))).result is CommitResult.DROPPED
    assert await talk.on("draft") == "u1"


async def test_a_turn_that_is_not_stored_is_gone_with_its_branch(redis: Redis, talk: Talk):
    opened = await talk.open("draft")
    await lose_lease(redis, talk, opened.lock)
    await talk.store.branches.delete(OWNER, talk.id, "draft")
    commit = talk.end(opened, stored=False)
    assert (await talk.commit(commit)).result is CommitResult.DROPPED
    with pytest.raises(ResponseNotFound):
        await output_of(talk.store, commit.response_id)


# Turns that fork


async def test_a_turn_that_forks_holds_the_name_of_its_branch(talk: Talk):
    fork = talk.point(ForkPoint.AFTER, "u1", name="new")
    opened = await talk.open(fork=fork)
    assert (opened.branch, opened.lock, opened.anchor) == ("new", "=new", talk.ids["u1"])
    with pytest.raises(BranchExists):
        await talk.draft(name="new")
    with pytest.raises(BranchExists):
        await talk.store.branches.update(OWNER, talk.id, "draft", new_name="new")
    with pytest.raises(Locked):
        await talk.open(fork=fork, token="second")
    with pytest.raises(BranchNotFound):
        await talk.store.branches.read(OWNER, talk.id, "new")
    assert await talk.open(fork=fork) == opened
    await talk.commit(talk.end(opened, fork=fork))
    with pytest.raises(BranchExists):
        await talk.open(fork=fork, token="second")
    await talk.open("new", token="second")


async def test_a_turn_that_forks_leaves_the_forked_branch_free(talk: Talk):
    fork = talk.point(ForkPoint.TIP, name="new")
    opened = await talk.open(fork=fork)
    await talk.turn("u3", "a3", token="token")
    other = talk.point(ForkPoint.TIP, name="other")
    await talk.commit(talk.end(await talk.open(fork=other), "u4", "a4", other))
    await talk.commit(talk.end(opened, fork=fork))
    assert await talk.on() == "u1 a1 u2 a2 u3 a3"
    assert await talk.on("new") == "u1 a1 u2 a2 u9 a9"
    assert await talk.on("other") == "u1 a1 u2 a2 u3 a3 u4 a4"


async def test_a_turn_that_becomes_main_holds_mains_lock(talk: Talk):
    fork = talk.point(ForkPoint.EDIT, "u2", backup="old")
    opened = await talk.open(fork=fork)
    assert (opened.branch, history_of(opened)) == ("MAIN", ["u1", "a1"])
    for branch, other in (("MAIN", None), ("", fork), ("", talk.point(ForkPoint.EDIT, "u1", backup="older"))):
        with pytest.raises(Locked):
            await talk.open(branch, other, token="second")
    await talk.say("u3")
    committed = await talk.commit(talk.end(opened, fork=fork))
    assert committed.branch
    assert (committed.branch.name, committed.backup, committed.branch.parent_branch) == ("MAIN", "old", "old")
    assert (await talk.on(), await talk.on("old")) == ("u1 a1 u9 a9", "u1 a1 u2 a2 u3")
    await talk.release(await talk.open("old", token="second"), "second")
    await talk.open("MAIN", token="second")


async def test_a_turn_becomes_main_whatever_has_become_main_meanwhile(talk: Talk):
    fork = talk.point(ForkPoint.EDIT, "u2", backup="old")
    opened = await talk.open(fork=fork)
    await talk.fork(talk.point(ForkPoint.EDIT, "u1", backup="older"), "u5")
    await talk.store.branches.activate(OWNER, talk.id, "draft")
    committed = await talk.commit(talk.end(opened, fork=fork))
    assert committed.backup == "old"
    assert [await talk.on(name) for name in ("", "old", "older")] == ["u1 a1 u9 a9", "u5", "u1 a1 u2 a2"]
    # the lock that it gave back is that of the line it was opened on
    await talk.open("older", token="second")


async def test_a_backups_name_that_is_taken_gets_longer(talk: Talk):
    assert (await talk.fork(talk.point(ForkPoint.TIP, backup="draft"))).backup == "draftx"
    fork = talk.point(ForkPoint.TIP, backup="draft")
    committed = await talk.commit(talk.end(await talk.open(fork=fork), fork=fork))
    assert committed.backup == "draftxx"
    assert await talk.names() == ["draftx", "draft", "draftxx", "MAIN"]
    held = talk.point(ForkPoint.TIP, name="held")
    await talk.open(fork=held)
    assert (await talk.fork(talk.point(ForkPoint.TIP, backup="held"))).backup == "heldx"


@pytest.mark.parametrize("backup", ["", "old"])
async def test_a_failed_or_broken_off_turn_leaves_no_branch(redis: Redis, talk: Talk, backup: str):
    fork = talk.point(ForkPoint.EDIT, "u2", name="" if backup else "new", backup=backup)
    keys = await keys_of(redis, talk.id)
    opened = await talk.open(fork=fork)
    await talk.release(opened)
    assert await keys_of(redis, talk.id) == keys
    opened = await talk.open(fork=fork)
    commit = talk.end(opened, fork=fork, mode=CommitMode.RECORD, status="failed")
    assert (await talk.commit(commit)).branch is None
    assert await talk.names() == ["MAIN", "draft"]
    assert await talk.on() == "u1 a1 u2 a2"
    assert await output_of(talk.store, commit.response_id) == ["a9"]
    assert await continue_from(talk.store, commit.response_id) == ["u1", "a1"]
    await talk.turn(fork=fork)
    assert len(await talk.names()) == 3


@pytest.mark.parametrize("backup", ["", "old"])
@pytest.mark.parametrize("stored", [True, False])
async def test_a_repeated_commit_makes_no_second_branch(redis: Redis, talk: Talk, backup: str, *, stored: bool):
    fork = talk.point(ForkPoint.EDIT, "u2", name="" if backup else "new", backup=backup)
    commit = talk.end(await talk.open(fork=fork), fork=fork, stored=stored)
    assert (await talk.commit(commit)).result is CommitResult.OK
    names, keys = await talk.names(), await keys_of(redis, talk.id)
    await talk.say("u5", fork.name)
    again = await talk.commit(commit)
    assert (again.result, again.branch) == (CommitResult.REPEATED, None)
    assert (await talk.names(), await talk.on(fork.name)) == (names, "u1 a1 u9 a9 u5")
    assert [key for key in await keys_of(redis, talk.id) if ":commit:" not in key] == [
        key for key in keys if ":commit:" not in key
    ]


async def test_a_fork_that_lost_its_name_is_a_conflict_and_writes_nothing(redis: Redis, talk: Talk):
    fork = talk.point(ForkPoint.TIP, name="new")
    first = await talk.open(fork=fork, token="first")
    await lose_lease(redis, talk, first.lock)
    second = await talk.open(fork=fork, token="second")
    keys = await keys_of(redis, talk.id)
    commit = talk.end(first, fork=fork, token="first")
    with pytest.raises(Conflict):
        await talk.commit(commit)
    assert (await keys_of(redis, talk.id), await talk.names()) == (keys, ["MAIN", "draft"])
    await talk.commit(talk.end(second, "u7", "a7", fork, token="second"))
    with pytest.raises(Conflict):
        await talk.commit(commit)
    assert await talk.on("new") == "u1 a1 u2 a2 u7 a7"


async def test_a_fork_that_lost_its_lease_commits_while_the_name_is_free(redis: Redis, talk: Talk):
    fork = talk.point(ForkPoint.TIP, name="new")
    opened = await talk.open(fork=fork)
    await lose_lease(redis, talk, opened.lock)
    assert (await talk.commit(talk.end(opened, fork=fork))).result is CommitResult.OK
    assert await talk.on("new") == "u1 a1 u2 a2 u9 a9"


async def test_what_a_fork_inherits_survives_the_deletion_of_its_source(redis: Redis, talk: Talk):
    await talk.say("u3 a3", "draft")
    fork = talk.point(ForkPoint.AFTER, "u3", name="new")
    opened = await talk.open(fork=fork)
    assert (opened.line, opened.anchor) == (1, talk.ids["u3"])
    await talk.store.branches.delete(OWNER, talk.id, "draft")
    assert 3590 < await redis.ttl(f"{talk.tag}segment:1") <= 3600
    await talk.store.sweeper.sweep_all()
    await talk.commit(talk.end(opened, fork=fork))
    assert await talk.on("new") == "u1 a1 u3 u9 a9"
    assert await redis.ttl(f"{talk.tag}segment:1") == -1
    assert (await talk.store.branches.read(OWNER, talk.id, "new")).parent_branch is None


async def test_an_item_deleted_while_a_fork_runs_is_missing_on_it(talk: Talk):
    fork = talk.point(ForkPoint.AFTER, "a2", name="new")
    opened = await talk.open(fork=fork)
    for text in ("a1", "a2"):
        await talk.store.items.delete(OWNER, talk.id, talk.ids[text])
    committed = await talk.commit(talk.end(opened, fork=fork))
    assert committed.branch
    assert (await talk.on("new"), committed.branch.item_count) == ("u1 u2 u9 a9", 4)


@pytest.mark.parametrize("backup", ["", "old"])
async def test_a_fork_of_a_conversation_that_was_deleted_meanwhile_is_dropped(talk: Talk, backup: str):
    fork = talk.point(ForkPoint.EDIT, "u2", name="" if backup else "new", backup=backup)
    opened = await talk.open(fork=fork)
    await talk.store.conversations.delete(OWNER, talk.id)
    commit = talk.end(opened, fork=fork)
    committed = await talk.commit(commit)
    assert (committed.result, committed.branch) == (CommitResult.DROPPED, None)
    assert await continue_from(talk.store, commit.response_id) == ["u1", "a1", "u9", "a9"]
    assert await list_ids(talk.store) == []


async def test_a_fork_at_a_chain_outside_of_the_conversation_is_a_branch_of_it(talk: Talk):
    response = await talk.turn("u3", "a3")
    aside = await take_turn(talk.store, previous=response, says=["s1"], answers=["s2"])
    assert partition_of(aside) == talk.partition
    fork = talk.point(ForkPoint.AT, aside, name="new")
    opened = await talk.open(fork=fork)
    assert opened.line == -1
    committed = await talk.commit(talk.end(opened, fork=fork))
    assert committed.branch
    assert (committed.branch.parent_branch, committed.branch.item_count) == (None, 10)
    assert await talk.on("new") == "u1 a1 u2 a2 u3 a3 s1 s2 u9 a9"
    await talk.turn("u5", "a5", branch="new")
    assert await continue_from(talk.store, aside) == ["u1", "a1", "u2", "a2", "u3", "a3", "s1", "s2"]


async def test_a_branch_can_fork_hundreds_of_times_from_the_one_before(valkey: Redis, valkey_store: Store):
    many = size(100, 300)
    last = f"b{many - 1}"
    await load_all(valkey)
    talk = await Talk(valkey_store).begin("u0")
    for i in range(1, many):
        fork = talk.point(ForkPoint.TIP, name=f"b{i}")
        await talk.turn(f"u{i}", "", branch=f"b{i - 1}" if i > 1 else "", fork=fork)
    assert await talk.on(last) == " ".join(f"u{i}" for i in range(many))
    assert await talk.on(last, at=talk.ids[f"u{many // 2}"]) == " ".join(f"u{i}" for i in range(many // 2 + 1))
    for i in range(1, many - 1):
        await valkey_store.branches.delete(OWNER, talk.id, f"b{i}")
    assert (await valkey_store.branches.list_page(OWNER, talk.id, PageRequest(9))).branches[0].item_count == many
    await valkey_store.sweeper.sweep_all()
    assert await talk.on(last) == " ".join(f"u{i}" for i in range(many))


# The model of the answer that is replaced


async def model_at(talk: Talk, point: ForkPoint, target: str, branch: str = "") -> str | None:
    opened = await talk.open(branch, talk.point(point, target, name="probe"))
    await talk.release(opened)
    return opened.model


async def test_the_model_is_that_of_the_answer_that_is_replaced(store: Store):
    talk = await Talk(store).begin("u1 a1")
    assert await model_at(talk, ForkPoint.REPLY, "a1") is None
    await talk.turn("u2", "a2", model="one")
    await talk.say("u3")
    await talk.turn("u4", "r4 a4", model="two")
    await talk.say("u5 a5")
    one, two = ["u1", "a1", "u2", "a2"], ["u3", "u4", "r4", "a4", "u5", "a5"]
    found = {text: await model_at(talk, ForkPoint.AFTER, text) for text in one + two}
    assert found == dict.fromkeys(one, "one") | dict.fromkeys(two, "two")
    assert await model_at(talk, ForkPoint.EDIT, "u2") == "one"
    assert await model_at(talk, ForkPoint.REPLY, "a4") == "two"


async def test_the_model_is_found_over_forks_of_forks(store: Store):
    talk = await Talk(store).begin("")
    await talk.turn("u1", "a1", model="one")
    await talk.draft("u1", name="x")
    await talk.turn("", "a2", branch="x", model="two")
    await talk.draft(name="y", source="x")
    await talk.turn("u3", "a3", branch="y", model="three")
    await talk.fork(talk.point(ForkPoint.EDIT, "u3", backup="old"), "u4")
    assert await model_at(talk, ForkPoint.REPLY, "a2") == "two"
    assert await model_at(talk, ForkPoint.REPLY, "u1", "old") == "one"
    assert await model_at(talk, ForkPoint.REPLY, "u1", "x") == "two"
    assert await model_at(talk, ForkPoint.EDIT, "u1", "y") == "two"
    assert await model_at(talk, ForkPoint.EDIT, "u3", "y") == "three"
    # not answered yet: what answered last before it, wherever that lies
    assert await model_at(talk, ForkPoint.EDIT, "u4", "MAIN") == "two"


async def test_the_model_is_known_after_the_response_has_gone_and_without_a_response(store: Store):
    talk = await Talk(store).begin("")
    response = await talk.turn("u1", "a1", model="one")
    await talk.turn("u2", "a2", model="two", stored=False)
    await store.responses.delete(OWNER, response)
    assert await model_at(talk, ForkPoint.REPLY, "a1") == "one"
    assert await model_at(talk, ForkPoint.REPLY, "a2") == "two"


async def test_a_models_name_may_be_anything_but_our_separators(store: Store):
    talk = await Talk(store).begin("")
    for i, name in enumerate(("vendor/model:7b", "a b %s \x1e é", "x\x1fy")):
        await talk.turn(f"u{i}", f"a{i}", model=name)
        assert await model_at(talk, ForkPoint.REPLY, f"a{i}") == name.replace("\x1f", "")
