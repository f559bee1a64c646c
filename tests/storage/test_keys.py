import re
from collections import defaultdict
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

import storage
from proxy import ids
from storage import CommitMode, PageRequest, Store
from storage.keys import OwnerKeys, PartitionKeys
from tests.storage.builders import (
    EVERYTHING,
    OWNER,
    add,
    brought,
    draft,
    id_of,
    ids_in,
    load_all,
    minted,
    open_turn,
    reference,
    start,
    store_on,
    take_turn,
)


def test_the_public_names_of_storage_are_these():
    assert set(storage.__all__) == {
        "AlreadyThere",
        "BranchNotFound",
        "CommitMode",
        "CommitResult",
        "Conflict",
        "Conversation",
        "ConversationNotFound",
        "ConversationPage",
        "CursorNotFound",
        "Entry",
        "ItemNotFound",
        "ItemPage",
        "KnownItem",
        "Lease",
        "Locked",
        "Missing",
        "OpenedTurn",
        "Origin",
        "PageRequest",
        "ResponseNotFound",
        "Store",
        "StoreError",
        "StoredResponse",
        "TooManyMetadata",
        "TurnCommit",
        "TurnSource",
        "Unavailable",
    }
    assert storage.__all__ == sorted(storage.__all__)
    assert all(hasattr(storage, name) for name in storage.__all__)


def partition_keys(prefix: str, partition: str) -> list[str]:
    keys = PartitionKeys(prefix, partition)
    return [*keys.common, keys.response("resp_x"), keys.lock("MAIN"), keys.commit("token")]


def test_all_keys_of_a_partition_have_its_name_as_their_hash_tag():
    keys = partition_keys("p", "00112233445566aa")
    assert len(set(keys)) == 7
    assert {re.findall(r"\{(.*?)\}", key)[0] for key in keys} == {"00112233445566aa"}
    assert len({key_slot(key.encode()) for key in keys}) == 1


def test_every_key_begins_with_the_prefix():
    keys = OwnerKeys("branchline", OWNER)
    names = [*partition_keys("branchline", "aa"), *keys.listings("project", "referrer")]
    assert all(name.startswith("branchline:") for name in names)


def test_the_listings_of_one_owner_share_a_slot():
    keys = OwnerKeys("p", "https://issuer.example/|auth0|7")
    listings = keys.listings("project 1", "https://referrer.example/{x}")
    assert len(set(listings)) == 3
    assert len({key_slot(key.encode()) for key in listings}) == 1


def test_a_conversation_without_project_and_referrer_is_in_one_listing():
    keys = OwnerKeys("p", OWNER)
    assert keys.listings(None, None) == [keys.conversations]
    assert keys.listings("", "") == [keys.conversations]


def test_a_project_never_shares_a_listing_with_a_referrer_or_another_owner():
    mine, other = OwnerKeys("p", "a"), OwnerKeys("p", "b")
    names = [mine.conversations, mine.project("x"), mine.referrer("x"), other.conversations, other.project("x")]
    assert len(set(names)) == len(names)


async def test_two_prefixes_on_one_server_know_nothing_of_each_other(redis: Redis):
    async with store_on(redis) as here, store_on(redis, prefix="other") as there:
        conversation = await start(here, "a")
        with pytest.raises(storage.ConversationNotFound):
            await there.conversations.read(OWNER, conversation.id)
        assert (await there.conversations.list_page(OWNER, PageRequest())).conversations == []


async def use_everything(store: Store) -> None:
    """Call every method of the store at least once, over several segments and partitions."""
    elsewhere = await start(store, "elsewhere")
    far = (await ids_in(store, elsewhere))[0]
    conversation = await start(store, "one", "two", project_id="p", referrer="r", metadata={"a": "b"})
    await store.conversations.update(OWNER, conversation.id, {"project_id": "q", "m:a": None, "title": "t"})
    await add(store, conversation, "three", brought("msg_mine"))
    first = (await ids_in(store, conversation))[0]
    response = await take_turn(store, conversation=conversation)
    beside = await take_turn(store, previous=response)
    await add(store, conversation, reference(id_of((await store.turns.read_response(OWNER, beside)).output[0])))
    failed = await take_turn(store, previous=response, mode=CommitMode.RECORD, status="failed")
    await take_turn(store, conversation=conversation, stored=False)
    partition = ids.partition_of(conversation.id)
    await open_turn(store, conversation=conversation, item_ids=[far, first, "msg_mine"], call_ids=["call_1"])
    lease = storage.Lease(partition, "MAIN", "token")
    await store.turns.renew([lease, storage.Lease(ids.new_partition(), "MAIN", "x")], 10)
    await store.turns.release(lease)
    await store.turns.list_input(OWNER, beside, EVERYTHING)
    await store.items.resolve(OWNER, [far, first])
    await store.items.read(OWNER, conversation.id, first)
    await store.items.delete(OWNER, conversation.id, first)
    await store.conversations.list_page(OWNER, PageRequest())
    await store.turns.delete_response(OWNER, failed)
    await store.conversations.delete(OWNER, conversation.id)
    alone = await take_turn(store)
    await store.turns.delete_response(OWNER, alone)
    await store.conversations.delete_all(OWNER)
    await store.conversations.create(OWNER, draft(), [])


SCRIPT_COMMANDS_WITHOUT_KEYS = {"TIME"}


def keys_of_command(words: list[str]) -> list[str]:
    """Return the keys of a command that the scripts use, or of a script's call."""
    name = words[0].upper()
    if name == "EVALSHA":
        return words[3 : 3 + int(words[2])]
    if name in {"EXISTS", "DEL", "UNLINK"}:
        return words[1:]
    return [] if name in SCRIPT_COMMANDS_WITHOUT_KEYS else words[1:2]


async def test_no_script_touches_a_key_outside_the_slot_it_was_called_for(valkey: Redis, valkey_store: Store):
    await load_all(valkey)
    slots: dict[int, set[int]] = defaultdict(set)
    call = 0
    async with valkey.monitor() as monitor:
        await use_everything(valkey_store)
        await valkey.echo("the end")
        async for seen in monitor.listen():
            words = seen["command"].split(" ")
            if words[0].upper() == "ECHO":
                break
            if seen["client_type"] != "lua":
                call += 1
            slots[call] |= {key_slot(key.encode()) for key in keys_of_command(words)}
    assert len(slots) > 30
    assert [found for found in slots.values() if len(found) > 1] == []


async def test_the_names_of_all_keys_are_documented_ones(redis: Any, store: Store):
    await use_everything(store)
    conversation = await start(store, "x")
    await take_turn(store, conversation=conversation)
    kinds = {re.sub(r"(response|commit|lock|segment):.*", r"\1", key.decode()) for key in await redis.keys("test:{*")}
    names = {kind.partition("}:")[2] for kind in kinds}
    assert names == {"partition", "conversation", "branches", "index", "segment", "response", "commit"}


def test_minted_items_of_the_builders_live_in_the_partition_they_were_minted_for():
    partition = ids.new_partition()
    assert ids.partition_of(minted(partition, "x").id) == partition
