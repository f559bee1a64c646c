"""Histories that turns of a process have read: not read again, and never what the store does not have any more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import Any

import pytest
from redis.asyncio import Redis

from storage import (
    Conversation,
    ConversationNotFound,
    ForkPoint,
    HistoryItems,
    Lease,
    Locked,
    OpenedTurn,
    Safeguards,
    Store,
    TurnSource,
)
from storage.client.channel import Channel, Command
from storage.client.keyspace import Portion
from storage.history import History
from storage.recollection import HISTORY_BYTES, ITEM_BYTES, NOTHING, Recollection, Recollections, turn_place
from storage.store import Hosting
from tests.depth import few
from tests.fake import channels_to
from tests.storage.builders import (
    OWNER,
    PREFIX,
    RETENTION_SECONDS,
    STRANGER,
    brought,
    history_of,
    open_turn,
    start,
    take_turn,
)
from tests.storage.talks import Talk

#: How many elements open_turn's answer has: that it is one is told by that.
ANSWER = 16


class Listening(Channel):
    """Notes how many elements of histories come back."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._came: list[int] = []

    async def exchange(self, requests: Sequence[Command]) -> list[Any]:
        replies = await self._channel.exchange(requests)
        opened = [reply for reply in replies if isinstance(reply, list) and len(reply) == ANSWER]
        self._came += [sum(map(len, reply[1])) for reply in opened]
        return replies

    async def close(self) -> None:
        await self._channel.close()

    def elements(self) -> list[int]:
        """Return what came since the last time."""
        came, self._came = self._came, []
        return came


@pytest.fixture
def listening(redis: Redis) -> Listening:
    return Listening(channels_to(redis)[0])


@pytest.fixture
async def heard(redis: Redis, listening: Listening) -> AsyncIterator[Store]:
    """A store that is listened to."""
    store = Store(listening, channels_to(redis)[1], prefix=PREFIX, retention_seconds=RETENTION_SECONDS)
    yield store
    await store.close()


#: More than three items come in portions.
FEW_AT_ONCE = Hosting(Safeguards(portion=Portion(items=3)))


def make_store(redis: Redis) -> Store:
    """Return a store that remembers nothing yet."""
    return Store(*channels_to(redis), prefix=PREFIX, retention_seconds=RETENTION_SECONDS, hosting=FEW_AT_ONCE)


@pytest.fixture
async def talk(heard: Store, listening: Listening) -> Talk:
    """A conversation whose history is known: u1 a1 u2 a2 u3 a3."""
    talk = await Talk(heard).begin("u1 a1")
    await talk.turn("u2", "a2")
    await talk.turn("u3", "a3")
    await talk.release(await talk.open())
    listening.elements()
    return talk


# --- what is not read again ---------------------------------------------------------------------------------------


async def test_only_what_is_behind_a_known_history_is_read(heard: Store, listening: Listening):
    conversation = await start(heard, "one", "two")
    for number in range(4):
        await take_turn(heard, conversation=conversation, answers=[str(number)])
    # the first commit gives the partition its edition; from then on the last known item comes with what is new
    assert listening.elements() == [2, 4, 3, 3]
    opened = await open_turn(heard, conversation=conversation)
    assert history_of(opened) == ["one", "two", *["question", "0", "question", "1", "question", "2", "question", "3"]]


async def test_so_it_is_with_a_chain_and_no_further_than_the_response_reaches(heard: Store, listening: Listening):
    responses = [await take_turn(heard, answers=["0"])]
    for number in range(1, 5):
        responses.append(await take_turn(heard, previous=responses[-1], answers=[str(number)]))
    assert listening.elements() == [0, 2, 3, 3, 3]
    shorter = await open_turn(heard, previous=responses[2])
    assert history_of(shorter) == ["question", "0", "question", "1", "question", "2"]
    assert len(history_of(await open_turn(heard, previous=responses[4]))) == 10


async def test_so_it_is_with_a_branch_and_what_it_inherits(talk: Talk, listening: Listening):
    await talk.turn("u4", "a4", fork=talk.point(ForkPoint.EDIT, "u2", backup="old"))
    await talk.turn("u5", "a5")
    listening.elements()
    await talk.turn("u6", "a6")
    assert listening.elements() == [3]
    assert texts_of(await talk.open()) == "u1 a1 u4 a4 u5 a5 u6 a6"


