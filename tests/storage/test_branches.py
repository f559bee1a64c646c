from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from storage import (
    BranchExists,
    BranchNotFound,
    BranchProtected,
    CommitMode,
    ConversationNotFound,
    CursorNotFound,
    Fork,
    ForkPoint,
    ItemNotFound,
    Locked,
    NotAMessage,
    NotAUserMessage,
    NoUserMessage,
    Origin,
    PageRequest,
    Store,
    StoreError,
)
from tests.storage.builders import OWNER, STRANGER, continue_from, history_of, id_of, reference, take_turn, texts
from tests.storage.inspection import keys_of, keys_that_hold
from tests.storage.talks import Talk, pending_of


@pytest.fixture
async def talk(store: Store) -> Talk:
    """A conversation of four messages."""
    return await Talk(store).begin("u1 a1 u2 a2")


POINTS = [
    (ForkPoint.TIP, "", "u1 a1 u2 a2"),
    (ForkPoint.AFTER, "u1", "u1"),
    (ForkPoint.AFTER, "a1", "u1 a1"),
    (ForkPoint.AFTER, "a2", "u1 a1 u2 a2"),
    (ForkPoint.BEFORE, "u1", ""),
    (ForkPoint.BEFORE, "a1", "u1"),
    (ForkPoint.WITHOUT, "u1", "a1 u2 a2"),
    (ForkPoint.WITHOUT, "a1", "u1 u2 a2"),
    (ForkPoint.WITHOUT, "a2", "u1 a1 u2"),
    (ForkPoint.EDIT, "u1", ""),
    (ForkPoint.EDIT, "u2", "u1 a1"),
    (ForkPoint.REPLY, "u1", "u1"),
    (ForkPoint.REPLY, "a1", "u1"),
    (ForkPoint.REPLY, "u2", "u1 a1 u2"),
    (ForkPoint.REPLY, "a2", "u1 a1 u2"),
    (ForkPoint.AT, "a1", "u1 a1"),
    (ForkPoint.AT, "u2", "u1 a1 u2"),
]
at_every_point = pytest.mark.parametrize(
    ("point", "target", "inherited"), POINTS, ids=[f"{point} {target}" for point, target, _ in POINTS]
)


@at_every_point
async def test_a_fork_inherits_what_its_point_says_under_the_same_ids(
    talk: Talk, point: ForkPoint, target: str, inherited: str
):
    before = await talk.ids_on()
    forked = await talk.fork(talk.point(point, target, name="draft"), "u7")
    assert await talk.on("draft") == f"{inherited} u7".strip()
    shared = inherited.split()
    assert (await talk.ids_on("draft"))[:-1] == [talk.ids[text] for text in shared]
    assert (forked.branch.name, forked.branch.item_count) == ("draft", len(shared) + 1)
    assert forked.anchor == (talk.ids[shared[-1]] if shared else None) == forked.branch.forked_from_item_id
    assert (forked.source, forked.branch.parent_branch, forked.backup) == ("MAIN", "MAIN", None)
    assert texts(forked.items) == ["u7"]
    assert await talk.ids_on() == before
    assert not forked.branch.is_active


@at_every_point
async def test_a_fork_with_a_backup_becomes_main_and_the_old_main_stays(
    talk: Talk, point: ForkPoint, target: str, inherited: str
):
    forked = await talk.fork(talk.point(point, target, backup="old"))
    assert (await talk.on("MAIN"), await talk.on("old")) == (inherited, "u1 a1 u2 a2")
    assert (forked.branch.name, forked.branch.is_active, forked.backup) == ("MAIN", True, "old")
    assert forked.branch.parent_branch == "old"
    assert await talk.names() == ["old", "MAIN"]


@at_every_point
async def test_a_turn_that_forks_commits_the_fork_and_itself_together(
    talk: Talk, point: ForkPoint, target: str, inherited: str
):
    fork = talk.point(point, target, name="draft")
    opened = await talk.open(fork=fork)
    assert " ".join(history_of(opened)) == inherited
    assert await talk.names() == ["MAIN"]
    committed = await talk.commit(talk.end(opened, fork=fork))
    assert committed.branch
    assert (committed.branch.name, committed.branch.item_count) == ("draft", len(inherited.split()) + 2)
    assert await talk.on("draft") == f"{inherited} u9 a9".strip()
    assert await talk.on() == "u1 a1 u2 a2"


