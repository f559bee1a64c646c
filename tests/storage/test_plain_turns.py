"""Plain turns: how few commands they take, and that their history is read beside the script that opens them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from storage import ConversationNotFound, ForkPoint, Lease, Locked, Safeguards, Store, TurnSource, partition_of
from storage.client.channel import Channel, ChannelRequest, Transaction
from storage.foresight import ROOM, SPANS, Foresight
from storage.store import Hosting
from tests.fake import channels_to
from tests.storage.builders import (
    OWNER,
    PREFIX,
    RETENTION_SECONDS,
    STRANGER,
    finished,
    history_of,
    load_all,
    open_turn,
    start,
    store_on,
    take_turn,
)
from tests.storage.talks import Talk

#: Commands that Redis does for a turn with one question and one answer: to open it, and to commit it with its listing.
CONVERSATION = (9, 23)
CHAIN = (4, 20)
#: Those for the list of the latest responses, where the conversation is listed anyway, and where it is not.
LISTED, LISTED_ALONE = 3, 4


class Listening(Channel):
    """Notes what is sent through it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._sent: list[ChannelRequest] = []

    async def exchange(self, requests: Sequence[ChannelRequest]) -> list[Any]:
        self._sent += requests
        return await self._channel.exchange(requests)

    async def close(self) -> None:
        await self._channel.close()

    def reads(self) -> list[str]:
        """Return what was read beside scripts since the last time, as `segment first last`."""
        transactions = [one for one in self._sent if isinstance(one, Transaction)]
        self._sent.clear()
        commands = [command for transaction in transactions for command in transaction.commands[1:]]
        return [f"{str(key).rpartition(':')[2]} {int(first)} {int(last)}" for _, key, first, last in commands]


@pytest.fixture
def listening(redis: Redis) -> Listening:
    return Listening(channels_to(redis)[0])


@pytest.fixture
async def heard(redis: Redis, listening: Listening) -> AsyncIterator[Store]:
    """A store that is listened to."""
    store = Store(listening, channels_to(redis)[1], prefix=PREFIX, retention_seconds=RETENTION_SECONDS)
    yield store
    await store.close()


# --- commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def count(valkey: Redis) -> Callable[[Awaitable[Any]], Awaitable[tuple[int, Any]]]:
    """Return what counts the commands of a call, those of its scripts too but not those that carry them."""
    await load_all(valkey)

    async def counted(call: Awaitable[Any]) -> tuple[int, Any]:
        await valkey.config_resetstat()
        answer = await call
        stats: dict[str, dict[str, int]] = await valkey.info("commandstats")
        carriers = ("info", "config", "eval", "multi", "exec", "hello", "client")
        return sum(
            facts["calls"] for name, facts in stats.items() if not name.removeprefix("cmdstat_").startswith(carriers)
        ), answer

    return counted


Count = Callable[[Awaitable[Any]], Awaitable[tuple[int, Any]]]


async def test_a_turn_of_a_conversation_takes_few_commands_from_its_first_on(valkey_store: Store, count: Count):
    conversation = await start(valkey_store)
    for depth in range(5):
        opening, opened = await count(open_turn(valkey_store, conversation=conversation))
        commit = finished(opened, partition=partition_of(conversation.id), conversation=conversation)
        committing, _ = await count(valkey_store.turns.commit(commit))
        # the history is one command, where there is any
        assert (opening, committing) == (CONVERSATION[0] + (depth > 0), CONVERSATION[1])
        assert len(opened.items) == 2 * depth


async def test_a_turn_on_an_edited_branch_takes_one_more_for_each_span(valkey_store: Store, count: Count):
    talk = await Talk(valkey_store).begin("u1 a1 u2 a2")
    await talk.turn("u3", "a3", fork=talk.point(ForkPoint.EDIT, "u2", backup="old"))
    for depth in range(4):
        opening, opened = await count(talk.open())
        committing, _ = await count(talk.commit(talk.end(opened)))
        assert (opening, committing) == (CONVERSATION[0] + 2, CONVERSATION[1])
        assert len(opened.items) == 4 + 2 * depth


async def test_a_turn_of_a_chain_takes_few_commands_from_its_first_on(valkey_store: Store, count: Count):
    committing, response = await count(take_turn(valkey_store))
    # that was opened too, from nothing
    assert committing - 1 <= CHAIN[1]
    for depth in range(1, 5):
        opening, opened = await count(open_turn(valkey_store, previous=response))
        commit = finished(opened, partition=partition_of(response))
        committing, _ = await count(valkey_store.turns.commit(commit))
        assert (opening, committing) == (CHAIN[0] + 1, CHAIN[1])
        assert len(opened.items) == 2 * depth
        response = commit.response_id


