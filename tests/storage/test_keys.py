import re
from collections import defaultdict
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

import storage
from storage import CommitMode, Fork, ForkPoint, PageRequest, Store, TurnSource, new_partition, partition_of
from storage.client.keys import OwnerKeys, PartitionKeys
from tests.storage.builders import (
    EVERYTHING,
    OWNER,
    add,
    brought,
    draft,
    finished,
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
        "ANYBODY",
        "AlreadyThere",
        "ArchivedAppend",
        "ArchivedBranch",
        "ArchivedItem",
        "ArchivedResponse",
        "Branch",
        "BranchExists",
        "BranchNotFound",
        "BranchPage",
        "BranchProtected",
        "Busy",
        "Chain",
        "CommitMode",
        "CommitResult",
        "Committed",
        "Comparison",
        "Conflict",
        "Conversation",
        "ConversationExists",
        "ConversationNotFound",
        "ConversationPage",
        "Coverage",
        "CursorNotFound",
        "Entry",
        "EventBatch",
        "EventLog",
        "EventPage",
        "EventQuery",
        "Export",
        "Fork",
        "ForkPoint",
        "Forked",
        "ImportSource",
        "ItemNotFound",
        "ItemPage",
        "Job",
        "JobEntry",
        "KeptAnswer",
        "KeyClaim",
        "KeyStanding",
        "KeyState",
        "KnownItem",
        "Lease",
        "Locked",
        "Missing",
        "NoUserMessage",
        "NotAMessage",
        "NotAUserMessage",
        "OpenedTurn",
        "Origin",
        "PageRequest",
        "Purged",
        "Report",
        "ResponseNotFound",
        "Store",
        "ResponseUnfinished",
        "StoreError",
        "StoredResponse",
        "Submission",
        "Swept",
        "TooManyMetadata",
        "TurnCommit",
        "TurnSource",
        "Unavailable",
        "new_partition",
        "partition_of",
    }
    assert storage.__all__ == sorted(storage.__all__)
    assert all(hasattr(storage, name) for name in storage.__all__)


def partition_keys(prefix: str, partition: str) -> list[str]:
    keys = PartitionKeys(prefix, partition)
    names = [keys.response("resp_x"), keys.events("resp_x"), keys.lock("MAIN"), keys.commit("token")]
    return [*keys.common, *names]


def test_all_keys_of_a_partition_have_its_name_as_their_hash_tag():
    keys = partition_keys("p", "00112233445566aa")
    assert len(set(keys)) == 8
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
    await use_branches(store, conversation, response)
    beside = await take_turn(store, previous=response)
    await add(store, conversation, reference(id_of((await store.responses.read(OWNER, beside)).output[0])))
    failed = await take_turn(store, previous=response, mode=CommitMode.RECORD, status="failed")
    await take_turn(store, conversation=conversation, stored=False)
    partition = partition_of(conversation.id)
    opened = await open_turn(store, conversation=conversation, item_ids=[far, first, "msg_mine"], call_ids=["call_1"])
    lease = storage.Lease(partition, opened.lock, "token")
    await store.turns.renew([lease, storage.Lease(new_partition(), "0", "x")], 10)
    await store.turns.release(lease)
    await store.responses.list_input(OWNER, beside, EVERYTHING)
    await store.items.resolve(OWNER, [far, first])
    await store.items.read(OWNER, conversation.id, first)
    await store.items.delete(OWNER, conversation.id, first)
    await store.conversations.list_page(OWNER, PageRequest())
    await store.responses.delete(OWNER, failed)
    await store.conversations.delete(OWNER, conversation.id)
    alone = await take_turn(store)
    await use_events(store, beside, alone)
    await store.responses.delete(OWNER, alone)
    await store.conversations.delete_all(OWNER)
    await store.conversations.create(OWNER, draft(), [])
    await use_keys(store)
    await take_turn(store, conversation=await start(store, "x", owner="bob"), owner="bob")
    await store.purger.purge("bob")


