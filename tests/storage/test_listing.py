from typing import Any

import pytest
from redis.asyncio import Redis

from storage import Conversation, CursorNotFound, PageRequest, Store
from tests.storage.builders import (
    OWNER,
    STRANGER,
    add,
    draft,
    finished,
    list_ids,
    open_turn,
    start,
    take_turn,
)

LISTING = "test:owner:{alice}:conversations"
LONG_AGO = 1_600_000_000_000


async def set_activity(redis: Redis, conversation: Conversation, milliseconds: int, *listings: str) -> None:
    """Pretend that a conversation's last activity was at a certain time."""
    key = f"test:{{{conversation.id[-16:]}}}:conversation"
    await redis.hset(key, "updated_at", str(milliseconds))
    for listing in listings or (LISTING,):
        await redis.zadd(listing, {conversation.id: milliseconds})


async def make(redis: Redis, store: Store, *times: int) -> list[Conversation]:
    """Create conversations that were last active at these times."""
    made = [await start(store) for _ in times]
    for conversation, milliseconds in zip(made, times, strict=True):
        await set_activity(redis, conversation, milliseconds)
    return made


def ids(conversations: list[Conversation]) -> list[str]:
    return [conversation.id for conversation in conversations]


async def all_pages(store: Store, limit: int, **options: bool) -> list[str]:
    found: list[str] = []
    after = None
    while True:
        page = await store.conversations.list_page(OWNER, PageRequest(limit, after=after, **options))
        found += ids(list(page.conversations))
        assert page.has_more == (page.next_cursor is not None)
        if not page.has_more:
            return found
        after = page.next_cursor


async def test_the_most_recently_active_conversation_comes_first(redis: Redis, store: Store):
    made = await make(redis, store, LONG_AGO + 2, LONG_AGO + 3, LONG_AGO + 1)
    assert await list_ids(store) == [made[1].id, made[0].id, made[2].id]
    assert await list_ids(store, ascending=True) == [made[2].id, made[0].id, made[1].id]


@pytest.mark.parametrize("activity", ["append", "turn", "update", "delete item"])
async def test_activity_moves_a_conversation_to_the_front(redis: Redis, store: Store, activity: str):
    older, newer = await make(redis, store, LONG_AGO, LONG_AGO + 1)
    if activity == "turn":
        await take_turn(store, conversation=older)
    elif activity == "update":
        await store.conversations.update(OWNER, older.id, {"m:a": "b"})
    else:
        item = (await add(store, older, "one"))[0]
        if activity == "delete item":
            await set_activity(redis, older, LONG_AGO)
            await store.items.delete(OWNER, older.id, item)
    assert await list_ids(store) == [older.id, newer.id]


async def test_reading_moves_nothing(redis: Redis, store: Store):
    older, newer = await make(redis, store, LONG_AGO, LONG_AGO + 1)
    await store.conversations.read(OWNER, older.id)
    await open_turn(store, conversation=older)
    assert await list_ids(store) == [newer.id, older.id]


async def test_filters_by_project_and_referrer(store: Store):
    a = await start(store, project_id="p", referrer="r")
    b = await start(store, project_id="p", referrer="s")
    c = await start(store, project_id="q", referrer="r")
    await start(store)
    assert set(await list_ids(store, project_id="p")) == {a.id, b.id}
    assert set(await list_ids(store, referrer="r")) == {a.id, c.id}
    assert await list_ids(store, project_id="p", referrer="r") == [a.id]
    assert await list_ids(store, project_id="q", referrer="s") == []
    assert await list_ids(store, project_id="unknown") == []


async def test_a_filtered_page_is_full_though_others_lie_between(redis: Redis, store: Store):
    wanted = []
    for i in range(16):
        made = await start(store, project_id="p", referrer="s" if i % 4 else "r")
        await set_activity(redis, made, LONG_AGO + i, LISTING, "test:owner:{alice}:project:p")
        wanted += [] if i % 4 else [made.id]
    page = await store.conversations.list_page(OWNER, PageRequest(3, ascending=True), project_id="p", referrer="r")
    assert (ids(list(page.conversations)), page.has_more) == (wanted[:3], True)


async def test_a_conversation_that_changed_its_project_is_in_the_new_listing_only(store: Store):
    made = await start(store, project_id="p", referrer="r")
    await store.conversations.update(OWNER, made.id, {"project_id": "q", "referrer": None})
    assert await list_ids(store, project_id="q") == [made.id]
    assert await list_ids(store, project_id="p") == await list_ids(store, referrer="r") == []


