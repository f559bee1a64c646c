import re
from collections import defaultdict
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

import storage
from storage import PageRequest, Store
from storage.client.keys import OwnerKeys, PartitionKeys
from storage.client.keyspace import Portion
from storage.client.library import load_scripts
from tests.storage.builders import (
    OWNER,
    ids_in,
    load_all,
    open_turn,
    start,
    store_on,
    take_turn,
)
from tests.storage.everything import submit, use_branches, use_events, use_everything


def partition_keys(prefix: str, partition: str) -> list[str]:
    keys = PartitionKeys(prefix, partition)
    names = [keys.response("resp_x"), keys.events("resp_x"), keys.lock("MAIN"), keys.commit("token")]
    return [*keys.common, *names]


def test_all_keys_of_a_partition_have_its_name_as_their_hash_tag():
    keys = partition_keys("p", "00112233445566aa")
    assert len(set(keys)) == 8
    assert {re.findall(r"\{(.*?)\}", key)[0] for key in keys} == {"00112233445566aa"}
    assert len({key_slot(key.encode()) for key in keys}) == 1


def test_the_common_keys_are_those_that_have_names():
    keys = PartitionKeys("p", "00112233445566aa")
    assert keys.common == (keys.head, keys.conversation, keys.branches, keys.index)


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


SCRIPT_COMMANDS_WITHOUT_KEYS = {"TIME"}


def keys_of_command(words: list[str]) -> list[str]:
    """Return the keys of a command that the scripts use, or of a script's call."""
    name = words[0].upper()
    if name == "EVALSHA":
        return words[3 : 3 + int(words[2])]
    if name in {"EXISTS", "DEL", "MGET", "UNLINK"}:
        return words[1:]
    return [] if name in SCRIPT_COMMANDS_WITHOUT_KEYS else words[1:2]


async def test_no_script_touches_a_key_outside_the_slot_it_was_called_for(valkey: Redis, valkey_store: Store):
    """But what is noted of a turn's owner, where there is one server only (`test_slots` has a cluster)."""
    await load_all(valkey)
    noting = [load_scripts()[name].sha for name in ("commit_turn", "record_turn")]
    slots: dict[int, set[int]] = defaultdict(set)
    call, notes = 0, False
    async with valkey.monitor() as monitor:
        await use_everything(valkey_store)
        await valkey.echo("the end")
        async for seen in monitor.listen():
            words = seen["command"].split(" ")
            if words[0].upper() == "ECHO":
                break
            if seen["client_type"] != "lua":
                call += 1
                notes = words[1] in noting if len(words) > 1 else False
            keys = [key for key in keys_of_command(words) if not (notes and ":owner:{" in key)]
            slots[call] |= {key_slot(key.encode()) for key in keys}
    assert len(slots) > 30
    assert [found for found in slots.values() if len(found) > 1] == []


async def test_the_names_of_all_keys_are_documented_ones(redis: Any, store: Store):
    await use_everything(store)
    conversation = await start(store, "x")
    response = await take_turn(store, conversation=conversation)
    await use_events(store, response)
    await use_branches(store, conversation, response)
    await store.items.delete(OWNER, conversation.id, (await ids_in(store, conversation))[0])
    await open_turn(store, conversation=conversation)
    await submit(store, job="x" * (Portion().bytes + 1))
    names = {key.decode().partition("}:")[2] for key in await redis.keys("test:{*")}
    assert {re.sub(r":.+", ":", name) for name in names} == DOCUMENTED
    kinds = r"(branch|segment|holders|lock|stop):\d+|(response|events|commit|job):\w+|pieces:\w+\.\d+|[a-z]+"
    assert all(re.fullmatch(kinds, name) for name in names)


DOCUMENTED = {
    "partition",
    "pieces:",
    "conversation",
    "branches",
    "index",
    "tombstones",
    "journal",
    "job:",
    "branch:",
    "commit:",
    "digests",
    "stop:",
    "watched",
    "events:",
    "holders:",
    "lock:",
    "response:",
    "segment:",
}
