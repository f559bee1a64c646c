import asyncio
import time

import pytest
from redis.asyncio import Redis

from storage import ConversationNotFound, Entry, ItemNotFound, Origin, Store, TooManyMetadata, partition_of
from tests.storage.builders import (
    OWNER,
    RETENTION_SECONDS,
    STRANGER,
    add,
    brought,
    draft,
    list_ids,
    minted,
    read_all,
    reference,
    start,
    texts,
)
from tests.storage.inspection import keys_of


async def test_a_new_conversation_is_read_as_it_was_created(store: Store):
    made = await start(store, title="Tïtle", project_id="p", referrer="https://r", metadata={"kéy": "välue", "b": ""})
    assert await store.conversations.read(OWNER, made.id) == made
    assert (made.title, made.project_id, made.referrer, made.active_branch) == ("Tïtle", "p", "https://r", "MAIN")
    assert made.metadata == {"kéy": "välue", "b": ""}


async def test_a_conversation_without_facts_has_none(store: Store):
    made = await store.conversations.read(OWNER, (await start(store)).id)
    assert (made.title, made.project_id, made.referrer, made.metadata) == (None, None, None, {})


async def test_times_come_from_the_server_not_from_the_draft(redis: Redis, store: Store):
    before, _ = await redis.time()
    made = await start(store)
    after, _ = await redis.time()
    assert int(before) <= made.created_at <= int(after)
    assert made.updated_at // 1000 == made.created_at


async def test_first_items_are_answered_and_stored_in_order(store: Store):
    conversation = draft()
    entries = [minted(partition_of(conversation.id), text) for text in "abc"]
    made, items = await store.conversations.create(OWNER, conversation, entries)
    assert items == [entry.data for entry in entries]
    assert await read_all(store, made) == ["a", "b", "c"]


async def test_a_repeated_create_changes_nothing_and_answers_the_same(store: Store):
    conversation = draft(title="once")
    entries = [minted(partition_of(conversation.id), "a"), brought("msg_mine")]
    first = await store.conversations.create(OWNER, conversation, entries)
    assert await store.conversations.create(OWNER, conversation, entries) == first
    assert await read_all(store, first[0]) == ["a", "brought"]


async def test_an_unknown_reference_among_the_first_items_leaves_nothing_behind(redis: Redis, store: Store):
    conversation = draft()
    entries = [minted(partition_of(conversation.id), "a"), reference("msg_unknown")]
    with pytest.raises(ItemNotFound) as refused:
        await store.conversations.create(OWNER, conversation, entries)
    assert refused.value.subject == "msg_unknown"
    assert await redis.keys("*") == []


async def test_metadata_is_merged_and_null_deletes(store: Store):
    made = await start(store, metadata={"keep": "1", "change": "1", "drop": "1"})
    after = await store.conversations.update(OWNER, made.id, {"m:change": "2", "m:drop": None, "m:new": "3"})
    assert after.metadata == {"keep": "1", "change": "2", "new": "3"}
    assert await store.conversations.read(OWNER, made.id) == after


async def test_facts_are_set_and_cleared_one_by_one(store: Store):
    made = await start(store, title="old", project_id="p", referrer="r")
    after = await store.conversations.update(OWNER, made.id, {"title": "new", "project_id": None})
    assert (after.title, after.project_id, after.referrer) == ("new", None, "r")
    after = await store.conversations.update(OWNER, made.id, {"title": None, "referrer": None, "project_id": "q"})
    assert (after.title, after.project_id, after.referrer) == (None, "q", None)


async def test_deleting_metadata_that_is_not_there_is_no_error(store: Store):
    made = await start(store, metadata={"a": "1"})
    assert (await store.conversations.update(OWNER, made.id, {"m:b": None})).metadata == {"a": "1"}


async def test_sixteen_pairs_are_allowed_and_a_seventeenth_is_refused(store: Store):
    made = await start(store, metadata={f"k{i}": "v" for i in range(15)})
    assert len((await store.conversations.update(OWNER, made.id, {"m:k15": "v"})).metadata) == 16
    before = await store.conversations.read(OWNER, made.id)
    with pytest.raises(TooManyMetadata):
        await store.conversations.update(OWNER, made.id, {"m:k0": "changed", "m:k16": "v", "title": "changed"})
    assert await store.conversations.read(OWNER, made.id) == before


async def test_the_limit_counts_the_result_of_the_merge(store: Store):
    made = await start(store, metadata={f"k{i}": "v" for i in range(16)})
    after = await store.conversations.update(OWNER, made.id, {"m:new": "v", "m:k0": "changed", "m:k1": None})
    assert len(after.metadata) == 16
    assert (after.metadata["new"], after.metadata["k0"]) == ("v", "changed")