@pytest.mark.parametrize("ascending", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 8])
async def test_pages_of_any_size_together_are_the_listing(redis: Redis, store: Store, limit: int, ascending: bool):
    made = ids(await make(redis, store, *range(LONG_AGO, LONG_AGO + 7)))
    assert await all_pages(store, limit, ascending=ascending) == (made if ascending else made[::-1])


@pytest.mark.parametrize("ascending", [False, True])
async def test_pages_over_conversations_of_the_same_millisecond_miss_and_repeat_none(
    redis: Redis, store: Store, ascending: bool
):
    made = ids(await make(redis, store, *[LONG_AGO] * 5, *[LONG_AGO + 1] * 4))
    ordered = sorted(made[:5]) + sorted(made[5:])
    assert await all_pages(store, 2, ascending=ascending) == (ordered if ascending else ordered[::-1])


@pytest.mark.parametrize("ascending", [False, True])
async def test_a_cursor_passes_over_hundreds_of_the_same_millisecond(redis: Redis, store: Store, ascending: bool):
    made = sorted(ids(await make(redis, store, *[LONG_AGO] * 230)), reverse=not ascending)
    for position in (98, 99, 100, 199, 228):
        assert await list_ids(store, limit=1, after=made[position], ascending=ascending) == [made[position + 1]]
    assert await list_ids(store, limit=1, after=made[229], ascending=ascending) == []


@pytest.mark.parametrize("ascending", [False, True])
async def test_a_plain_id_is_a_cursor(redis: Redis, store: Store, ascending: bool):
    made = ids(await make(redis, store, *range(LONG_AGO, LONG_AGO + 4)))
    ordered = made if ascending else made[::-1]
    for i, conversation_id in enumerate(ordered):
        assert await list_ids(store, after=conversation_id, ascending=ascending) == ordered[i + 1 :]


async def test_the_next_cursor_stays_in_place_when_its_conversation_moves(redis: Redis, store: Store):
    made = await make(redis, store, *range(LONG_AGO, LONG_AGO + 4))
    page = await store.conversations.list_page(OWNER, PageRequest(2))
    await add(store, made[2], "activity")
    assert await list_ids(store, after=page.next_cursor) == [made[1].id, made[0].id]


async def test_the_next_cursor_stays_in_place_when_its_conversation_is_deleted(redis: Redis, store: Store):
    made = await make(redis, store, *range(LONG_AGO, LONG_AGO + 4))
    page = await store.conversations.list_page(OWNER, PageRequest(2))
    await store.conversations.delete(OWNER, made[2].id)
    assert await list_ids(store, after=page.next_cursor) == [made[1].id, made[0].id]


@pytest.mark.parametrize(
    "cursor", ["conv_unknown", "@", "@1", "conv_x@", "conv_x@abc", "conv_x@1@2", "conv_x@-inf", "conv_x@(1", "é@½"]
)
async def test_a_cursor_that_names_nothing_is_refused(store: Store, cursor: str):
    await start(store)
    with pytest.raises(CursorNotFound) as refused:
        await list_ids(store, after=cursor)
    assert refused.value.subject == cursor


async def test_a_deleted_or_foreign_conversation_is_no_plain_cursor(store: Store):
    deleted, theirs = await start(store), await start(store, owner=STRANGER)
    await store.conversations.delete(OWNER, deleted.id)
    for conversation in (deleted, theirs):
        with pytest.raises(CursorNotFound):
            await list_ids(store, after=conversation.id)


async def test_a_stranger_sees_none_of_it(store: Store):
    await start(store, project_id="p", referrer="r")
    assert await list_ids(store, owner=STRANGER) == []
    assert await list_ids(store, owner=STRANGER, project_id="p", referrer="r") == []


async def test_an_entry_without_its_conversation_is_passed_over_and_removed(redis: Redis, store: Store):
    made = await make(redis, store, LONG_AGO, LONG_AGO + 2)
    await redis.zadd(LISTING, {draft().id: LONG_AGO + 1, draft().id: LONG_AGO + 3, draft().id: LONG_AGO - 1})
    assert await all_pages(store, 1) == [made[1].id, made[0].id]
    assert await redis.zcard(LISTING) == 2


async def test_a_foreign_conversation_in_a_listing_is_passed_over_and_removed(redis: Redis, store: Store):
    theirs = await start(store, owner=STRANGER)
    await redis.zadd(LISTING, {theirs.id: LONG_AGO})
    assert await list_ids(store) == []
    assert await redis.exists(LISTING) == 0