async def use_keys(store: Store) -> None:
    """Call every method of idempotency; one answered key is left."""
    claim = storage.KeyClaim(OWNER, "ab" * 32, "token")
    await store.idempotency.claim(claim, "f", 10, 60)
    await store.idempotency.renew([claim], 10)
    await store.idempotency.note(claim, "resp_x", 10)
    await store.idempotency.free(claim)
    await store.idempotency.claim(claim, "f", 10, 60, aside=storage.ANYBODY)
    await store.idempotency.answer(claim, storage.KeptAnswer(200, "text/plain", b"x"), 60)
    await store.idempotency.look(claim, "f")


async def use_events(store: Store, *responses: str) -> None:
    """Call every method of events; the logs stay."""
    for response in responses:
        log = storage.EventLog(OWNER, response)
        await store.events.append(
            log, storage.EventBatch(0, 1, b"event"), ttl_seconds=10, lease_seconds=10, last=response == responses[0]
        )
        await store.events.claim(storage.EventLog(OWNER, response, "token"), ttl_seconds=10, lease_seconds=10)
        await store.events.release(log)
    await store.events.read_all([storage.EventQuery(OWNER, response, 0) for response in responses], 1000)
    await store.events.read(storage.EventQuery(OWNER, responses[0], 0), 1000)


async def use_branches(store: Store, conversation: storage.Conversation, response: str) -> None:
    """Call every method of branches, and turns that make them; two backups are left beside MAIN."""
    partition = partition_of(conversation.id)
    branches, last = store.branches, (await ids_in(store, conversation))[-1]
    for i, point in enumerate((ForkPoint.TIP, ForkPoint.AFTER, ForkPoint.WITHOUT)):
        await branches.create(OWNER, conversation.id, "", Fork(point, last, f"b{i}"), [minted(partition, "on it")])
    await branches.create(OWNER, conversation.id, "b0", Fork(ForkPoint.AT, response, backup="old"))
    await branches.read(OWNER, conversation.id, "old")
    await branches.list_page(OWNER, conversation.id, PageRequest(2, "b0"))
    await branches.update(OWNER, conversation.id, "b0", new_name="renamed", description="d")
    await branches.compare(OWNER, conversation.id, "MAIN", "renamed", 5)
    await branches.activate(OWNER, conversation.id, "renamed")
    for name, backup in (("made", ""), ("", "older")):
        fork = Fork(ForkPoint.AFTER, last, name, backup)
        lease = storage.Lease(partition, "", "token")
        opened = await store.turns.open(OWNER, TurnSource(conversation.id, fork=fork), lease, 10, [last], ["call_1"])
        mode = CommitMode.FORK if name else CommitMode.PROMOTE
        commit = finished(opened, partition=partition, conversation=conversation, mode=mode, fork=fork)
        await store.turns.commit(commit)
    await branches.activate(OWNER, conversation.id, "MAIN")
    for name in ("b1", "b2", "renamed", "made"):
        await branches.delete(OWNER, conversation.id, name)
    await store.items.list_page(OWNER, conversation.id, EVERYTHING, at=response)
    await store.sweeper.sweep_all()


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
    response = await take_turn(store, conversation=conversation)
    await use_events(store, response)
    await use_branches(store, conversation, response)
    await store.items.delete(OWNER, conversation.id, (await ids_in(store, conversation))[0])
    await open_turn(store, conversation=conversation)
    names = {key.decode().partition("}:")[2] for key in await redis.keys("test:{*")}
    assert {re.sub(r":.+", ":", name) for name in names} == DOCUMENTED
    kinds = r"(branch|segment|holders|lock):\d+|(response|events|commit):\w+|[a-z]+"
    assert all(re.fullmatch(kinds, name) for name in names)


DOCUMENTED = {
    "partition",
    "conversation",
    "branches",
    "index",
    "tombstones",
    "journal",
    "branch:",
    "commit:",
    "events:",
    "holders:",
    "lock:",
    "response:",
    "segment:",
}


def test_minted_items_of_the_builders_live_in_the_partition_they_were_minted_for():
    partition = new_partition()
    assert partition_of(minted(partition, "x").id) == partition
