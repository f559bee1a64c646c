"""Conversations that are not kept for ever: all of their keys go together, so long after their last use."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from proxy.backup.format import write_lines
from proxy.backup.verifier import Backup
from storage import (
    CommitMode,
    Conversation,
    ConversationNotFound,
    Fork,
    ForkPoint,
    PageRequest,
    ResponseNotFound,
    Store,
    partition_of,
)
from tests.storage.builders import (
    EVERYTHING,
    OWNER,
    add,
    continue_from,
    id_of,
    ids_in,
    minted,
    open_turn,
    read_all,
    start,
    store_on,
    take_named_turn,
    take_turn,
)
from tests.storage.everything import use_everything
from tests.storage.inspection import keys_of

RESPONSES, CONVERSATIONS = 1_000, 10_000
#: What is prolonged lives longer than it has to, so that not every use has to prolong it.
LONGEST = CONVERSATIONS * 17 // 16
GRACE = 60


@pytest.fixture
async def short(redis: Any) -> AsyncIterator[Store]:
    """A store that keeps conversations for a while."""
    async with store_on(redis, retention_seconds=RESPONSES, conversation_seconds=CONVERSATIONS) as store:
        yield store


def head(conversation: Conversation) -> str:
    return f"test:{{{partition_of(conversation.id)}}}:partition"


async def lives(redis: Any, conversation: Conversation) -> dict[str, int]:
    """Seconds to live of each key of a conversation, but for responses, locks and markers."""
    found = {}
    for key in await keys_of(redis, conversation.id):
        name = key.partition("}:")[2]
        if not name.startswith(("response:", "lock:", "commit:")):
            found[name] = await redis.ttl(key)
    return found


async def age(redis: Any, conversation: Conversation, seconds: int) -> None:
    """Let all keys of a conversation be that much older."""
    for key in await keys_of(redis, conversation.id):
        left = await redis.pttl(key)
        assert left >= 0, key
        await redis.pexpire(key, left - seconds * 1000)


async def grown(store: Store, conversation: Conversation) -> str:
    """Give a conversation turns, branches, a deleted item and a chain beside it; return the chain's last response."""
    response = await take_named_turn(store, conversation=conversation)
    item = (await ids_in(store, conversation))[0]
    await store.branches.create(OWNER, conversation.id, "", Fork(ForkPoint.AFTER, item, "b"))
    await store.branches.create(OWNER, conversation.id, "", Fork(ForkPoint.WITHOUT, item, backup="old"))
    await store.items.delete(OWNER, conversation.id, (await ids_in(store, conversation))[-1])
    return await take_named_turn(store, previous=response)


async def test_all_keys_of_a_conversation_live_for_the_same_time_and_its_head_goes_first(redis: Any, short: Store):
    made = await start(short, "one", "two")
    await grown(short, made)
    found = await lives(redis, made)
    chain = found.pop("segment:3")
    assert RESPONSES - 5 <= chain <= RESPONSES, "a chain beside the conversation has a response's time"
    first = found.pop("partition")
    assert LONGEST - 5 <= first <= LONGEST
    assert {"conversation", "branches", "index", "journal", "tombstones", "holders:0", "branch:2"} <= found.keys()
    assert all(first + GRACE - 2 <= life <= first + GRACE + 1 for life in found.values()), found


async def use_turn(store: Store, made: Conversation) -> None:
    await take_turn(store, conversation=made)


async def use_unstored_turn(store: Store, made: Conversation) -> None:
    await open_turn(store, conversation=made)


async def use_items(store: Store, made: Conversation) -> None:
    await add(store, made, "more")


async def use_update(store: Store, made: Conversation) -> None:
    await store.conversations.update(OWNER, made.id, {"title": "t"})


async def use_fork(store: Store, made: Conversation) -> None:
    await store.branches.create(OWNER, made.id, "", Fork(ForkPoint.TIP, "", "new"))


async def use_branch(store: Store, made: Conversation) -> None:
    await store.branches.update(OWNER, made.id, "b", description="d")
    await store.branches.activate(OWNER, made.id, "b")


async def use_deletion(store: Store, made: Conversation) -> None:
    await store.branches.delete(OWNER, made.id, "b")


USES = [use_turn, use_unstored_turn, use_items, use_update, use_fork, use_branch, use_deletion]