REFUSALS: list[tuple[str, Fork, type[StoreError], str]] = [
    ("", Fork(ForkPoint.TIP, name="MAIN"), BranchExists, "MAIN"),
    ("", Fork(ForkPoint.TIP, name="main"), BranchExists, "MAIN"),
    ("", Fork(ForkPoint.TIP, name="other"), BranchExists, "other"),
    ("nope", Fork(ForkPoint.TIP, name="draft"), BranchNotFound, "nope"),
    ("nope", Fork(ForkPoint.AFTER, "u1", name="draft"), BranchNotFound, "nope"),
    ("", Fork(ForkPoint.AFTER, "msg_nope", name="draft"), ItemNotFound, "msg_nope"),
    ("", Fork(ForkPoint.AT, "resp_nope", name="draft"), ItemNotFound, "resp_nope"),
    ("other", Fork(ForkPoint.AFTER, "a2", name="draft"), ItemNotFound, "a2"),
    ("MAIN", Fork(ForkPoint.AFTER, "u5", name="draft"), ItemNotFound, "u5"),
    ("", Fork(ForkPoint.AFTER, "u4", name="draft"), ItemNotFound, "u4"),
    ("", Fork(ForkPoint.EDIT, "a1", name="draft"), NotAUserMessage, "a1"),
    ("other", Fork(ForkPoint.EDIT, "c3", name="draft"), NotAUserMessage, "c3"),
    ("", Fork(ForkPoint.REPLY, "c3", name="draft"), NotAMessage, "c3"),
    ("bare", Fork(ForkPoint.REPLY, "a6", name="draft"), NoUserMessage, "a6"),
]


# a backup's name is never refused
WAYS = [
    (*one, how)
    for one in REFUSALS
    for how in ("name", "backup", "turn")
    if one[2] is not BranchExists or how != "backup"
]


@pytest.mark.parametrize(("source", "fork", "refusal", "subject", "how"), WAYS)
async def test_a_fork_that_can_not_be_is_refused_and_changes_nothing(
    redis: Redis, talk: Talk, source: str, fork: Fork, refusal: type[StoreError], subject: str, how: str
):
    await talk.draft("a1", name="other")
    await talk.say("u5 c3", "other")
    await talk.fork(talk.point(ForkPoint.BEFORE, "u1", name="bare"), "a6")
    await talk.say("u4")
    await talk.store.items.delete(OWNER, talk.id, talk.ids["u4"])
    name, backup = ("", "old") if how == "backup" else (fork.name, "")
    fork = Fork(fork.point, talk.ids.get(fork.target, fork.target), name=name, backup=backup)
    keys, names = await keys_of(redis, talk.id), await talk.names()
    with pytest.raises(refusal) as refused:
        await (talk.open(source, fork) if how == "turn" else talk.fork(fork, source=source))
    assert refused.value.subject == talk.ids.get(subject, subject)
    assert (await keys_of(redis, talk.id), await talk.names()) == (keys, names)


async def test_an_unknown_reference_among_a_forks_entries_makes_nothing(talk: Talk):
    with pytest.raises(ItemNotFound) as refused:
        await talk.store.branches.create(OWNER, talk.id, "", Fork(ForkPoint.TIP, name="d"), [reference("msg_nope")])
    assert refused.value.subject == "msg_nope"
    assert await talk.names() == ["MAIN"]


CALLS: dict[str, Callable[[Store, str, str], Awaitable[Any]]] = {
    "create": lambda s, o, c: s.branches.create(o, c, "", Fork(ForkPoint.TIP, name="new")),
    "read": lambda s, o, c: s.branches.read(o, c, "MAIN"),
    "list": lambda s, o, c: s.branches.list_page(o, c, PageRequest()),
    "update": lambda s, o, c: s.branches.update(o, c, "draft", description="d"),
    "delete": lambda s, o, c: s.branches.delete(o, c, "draft"),
    "activate": lambda s, o, c: s.branches.activate(o, c, "draft"),
    "compare": lambda s, o, c: s.branches.compare(o, c, "MAIN", "draft", 10),
}


@pytest.mark.parametrize("name", CALLS)
async def test_an_unknown_a_foreign_and_a_deleted_conversation_are_answered_the_same(talk: Talk, name: str):
    await talk.draft()
    with pytest.raises(ConversationNotFound):
        await CALLS[name](talk.store, STRANGER, talk.id)
    with pytest.raises(ConversationNotFound):
        await CALLS[name](talk.store, OWNER, "conv_nope")
    with pytest.raises(ConversationNotFound):
        await CALLS[name](talk.store, OWNER, f"conv_{talk.partition}other")
    assert (await talk.names(), await talk.on("draft")) == (["MAIN", "draft"], "u1 a1 u2 a2")
    await talk.store.conversations.delete(OWNER, talk.id)
    with pytest.raises(ConversationNotFound) as refused:
        await CALLS[name](talk.store, OWNER, talk.id)
    assert refused.value.subject == talk.id