async def test_a_turn_of_many_items_is_read_once_like_any_other(redis: Redis, listening: Listening):
    """Its items lie in a segment of their own, and the branch goes on in the one that it had before."""
    queue = channels_to(redis)[1]
    store = Store(listening, queue, prefix=PREFIX, retention_seconds=RETENTION_SECONDS, hosting=FEW_AT_ONCE)
    conversation = await start(store, "one", "two")
    await take_turn(store, conversation=conversation)
    listening.elements()
    await take_turn(store, conversation=conversation, says=["a", "b", "c"], answers=["d"])
    for _ in range(4):
        await take_turn(store, conversation=conversation)
    opened = await open_turn(store, conversation=conversation)
    assert history_of(opened) == ["one", "two", "question", "answer", *"abcd", *["question", "answer"] * 4]
    # all of it where the chain has got another span: that of the many, and that of what comes after them
    assert listening.elements() == [4, 8, 10, 3, 3, 3]
    await store.close()


async def test_what_others_have_added_comes_too(talk: Talk, store: Store, listening: Listening):
    other = Talk(store, talk.conversation, talk.ids)
    await other.say(" ".join(f"u{number}" for number in range(10, 310)))
    await other.turn("u4", "a4")
    opened = await talk.open()
    assert texts_of(opened).split()[-4:] == ["u308", "u309", "u4", "a4"]
    assert len(opened.items) == 308
    assert listening.elements() == [303]


async def test_a_refusal_forgets_nothing(talk: Talk, store: Store, listening: Listening):
    held = await open_turn(store, conversation=talk.conversation, token="other")
    for _ in range(2):
        with pytest.raises(Locked):
            await talk.open()
    await talk.release(held, "other")
    assert texts_of(await talk.open()) == "u1 a1 u2 a2 u3 a3"
    assert listening.elements() == [1]


async def test_looking_and_naming_items_need_no_more(talk: Talk, heard: Store, listening: Listening):
    opened = await heard.turns.peek(OWNER, TurnSource(talk.id), talk.partition, [talk.ids["a1"]], [])
    assert texts_of(opened) == "u1 a1 u2 a2 u3 a3"
    assert opened.known[talk.ids["a1"]].in_history
    assert listening.elements() == [1]


async def test_a_server_that_forgot_its_scripts_is_asked_the_same(redis: Redis, talk: Talk):
    await redis.script_flush()
    assert texts_of(await talk.open()) == "u1 a1 u2 a2 u3 a3"


async def test_the_lock_of_a_turn_that_was_opened_twice_is_the_same(talk: Talk, heard: Store):
    first, second = await talk.open(), await talk.open()
    assert (first.lock, first.items) == (second.lock, second.items)
    await heard.turns.release(Lease(talk.partition, first.lock, "token"))


# --- what is never shown again ------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["u1", "a2", "a3"])
async def test_an_item_that_was_deleted_anywhere_is_in_no_history(talk: Talk, store: Store, gone: str):
    await store.items.delete(OWNER, talk.id, talk.ids[gone])
    expected = " ".join(text for text in ["u1", "a1", "u2", "a2", "u3", "a3"] if text != gone)
    for _ in range(2):
        opened = await talk.open()
        assert texts_of(opened) == expected
        await talk.release(opened)
    await talk.turn("u4", "a4")
    assert texts_of(await talk.open()) == f"{expected} u4 a4"


async def test_an_item_that_is_deleted_while_a_turn_runs_is_gone_for_the_next(talk: Talk, store: Store):
    running = await talk.open()
    await store.items.delete(OWNER, talk.id, talk.ids["a1"])
    await talk.commit(talk.end(running, "u4", "a4"))
    assert texts_of(await talk.open()) == "u1 u2 a2 u3 a3 u4 a4"


async def test_what_an_edit_left_behind_is_not_shown(talk: Talk, store: Store):
    other = Talk(store, talk.conversation, talk.ids)
    await other.turn("u4", "a4", fork=other.point(ForkPoint.EDIT, "u3", backup="old"))
    assert texts_of(await talk.open()) == "u1 a1 u2 a2 u4 a4"
    assert texts_of(await talk.open("old", token="other")) == "u1 a1 u2 a2 u3 a3"