@pytest.mark.parametrize("use", USES)
async def test_a_use_prolongs_the_life_of_all_of_it(
    redis: Any, short: Store, use: Callable[[Store, Conversation], Awaitable[None]]
):
    made = await start(short, "one", "two")
    item = (await ids_in(short, made))[0]
    await short.branches.create(OWNER, made.id, "", Fork(ForkPoint.AFTER, item, "b"))
    await age(redis, made, CONVERSATIONS // 2)
    await use(short, made)
    found = await lives(redis, made)
    assert all(life >= LONGEST - 5 for life in found.values()), found


async def test_a_read_prolongs_nothing(redis: Any, short: Store):
    made = await start(short, "one")
    await age(redis, made, CONVERSATIONS // 2)
    await read_all(short, made)
    await short.conversations.list_page(OWNER, PageRequest())
    assert (await lives(redis, made))["partition"] <= LONGEST - CONVERSATIONS // 2


async def test_a_sweep_prolongs_nothing_and_leaves_no_key_without_a_time(redis: Any, short: Store):
    made = await start(short, "one")
    await short.branches.create(OWNER, made.id, "", Fork(ForkPoint.TIP, "", "b"))
    await short.items.append(OWNER, made.id, "b", [minted(partition_of(made.id), text) for text in "xyz"])
    first = id_of((await short.items.list_page(OWNER, made.id, EVERYTHING, branch="b")).items[1])
    await short.branches.create(OWNER, made.id, "", Fork(ForkPoint.WITHOUT, first, "c"))
    await short.branches.delete(OWNER, made.id, "b")
    await age(redis, made, CONVERSATIONS // 2)
    before = (await lives(redis, made))["partition"]
    await short.sweeper.sweep(made.id)
    after = await lives(redis, made)
    assert after["partition"] <= before
    assert "tombstones" in after
    assert min(after.values()) >= 0


async def test_what_is_new_within_the_first_sixteenth_gets_the_time_that_is_left(redis: Any, short: Store):
    made = await start(short)
    await age(redis, made, CONVERSATIONS // 32)
    await add(short, made, "first item")
    found = await lives(redis, made)
    left = LONGEST - CONVERSATIONS // 32
    assert left - 5 <= found["partition"] <= left
    assert left - 5 <= found["segment:0"] <= left + GRACE


async def test_an_expired_conversation_is_gone_with_all_it_had_and_leaves_the_listing(redis: Any, short: Store):
    made = await start(short, "one")
    response = await grown(short, made)
    await redis.delete(head(made))
    with pytest.raises(ConversationNotFound):
        await short.conversations.read(OWNER, made.id)
    with pytest.raises(ResponseNotFound):
        await short.responses.read(OWNER, response)
    assert (await short.conversations.list_page(OWNER, PageRequest())).conversations == []
    await redis.flushall()


async def test_a_response_never_outlives_its_conversation(redis: Any, short: Store):
    made = await start(short, "one")
    response = await take_turn(short, conversation=made)
    for _ in range(3):
        await age(redis, made, RESPONSES // 2)
        response = await take_turn(short, previous=response)
        # the checker compares the lives of responses and of what they need
        assert (await short.auditor.audit()).complaints == []
    assert await continue_from(short, response)


async def test_a_turn_after_a_response_of_the_conversation_is_a_use_of_it(redis: Any, short: Store):
    made = await start(short, "one")
    response = await take_turn(short, conversation=made)
    await age(redis, made, RESPONSES // 2)
    await take_turn(short, previous=response)
    await age(redis, made, RESPONSES // 4)
    await short.conversations.update(OWNER, made.id, {"title": "still here"})
    assert (await lives(redis, made))["partition"] >= CONVERSATIONS


async def test_a_deleted_conversation_does_not_use_up_its_whole_time(redis: Any, short: Store):
    made = await start(short, "one")
    await grown(short, made)
    await short.conversations.delete(OWNER, made.id)
    assert max((await lives(redis, made)).values()) <= RESPONSES + GRACE


async def test_conversations_from_before_get_a_time_when_they_are_used_and_lose_it_again(redis: Any):
    async with (
        store_on(redis, retention_seconds=RESPONSES) as lasting,
        store_on(redis, retention_seconds=RESPONSES, conversation_seconds=CONVERSATIONS) as short,
    ):
        made = await start(lasting, "one", "two")
        await grown(lasting, made)
        assert (await lives(redis, made))["segment:0"] == -1
        await add(short, made, "x")
        assert (await short.auditor.audit()).complaints == []
        assert (await lives(redis, made))["partition"] >= LONGEST - 5
        await add(lasting, made, "y")
        found = await lives(redis, made)
        assert found.pop("segment:3") > 0
        assert set(found.values()) == {-1}


async def test_responses_that_had_a_longer_time_keep_it(redis: Any, short: Store):
    async with store_on(redis, retention_seconds=CONVERSATIONS * 5) as longer:
        made = await start(longer, "one")
        response = await take_turn(longer, conversation=made)
    await add(short, made, "x")
    assert (await short.auditor.audit()).complaints == []
    assert (await lives(redis, made))["partition"] >= CONVERSATIONS * 5 - 5
    assert await continue_from(short, response)


async def test_a_stranger_prolongs_nothing(redis: Any, short: Store):
    made = await start(short, "one")
    await age(redis, made, CONVERSATIONS // 2)
    before = (await lives(redis, made))["partition"]
    with pytest.raises(ConversationNotFound):
        await short.conversations.update("mallory", made.id, {"title": "x"})
    assert (await lives(redis, made))["partition"] <= before


async def test_an_imported_conversation_has_a_time_too(redis: Any, store: Store, short: Store):
    made = await start(store, "one")
    await grown(store, made)
    text = b"".join([lines async for lines in write_lines(await store.archive.export(OWNER, made.id))])
    await redis.flushall()
    await short.archive.restore(OWNER, Backup(io.BytesIO(text)))
    found = await lives(redis, made)
    assert found.pop("segment:3") <= RESPONSES
    assert min(found.values()) >= LONGEST - 5
    assert max(found.values()) <= LONGEST + GRACE


async def test_a_chain_that_comes_into_the_conversation_gets_its_time(redis: Any, short: Store):
    made = await start(short, "one")
    beside = await grown(short, made)
    await short.branches.create(OWNER, made.id, "", Fork(ForkPoint.AT, beside, "from the chain"))
    assert (await lives(redis, made))["segment:3"] >= LONGEST - 5


async def test_everything_the_store_does_keeps_its_invariants_with_a_time_to_live(redis: Any, short: Store):
    await use_everything(short)
    keys = [key.decode() async for key in redis.scan_iter(match="test:{*")]
    assert [key for key in keys if await redis.ttl(key) == -1] == []
    swept = await start(short, "a", "b", "c")
    await take_turn(short, conversation=swept, mode=CommitMode.APPEND)
    await short.sweeper.sweep_all()
    assert (await short.auditor.audit()).complaints == []
