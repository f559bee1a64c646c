"""Histories that are more than one command reads: they come in portions, all of one moment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis.asyncio import Redis

from storage import (
    Conversation,
    ConversationNotFound,
    Fork,
    ForkPoint,
    Lease,
    OpenedTurn,
    ResponseNotFound,
    Store,
    TurnSource,
    Unavailable,
    partition_of,
)
from storage.client.keyspace import Portion
from storage.client.scripts import Call
from tests.fake import channels_to
from tests.storage.builders import (
    OWNER,
    STRANGER,
    add,
    continue_from,
    finished,
    history_of,
    ids_in,
    load_all,
    open_turn,
    read_all,
    start,
    store_on,
    take_turn,
)
from tests.storage.stages import PORTION, DyingChannel, MeasuringChannel, OvertakenChannel, staging_store

#: Texts of a history, each so long that eight of them are more than a portion.
TEXTS = [f"{number} {'text ' * 20}" for number in range(60)]
#: Bytes of eight of them, which come after it is known that there is room for one.
STEP_BYTES = 8 * 220
BESIDE = 2000


@pytest.fixture
async def store(redis: Redis) -> AsyncIterator[Store]:
    # so that each call is one exchange
    await load_all(redis)
    async with store_on(redis) as store:
        yield store


async def open_in_portions(
    redis: Redis, conversation: Conversation | None = None, portion: Portion = PORTION, **options: object
) -> OpenedTurn:
    async with staging_store(*channels_to(redis), portion=portion) as reader:
        return await open_turn(reader, conversation=conversation, **options)  # type: ignore[arg-type]


def same(one: OpenedTurn, other: OpenedTurn) -> bool:
    facts = [(list(each.items), each.notes, each.severed, each.chain, each.pending, each.line) for each in (one, other)]
    return facts[0] == facts[1]


async def test_a_turn_is_opened_with_all_of_it(redis: Redis, store: Store):
    conversation = await start(store, *TEXTS)
    opened = await open_in_portions(redis, conversation)
    assert history_of(opened) == TEXTS
    assert same(opened, await open_turn(store, conversation=conversation))
    # while items are short, more come at once
    for size in (3000, 6000, 200_000):
        assert same(opened, await open_in_portions(redis, conversation, portion=Portion(bytes=size)))
    # with an id it is not plain
    item = (await ids_in(store, conversation))[3]
    for size in (1000, 3000, 6000, 200_000):
        assert same(opened, await open_in_portions(redis, conversation, portion=Portion(bytes=size), item_ids=[item]))


async def test_spans_gaps_and_the_chain_of_a_response_are_as_if_read_at_once(redis: Redis, store: Store):
    conversation = await start(store, *TEXTS[:20])
    first = await take_turn(store, conversation=conversation, says=TEXTS[20:30])
    item_ids = await ids_in(store, conversation)
    for number in (0, 7, 8, 19, 24):
        await store.items.delete(OWNER, conversation.id, item_ids[number])
    for texts in (TEXTS[30:45], ["short"], [], TEXTS[45:]):
        await take_turn(store, previous=first, says=texts, answers=["aside"])
        first = await take_turn(store, previous=first, says=texts)
    for item in ((), (item_ids[1],)):
        whole = await open_turn(store, previous=first, item_ids=item, token="")
        parts = await open_in_portions(redis, previous=first, item_ids=item, token="")
        assert same(parts, whole)
        assert len(parts.items) > 60
        assert parts.severed
    for point in (ForkPoint.AFTER, ForkPoint.WITHOUT):
        source = TurnSource(conversation.id, fork=Fork(point, item_ids[15], "draft"))
        async with staging_store(*channels_to(redis), portion=PORTION) as reader:
            found = [await one.turns.peek(OWNER, source, partition_of(first), (), ()) for one in (store, reader)]
        assert same(*found)


async def test_what_is_behind_a_known_history_comes_in_portions_too(redis: Redis, store: Store):
    async with staging_store(*channels_to(redis), portion=PORTION) as reader:
        conversation = await start(store, "first")
        await take_turn(store, conversation=conversation)
        response = await take_turn(store, says=["first"])
        read: list[Callable[[], Awaitable[list[str]]]] = [
            lambda: read_on(reader, conversation),
            lambda: continue_from(reader, response),
        ]
        assert [await one() for one in read] == [["first", "question", "answer"], ["first", "answer"]]
        for count in (3, 7, 8, 9, 30):
            await add(store, conversation, *TEXTS[:count])
            response = await take_turn(store, previous=response, says=TEXTS[:count])
            found = [await one() for one in read]
            assert found == [await read_all(store, conversation), await continue_from(store, response)]


async def read_on(store: Store, conversation: Conversation) -> list[str]:
    return history_of(await open_turn(store, conversation=conversation))


async def test_no_command_and_no_reply_has_more_than_a_portion_and_a_step(redis: Redis, store: Store):
    conversation = await start(store, *TEXTS)
    channels = [MeasuringChannel(one) for one in channels_to(redis)]
    async with staging_store(*channels, portion=PORTION) as reader:
        assert await read_on(reader, conversation) == TEXTS
    assert max(one.most for one in channels) < PORTION.bytes + STEP_BYTES + BESIDE


@pytest.mark.parametrize("is_named", [False, True])
async def test_when_an_item_is_deleted_meanwhile_all_is_as_after_that(redis: Redis, store: Store, is_named: bool):
    conversation = await start(store, *TEXTS)
    if is_named:
        await take_turn(store, conversation=conversation, says=[], answers=["answer"])
    first, *_, last = (await ids_in(store, conversation))[:40]

    async def delete() -> None:
        # what was read, and what was not
        await store.items.delete(OWNER, conversation.id, first)
        await store.items.delete(OWNER, conversation.id, last)

    opened = await open_overtaken(redis, delete, conversation=conversation)
    assert same(opened, await open_turn(store, conversation=conversation))
    assert len(opened.items) == len(await read_all(store, conversation)) < len(TEXTS)


async def open_overtaken(redis: Redis, happens: Callable[[], Awaitable[object]], **place: object) -> OpenedTurn:
    """Open a turn; after the first portion something happens."""
    channels = [OvertakenChannel(one, 1, happens) for one in channels_to(redis)]
    async with staging_store(*channels, portion=PORTION) as reader:
        return await open_turn(reader, **place)  # type: ignore[arg-type]


async def test_what_others_add_meanwhile_comes_with_the_next_turn(redis: Redis, store: Store):
    conversation = await start(store, *TEXTS)
    opened = await open_overtaken(redis, lambda: add(store, conversation, "more"), conversation=conversation)
    assert history_of(opened) == TEXTS
    assert await read_on(store, conversation) == [*TEXTS, "more"]


async def test_what_is_gone_meanwhile_is_not_found(redis: Redis, store: Store):
    conversation = await start(store, *TEXTS)
    with pytest.raises(ConversationNotFound):
        await open_overtaken(redis, lambda: store.purger.purge(OWNER), conversation=conversation)
    response = await take_turn(store, says=TEXTS)
    with pytest.raises(ResponseNotFound):
        await open_overtaken(redis, lambda: store.responses.delete(OWNER, response), previous=response)


async def test_what_the_server_has_lost_meanwhile_is_no_history(redis: Redis, store: Store):
    conversation = await start(store, *TEXTS)
    (segment,) = [key async for key in redis.scan_iter("*:segment:0")]
    with pytest.raises(Unavailable):
        await open_overtaken(redis, lambda: redis.ltrim(segment, 0, 30), conversation=conversation)
    await redis.flushall()


async def test_a_stranger_reads_nothing_of_it(store: Store):
    conversation = await start(store, *TEXTS)
    scripts, keys = store.turns._scripts, store.turns._keyspace.keys(conversation.id)
    for owner, edition in ((STRANGER, ""), (OWNER, "another")):
        assert await scripts.run(Call("read_history", [keys.head], [owner, edition, "0:0:60", 1000])) == [0]
    spans, left = await scripts.run(Call("read_history", [keys.head], [OWNER, "", "0:50:60", 1000]))
    assert [len(span) for span in spans] == [8]
    assert left == b"0:58:60"


async def test_a_turn_holds_its_lock_once_it_has_read_all(redis: Redis, store: Store):
    conversation = await start(store, *TEXTS)
    opened = await open_in_portions(redis, conversation, token="mine")
    commit = finished(opened, partition=partition_of(conversation.id), conversation=conversation, token="mine")
    await store.turns.commit(commit)
    assert await read_all(store, conversation) == [*TEXTS, "question", "answer"]
    await store.turns.release(Lease(partition_of(conversation.id), opened.lock, "mine"))


@pytest.mark.parametrize("answered", [0, 1, 2])
async def test_it_is_said_that_the_lock_may_be_held_once_the_turn_is_opened(redis: Redis, store: Store, answered: int):
    conversation = await start(store, *TEXTS)
    channel, blocking = channels_to(redis)
    async with staging_store(DyingChannel(channel, answered), blocking, portion=PORTION) as reader:
        with pytest.raises(Unavailable) as raised:
            await open_turn(reader, conversation=conversation)
    assert raised.value.unsure == (answered > 0)