async def test_an_unknown_branch_is_refused_by_its_name(talk: Talk):
    branches = talk.store.branches
    calls: list[Awaitable[Any]] = [
        branches.read(OWNER, talk.id, "nope"),
        branches.update(OWNER, talk.id, "nope", description="d"),
        branches.delete(OWNER, talk.id, "nope"),
        branches.activate(OWNER, talk.id, "nope"),
        branches.compare(OWNER, talk.id, "nope", "MAIN", 10),
        branches.compare(OWNER, talk.id, "MAIN", "nope", 10),
        talk.on("nope"),
        talk.say("u9", "nope"),
        talk.open("nope"),
        talk.store.items.delete(OWNER, talk.id, talk.ids["u1"], branch="nope"),
    ]
    for call in calls:
        with pytest.raises(BranchNotFound) as refused:
            await call
        assert refused.value.subject == "nope"


async def test_branches_grow_apart_and_items_are_found_on_the_one_that_has_them(talk: Talk):
    await talk.draft("a1")
    await talk.say("u3", "draft")
    await talk.draft("u3", name="deep")
    await talk.say("a3", "draft")
    await talk.say("a4", "deep")
    await talk.say("u5")
    assert await talk.on() == "u1 a1 u2 a2 u5"
    assert await talk.on("draft") == "u1 a1 u3 a3"
    assert await talk.on("deep") == "u1 a1 u3 a4"
    forked = [await talk.draft(text, name=text) for text in ("u5", "a3", "a4", "u3", "u1")]
    assert [one.source for one in forked] == ["MAIN", "draft", "deep", "draft", "MAIN"]
    await talk.store.branches.activate(OWNER, talk.id, "deep")
    assert (await talk.draft("u3", name="x")).source == "deep"
    assert (await talk.draft("u3", name="y", source="draft")).source == "draft"
    assert (await talk.draft("u2", name="z")).source == "MAIN"
    assert (await talk.draft(name="tip")).source == "deep"


async def test_branches_are_listed_in_the_order_in_which_their_lines_were_made(talk: Talk):
    for i in range(12):
        await talk.draft(name=f"b{11 - i}")
    await talk.fork(talk.point(ForkPoint.TIP, backup="old"))
    await talk.store.branches.update(OWNER, talk.id, "b11", new_name="zz")
    expected = ["old", "zz", *(f"b{i}" for i in range(10, -1, -1)), "MAIN"]
    assert await talk.names() == expected
    for ascending in (True, False):
        wanted, seen, after = expected if ascending else expected[::-1], [], None
        more = True
        while more:
            page = await talk.store.branches.list_page(OWNER, talk.id, PageRequest(5, after, ascending))
            seen += [branch.name for branch in page.branches]
            more, after = page.has_more, seen[-1]
            assert page.active_branch == "MAIN"
        assert seen == wanted
    with pytest.raises(CursorNotFound):
        await talk.store.branches.list_page(OWNER, talk.id, PageRequest(5, "b11"))


async def test_a_branch_is_renamed_and_described(talk: Talk):
    update = talk.store.branches.update
    await talk.draft()
    await talk.store.branches.activate(OWNER, talk.id, "draft")
    assert (await update(OWNER, talk.id, "draft", description="d")).description == "d"
    renamed = await update(OWNER, talk.id, "draft", new_name="final")
    assert (renamed.name, renamed.description, renamed.is_active) == ("final", "d", True)
    assert (await update(OWNER, talk.id, "final", description="")).description is None
    assert (await update(OWNER, talk.id, "final", new_name="final")).name == "final"
    assert await talk.names() == ["MAIN", "final"]
    assert (await talk.store.conversations.read(OWNER, talk.id)).active_branch == "final"
    assert (await talk.draft(name="draft")).branch.parent_branch == "final"
    await update(OWNER, talk.id, "final", new_name="last")
    assert (await talk.store.branches.read(OWNER, talk.id, "draft")).parent_branch == "last"


