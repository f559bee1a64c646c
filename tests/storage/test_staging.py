"""Calls with more items than one script stores: they are staged, and others see all of it or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from proxy.protocol import ids
from storage import (
    BEFORE_ALL,
    CommitMode,
    CommitResult,
    Conversation,
    Fork,
    ForkPoint,
    ItemNotFound,
    RecordAct,
    RecordedTurn,
    RecordResult,
    Safeguards,
    Spot,
    Store,
    TurnCommit,
    Unavailable,
    new_partition,
    partition_of,
)
from storage.client.channel import Channel, Command
from storage.client.keyspace import Portion
from storage.client.staging import STAGED_SECONDS
from tests.fake import channels_to
from tests.storage.builders import (
    OWNER,
    PREFIX,
    RETENTION_SECONDS,
    add,
    brought,
    connect,
    continue_from,
    draft,
    finished,
    ids_in,
    input_of,
    load_all,
    minted,
    open_turn,
    output_of,
    read_all,
    reference,
    start,
    take_turn,
    texts,
)
from tests.storage.lossy import LossyProxy
from tests.storage.servers import run_valkey
from tests.storage.stages import TINY, DyingChannel, staging_store
from tests.storage.talks import Talk, pending_of
from tests.storage.twins import contents_of

#: Round trips of a call with seven items: what is there already, four portions, the script that stores all.
TRIPS = 1 + 4 + 1
SEVEN = list("abcdefg")


@pytest.fixture
async def store(redis: Redis) -> AsyncIterator[Store]:
    # so that each call is one exchange
    await load_all(redis)
    async with staging_store(*channels_to(redis)) as store:
        yield store


async def staged_keys(redis: Redis) -> list[bytes]:
    return [key async for key in redis.scan_iter("*:staged:*")]


def committed(partition: str, opened: Any, conversation: Conversation | None, **facts: Any) -> TurnCommit:
    return finished(opened, partition=partition, conversation=conversation, says=SEVEN[:4], answers=SEVEN[4:], **facts)


async def test_a_chain_is_stored_as_if_nothing_had_been_staged(redis: Redis):
    partition = new_partition()
    marks = [f"+call_{text}" for text in "abcd"] + [f"-call_{text}" for text in "abc"]
    items = [minted(partition, text, mark) for text, mark in zip(SEVEN, marks, strict=True)]
    contents = []
    for portion in (Portion(), TINY):
        await redis.flushall()
        async with staging_store(*channels_to(redis), portion=portion) as store:
            opened = await open_turn(store)
            commit = finished(opened, partition=partition, says=[], answers=[])
            commit = replace(commit, response_id="resp_same", inputs=items[:4], outputs=items[4:])
            assert (await store.turns.commit(commit)).result is CommitResult.OK
        contents.append({key: value for key, (_, value) in (await contents_of(redis)).items()})
    created = [one[f"{PREFIX}:{{{partition}}}:response:resp_same".encode()].pop(b"created_at") for one in contents]
    assert abs(int(created[0]) - int(created[1])) < 60
    listing = f"{PREFIX}:owner:{{{OWNER}}}:responses".encode()
    assert contents[0].pop(listing).keys() == contents[1].pop(listing).keys()
    assert contents[0] == contents[1]


async def test_turns_on_a_branch_and_after_responses_read_what_was_staged(store: Store, redis: Redis):
    conversation = await start(store, "one", "two", "three")
    first = await take_turn(store, conversation=conversation, says=SEVEN[:4], answers=SEVEN[4:])
    await add(store, conversation, "x")
    second = await take_turn(store, conversation=conversation, says=["h", "i"], answers=["j"])
    everything = ["one", "two", "three", *SEVEN, "x", "h", "i", "j"]
    assert await read_all(store, conversation) == everything
    assert await input_of(store, second) == everything[:-1]
    assert await output_of(store, second) == ["j"]
    beside = await take_turn(store, previous=first, says=["k", "l"], answers=["m"])
    assert await continue_from(store, beside) == [*everything[:10], "k", "l", "m"]
    fork = await store.branches.create(
        OWNER, conversation.id, "", Fork(ForkPoint.AT, first, "draft"), [minted(partition_of(first), t) for t in "xyz"]
    )
    assert (fork.branch.item_count, fork.source, texts(fork.items)) == (13, "MAIN", ["x", "y", "z"])
    assert await staged_keys(redis) == []
    assert (await store.auditor.audit()).complaints == []


async def staged_talk(store: Store) -> Talk:
    """Return a conversation of which all but the first and the last item was staged: u1 | u2 c1 u3 | a3."""
    talk = await Talk(store).begin("u1")
    await talk.store.items.append(OWNER, talk.id, "", talk.entries("u2 c1 u3"))
    return talk


async def test_the_calls_that_wait_are_known_at_each_item_that_was_staged_and_before(store: Store):
    talk = await staged_talk(store)
    await take_turn(store, conversation=talk.conversation, says=[], answers=[])
    await talk.say("a3")
    for text, waiting in (("u1", ""), ("u2", ""), ("c1", "1"), ("u3", "1"), ("a3", "1")):
        fork = talk.point(ForkPoint.AFTER, text, name=text)
        assert pending_of(await talk.open(fork=fork, token=text)) == waiting
    assert (await store.auditor.audit()).complaints == []


async def source_at(talk: Talk, response: str) -> str | None:
    """Return the branch that a fork at a response has for its parent."""
    forked = await talk.fork(talk.point(ForkPoint.AT, response, name=f"at{len(await talk.names())}"))
    assert forked.branch.parent_branch == forked.source
    return forked.source


async def test_a_fork_at_a_response_is_one_of_the_branch_for_which_its_last_item_was_staged(store: Store):
    talk = await staged_talk(store)
    await talk.draft("u2", name="draft")
    await talk.say("a2", "draft")
    conversation = talk.conversation
    several = await take_turn(store, conversation=conversation, says=["a", "b", "c"])
    nothing = await take_turn(store, conversation=conversation, says=[], answers=[])
    beyond = await take_turn(store, previous=several, says=[], answers=[])
    aside = await take_turn(store, previous=several)
    failed = await take_turn(store, conversation=conversation, mode=CommitMode.RECORD)
    borrowed = [reference(talk.ids["a2"])]
    mixed = await take_turn(store, conversation=conversation, says=["d", "e"], answers=borrowed)
    after = await take_turn(store, conversation=conversation, says=["f", "g", "h"])
    sources = [await source_at(talk, one) for one in (several, nothing, beyond, failed, mixed, after)]
    assert sources == ["MAIN"] * 4 + ["draft", "MAIN"]
    assert await source_at(talk, aside) is None
    await store.branches.activate(OWNER, talk.id, "draft")
    await talk.fork(Fork(ForkPoint.TIP, backup="old"))
    await store.branches.delete(OWNER, talk.id, "old")
    assert [await source_at(talk, one) for one in (several, after)] == [None, None]
    assert (await store.auditor.audit()).complaints == []


async def test_whose_the_staged_items_of_earlier_versions_are_is_known(store: Store, redis: Redis):
    talk = await staged_talk(store)
    several = await take_turn(store, conversation=talk.conversation, says=["a", "b", "c"])
    assert await redis.hget(f"{talk.tag}branch:0", "staged") == b"1,2"
    await redis.hdel(f"{talk.tag}branch:0", "staged")
    assert await source_at(talk, several) == "MAIN"
    await redis.hset(f"{talk.tag}branch:0", "mixed", 1)
    assert await source_at(talk, several) is None
    await redis.hset(f"{talk.tag}response:{several}", "line", 0)
    assert await source_at(talk, several) == "MAIN"


async def test_what_is_known_already_is_not_stored_again(store: Store):
    conversation = await start(store, "one")
    await add(store, conversation, brought("msg_mine", "mine"), "two", "three")
    known = (await ids_in(store, conversation))[0]
    elsewhere = await take_turn(
        store,
        previous=await take_turn(store, conversation=conversation),
        says=[brought("msg_mine", "other"), "a", brought("msg_new", "new"), brought("msg_new", "newer"), "b"],
        answers=[reference(known), "c", brought("msg_mine", "other")],
    )
    history = ["one", "mine", "two", "three", "question", "answer"]
    # a history has an item once, however often a turn brings it
    assert await continue_from(store, elsewhere) == [*history, "a", "new", "b", "c"]
    assert await input_of(store, elsewhere) == [*history, "mine", "a", "new", "new", "b"]
    assert await output_of(store, elsewhere) == ["one", "c", "mine"]
    report = await store.auditor.audit()
    # nor does what was not needed stay behind the last item
    assert (report.complaints, report.garbage["items"]) == ([], 0)


async def append_seven(store: Store, conversation: Conversation) -> object:
    return await add(store, conversation, *SEVEN)


@pytest.mark.parametrize("left", range(TRIPS))
async def test_whoever_dies_between_two_portions_leaves_nothing_that_is_seen(store: Store, redis: Redis, left: int):
    conversation = await start(store, "one")
    before = await contents_of(redis)
    async with staging_store(*(DyingChannel(one, left) for one in channels_to(redis))) as dying:
        with pytest.raises(Unavailable):
            await append_seven(dying, conversation)
    assert await read_all(store, conversation) == ["one"]
    after = await contents_of(redis)
    left_over = after.keys() - before.keys()
    assert len(left_over) == (left > 1)
    for key in left_over:
        assert b":staged:" in key
        assert 0 < after[key][0] <= STAGED_SECONDS * 1000
    assert {key: value for key, (_, value) in after.items() if key in before} == {
        key: value for key, (_, value) in before.items()
    }
    assert (await store.auditor.audit()).complaints == []


@pytest.mark.parametrize("left", range(TRIPS))
async def test_a_commit_that_was_broken_off_goes_on_where_it_was(store: Store, redis: Redis, left: int):
    conversation = await start(store, "one")
    opened = await open_turn(store, conversation=conversation)
    commit = committed(partition_of(conversation.id), opened, conversation)
    async with staging_store(*(DyingChannel(one, left) for one in channels_to(redis))) as dying:
        with pytest.raises(Unavailable):
            await dying.turns.commit(commit)
    assert (await store.turns.commit(commit)).result is CommitResult.OK
    assert (await store.turns.commit(commit)).result is CommitResult.REPEATED
    assert await read_all(store, conversation) == ["one", *SEVEN]


@pytest.mark.parametrize("left", [2, 4, 6])
async def test_a_server_that_is_killed_between_two_portions_has_what_was_acknowledged(tmp_path: Path, left: int):
    options = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(tmp_path))
    with run_valkey(*options) as server:
        async with Redis.from_url(server.url) as redis:
            await load_all(redis)
            async with staging_store(*channels_to(redis)) as store:
                conversation = await start(store, "one")
                opened = await open_turn(store, conversation=conversation)
            commit = committed(partition_of(conversation.id), opened, conversation)
            async with staging_store(*(DyingChannel(one, left) for one in channels_to(redis))) as dying:
                if left < TRIPS:
                    with pytest.raises(Unavailable):
                        await dying.turns.commit(commit)
                else:
                    await dying.turns.commit(commit)
            server.kill()
    with run_valkey(*options) as server:
        async with Redis.from_url(server.url) as redis, staging_store(*channels_to(redis)) as store:
            assert await read_all(store, conversation) == ["one", *(SEVEN if left == TRIPS else [])]
            assert (await store.auditor.audit()).complaints == []
            done = await store.turns.commit(commit)
            assert done.result is (CommitResult.REPEATED if left == TRIPS else CommitResult.OK)
            assert await read_all(store, conversation) == ["one", *SEVEN]


@pytest.mark.parametrize("skipped", range(TRIPS))
async def test_an_answer_that_got_lost_on_the_way_counts_once(valkey: Redis, valkey_url: str, skipped: int):
    await load_all(valkey)
    async with LossyProxy(Path(valkey_url.removeprefix("unix://"))) as proxy, connect(proxy.url) as plain:
        conversation = await start(plain, "one")
        opened = await open_turn(plain, conversation=conversation)
        store = Store.connect(
            proxy.url,
            prefix=PREFIX,
            timeout_seconds=5,
            max_connections=1,
            retention_seconds=RETENTION_SECONDS,
            safeguards=Safeguards(portion=TINY),
        )
        await store.condition.look()
        proxy.lose_answer_after(skipped)
        done = await store.turns.commit(committed(partition_of(conversation.id), opened, conversation))
        assert done.result is (CommitResult.REPEATED if skipped == TRIPS - 1 else CommitResult.OK)
        assert proxy.lost == 1
        assert await read_all(store, conversation) == ["one", *SEVEN]
        await store.close()


class ForgetfulChannel(Channel):
    """Loses what was staged before exchanges of these numbers, as a failover may."""

    def __init__(self, channel: Channel, redis: Redis, numbers: Collection[int]) -> None:
        self._channel = channel
        self._redis = redis
        self._numbers = numbers
        self._count = 0

    async def exchange(self, requests: Sequence[Command]) -> list[Any]:
        if self._count in self._numbers:
            await self._redis.delete("nothing", *await staged_keys(self._redis))
        self._count += 1
        return await self._channel.exchange(requests)

    async def close(self) -> None:
        await self._channel.close()


@pytest.mark.parametrize("number", range(TRIPS))
async def test_what_the_server_has_lost_is_brought_again(store: Store, redis: Redis, number: int):
    conversation = await start(store, "one")
    async with staging_store(*(ForgetfulChannel(one, redis, [number]) for one in channels_to(redis))) as forgetful:
        await append_seven(forgetful, conversation)
    assert await read_all(store, conversation) == ["one", *SEVEN]


async def test_a_server_that_loses_it_again_and_again_is_not_available(store: Store, redis: Redis):
    conversation = await start(store, "one")
    before = {key: value for key, (_, value) in (await contents_of(redis)).items()}
    # each time before the script that would store it
    last = [TRIPS * times - 1 for times in range(1, 9)]
    async with staging_store(*(ForgetfulChannel(one, redis, last) for one in channels_to(redis))) as forgetful:
        with pytest.raises(Unavailable):
            await append_seven(forgetful, conversation)
    assert {key: value for key, (_, value) in (await contents_of(redis)).items()} == before


async def test_what_was_refused_leaves_nothing(store: Store, redis: Redis):
    conversation = await start(store, "one")
    before = await contents_of(redis)
    with pytest.raises(ItemNotFound):
        await add(store, conversation, *SEVEN, reference("msg_unknown"))
    assert (await contents_of(redis)).keys() == before.keys()


async def test_readers_see_all_or_nothing(valkey: Redis):
    async with staging_store(*channels_to(valkey)) as store, staging_store(*channels_to(valkey)) as other:
        conversation = await start(store, "one")
        running, seen = True, set()

        async def read() -> None:
            while running:
                seen.add(len(await read_all(other, conversation)))

        reader = asyncio.create_task(read())
        for _ in range(20):
            await append_seven(store, conversation)
        running = False
        await reader
        assert seen <= {1 + 7 * number for number in range(21)}
        assert len(seen) > 1


async def test_recorded_turns_are_staged_too(store: Store, redis: Redis):
    conversation_id = ids.new_conversation_id(new_partition())
    partition = partition_of(conversation_id)

    def turn(act: RecordAct, spot: Spot = BEFORE_ALL) -> RecordedTurn:
        entries = [minted(partition, text) for text in SEVEN]
        response_id = ids.new_response_id(partition, stored=True)
        return RecordedTurn(OWNER, conversation_id, act, response_id, b"{}", entries[:5], entries[5:], spot=spot)

    first = turn(RecordAct.NEW)
    begun = await store.recognition.record(first)
    repeated = await store.recognition.record(first)
    assert (repeated.result, repeated.line, repeated.branch, repeated.spots) == (
        RecordResult.REPEATED,
        begun.line,
        begun.branch,
        begun.spots,
    )
    grown = await store.recognition.record(turn(RecordAct.TIP, begun.spots[-1]))
    assert (grown.branch, grown.is_fork) == ("MAIN", False)
    assert (await store.recognition.record(turn(RecordAct.TIP, begun.spots[-1]))).result is RecordResult.MOVED
    forked = await store.recognition.record(turn(RecordAct.GROW, begun.spots[2]))
    assert forked.is_fork
    conversation = await store.conversations.read(OWNER, conversation_id)
    assert await read_all(store, conversation) == [*SEVEN[:3], *SEVEN]
    assert await staged_keys(redis) == []
    assert (await store.auditor.audit()).complaints == []


async def test_a_failed_turn_is_staged_too(store: Store):
    response = await take_turn(store, says=SEVEN, answers=["x"], mode=CommitMode.RECORD, status="failed")
    assert await input_of(store, response) == SEVEN
    assert await continue_from(store, response) == []


async def test_a_conversation_that_is_made_twice_is_made_once(store: Store):
    made = draft()
    entries = [minted(partition_of(made.id), text) for text in SEVEN]
    first, items = await store.conversations.create(OWNER, made, entries)
    second, again = await store.conversations.create(OWNER, made, entries)
    assert (first, items) == (second, again)
    assert texts(items) == SEVEN
    assert await read_all(store, first) == SEVEN