async def test_a_conversation_that_was_deleted_is_not_found(talk: Talk, store: Store):
    await store.conversations.delete(OWNER, talk.id)
    with pytest.raises(ConversationNotFound):
        await talk.open()


async def test_nothing_is_shown_to_a_stranger(talk: Talk, heard: Store, listening: Listening):
    with pytest.raises(ConversationNotFound):
        await open_turn(heard, conversation=talk.conversation, owner=STRANGER)
    assert listening.elements() == []


async def test_a_conversation_that_was_purged_and_made_anew_has_its_own_history(heard: Store, store: Store):
    """Under the same id, with items of the same ids at the same places: all of it the client's own."""

    async def make(on: Store, text: str) -> Conversation:
        made, _ = await on.conversations.create(OWNER, Conversation("conv_mine", 0, 0), [])
        says = [brought("msg_1", text)]
        await take_turn(on, conversation=made, says=says, answers=[brought("msg_2", "same")])
        return made

    conversation = await make(heard, "old")
    assert history_of(await open_turn(heard, conversation=conversation)) == ["old", "same"]
    await store.purger.purge(OWNER)
    await make(store, "new")
    assert history_of(await open_turn(heard, conversation=conversation)) == ["new", "same"]


async def test_what_a_sweep_frees_is_not_held_any_more(talk: Talk, store: Store, redis: Redis):
    key = f"{talk.tag}partition"
    await talk.say("u8 a8")
    await talk.turn("u4", "a4", fork=talk.point(ForkPoint.EDIT, "u3", backup="old"))
    before = await redis.hget(key, "edition")
    await store.sweeper.sweep(talk.id)
    assert await redis.hget(key, "edition") == before
    await store.branches.delete(OWNER, talk.id, "old")
    assert (await store.sweeper.sweep(talk.id)).items == 2
    assert before is not None
    assert await redis.hget(key, "edition") not in (None, before)
    assert texts_of(await talk.open()) == "u1 a1 u2 a2 u4 a4"


async def contents_of(redis: Redis) -> dict[Any, tuple[int, Any]]:
    """Return each key's time to live in ms (0: for ever) and value."""
    return {key: (max(await redis.pttl(key), 0), await redis.dump(key)) for key in await redis.keys()}


async def lose_what_came_after(redis: Redis, before: dict[Any, tuple[int, Any]]) -> None:
    """Do what a failover does to a replica that did not have the last of it."""
    await redis.flushdb()
    for key, (life_ms, value) in before.items():
        await redis.restore(key, life_ms, value)


@pytest.mark.parametrize("since", ["", "u7", "u7 a7", "u7 a7 u8"])
async def test_what_a_failover_has_lost_is_not_shown(heard: Store, store: Store, redis: Redis, since: str):
    """Also not if as much, or more, was written there since."""
    talk = await Talk(heard).begin("u1 a1")
    await talk.turn("u2", "a2")
    await talk.turn("u3", "a3")
    before = await contents_of(redis)
    await talk.turn("u4", "a4")
    await talk.release(await talk.open())
    await lose_what_came_after(redis, before)
    await Talk(store, talk.conversation, talk.ids).say(since)
    assert texts_of(await talk.open()).split() == ["u1", "a1", "u2", "a2", "u3", "a3", *since.split()]


async def test_nor_is_what_was_deleted_after_a_deletion_that_a_failover_has_lost(
    talk: Talk, store: Store, redis: Redis
):
    before = await contents_of(redis)
    await store.items.delete(OWNER, talk.id, talk.ids["a1"])
    await talk.release(await talk.open())
    await lose_what_came_after(redis, before)
    await store.items.delete(OWNER, talk.id, talk.ids["a2"])
    assert texts_of(await talk.open()) == "u1 a1 u2 u3 a3"