async def test_a_rename_to_a_name_that_is_taken_and_of_main_are_refused(talk: Talk):
    await talk.draft()
    await talk.draft(name="other")
    update = talk.store.branches.update
    for name in ("other", "MAIN", "Main"):
        with pytest.raises(BranchExists):
            await update(OWNER, talk.id, "draft", new_name=name, description="d")
    with pytest.raises(BranchProtected) as refused:
        await update(OWNER, talk.id, "MAIN", new_name="new")
    assert refused.value.subject == "MAIN"
    assert (await update(OWNER, talk.id, "MAIN", new_name="main", description="d")).description == "d"
    assert (await talk.store.branches.read(OWNER, talk.id, "draft")).description is None


async def test_main_and_the_active_branch_are_never_deleted(talk: Talk):
    await talk.draft()
    await talk.store.branches.activate(OWNER, talk.id, "draft")
    for name in ("MAIN", "main", "draft"):
        with pytest.raises(BranchProtected):
            await talk.store.branches.delete(OWNER, talk.id, name)
    await talk.store.branches.activate(OWNER, talk.id, "MAIN")
    await talk.store.branches.delete(OWNER, talk.id, "draft")
    await talk.fork(talk.point(ForkPoint.AFTER, "u1", backup="old"))
    with pytest.raises(BranchProtected):
        await talk.store.branches.delete(OWNER, talk.id, "MAIN")
    await talk.store.branches.delete(OWNER, talk.id, "old")
    assert (await talk.names(), await talk.on()) == (["MAIN"], "u1")


async def test_a_deleted_branch_leaves_what_others_read(talk: Talk):
    await talk.draft("a1")
    await talk.say("u3 a3", "draft")
    await talk.draft("u3", name="child")
    await talk.store.branches.delete(OWNER, talk.id, "draft")
    assert await talk.on("child") == "u1 a1 u3"
    child = await talk.store.branches.read(OWNER, talk.id, "child")
    assert (child.parent_branch, child.forked_from_item_id) == (None, talk.ids["u3"])
    assert (await talk.draft("u3", name="draft")).source == "child"
    for gone in ("a3", "nope"):
        with pytest.raises(ItemNotFound):
            await talk.store.items.read(OWNER, talk.id, talk.ids.get(gone, gone))


async def test_the_active_branch_is_what_is_meant_where_none_is_named(talk: Talk):
    await talk.draft("a1")
    conversation = await talk.store.branches.activate(OWNER, talk.id, "draft")
    assert conversation.active_branch == "draft"
    await talk.say("u3")
    await talk.turn()
    assert (await talk.on(), await talk.on("draft")) == ("u1 a1 u3 u9 a9",) * 2
    assert (await talk.on("MAIN"), await talk.on("mAiN")) == ("u1 a1 u2 a2",) * 2
    page = await talk.store.branches.list_page(OWNER, talk.id, PageRequest(9, ascending=True))
    assert (page.active_branch, [branch.is_active for branch in page.branches]) == ("draft", [False, True])


async def test_a_deleted_item_is_gone_from_all_branches_and_from_redis(redis: Redis, talk: Talk):
    await talk.draft("a1")
    await talk.fork(talk.point(ForkPoint.WITHOUT, "a2", backup="old"))
    response = await talk.turn()
    secret = talk.ids["a1"]
    assert await keys_that_hold(redis, secret.encode()) != []
    await talk.store.items.delete(OWNER, talk.id, secret)
    listed = [await talk.on(name) for name in ("MAIN", "old", "draft")]
    assert listed == ["u1 u2 u9 a9", "u1 u2 a2", "u1"]
    page = await talk.store.branches.list_page(OWNER, talk.id, PageRequest(9))
    assert {one.name: one.item_count for one in page.branches} == {"MAIN": 4, "old": 3, "draft": 1}
    assert await talk.on(at=response) == "u1 u2 u9 a9"
    holding = await keys_that_hold(redis, b'{"id":"' + secret.encode())
    assert holding == []
    # where a branch was forked stays known; nothing of the item does
    assert {key.rpartition(":")[0] for key in await keys_that_hold(redis, secret.encode())} == {f"{talk.tag}branch"}
    with pytest.raises(ItemNotFound):
        await talk.store.items.read(OWNER, talk.id, secret)


async def test_an_item_is_deleted_on_a_branch_only_if_it_lies_there(talk: Talk):
    await talk.draft("a1")
    await talk.say("u3", "draft")
    for text, branch in (("u3", "MAIN"), ("a2", "draft")):
        with pytest.raises(ItemNotFound):
            await talk.store.items.delete(OWNER, talk.id, talk.ids[text], branch=branch)
    await talk.store.items.delete(OWNER, talk.id, talk.ids["a1"], branch="draft")
    assert (await talk.on(), await talk.on("draft")) == ("u1 u2 a2", "u1 u3")


