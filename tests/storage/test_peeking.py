"""What a turn would be opened with, seen without opening it."""

import pytest
from redis.asyncio import Redis

from storage import (
    BranchExists,
    ConversationNotFound,
    Fork,
    ForkPoint,
    OpenedTurn,
    ResponseNotFound,
    Store,
    TurnSource,
    partition_of,
)
from tests.storage.builders import OWNER, RETENTION_SECONDS, STRANGER, history_of, ids_in, open_turn, start, take_turn
from tests.storage.inspection import keys_of


async def peek(store: Store, source: TurnSource, *, owner: str = OWNER) -> OpenedTurn:
    return await store.turns.peek(owner, source, partition_of(source.subject), [], [])


async def everything(redis: Redis, some_id: str) -> dict[str, object]:
    """Return the content and the expiry of every key of a partition."""
    return {key: (await redis.dump(key), await redis.pexpiretime(key)) for key in await keys_of(redis, some_id)}


async def test_a_peek_sees_the_history_and_changes_nothing(valkey: Redis, valkey_store: Store):
    made = await start(valkey_store, "one", "two")
    before = await everything(valkey, made.id)
    assert history_of(await peek(valkey_store, TurnSource(made.id))) == ["one", "two"]
    assert await everything(valkey, made.id) == before


async def test_a_peek_passes_a_lock_and_leaves_it(valkey: Redis, valkey_store: Store):
    made = await start(valkey_store, "one")
    opened = await open_turn(valkey_store, conversation=made, token="first")
    before = await everything(valkey, made.id)
    seen = await peek(valkey_store, TurnSource(made.id))
    assert (history_of(seen), seen.lock) == (["one"], "")
    assert (await everything(valkey, made.id), opened.lock) == (before, "0")


async def test_a_peek_does_not_prolong_a_response(valkey: Redis, valkey_store: Store):
    response = await take_turn(valkey_store)
    for key in await keys_of(valkey, response):
        await valkey.expire(key, RETENTION_SECONDS // 4)
    before = await everything(valkey, response)
    assert history_of(await peek(valkey_store, TurnSource(None, response))) == ["question", "answer"]
    assert await everything(valkey, response) == before


async def test_a_peek_at_a_fork_sees_what_it_would_inherit_and_pins_nothing(valkey: Redis, valkey_store: Store):
    made = await start(valkey_store, "one", "two", "three")
    target = (await ids_in(valkey_store, made))[1]
    before = await everything(valkey, made.id)
    seen = await peek(valkey_store, TurnSource(made.id, fork=Fork(ForkPoint.AFTER, target, name="draft")))
    assert history_of(seen) == ["one", "two"]
    assert await everything(valkey, made.id) == before


async def test_a_peek_is_refused_as_the_turn_would_be(store: Store):
    made = await start(store, "one")
    response = await take_turn(store)
    target = (await ids_in(store, made))[0]
    with pytest.raises(ConversationNotFound):
        await peek(store, TurnSource(made.id), owner=STRANGER)
    with pytest.raises(ResponseNotFound):
        await peek(store, TurnSource(None, response), owner=STRANGER)
    with pytest.raises(BranchExists):
        await peek(store, TurnSource(made.id, fork=Fork(ForkPoint.AFTER, target, name="MAIN")))
