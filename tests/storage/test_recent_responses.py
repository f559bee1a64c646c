"""The latest responses of an owner: listed beside each commit, repaired when read, gone when deleted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis.asyncio import Redis

from storage import CommitMode, CursorNotFound, PageRequest, Safeguards, Store, new_partition, partition_of
from storage.store import Hosting
from tests.fake import channels_to
from tests.storage.builders import (
    OWNER,
    PREFIX,
    RETENTION_SECONDS,
    STRANGER,
    finished,
    new_log,
    open_turn,
    start,
    take_turn,
)
from tests.storage.everything import submit

LISTING = f"{PREFIX}:owner:{{{OWNER}}}:responses"


async def recent(store: Store, owner: str = OWNER, **page: int | str | bool) -> list[str]:
    found = await store.responses.recent(owner, PageRequest(**page))  # type: ignore[arg-type]
    return [one.id for one in found.responses]


async def test_responses_are_listed_wherever_they_were_made_and_however_they_ended(store: Store):
    made = await start(store, "0")
    in_conversation = await take_turn(store, conversation=made)
    alone = await take_turn(store)
    failed = await take_turn(store, conversation=made, mode=CommitMode.RECORD, status="failed", answers=[])
    after = await take_turn(store, previous=alone)
    await take_turn(store, conversation=made, stored=False)
    submitted = (await submit(store)).response_id
    assert set(await recent(store)) == {in_conversation, alone, failed, after, submitted}
    assert await recent(store, STRANGER) == []


async def test_an_entry_says_how_it_ended_what_was_asked_and_what_was_answered(store: Store):
    response = await take_turn(store, body=b'{"object":"response","model":"m"}')
    (one,) = (await store.responses.recent(OWNER, PageRequest())).responses
    assert (one.id, one.status, one.body) == (response, "completed", b'{"object":"response","model":"m"}')
    assert one.asked is not None
    assert b'"question"' in one.asked.data
    assert one.answered is not None
    assert b'"answer"' in one.answered.data
    failed = await take_turn(store, mode=CommitMode.RECORD, status="failed", answers=[])
    found = {one.id: one for one in (await store.responses.recent(OWNER, PageRequest())).responses}
    assert (found[failed].status, found[failed].answered) == ("failed", None)


async def test_pages_go_on_where_they_ended_even_if_that_response_is_gone(store: Store):
    made = [await take_turn(store) for _ in range(5)]
    whole = await recent(store)
    assert set(whole) == set(made)
    first = await store.responses.recent(OWNER, PageRequest(limit=2))
    assert first.has_more
    await store.responses.delete(OWNER, whole[1])
    second = await store.responses.recent(OWNER, PageRequest(limit=2, after=first.next_cursor))
    assert [one.id for one in second.responses] == whole[2:4]
    assert await recent(store, after=whole[3]) == whole[4:]
    assert await recent(store, ascending=True) == [one for one in reversed(whole) if one != whole[1]]
    with pytest.raises(CursorNotFound):
        await recent(store, after="resp_x")


async def test_a_deleted_response_leaves_the_list_at_once_and_the_last_one_takes_it_along(store: Store, redis: Redis):
    response = await take_turn(store)
    await store.responses.delete(OWNER, response)
    assert await redis.exists(LISTING) == 0


async def test_an_entry_whose_response_is_gone_is_dropped_when_it_is_read(store: Store, redis: Redis):
    kept = await take_turn(store)
    gone = new_log().response_id
    await redis.zadd(LISTING, {gone: 1})
    assert await recent(store, limit=1, ascending=True) == [kept]
    assert await redis.zscore(LISTING, gone) is None


async def test_a_young_entry_may_be_about_to_get_its_response(store: Store, redis: Redis):
    kept = await take_turn(store)
    young = new_log().response_id
    await redis.zadd(LISTING, {young: (await redis.zscore(LISTING, kept) or 0) + 1})
    assert await recent(store) == [kept]
    assert await redis.zscore(LISTING, young) is not None
    await redis.zrem(LISTING, young)


async def test_only_the_latest_are_listed_and_the_list_ends_with_its_responses(redis: Redis):
    hosting = Hosting(Safeguards(listed_responses=3))
    store = Store(*channels_to(redis), prefix=PREFIX, retention_seconds=RETENTION_SECONDS, hosting=hosting)
    made = [await take_turn(store) for _ in range(5)]
    assert len(set(await recent(store)) & set(made)) == 3
    # it is given its time for a sixteenth in advance
    assert RETENTION_SECONDS <= await redis.ttl(LISTING) <= RETENTION_SECONDS * 17 / 16
    await redis.pexpire(LISTING, RETENTION_SECONDS * 1000 - 1)
    await take_turn(store)
    assert await redis.ttl(LISTING) >= RETENTION_SECONDS
    await store.close()


async def test_a_long_list_is_cut_short_by_one_response_in_sixteen(redis: Redis):
    hosting = Hosting(Safeguards(listed_responses=100))
    store = Store(*channels_to(redis), prefix=PREFIX, retention_seconds=RETENTION_SECONDS, hosting=hosting)
    await redis.zadd(LISTING, {f"resp_{number}": number for number in range(100)})
    for end, listed in (("1", 101), ("f", 102), ("0", 100), ("a", 101)):
        opened = await open_turn(store)
        commit = finished(opened, partition=new_partition())
        commit = replace(commit, response_id=commit.response_id[:-1] + end)
        await store.turns.commit(commit)
        assert await redis.zcard(LISTING) == listed
        assert await redis.zscore(LISTING, commit.response_id) is not None
    await store.close()


async def test_where_none_are_listed_nothing_is_written(redis: Redis):
    hosting = Hosting(Safeguards(listed_responses=0))
    store = Store(*channels_to(redis), prefix=PREFIX, retention_seconds=RETENTION_SECONDS, hosting=hosting)
    response = await take_turn(store, conversation=await start(store, "0"))
    await store.responses.delete(OWNER, await take_turn(store))
    await submit(store)
    assert await redis.exists(LISTING) == 0
    assert await recent(store) == []
    assert response
    await store.close()


async def test_a_commit_that_is_repeated_lists_its_response_once(store: Store):
    made = await start(store)
    opened = await open_turn(store, conversation=made)
    commit = replace(finished(opened, partition=partition_of(made.id), conversation=made))
    for _ in range(2):
        await store.turns.commit(commit)
    assert await recent(store) == [commit.response_id]


async def test_a_purge_takes_the_list_along(store: Store, redis: Redis):
    await take_turn(store)
    await store.purger.purge(OWNER)
    assert await redis.keys("*owner*") == []


async def test_the_listing_is_part_of_a_backup(store: Store):
    await take_turn(store)
    names = [part.name async for part in store.copier.copy()]
    assert f":owner:{{{OWNER}}}:responses" in names