async def test_cursors_and_deletions_work_across_the_joints_of_a_chain(talk: Talk):
    await talk.fork(talk.point(ForkPoint.WITHOUT, "a1", backup="old"), "u3 a3")
    await talk.fork(talk.point(ForkPoint.WITHOUT, "u3", backup="older"), "u4")
    assert await talk.on() == "u1 u2 a2 a3 u4"
    for ascending in (True, False):
        seen, after = [], None
        while after != "":
            page = await talk.store.items.list_page(OWNER, talk.id, PageRequest(2, after, ascending))
            seen += texts(page.items)
            after = id_of(page.items[-1]) if page.has_more else ""
        assert seen == ["u1", "u2", "a2", "a3", "u4"][:: 1 if ascending else -1]
    with pytest.raises(CursorNotFound):
        await talk.store.items.list_page(OWNER, talk.id, PageRequest(2, talk.ids["a1"]))
    page = await talk.store.items.list_page(OWNER, talk.id, PageRequest(9, talk.ids["a1"], True), branch="old")
    assert texts(page.items) == ["u2", "a2"]


# Time travel


async def test_a_branch_is_listed_as_it_was_at_an_item_or_a_response(talk: Talk):
    response = await talk.turn("u3", "a3")
    await talk.say("u4")
    await talk.store.items.delete(OWNER, talk.id, talk.ids["a2"])
    assert await talk.on(at=response) == "u1 a1 u2 u3 a3"
    assert await talk.on(at=talk.ids["u2"]) == "u1 a1 u2"
    assert await talk.on(at=talk.ids["u4"]) == "u1 a1 u2 u3 a3 u4"
    await talk.draft("a1")
    await talk.say("u5", "draft")
    assert await talk.on("draft", at=talk.ids["u1"]) == "u1"
    assert await talk.on(at=talk.ids["u5"]) == "u1 a1 u5"
    for branch, at in (("draft", "u3"), ("MAIN", "u5"), ("", "a2"), ("", "resp_nope")):
        with pytest.raises(ItemNotFound) as refused:
            await talk.on(branch, at=talk.ids.get(at, at))
        assert refused.value.subject == talk.ids.get(at, at)


async def test_a_failed_turn_is_where_it_began(talk: Talk):
    failed = await talk.turn("u3", "a3", mode=CommitMode.RECORD, status="failed")
    await talk.say("u4")
    assert await talk.on(at=failed) == "u1 a1 u2 a2"
    await talk.fork(talk.point(ForkPoint.AT, failed, name="again"))
    assert await talk.on("again") == "u1 a1 u2 a2"


async def test_a_chain_outside_of_the_conversation_is_taken_in_as_a_branch_and_lasts(redis: Redis, talk: Talk):
    aside = await take_turn(talk.store, previous=await talk.turn("u3", "a3"), says=["s1"], answers=["s2"])
    assert await redis.ttl(f"{talk.tag}segment:1") > 0
    forked = await talk.fork(talk.point(ForkPoint.AT, aside, name="taken"))
    assert await redis.ttl(f"{talk.tag}segment:1") == -1
    assert (forked.source, forked.branch.item_count) == (None, 8)
    after = await take_turn(talk.store, previous=aside, says=["s3"], answers=["s4"])
    await talk.say("u4", "taken")
    assert await talk.on("taken") == "u1 a1 u2 a2 u3 a3 s1 s2 u4"
    assert await talk.on(at=after) == "u1 a1 u2 a2 u3 a3 s1 s2 s3 s4"
    await talk.store.branches.delete(OWNER, talk.id, "taken")
    assert await redis.ttl(f"{talk.tag}segment:1") > 0
    assert await talk.on(at=aside) == "u1 a1 u2 a2 u3 a3 s1 s2"


# Comparing