async def test_where_responses_are_not_listed_that_costs_nothing(valkey: Redis, count: Count):
    hosting = Hosting(Safeguards(listed_responses=0))
    store = Store(*channels_to(valkey), prefix=PREFIX, retention_seconds=RETENTION_SECONDS, hosting=hosting)
    conversation = await start(store)
    opened = await open_turn(store, conversation=conversation)
    commit = finished(opened, partition=partition_of(conversation.id), conversation=conversation)
    assert (await count(store.turns.commit(commit)))[0] == CONVERSATION[1] - LISTED
    response = await take_turn(store)
    commit = finished(await open_turn(store, previous=response), partition=partition_of(response))
    assert (await count(store.turns.commit(commit)))[0] == CHAIN[1] - LISTED_ALONE
    await store.close()


async def test_that_nobody_watches_costs_nothing_and_that_somebody_does_no_more(valkey_store: Store, count: Count):
    conversation = await start(valkey_store)
    unwatched, opened = await count(open_turn(valkey_store, conversation=conversation))
    await valkey_store.turns.release(Lease(partition_of(conversation.id), opened.lock, "token"))
    await valkey_store.watching.mark([(OWNER, conversation.id)])
    watched, opened = await count(open_turn(valkey_store, conversation=conversation))
    assert (unwatched, watched, opened.watched) == (CONVERSATION[0], CONVERSATION[0], True)
    renewing, _ = await count(valkey_store.turns.renew([Lease(partition_of(conversation.id), "0", "token")], 10))
    assert renewing == len(("MGET", "PEXPIRE"))


async def test_calls_and_their_outputs_are_plain(valkey_store: Store, count: Count):
    talk = await Talk(valkey_store).begin("")
    for said, answered in (("u1", "c1 c2"), ("o1", "c3"), ("o2 o3", "a1")):
        committing, _ = await count(talk.commit(talk.end(await talk.open(), said, answered)))
        assert committing == CONVERSATION[1]
    assert (await talk.open()).pending == set()


async def test_a_turn_of_a_conversation_that_expires_is_plain_too(valkey: Redis, count: Count):
    async with store_on(valkey, conversation_seconds=2 * RETENTION_SECONDS) as store:
        conversation = await start(store)
        for depth in range(3):
            opening, opened = await count(open_turn(store, conversation=conversation))
            commit = finished(opened, partition=partition_of(conversation.id), conversation=conversation)
            committing, _ = await count(store.turns.commit(commit))
            # three keys are asked for how long they live, and given it where they are new
            assert (opening, committing) == (CONVERSATION[0] + (depth > 0), CONVERSATION[1] + (3 if depth else 6))


# --- what is read beside the script -------------------------------------------------------------------------------


async def test_a_history_that_was_seen_is_read_beside_the_script(heard: Store, listening: Listening):
    conversation = await start(heard, "one", "two")
    await take_turn(heard, conversation=conversation)
    assert listening.reads() == []
    opened = await open_turn(heard, conversation=conversation)
    assert listening.reads() == [f"0 0 {2 + ROOM - 1}"]
    assert history_of(opened) == ["one", "two", "question", "answer"]


async def test_so_is_that_of_a_chain_and_no_further_than_the_response_reaches(heard: Store, listening: Listening):
    first = await take_turn(heard, answers=["1"])
    second = await take_turn(heard, previous=first, answers=["2"])
    third = await take_turn(heard, previous=second, answers=["3"])
    assert listening.reads() == [f"0 0 {2 + ROOM - 1}"]
    assert history_of(await open_turn(heard, previous=second)) == ["question", "1", "question", "2"]
    assert listening.reads() == [f"0 0 {4 + ROOM - 1}"]
    assert len(history_of(await open_turn(heard, previous=third))) == 6


async def test_so_is_that_of_a_branch_with_what_it_inherits(heard: Store, listening: Listening):
    talk = await Talk(heard).begin("u1 a1 u2 a2 u3 a3")
    await talk.turn("u4", "a4", fork=talk.point(ForkPoint.EDIT, "u2", backup="old"))
    await talk.turn("u5", "a5")
    listening.reads()
    await talk.turn("u6", "a6")
    assert listening.reads() == ["0 0 1", f"1 0 {2 + ROOM - 1}"]
    assert await talk.on() == "u1 a1 u4 a4 u5 a5 u6 a6"