async def change(dice: Random, talk: Talk, other: Talk, number: int) -> None:
    """Do one thing to a conversation: by a turn of either, by what the other one adds or takes away."""
    names = await talk.names()
    branch = dice.choice(["", *names])
    here, there = dice.choice([talk, other]), await talk.ids_on(branch)
    what = dice.choice(["turn", "turn", "many", "say", "delete", "fork", "drop"])
    if what == "turn":
        await here.turn(f"u{number}", f"a{number}", branch=branch)
    elif what == "many":
        await other.turn(f"u{number} u{number}00 u{number}01", f"a{number} a{number}00", branch=branch)
    elif what == "say":
        await other.say(f"u{number} a{number}", branch)
    elif what == "delete" and len(there) > 2:
        await other.store.items.delete(OWNER, talk.id, dice.choice(there))
    elif what == "fork" and len(there) > 2:
        point = talk.point(dice.choice([ForkPoint.WITHOUT, ForkPoint.AFTER]), dice.choice(there), name=f"b{number}")
        await here.turn(f"u{number}", f"a{number}", fork=point)
    elif len(names) > 3:
        active = (await other.store.conversations.read(OWNER, talk.id)).active_branch
        await other.store.branches.delete(OWNER, talk.id, dice.choice([n for n in names if n not in ("MAIN", active)]))
        await other.store.sweeper.sweep(talk.id)


@pytest.mark.parametrize("seed", few(range(8), 3))
async def test_whatever_happens_a_process_that_remembers_sees_what_one_sees_that_does_not(
    heard: Store, redis: Redis, seed: int
):
    dice = Random(seed)
    talk = await Talk(heard).begin("u1 a1 u2 a2")
    for number in range(3, 30):
        other = Talk(make_store(redis), talk.conversation, talk.ids)
        await change(dice, talk, other, number)
        branch = dice.choice(await talk.names())
        seen = []
        for one in (talk, other):
            opened = await one.open(branch)
            seen.append((list(opened.items), opened.severed, opened.chain, opened.notes, opened.pending))
            await one.release(opened)
        assert seen[0] == seen[1]
        await other.store.close()


# --- how much is kept ---------------------------------------------------------------------------------------------


def recollection(chain: str = "0:0:2", size: int = 100, edition: str = "resp_1", last: bytes = b"{}") -> Recollection:
    items = HistoryItems([b"x" * size])
    return Recollection(chain, edition, last, History(items, {}, frozenset()))


def test_as_much_is_kept_as_there_is_room_for_the_latest_first():
    one = HISTORY_BYTES + 2 * 100 + ITEM_BYTES
    kept = Recollections(max_bytes=2 * one)
    sources = [TurnSource(f"conv_{number}") for number in range(3)]
    for source in sources[:2]:
        kept.note(turn_place(OWNER, source, "p"), recollection())
    assert kept.look(turn_place(OWNER, sources[0], "p")).chain
    kept.note(turn_place(OWNER, sources[2], "p"), recollection())
    assert [bool(kept.look(turn_place(OWNER, source, "p")).chain) for source in sources] == [True, False, True]
    # anew at the same place it takes the room of what it replaces
    kept.note(turn_place(OWNER, sources[2], "p"), recollection("0:0:4"))
    assert [bool(kept.look(turn_place(OWNER, source, "p")).chain) for source in sources] == [True, False, True]
    kept.note(turn_place(OWNER, sources[1], "p"), recollection(size=10 * one))
    assert not kept.look(turn_place(OWNER, sources[1], "p")).chain
    kept.forget(turn_place(OWNER, sources[0], "p"))
    kept.note(turn_place(OWNER, sources[1], "p"), recollection())
    assert [bool(kept.look(turn_place(OWNER, source, "p")).chain) for source in sources] == [False, True, True]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (TurnSource(), recollection()),
        (TurnSource("conv"), recollection(edition="")),
        (TurnSource("conv"), recollection(last=b"")),
        (TurnSource("conv"), recollection("0:5:7,0:0:2")),
    ],
)
def test_nothing_is_kept_that_could_not_be_gone_on_with(source: TurnSource, found: Recollection):
    kept = Recollections()
    kept.note(turn_place(OWNER, source, "p"), found)
    assert kept.look(turn_place(OWNER, source, "p")) is NOTHING


def test_each_owner_has_recollections_of_its_own():
    kept = Recollections()
    kept.note(turn_place(OWNER, TurnSource("conv"), "p"), recollection())
    assert kept.look(turn_place(STRANGER, TurnSource("conv"), "p")) is NOTHING
    assert kept.look(turn_place(OWNER, TurnSource("conv", branch="other"), "p")) is NOTHING


def texts_of(opened: OpenedTurn) -> str:
    return " ".join(history_of(opened))