async def test_an_update_notes_the_time(store: Store):
    made = await start(store)
    await asyncio.to_thread(time.sleep, 0.002)
    after = await store.conversations.update(OWNER, made.id, {"title": "t"})
    assert after.updated_at > made.updated_at
    assert after.created_at == made.created_at


async def test_a_deleted_conversation_is_not_there_any_more(store: Store):
    made = await start(store, "one")
    item = (await add(store, made, "two"))[0]
    await store.conversations.delete(OWNER, made.id)
    for call in (
        store.conversations.read(OWNER, made.id),
        store.conversations.update(OWNER, made.id, {"title": "t"}),
        store.conversations.delete(OWNER, made.id),
        read_all(store, made),
        add(store, made, "three"),
        store.items.read(OWNER, made.id, item),
        store.items.delete(OWNER, made.id, item),
    ):
        with pytest.raises(ConversationNotFound) as refused:
            await call
        assert refused.value.subject == made.id
    assert await list_ids(store) == []


async def test_what_is_left_of_a_deleted_conversation_expires(redis: Redis, store: Store):
    made = await start(store, "one")
    await store.conversations.delete(OWNER, made.id)
    lives = [await redis.ttl(key) for key in await keys_of(redis, made.id)]
    assert lives
    assert all(RETENTION_SECONDS - 5 <= seconds <= RETENTION_SECONDS for seconds in lives)


async def test_a_foreign_conversation_is_answered_like_an_unknown_one(store: Store):
    made, unknown = await start(store, "one"), draft()
    item = (await add(store, made, "two"))[0]
    for conversation in (made, unknown):
        for call in (
            store.conversations.read(STRANGER, conversation.id),
            store.conversations.update(STRANGER, conversation.id, {"title": "t"}),
            store.conversations.delete(STRANGER, conversation.id),
            store.items.append(STRANGER, conversation.id, "", [minted(partition_of(made.id), "x")]),
            store.items.read(STRANGER, conversation.id, item),
            store.items.delete(STRANGER, conversation.id, item),
        ):
            with pytest.raises(ConversationNotFound) as refused:
                await call
            assert refused.value.subject == conversation.id
    assert await read_all(store, made) == ["one", "two"]
    assert await store.items.resolve(STRANGER, [item]) == {}


async def test_another_id_in_the_same_partition_names_no_conversation(store: Store):
    made = await start(store)
    with pytest.raises(ConversationNotFound):
        await store.conversations.read(OWNER, draft(partition_of(made.id)).id)


async def test_all_conversations_of_one_owner_are_deleted_at_once(store: Store):
    mine = [await start(store, project_id="p") for _ in range(3)]
    theirs = await start(store, owner=STRANGER, project_id="p")
    assert await store.conversations.delete_all(OWNER) == 3
    assert await list_ids(store) == await list_ids(store, project_id="p") == []
    assert await list_ids(store, owner=STRANGER) == [theirs.id]
    for conversation in mine:
        with pytest.raises(ConversationNotFound):
            await store.conversations.read(OWNER, conversation.id)
    assert await store.conversations.delete_all(OWNER) == 0


async def test_more_conversations_than_one_batch_are_deleted(store: Store):
    for _ in range(205):
        await start(store)
    assert await store.conversations.delete_all(OWNER) == 205
    assert await list_ids(store) == []


async def test_deleting_all_passes_over_entries_whose_conversation_is_gone(redis: Redis, store: Store):
    kept = await start(store)
    await redis.zadd("test:owner:{alice}:conversations", {draft().id: 1, draft().id: kept.updated_at})
    assert await store.conversations.delete_all(OWNER) == 1
    assert await list_ids(store) == []
    await redis.delete("test:owner:{alice}:conversations")


async def test_a_client_id_given_twice_at_creation_makes_two_occurrences_of_the_first(store: Store):
    twice = [brought("msg_mine", "first"), brought("msg_mine", "second")]
    made, items = await store.conversations.create(OWNER, draft(), twice)
    assert texts(items) == ["first", "first"]
    assert await read_all(store, made) == ["first", "first"]


async def test_items_are_stored_byte_for_byte(store: Store):
    data = b'{"id":"msg_x", "empty":[],"none":{},"big":12345678901234567890,"e":1e400,"u":"\\u00e9\xc3\xa9\\u0000"}'
    made, _ = await store.conversations.create(OWNER, draft(), [Entry(Origin.CLIENT, "msg_x", data)])
    assert await store.items.read(OWNER, made.id, "msg_x") == data
