"""Items that are more than one command takes: they lie in pieces, and whoever reads them does not notice."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from proxy.backup.format import write_lines
from proxy.backup.verifier import Backup
from storage import (
    BackupHead,
    CommitResult,
    Conversation,
    Entry,
    Fork,
    ForkPoint,
    ItemNotFound,
    Lease,
    Store,
    TurnSource,
    Unavailable,
    WindowRequest,
    partition_of,
)
from storage.client.channel import Channel, Command
from storage.client.scripts import Call
from storage.client.staging import STAGED_SECONDS
from tests.fake import channels_to
from tests.storage.builders import (
    EVERYTHING,
    OWNER,
    RETENTION_SECONDS,
    STRANGER,
    add,
    brought,
    continue_from,
    finished,
    history_of,
    ids_in,
    input_of,
    load_all,
    minted,
    open_turn,
    output_of,
    read_all,
    reference,
    start,
    store_on,
    take_named_turn,
    take_turn,
)
from tests.storage.inspection import faults_of
from tests.storage.servers import run_valkey
from tests.storage.stages import PORTION, DyingChannel, MeasuringChannel, staging_store, store_in_pieces
from tests.storage.twins import contents_of

#: Text of an item in pieces, and how many.
LONG, OTHER, PIECES = "long " * 1000, "other" * 1000, 5
#: Round trips of a turn with one: what is there already, its pieces, the commit, and what it did not take dropped.
TRIPS = 1 + PIECES + 1 + 1
#: More than the arguments or the reply of any script has beside a portion.
BESIDE = 2000


@pytest.fixture
async def store(redis: Redis) -> AsyncIterator[Store]:
    async with store_in_pieces(redis) as store:
        yield store


async def pieces_in(redis: Any) -> list[str]:
    return sorted([key.decode() async for key in redis.scan_iter("*:pieces:*")])


async def use_all(store: Store, conversation: Conversation) -> list[Any]:
    """Return what can be read of a conversation with one long item at least."""
    page = await store.items.list_page(OWNER, conversation.id, EVERYTHING)
    ids = [orjson.loads(item)["id"] for item in page.items]
    known = await store.items.resolve(OWNER, ids)
    located = [await store.items.locate(OWNER, conversation.id, one) for one in ids]
    window = await store.items.window(OWNER, conversation.id, WindowRequest(limit=50))
    opened = await open_turn(store, conversation=conversation, item_ids=ids, token="")
    return [
        page.items,
        [await store.items.read(OWNER, conversation.id, one) for one in ids],
        {one: found.data for one, found in known.items()},
        [(one.data, one.note) for one in located],
        [one.size for one in window.items],
        list(opened.items),
        opened.notes,
        {one: found.data for one, found in opened.known.items()},
    ]


def noted(entry: Entry) -> Entry:
    return replace(entry, note='{"maker":["m"]}')


async def test_it_is_read_as_if_it_lay_there_as_a_whole(redis: Redis, store: Store):
    conversation = await start(store, "one", LONG)
    partition = partition_of(conversation.id)
    await add(store, conversation, noted(minted(partition, OTHER)), brought("msg_mine", LONG), "two")
    says, answers = [LONG, "three"], [OTHER, "four"]
    response = await take_named_turn(store, conversation=conversation, says=says, answers=answers)
    assert len(await pieces_in(redis)) == 5
    assert await read_all(store, conversation) == ["one", LONG, OTHER, LONG, "two", LONG, "three", OTHER, "four"]
    assert await input_of(store, response) == ["one", LONG, OTHER, LONG, "two", LONG, "three"]
    assert await output_of(store, response) == [OTHER, "four"]
    read = await use_all(store, conversation)
    lines = [line async for line in write_lines(await store.archive.export(OWNER, conversation.id))]
    await store.conversations.delete(OWNER, conversation.id)
    # a file has items as a whole, and what is imported lies in pieces again
    freed = await pieces_in(redis)
    await store.archive.restore(OWNER, Backup(io.BytesIO(b"".join(lines))))
    assert await use_all(store, conversation) == read
    assert await faults_of(store) == ([], 0)
    assert len(set(await pieces_in(redis)) - set(freed)) == 5


async def test_no_command_and_no_reply_has_more_than_a_portion(redis: Redis):
    channels = [MeasuringChannel(one) for one in channels_to(redis)]
    async with staging_store(*channels, portion=PORTION) as store:
        conversation = await start(store, LONG)
        response = await take_turn(store, conversation=conversation, says=[LONG], answers=[OTHER])
        await take_turn(store, previous=await take_turn(store, previous=response, says=[LONG]))
        opened = await open_turn(store, conversation=conversation)
        assert history_of(opened) == [LONG, LONG, OTHER]
    assert max(one.most for one in channels) < PORTION.bytes + BESIDE


async def test_a_turn_reads_on_behind_what_it_knows(redis: Redis, store: Store):
    conversation = await start(store, "one")
    for text in (LONG, "two", OTHER):
        await take_turn(store, conversation=conversation, says=[text], answers=[text])
    assert await read_all(store, conversation) == ["one", LONG, LONG, "two", "two", OTHER, OTHER]
    first = await take_turn(store, says=[LONG], answers=["a"])
    second = await take_turn(store, previous=first, says=["b"], answers=[LONG])
    assert await continue_from(store, second) == [LONG, "a", "b", LONG]
    assert await faults_of(store) == ([], 0)


async def test_an_item_that_was_stored_as_a_whole_is_still_read(redis: Redis, store: Store):
    async with store_on(redis) as earlier:
        conversation = await start(earlier, LONG)
        await take_turn(earlier, conversation=conversation, says=[OTHER])
    assert await pieces_in(redis) == []
    await add(store, conversation, LONG)
    assert await read_all(store, conversation) == [LONG, OTHER, "answer", LONG]


async def test_named_elsewhere_it_comes_as_a_whole(store: Store):
    conversation = await start(store, LONG)
    (known,) = await ids_in(store, conversation)
    found = await store.items.resolve(OWNER, [known])
    assert orjson.loads(found[known].data)["text"] == LONG
    opened = await store.turns.open(OWNER, *await elsewhere(store), 10.0, [known], [])
    assert orjson.loads(opened.known[known].data)["text"] == LONG
    # and by name where it lies
    response = await take_turn(store, conversation=conversation, says=[reference(known), "x"])
    assert await input_of(store, response) == [LONG, LONG, "x"]


async def elsewhere(store: Store) -> tuple[TurnSource, Lease]:
    other = await start(store, "other")
    return TurnSource(other.id), Lease(partition_of(other.id), "", "token")


async def test_what_two_branches_have_of_their_own_comes_as_a_whole(store: Store):
    conversation = await start(store, LONG)
    fork = Fork(ForkPoint.TIP, "", "draft")
    made = await store.branches.create(OWNER, conversation.id, "", fork, [minted(partition_of(conversation.id), OTHER)])
    assert [orjson.loads(one)["text"] for one in made.items] == [OTHER]
    compared = await store.branches.compare(OWNER, conversation.id, "MAIN", "draft", 10)
    assert orjson.loads(compared.ancestor or b"")["text"] == LONG
    assert [orjson.loads(one)["text"] for one in compared.only_second.items] == [OTHER]


@pytest.mark.parametrize("left", range(TRIPS - 1))
async def test_whoever_dies_between_two_pieces_leaves_nothing_that_is_seen(store: Store, redis: Redis, left: int):
    conversation = await start(store, "one")
    opened = await open_turn(store, conversation=conversation)
    before = await contents_of(redis)
    commit = finished(opened, partition=partition_of(conversation.id), conversation=conversation, says=[LONG])
    async with staging_store(*(DyingChannel(one, left) for one in channels_to(redis)), portion=PORTION) as dying:
        with pytest.raises(Unavailable):
            await dying.turns.commit(commit)
    assert await read_all(store, conversation) == ["one"]
    after = await contents_of(redis)
    left_over = after.keys() - before.keys()
    assert len(left_over) == (left > 1)
    assert all(b":pieces:" in key and 0 < after[key][0] <= STAGED_SECONDS * 1000 for key in left_over)
    assert await faults_of(store) == ([], 0)
    assert (await store.turns.commit(commit)).result is CommitResult.OK
    assert (await store.turns.commit(commit)).result is CommitResult.REPEATED
    assert await read_all(store, conversation) == ["one", LONG, "answer"]
    assert await faults_of(store) == ([], 0)


@pytest.mark.parametrize("left", [3, TRIPS - 1, TRIPS])
async def test_a_server_that_is_killed_between_two_pieces_has_what_was_acknowledged(tmp_path: Path, left: int):
    options = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(tmp_path))
    with run_valkey(*options) as server:
        async with Redis.from_url(server.url) as redis:
            await load_all(redis)
            async with staging_store(*channels_to(redis), portion=PORTION) as store:
                conversation = await start(store, "one")
                opened = await open_turn(store, conversation=conversation)
            commit = finished(opened, partition=partition_of(conversation.id), conversation=conversation, says=[LONG])
            async with staging_store(
                *(DyingChannel(one, left) for one in channels_to(redis)), portion=PORTION
            ) as dying:
                if left < TRIPS:
                    with pytest.raises(Unavailable):
                        await dying.turns.commit(commit)
                else:
                    await dying.turns.commit(commit)
            server.kill()
    with run_valkey(*options) as server:
        async with Redis.from_url(server.url) as redis, staging_store(*channels_to(redis), portion=PORTION) as store:
            is_there = left >= TRIPS - 1
            assert await read_all(store, conversation) == ["one", *([LONG, "answer"] if is_there else [])]
            assert await faults_of(store) == ([], 0)
            done = await store.turns.commit(commit)
            assert done.result is (CommitResult.REPEATED if is_there else CommitResult.OK)
            assert await read_all(store, conversation) == ["one", LONG, "answer"]


class LosingChannel(Channel):
    """Deletes keys of a pattern before the exchange of a number."""

    def __init__(self, channel: Channel, redis: Redis, pattern: str, number: int) -> None:
        self._channel = channel
        self._redis = redis
        self._pattern = pattern
        self._left = number

    async def exchange(self, requests: Sequence[Command]) -> list[Any]:
        if self._left == 0:
            await self._redis.delete("nothing", *[key async for key in self._redis.scan_iter(self._pattern)])
        self._left -= 1
        return await self._channel.exchange(requests)

    async def close(self) -> None:
        await self._channel.close()


@pytest.mark.parametrize("number", range(TRIPS - 1))
async def test_pieces_that_the_server_has_lost_are_brought_again(store: Store, redis: Redis, number: int):
    channels = (LosingChannel(one, redis, "*:pieces:*", number) for one in channels_to(redis))
    async with staging_store(*channels, portion=PORTION) as losing:
        response = await take_turn(losing, says=[LONG])
    assert await input_of(store, response) == [LONG]


async def test_pieces_that_are_lost_later_are_missed(store: Store, redis: Redis):
    conversation = await start(store, LONG)
    await redis.delete(*await pieces_in(redis))
    assert len((await store.auditor.audit()).complaints) == 1
    with pytest.raises(Unavailable):
        await read_all(store, conversation)
    await store.items.delete(OWNER, conversation.id, await only_id(store, conversation))


async def only_id(store: Store, conversation: Conversation) -> str:
    (one,) = (await store.items.window(OWNER, conversation.id, WindowRequest(limit=1))).items
    return one.data.decode().split('"')[3]


class DeletingChannel(Channel):
    """Has an item deleted by another store before the first piece is read."""

    def __init__(self, channel: Channel, store: Store, conversation: Conversation, item: str) -> None:
        self._channel = channel
        self._delete = lambda: store.items.delete(OWNER, conversation.id, item)
        self._is_done = False

    async def exchange(self, requests: Sequence[Command]) -> list[Any]:
        if not self._is_done and any(":pieces:" in str(key) for request in requests for key in request):
            self._is_done = True
            await self._delete()
        return await self._channel.exchange(requests)

    async def close(self) -> None:
        await self._channel.close()


async def test_an_item_that_is_deleted_while_it_is_read_is_not_there(store: Store, redis: Redis):
    for read in (read_all, lambda one, where: open_turn(one, conversation=where, token="")):
        conversation = await start(store, "one", LONG, "two")
        item = (await ids_in(store, conversation))[1]
        channels = [DeletingChannel(one, store, conversation, item) for one in channels_to(redis)]
        async with staging_store(*channels, portion=PORTION) as reader:
            found = await read(reader, conversation)
        assert (found if isinstance(found, list) else history_of(found)) == ["one", "two"]
    assert await pieces_in(redis) == []


async def test_pieces_go_with_their_item_branch_response_and_owner(store: Store, redis: Redis):
    conversation = await start(store, "one", LONG, OTHER)
    await store.items.delete(OWNER, conversation.id, (await ids_in(store, conversation))[1])
    assert len(await pieces_in(redis)) == 1
    fork = Fork(ForkPoint.TIP, "", "draft")
    await store.branches.create(OWNER, conversation.id, "", fork, [minted(partition_of(conversation.id), LONG)])
    assert len(await pieces_in(redis)) == 2
    await store.branches.delete(OWNER, conversation.id, "draft")
    await store.sweeper.sweep(conversation.id)
    assert len(await pieces_in(redis)) == 1
    alone = await take_turn(store, says=[LONG])
    assert len(await pieces_in(redis)) == 2
    await store.responses.delete(OWNER, alone)
    assert len(await pieces_in(redis)) == 1
    assert await faults_of(store) == ([], 0)
    await store.purger.purge(OWNER)
    assert await pieces_in(redis) == []


async def test_pieces_live_as_long_as_what_reads_them(store: Store, redis: Redis):
    conversation = await start(store, LONG)
    response = await take_turn(store, conversation=conversation, says=[OTHER])
    lasting = await pieces_in(redis)
    assert [await redis.pttl(key) for key in lasting] == [-1, -1]
    # beside the conversation it lies in a segment that expires, until a branch reads it
    aside = await take_turn(store, previous=response, says=[LONG])
    (expiring,) = set(await pieces_in(redis)) - set(lasting)
    assert 0 < await redis.ttl(expiring) <= RETENTION_SECONDS
    assert await faults_of(store) == ([], 0)
    await store.branches.create(OWNER, conversation.id, "", Fork(ForkPoint.AT, aside, "draft"))
    assert await redis.pttl(expiring) == -1
    await store.conversations.delete(OWNER, conversation.id)
    assert all([await redis.pttl(key) > 0 for key in await pieces_in(redis)])
    assert await input_of(store, response) == [LONG, OTHER]
    first = await take_turn(store, says=[LONG])
    # all that a chain reads is renewed with each turn, also by those that are plain elsewhere
    (key,) = [key for key in await pieces_in(redis) if partition_of(first) in key]
    await redis.expire(key, 100)
    await take_turn(store, previous=first)
    assert await redis.ttl(key) > 100
    assert await faults_of(store) == ([], 0)


async def test_a_stranger_reads_no_piece(store: Store, redis: Redis):
    conversation = await start(store, LONG)
    (key,) = await pieces_in(redis)
    scripts, keys = store.items._scripts, store.items._keyspace.keys(conversation.id)
    found = [await scripts.run(Call("read_piece", [keys.head, key], [owner, 0])) for owner in (STRANGER, OWNER)]
    assert [[type(part) for part in one] for one in found] == [[int], [bytes]]


async def test_what_was_refused_leaves_no_pieces(store: Store, redis: Redis):
    conversation = await start(store, "one")
    with pytest.raises(ItemNotFound):
        await add(store, conversation, LONG, reference("msg_unknown"))
    assert await pieces_in(redis) == []


async def test_what_is_known_already_is_not_stored_in_pieces_again(store: Store, redis: Redis):
    first = await take_turn(store, says=[brought("msg_mine", LONG)])
    await take_turn(
        store, previous=first, says=[brought("msg_mine", OTHER), brought("msg_new", LONG), brought("msg_new", OTHER)]
    )
    assert len(await pieces_in(redis)) == 2
    assert await faults_of(store) == ([], 0)


async def test_a_backup_has_the_pieces(redis: Redis, store: Store):
    conversation = await start(store, LONG)
    await take_named_turn(store, conversation=conversation, says=[OTHER])
    before = await contents_of(redis)
    parts = [part async for part in store.copier.copy()]
    await redis.flushall()
    head = BackupHead(1, "a test", 0, "a server", "")
    await store.restorer.prepare(head, replace=False)
    await store.restorer.restore(head, parts)
    await store.layout.open("a test")
    after = await contents_of(redis)
    assert [after[key] for key in before if b":pieces:" in key] == [before[key] for key in before if b":pieces:" in key]
    assert await read_all(store, conversation) == [LONG, OTHER, "answer"]
    assert await faults_of(store) == ([], 0)