@pytest.mark.parametrize(
    ("point", "target", "ancestor", "shared", "first", "second"),
    [
        (ForkPoint.TIP, "", "a2", 4, "u4", "u5"),
        (ForkPoint.AFTER, "a1", "a1", 2, "u2 a2 u4", "u5"),
        (ForkPoint.BEFORE, "u1", None, 0, "u1 a1 u2 a2 u4", "u5"),
        (ForkPoint.WITHOUT, "u1", None, 3, "u1 u4", "u5"),
        (ForkPoint.WITHOUT, "a1", "u1", 3, "a1 u4", "u5"),
        (ForkPoint.WITHOUT, "a2", "u2", 3, "a2 u4", "u5"),
    ],
)
async def test_a_comparison_tells_what_is_shared_and_what_each_has(
    talk: Talk, point: ForkPoint, target: str, ancestor: str | None, shared: int, first: str, second: str
):
    await talk.fork(talk.point(point, target, name="draft"), "u5")
    await talk.say("u4")
    found = await talk.store.branches.compare(OWNER, talk.id, "main", "draft", 10)
    assert (found.ancestor and id_of(found.ancestor)) == (talk.ids[ancestor] if ancestor else None)
    assert (found.shared, " ".join(texts(found.only_first.items)), " ".join(texts(found.only_second.items))) == (
        shared,
        first,
        second,
    )
    turned = await talk.store.branches.compare(OWNER, talk.id, "draft", "MAIN", 10)
    assert (turned.ancestor, turned.shared) == (found.ancestor, found.shared)
    assert (turned.only_first, turned.only_second) == (found.only_second, found.only_first)


async def test_a_comparison_skips_deleted_items_and_stops_at_its_limit(talk: Talk):
    await talk.draft("u2")
    await talk.say("u5 a5 u6", "draft")
    for text in ("u2", "u5"):
        await talk.store.items.delete(OWNER, talk.id, talk.ids[text])
    found = await talk.store.branches.compare(OWNER, talk.id, "MAIN", "draft", 1)
    assert found.ancestor
    assert (id_of(found.ancestor), found.shared) == (talk.ids["a1"], 2)
    assert (texts(found.only_first.items), found.only_first.has_more) == (["a2"], False)
    assert (texts(found.only_second.items), found.only_second.has_more) == (["a5"], True)
    same = await talk.store.branches.compare(OWNER, talk.id, "draft", "draft", 1)
    assert (same.shared, same.only_first.items, same.only_second.items) == (4, [], [])


async def test_a_comparison_counts_an_item_once_that_one_batch_took_in_twice(talk: Talk):
    await talk.draft("a1")
    await talk.say("u3 a3 u4", "draft")
    taken = [reference(talk.ids[text]) for text in ("u3", "a3", "a3", "u4")]
    await talk.store.items.append(OWNER, talk.id, "MAIN", taken)
    assert await talk.on() == "u1 a1 u2 a2 u3 a3 a3 u4"
    found = await talk.store.branches.compare(OWNER, talk.id, "draft", "MAIN", 9)
    assert (found.shared, found.only_first.items, texts(found.only_second.items)) == (5, [], ["u2", "a2"])


# Calls that wait


@pytest.mark.parametrize("batches", ["one by one", "in turns"])
@pytest.mark.parametrize(
    ("point", "target", "waiting"),
    [
        (ForkPoint.TIP, "", "2"),
        (ForkPoint.AFTER, "u1", ""),
        (ForkPoint.AFTER, "c1", "1"),
        (ForkPoint.AFTER, "c2", "1 2"),
        (ForkPoint.AFTER, "o1", "2"),
        (ForkPoint.BEFORE, "c1", ""),
        (ForkPoint.BEFORE, "c2", "1"),
        (ForkPoint.BEFORE, "o1", "1 2"),
        (ForkPoint.BEFORE, "a1", "2"),
        (ForkPoint.WITHOUT, "c2", ""),
        (ForkPoint.WITHOUT, "u1", "2"),
        (ForkPoint.AT, "c1", "1"),
        (ForkPoint.EDIT, "u2", "2"),
        (ForkPoint.REPLY, "a1", ""),
    ],
)
async def test_a_fork_inherits_the_calls_that_wait_where_it_leaves(
    store: Store, point: ForkPoint, target: str, waiting: str, batches: str
):
    talk = await Talk(store).begin("")
    if batches == "one by one":
        await talk.say("u1 c1 c2 o1 a1 u2")
    else:
        await talk.turn("u1", "c1 c2")
        await talk.turn("o1", "a1")
        await talk.say("u2")
    opened = await talk.open(fork=talk.point(point, target, name="turn"))
    assert pending_of(opened) == waiting
    await talk.release(opened)
    await talk.fork(talk.point(point, target, name="draft"))
    assert pending_of(await talk.open("draft")) == waiting
    # a fork at the end of a fork asks the same of another chain
    again = await talk.open(fork=talk.point(ForkPoint.TIP, name="again"))
    assert pending_of(again) == "2"