async def test_what_others_did_since_is_in_the_history(heard: Store, store: Store, listening: Listening):
    talk = await Talk(heard).begin("u1 a1")
    await talk.turn("u2", "a2")
    other = Talk(store, talk.conversation, talk.ids)
    await other.say("u7 a7")
    await store.items.delete(OWNER, talk.id, talk.ids["a1"])
    listening.reads()
    assert history_of(await talk.open()) == ["u1", "u2", "a2", "u7", "a7"]
    assert listening.reads() != []


@pytest.mark.parametrize("change", ["much", "edit", "delete"])
async def test_what_is_not_as_foreseen_is_read_by_the_script(
    heard: Store, store: Store, listening: Listening, change: str
):
    talk = await Talk(heard).begin("u1 a1 u2 a2")
    opened = await talk.open()
    await talk.release(opened)
    other = Talk(store, talk.conversation, talk.ids)
    if change == "much":
        await store.items.append(OWNER, talk.id, "", other.entries(" ".join(f"u{i}" for i in range(ROOM + 1))))
        expected = ROOM + 5
    elif change == "edit":
        await other.turn("u3", "a3", fork=other.point(ForkPoint.EDIT, "u2", backup="old"))
        expected = 4
    else:
        await store.conversations.delete(OWNER, talk.id)
        with pytest.raises(ConversationNotFound):
            await talk.open()
        return
    assert len((await talk.open()).items) == expected
    assert listening.reads() == [f"0 0 {4 + ROOM - 1}"]


async def test_nothing_is_read_beside_the_script_for_a_stranger(heard: Store, listening: Listening):
    conversation = await start(heard, "one")
    await take_turn(heard, conversation=conversation)
    with pytest.raises(ConversationNotFound):
        await open_turn(heard, conversation=conversation, owner=STRANGER)
    assert listening.reads() == []


async def test_who_waits_for_a_lock_does_not_read_again_and_again(heard: Store, store: Store, listening: Listening):
    conversation = await start(heard, "one")
    await take_turn(heard, conversation=conversation)
    await open_turn(store, conversation=conversation, token="other")
    for reads in (1, 0, 0):
        with pytest.raises(Locked):
            await open_turn(heard, conversation=conversation)
        assert len(listening.reads()) == reads


async def test_a_server_that_forgot_its_scripts_reads_the_history_all_the_same(redis: Redis, heard: Store):
    conversation = await start(heard, "one")
    await take_turn(heard, conversation=conversation)
    await redis.script_flush()
    assert history_of(await open_turn(heard, conversation=conversation)) == ["one", "question", "answer"]


async def test_looking_and_naming_items_reads_beside_the_script_as_well(heard: Store, listening: Listening):
    talk = await Talk(heard).begin("u1 a1")
    await talk.turn("u2", "a2")
    opened = await heard.turns.peek(OWNER, TurnSource(talk.id), talk.partition, [talk.ids["a1"]], [])
    assert history_of(opened) == ["u1", "a1", "u2", "a2"]
    assert opened.known[talk.ids["a1"]].in_history
    assert len(listening.reads()) == 1


def test_as_many_places_are_remembered_as_there_is_room_for_the_latest_first():
    foresight = Foresight(places=2)
    sources = [TurnSource(f"conv_{number}") for number in range(3)]
    for source in sources:
        foresight.learn(OWNER, source, "p", b"0:0:4", 0)
    assert [foresight.look(OWNER, source, "p").text for source in sources] == ["", *[f"0:0:{4 + ROOM}"] * 2]
    assert foresight.look(OWNER, sources[2], "p").text == ""


@pytest.mark.parametrize(
    ("source", "chain", "line"),
    [
        (TurnSource("conv"), b"", 0),
        (TurnSource("conv"), b"0:0:4", 1),
        (TurnSource(), b"0:0:4", -1),
        (TurnSource("conv"), b",".join(b"%d:0:2" % number for number in range(SPANS + 1)), SPANS),
    ],
)
def test_nothing_is_foreseen_of_what_will_lie_elsewhere_or_in_many_places(source: TurnSource, chain: bytes, line: int):
    foresight = Foresight()
    foresight.learn(OWNER, source, "p", chain, line)
    assert foresight.look(OWNER, source, "p").text == ""


async def test_the_lock_of_a_turn_that_was_opened_twice_is_the_same(heard: Store):
    conversation = await start(heard, "one")
    first = await open_turn(heard, conversation=conversation)
    second = await open_turn(heard, conversation=conversation)
    assert (first.fence, first.items) == (second.fence, second.items)
    await heard.turns.release(Lease(partition_of(conversation.id), first.lock, "token"))
