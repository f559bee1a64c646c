"""Partitions that are more than one command copies: they come in portions, all of one moment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from storage import Conversation, Store, partition_of
from storage.archive.partition_copier import PORTIONED_ATTEMPTS, PartitionCopier
from tests.fake import channels_to
from tests.storage.builders import (
    OWNER,
    add,
    continue_from,
    ids_in,
    read_all,
    start,
    store_on,
    take_turn,
)
from tests.storage.stages import PORTION, MeasuringChannel, OvertakenChannel, staging_store, store_in_pieces

TEXTS = [f"{number} {'text ' * 20}" for number in range(30)]
#: An item in pieces.
LONG = "long " * 1000
#: More than everything that comes at once beside portions: the index, and a step of items.
BESIDE = 9000


@pytest.fixture
async def store(redis: Redis) -> AsyncIterator[Store]:
    async with store_in_pieces(redis) as store:
        yield store


async def filled(store: Store) -> tuple[Conversation, str]:
    """Return a conversation with long and many items, and a response beside it."""
    conversation = await start(store, *TEXTS, LONG)
    response = await take_turn(store, conversation=conversation, says=TEXTS[:3])
    for _ in range(3):
        response = await take_turn(store, previous=response, says=TEXTS[:3], body=b'{"text":"%b"}' % (b"x" * 600))
    return conversation, response


async def copied(store: Store, *response_ids: str, conversation: Conversation) -> list[Any]:
    copier = PartitionCopier(store.turns._keyspace, partition_of(conversation.id))
    return [[*copy[:2], copy[3]] for copy in await copier.copy(response_ids)]


def by_name(copies: list[Any]) -> dict[bytes, Any]:
    return {
        name: sorted(zip(held[::2], held[1::2], strict=True)) if kind == b"hash" else held
        for name, kind, held in copies
    }


async def whole(redis: Redis, *response_ids: str, conversation: Conversation) -> dict[bytes, Any]:
    async with store_on(redis) as at_once:
        return by_name(await copied(at_once, *response_ids, conversation=conversation))


async def test_it_is_what_is_there(redis: Redis, store: Store):
    conversation, response = await filled(store)
    found = await copied(store, response, conversation=conversation)
    assert by_name(found) == await whole(redis, response, conversation=conversation)
    assert len({name for name, *_ in found}) == len(found)
    assert found[-1][0] == b"partition"
    kinds = {name.partition(b":")[0] for name, *_ in found}
    assert {b"segment", b"pieces", b"response", b"index", b"branch", b"journal"} <= kinds


async def test_no_command_and_no_reply_has_more_than_a_portion(redis: Redis, store: Store):
    conversation, response = await filled(store)
    channels = [MeasuringChannel(one) for one in channels_to(redis)]
    async with staging_store(*channels, portion=PORTION) as reader:
        found = await copied(reader, response, conversation=conversation)
    assert sum(len(one) for _, kind, held in found if kind == b"list" for one in held) > BESIDE
    assert max(one.most for one in channels) < BESIDE


async def overtaken(
    redis: Redis, number: int, happens: Callable[[], Awaitable[object]], *ids: str, conversation: Conversation
) -> list[Any]:
    channels = [OvertakenChannel(one, number, happens) for one in channels_to(redis)]
    async with staging_store(*channels, portion=PORTION) as reader:
        return await copied(reader, *ids, conversation=conversation)


@pytest.mark.parametrize("number", range(1, 12, 2))
async def test_what_is_taken_away_meanwhile_is_not_in_it_or_wholly(redis: Redis, store: Store, number: int):
    conversation, response = await filled(store)
    items = await ids_in(store, conversation)
    deletions: list[Callable[[], Awaitable[object]]] = [
        lambda: store.items.delete(OWNER, conversation.id, items[0]),
        lambda: store.items.delete(OWNER, conversation.id, items[30]),
        lambda: store.responses.delete(OWNER, response),
    ]
    for delete in deletions:
        before = await whole(redis, response, conversation=conversation)
        found = by_name(await overtaken(redis, number, delete, response, conversation=conversation))
        after = await whole(redis, response, conversation=conversation)
        # what is read behind it does not know of what is taken from what was read before
        assert found in ([after] if number == 1 and delete != deletions[2] else [before, after])


async def test_what_is_added_meanwhile_is_not_in_it(redis: Redis, store: Store):
    conversation, response = await filled(store)
    before = await whole(redis, response, conversation=conversation)

    async def more() -> None:
        await add(store, conversation, "more")
        await take_turn(store, previous=response, says=["on"])

    found = await overtaken(redis, 2, more, response, conversation=conversation)
    assert by_name(found) == before
    assert (await read_all(store, conversation))[-1] == "more"
    assert (await continue_from(store, response))[-1] == "answer"


async def test_where_things_are_taken_away_again_and_again_it_comes_at_once(redis: Redis, store: Store):
    conversation, response = await filled(store)
    items = iter(await ids_in(store, conversation))
    taken = 0

    class Restless(OvertakenChannel):
        async def exchange(self, requests: Any) -> list[Any]:
            if any("copy" in str(one) or ":segment:" in str(one) for request in requests for one in request[3:5]):
                nonlocal taken
                taken += 1
                await store.items.delete(OWNER, conversation.id, next(items))
            return await super().exchange(requests)

    async def nothing() -> None: ...

    async with staging_store(*(Restless(one, -1, nothing) for one in channels_to(redis)), portion=PORTION) as reader:
        found = await copied(reader, response, conversation=conversation)
    assert taken == PORTIONED_ATTEMPTS
    assert by_name(found) == await whole(redis, response, conversation=conversation)


async def test_of_a_partition_that_is_gone_there_is_nothing(redis: Redis, store: Store):
    conversation, response = await filled(store)
    found = await overtaken(redis, 1, lambda: store.purger.purge(OWNER), response, conversation=conversation)
    assert found == []