async def test_calls_wait_through_forks_of_forks(talk: Talk):
    await talk.say("c1")
    await talk.draft(name="one")
    await talk.say("c2", "one")
    await talk.draft("c2", name="two", source="one")
    await talk.say("o1", "two")
    await talk.say("u3", "two")
    assert [pending_of(await talk.open(name, token=name)) for name in ("MAIN", "one", "two")] == ["1", "1 2", "2"]
    for text, waiting in (("c1", "1"), ("c2", "1 2"), ("o1", "2"), ("u3", "2"), ("a2", "")):
        fork = talk.point(ForkPoint.AFTER, text, name=text)
        assert pending_of(await talk.open("two", fork, token=text)) == waiting


async def test_calls_wait_in_the_middle_of_a_forks_first_batch(talk: Talk):
    await talk.say("c1")
    await talk.draft()
    await talk.store.items.append(OWNER, talk.id, "draft", talk.entries("u3 c2 o1 a3"))
    for text, waiting in (("u3", "1"), ("c2", "1 2"), ("o1", "2"), ("a3", "2")):
        assert pending_of(await talk.open(fork=talk.point(ForkPoint.AFTER, text, name=text), token=text)) == waiting


async def test_a_call_that_was_deleted_does_not_wait_on_any_branch(talk: Talk):
    await talk.say("c1")
    await talk.draft()
    await talk.store.items.delete(OWNER, talk.id, talk.ids["c1"])
    assert [pending_of(await talk.open(name)) for name in ("MAIN", "draft")] == ["", ""]


async def waiting_behind(talk: Talk, text: str, branch: str) -> str:
    """Return the calls that wait where a branch is forked after an item."""
    opened = await talk.open(branch, talk.point(ForkPoint.AFTER, text, name="fork"))
    await talk.release(opened)
    return pending_of(opened)


@pytest.mark.parametrize("how", ["a turn", "an addition"])
async def test_what_brings_nothing_new_says_nothing_of_the_calls_where_its_branch_ends(talk: Talk, how: str):
    await talk.draft(name="still")
    await talk.draft(name="beside")
    await talk.say("c1", "beside")
    if how == "a turn":
        await take_turn(talk.store, conversation=talk.conversation, says=[reference(talk.ids["c1"])], answers=[])
    else:
        await talk.store.items.append(OWNER, talk.id, "", [reference(talk.ids["c1"])])
    assert pending_of(await talk.open("MAIN")) == "1"
    assert await waiting_behind(talk, "a2", "still") == ""
    assert await waiting_behind(talk, "a2", "MAIN") == ""


async def test_a_branch_out_of_a_response_of_a_mixed_one_that_is_gone_knows_its_calls(talk: Talk):
    await talk.draft(name="beside")
    await talk.say("c1 c2", "beside")
    await talk.draft("a1", name="mixed")
    await talk.store.items.append(OWNER, talk.id, "mixed", [reference(talk.ids["c2"])])
    response = await talk.turn("u3", "a3", branch="mixed")
    await talk.store.branches.delete(OWNER, talk.id, "mixed")
    await talk.fork(talk.point(ForkPoint.AT, response, name="again"))
    assert await talk.on("again") == "u1 a1 c2 u3 a3"
    assert await waiting_behind(talk, "c2", "again") == "2"


async def test_a_branch_out_of_a_response_beside_which_a_call_was_added_knows_its_calls(talk: Talk):
    opened = await talk.open()
    await talk.say("c1")
    turn = talk.end(opened, "u3", "a3")
    await talk.commit(turn)
    await talk.fork(talk.point(ForkPoint.AT, turn.response_id, name="draft"))
    assert (await talk.on(), await talk.on("draft")) == ("u1 a1 u2 a2 c1 u3 a3", "u1 a1 u2 a2 u3 a3")
    assert await waiting_behind(talk, "a3", "draft") == ""
    assert await waiting_behind(talk, "a3", "MAIN") == "1"


async def test_a_turn_that_leaves_out_a_call_makes_a_branch_that_knows_its_calls(talk: Talk):
    await talk.say("c1 u3")
    await talk.turn("u4", "a4", fork=talk.point(ForkPoint.WITHOUT, "c1", name="draft"))
    assert await talk.on("draft") == "u1 a1 u2 a2 u3 u4 a4"
    assert await waiting_behind(talk, "u3", "draft") == ""