async def test_an_entry_that_missed_activity_is_put_right(redis: Redis, store: Store):
    made = await make(redis, store, LONG_AGO, LONG_AGO + 60_000)
    await redis.hset(f"test:{{{made[0].id[-16:]}}}:conversation", "updated_at", str(LONG_AGO + 120_000))
    await list_ids(store)
    assert await list_ids(store) == [made[0].id, made[1].id]


async def ids_by(store: Store, kind: str, value: str) -> list[str]:
    """List by project or by referrer."""
    return await (list_ids(store, project_id=value) if kind == "project_id" else list_ids(store, referrer=value))


@pytest.mark.parametrize("kind", ["project_id", "referrer"])
async def test_a_conversation_left_in_a_listing_it_does_not_belong_to_is_passed_over_and_removed(
    redis: Redis, store: Store, kind: str
):
    made = await start(store, **{kind: "new"})
    stale = f"test:owner:{{alice}}:{kind.removesuffix('_id')}:old"
    await redis.zadd(stale, {made.id: LONG_AGO})
    assert await ids_by(store, kind, "old") == []
    assert await redis.exists(stale) == 0
    assert await ids_by(store, kind, "new") == [made.id]


async def test_a_conversation_that_is_being_created_stays_listed_though_somebody_lists_meanwhile(
    redis: Redis, store: Store
):
    coming = draft()
    await store.conversations._scripts.run(store.conversations._keyspace.touch(OWNER, coming.id, None, None))
    assert await list_ids(store) == []
    await redis.hset(f"test:{{{coming.id[-16:]}}}:partition", mapping={"owner": OWNER, "kept": 1, "next_segment": 1})
    await redis.hset(
        f"test:{{{coming.id[-16:]}}}:conversation",
        mapping={"id": coming.id, "created_at": 1, "updated_at": LONG_AGO, "active_branch": "MAIN"},
    )
    line: dict[Any, Any] = {"name": "MAIN", "chain": "0:0:", "pending": "", "created_at": 1, "updated_at": 1}
    await redis.hset(f"test:{{{coming.id[-16:]}}}:branch:0", mapping=line)
    await redis.zadd(f"test:{{{coming.id[-16:]}}}:branches", {"MAIN": 0})
    assert await list_ids(store) == [coming.id]


async def test_a_turn_that_ends_after_its_conversation_was_deleted_does_not_list_it_again(redis: Redis, store: Store):
    made = await start(store, project_id="p")
    opened = await open_turn(store, conversation=made)
    await store.conversations.delete(OWNER, made.id)
    commit = finished(opened, partition=made.id[-16:], conversation=made)
    for _ in range(2):
        await store.turns.commit(commit)
        assert await redis.keys("test:owner:*") == [b"test:owner:{alice}:responses"]


async def test_the_empty_listing_is_an_empty_last_page(store: Store):
    page = await store.conversations.list_page(OWNER, PageRequest())
    assert (page.conversations, page.has_more, page.next_cursor) == ([], False, None)


async def test_conversations_of_one_millisecond_are_listed_in_the_order_of_their_activity(store: Store):
    """A fast server writes several of them; what is left to the ids would be left to chance."""
    made = [await start(store) for _ in range(40)]
    assert await list_ids(store, limit=100) == ids(made)[::-1]
    for conversation in reversed(made):
        await store.conversations.update(OWNER, conversation.id, {"m:a": "b"})
    assert await list_ids(store, limit=100) == ids(made)
    assert await all_pages(store, 7) == ids(made)
    assert await all_pages(store, 7, ascending=True) == ids(made)[::-1]


@pytest.mark.parametrize(("ahead_ms", "is_first"), [(500, True), (600_000, False)])
async def test_a_clock_that_was_put_back_is_waited_for_only_shortly(
    redis: Redis, store: Store, ahead_ms: int, *, is_first: bool
):
    """A little in the future is followed; the rest of a listing does not run ahead with an entry that is wrong."""
    ahead, touched = await make(redis, store, LONG_AGO, LONG_AGO + 1)
    seconds, microseconds = await redis.time()
    await set_activity(redis, ahead, seconds * 1000 + microseconds // 1000 + ahead_ms)
    await store.conversations.update(OWNER, touched.id, {"m:a": "b"})
    assert await list_ids(store) == (ids([touched, ahead]) if is_first else ids([ahead, touched]))
    score = await redis.zscore(LISTING, touched.id)
    assert score is not None
    assert score < seconds * 1000 + 60_000