async def test_a_branch_with_a_call_twice_knows_its_calls_in_between(talk: Talk):
    call, output = talk.entries("c1 o1")
    brought = replace(call, origin=Origin.CLIENT)
    await talk.store.items.append(OWNER, talk.id, "", [brought, output, brought])
    assert await waiting_behind(talk, "o1", "MAIN") == ""


async def test_what_earlier_versions_noted_where_nothing_new_came_is_not_believed(redis: Redis, talk: Talk):
    await talk.say("c1 u3")
    await redis.zadd(f"{talk.tag}journal", {"resp_old\x1fmodel\x1fcall_1": 4, "resp_older\x1fmodel\x1fcall_1": 4})
    await redis.zadd(f"{talk.tag}journal", {"resp_same\x1fmodel\x1fcall_1": 5})
    assert await waiting_behind(talk, "a2", "MAIN") == ""
    assert await waiting_behind(talk, "c1", "MAIN") == "1"
    assert (await talk.store.auditor.audit()).complaints == []


# What is stored


async def test_a_deleted_branchs_segment_goes_at_once_unless_a_response_needs_it(redis: Redis, talk: Talk):
    await talk.draft(name="bare")
    await talk.draft(name="told")
    await talk.say("u3", "bare")
    response = await talk.turn("u4", "a4", branch="told")
    assert await redis.exists(f"{talk.tag}segment:1", f"{talk.tag}segment:2") == 2
    await talk.store.branches.delete(OWNER, talk.id, "bare")
    await talk.store.branches.delete(OWNER, talk.id, "told")
    assert await redis.exists(f"{talk.tag}segment:1", f"{talk.tag}branch:1", f"{talk.tag}branch:2") == 0
    assert 0 < await redis.ttl(f"{talk.tag}segment:2") <= await redis.ttl(f"{talk.tag}response:{response}")
    assert texts((await talk.store.responses.read(OWNER, response)).output) == ["a4"]
    assert await talk.on(at=response) == "u1 a1 u2 a2 u4 a4"
    assert await redis.ttl(f"{talk.tag}segment:0") == -1


async def test_everything_of_a_living_conversation_lasts_and_of_a_deleted_one_expires(redis: Redis, talk: Talk):
    await talk.draft("a1")
    await talk.say("u3", "draft")
    await talk.fork(talk.point(ForkPoint.EDIT, "u3", backup="old"), "u4")
    await talk.store.items.delete(OWNER, talk.id, talk.ids["u1"])
    response = await talk.turn()
    lives = {key: await redis.ttl(key) for key in await keys_of(redis, talk.id)}
    expiring = {key for key, seconds in lives.items() if seconds != -1 and ":commit:" not in key}
    assert expiring == {f"{talk.tag}response:{response}"}
    await talk.store.conversations.delete(OWNER, talk.id)
    assert all([await redis.ttl(key) > 0 for key in await keys_of(redis, talk.id)])
    history = " ".join(await continue_from(talk.store, response))
    assert history == "a1 u4 u9 a9"


async def memory_of(redis: Redis, some_id: str) -> int:
    """Return the bytes that all keys of a partition take."""
    return sum([await redis.memory_usage(key, samples=0) or 0 for key in await keys_of(redis, some_id)])


@pytest.mark.parametrize("how", ["name", "backup", "turn"])
async def test_a_fork_of_ten_thousand_items_takes_less_than_one_kibibyte(valkey: Redis, valkey_store: Store, how: str):
    talk = await Talk(valkey_store).begin("")
    for batch in range(100):
        said = " ".join(f"{role}{batch * 50 + i}" for i in range(50) for role in "ua")
        await valkey_store.items.append(OWNER, talk.id, "", talk.entries(said))
    before = await memory_of(valkey, talk.id)
    fork = talk.point(ForkPoint.AFTER, "u2500", name="" if how == "backup" else "draft", backup="MAIN_backup")
    if how == "turn":
        await talk.turn("", "", fork=fork, stored=False)
    else:
        await talk.fork(fork)
    taken = await memory_of(valkey, talk.id) - before
    assert 0 < taken < 1024
    branch = await talk.store.branches.read(OWNER, talk.id, fork.name or "MAIN")
    assert branch.item_count == 5001


async def test_a_branch_that_a_turn_runs_on_is_not_deleted(talk: Talk):
    await talk.draft()
    opened = await talk.open("draft")
    with pytest.raises(Locked):
        await talk.store.branches.delete(OWNER, talk.id, "draft")
    await talk.commit(talk.end(opened))
    await talk.store.branches.delete(OWNER, talk.id, "draft")
