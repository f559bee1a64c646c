"""Turns of apps that keep no ids: where they go, what is told of it, and the digests that lead there."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from proxy.protocol import ids
from storage import (
    CONTINUED,
    MOST_MEMBERS,
    NOWHERE,
    ON_LINE,
    ConversationNotFound,
    DigestNote,
    DigestNotes,
    DigestQuery,
    Entry,
    Lead,
    Origin,
    PageRequest,
    QuotaExceeded,
    RecordAct,
    Recorded,
    RecordedTurn,
    RecordResult,
    Safeguards,
    Spot,
    Store,
    new_partition,
    partition_of,
)
from storage.client.keyspace import Portion
from storage.store import Hosting
from tests.fake import channels_to
from tests.storage.builders import (
    EVERYTHING,
    OWNER,
    PREFIX,
    RETENTION_SECONDS,
    STRANGER,
    connect,
    minted,
    open_turn,
    read_all,
    texts,
)


def turn(conversation_id: str, act: RecordAct, *items: str, answer: str = "answer", **fields: Any) -> RecordedTurn:
    """Return a turn that brings items of these texts and gets one answer."""
    partition = partition_of(conversation_id)
    inputs: list[Entry] = [minted(partition, text) for text in items]
    response_id = ids.new_response_id(partition, stored=True)
    outputs = [minted(partition, answer)]
    return RecordedTurn(OWNER, conversation_id, act, response_id, b"{}", inputs, outputs, **{"name": "old", **fields})


async def begin(store: Store, *items: str) -> tuple[str, Recorded]:
    conversation_id = ids.new_conversation_id(new_partition())
    return conversation_id, await store.recognition.record(turn(conversation_id, RecordAct.NEW, *items))


async def read(store: Store, conversation_id: str, branch: str = "MAIN") -> list[str]:
    return texts((await store.items.list_page(OWNER, conversation_id, EVERYTHING, branch=branch)).items)


async def test_a_new_conversation_is_one_like_any_other(store: Store):
    conversation_id, done = await begin(store, "u1", "u2")
    assert (done.result, done.is_new, done.branch, done.line) == (RecordResult.OK, True, "MAIN", 0)
    assert done.spots == [Spot(0, 0, 0), Spot(0, 0, 1), Spot(0, 0, 2)]
    conversation = await store.conversations.read(OWNER, conversation_id)
    assert await read_all(store, conversation) == ["u1", "u2", "answer"]
    page = await store.conversations.list_page(OWNER, PageRequest())
    assert [one.id for one in page.conversations] == [conversation_id]


async def test_metadata_of_a_new_conversation_is_kept(store: Store):
    conversation_id = ids.new_conversation_id(new_partition())
    await store.recognition.record(turn(conversation_id, RecordAct.NEW, "u", metadata={"session": "s"}))
    assert (await store.conversations.read(OWNER, conversation_id)).metadata == {"session": "s"}


async def test_what_comes_after_the_tip_is_appended(store: Store):
    conversation_id, done = await begin(store, "u1")
    done = await store.recognition.record(turn(conversation_id, RecordAct.GROW, "u2", spot=done.spots[-1]))
    assert (done.is_new, done.is_fork, done.line) == (False, False, 0)
    assert await read(store, conversation_id) == ["u1", "answer", "u2", "answer"]


async def test_what_comes_after_an_older_item_is_a_new_main(store: Store):
    conversation_id, first = await begin(store, "u1")
    await store.recognition.record(turn(conversation_id, RecordAct.GROW, "u2", spot=first.spots[-1]))
    done = await store.recognition.record(turn(conversation_id, RecordAct.GROW, "u2'", spot=first.spots[-1]))
    assert (done.is_fork, done.line, done.branch) == (True, 1, "MAIN")
    assert await read(store, conversation_id) == ["u1", "answer", "u2'", "answer"]
    assert await read(store, conversation_id, "old") == ["u1", "answer", "u2", "answer"]


async def test_the_older_line_can_be_gone_on_with(store: Store):
    conversation_id, first = await begin(store, "u1")
    second = await store.recognition.record(turn(conversation_id, RecordAct.GROW, "u2", spot=first.spots[-1]))
    await store.recognition.record(turn(conversation_id, RecordAct.GROW, "u2'", spot=first.spots[-1]))
    done = await store.recognition.record(turn(conversation_id, RecordAct.GROW, "u3", spot=second.spots[-1]))
    assert (done.is_fork, done.line, done.branch) == (False, 0, "old")
    assert await read(store, conversation_id) == ["u1", "answer", "u2'", "answer"]


async def test_a_side_branch_leaves_the_tip_open(store: Store):
    conversation_id, first = await begin(store, "u1")
    side = await store.recognition.record(
        turn(conversation_id, RecordAct.SIDE, "title?", spot=first.spots[-1], name="side", description="no tools")
    )
    assert (side.branch, side.line) == ("side", 1)
    done = await store.recognition.record(turn(conversation_id, RecordAct.GROW, "u2", spot=first.spots[-1]))
    assert (done.is_fork, done.branch) == (False, "MAIN")
    again = await store.recognition.record(
        turn(conversation_id, RecordAct.SIDE, "title?", spot=first.spots[-1], name="side")
    )
    assert again.branch == "sidex"
    branch = await store.branches.read(OWNER, conversation_id, "side")
    assert (branch.description, branch.item_count) == ("no tools", 4)


async def test_a_history_that_begins_anew_is_a_line_of_its_own(store: Store):
    conversation_id, _ = await begin(store, "u1")
    done = await store.recognition.record(turn(conversation_id, RecordAct.GROW, "summary", "u2", spot=Spot()))
    assert (done.is_fork, done.line, done.spots[0]) == (True, 1, Spot(1, 1, 0))
    assert await read(store, conversation_id) == ["summary", "u2", "answer"]


async def test_a_busy_line_is_not_waited_for(store: Store):
    conversation_id, first = await begin(store, "u1")
    conversation = await store.conversations.read(OWNER, conversation_id)
    await open_turn(store, conversation=conversation)
    done = await store.recognition.record(turn(conversation_id, RecordAct.GROW, "u2", spot=first.spots[-1]))
    assert (done.is_fork, done.line) == (True, 1)


async def test_an_item_that_was_deleted_can_be_gone_on_from(store: Store):
    conversation_id, first = await begin(store, "u1")
    last = (await store.items.list_page(OWNER, conversation_id, EVERYTHING)).items[-1]
    await store.items.delete(OWNER, conversation_id, last[7 : last.index(b'"', 7)].decode())
    done = await store.recognition.record(turn(conversation_id, RecordAct.GROW, "u2", spot=first.spots[-1]))
    assert not done.is_fork
    assert await read(store, conversation_id) == ["u1", "u2", "answer"]


async def test_a_tip_that_is_none_any_more_is_told_and_nothing_is_written(store: Store):
    conversation_id, first = await begin(store, "u1")
    done = await store.recognition.record(turn(conversation_id, RecordAct.TIP, "u2", spot=first.spots[-1]))
    assert (done.result, done.is_fork) == (RecordResult.OK, False)
    done = await store.recognition.record(turn(conversation_id, RecordAct.TIP, "u2", spot=first.spots[-1]))
    assert done.result is RecordResult.MOVED
    assert len(await read(store, conversation_id)) == 4


async def test_an_answer_that_nobody_took_is_replaced(store: Store):
    conversation_id, first = await begin(store, "u1")
    cut = turn(conversation_id, RecordAct.GROW, "u2", answer="Cut o", spot=first.spots[-1])
    cut.outputs = [*cut.outputs, minted(partition_of(conversation_id), "call", "+call_1")]
    done = await store.recognition.record(cut)
    again = await store.recognition.record(turn(conversation_id, RecordAct.REPLACE, answer="whole", spot=done.spots[0]))
    assert (again.is_fork, again.line, again.branch) == (False, 0, "MAIN")
    assert await read(store, conversation_id) == ["u1", "answer", "u2", "whole"]
    assert (
        await open_turn(store, conversation=await store.conversations.read(OWNER, conversation_id))
    ).pending == set()


async def test_an_answer_that_was_gone_on_from_elsewhere_is_not_replaced(store: Store):
    conversation_id, first = await begin(store, "u1")
    await store.recognition.record(turn(conversation_id, RecordAct.SIDE, "x", spot=first.spots[-1], name="side"))
    done = await store.recognition.record(turn(conversation_id, RecordAct.REPLACE, answer="b", spot=first.spots[0]))
    assert done.is_fork
    assert await read(store, conversation_id, "old") == ["u1", "answer"]
    assert await read(store, conversation_id) == ["u1", "b"]


async def test_a_repeat_changes_nothing_and_tells_the_same(store: Store):
    conversation_id, first = await begin(store, "u1")
    one = turn(conversation_id, RecordAct.GROW, "u2", spot=first.spots[-1])
    done = await store.recognition.record(one)
    again = await store.recognition.record(one)
    assert (again.result, again.line, again.branch) == (RecordResult.REPEATED, done.line, done.branch)
    assert again.spots == done.spots
    assert len(await read(store, conversation_id)) == 4


async def test_a_turn_without_a_response_is_recognised_when_it_comes_again(store: Store):
    conversation_id, first = await begin(store, "u1")
    one = turn(conversation_id, RecordAct.GROW, "u2", spot=first.spots[-1], stored=False)
    done = await store.recognition.record(one)
    again = await store.recognition.record(one)
    assert (again.result, again.spots) == (RecordResult.REPEATED, done.spots)


async def test_of_a_deleted_conversation_nothing_is_written(store: Store):
    conversation_id, first = await begin(store, "u1")
    await store.conversations.delete(OWNER, conversation_id)
    done = await store.recognition.record(turn(conversation_id, RecordAct.GROW, "u2", spot=first.spots[-1]))
    assert done.result is RecordResult.DROPPED
    assert (await store.conversations.list_page(OWNER, PageRequest())).conversations == []


async def test_a_line_that_is_gone_is_not_gone_on_with(store: Store):
    conversation_id, first = await begin(store, "u1")
    side = await store.recognition.record(turn(conversation_id, RecordAct.SIDE, "x", spot=first.spots[-1], name="s"))
    await store.branches.delete(OWNER, conversation_id, "s")
    done = await store.recognition.record(turn(conversation_id, RecordAct.GROW, "y", spot=side.spots[-1]))
    assert done.result is RecordResult.ASTRAY


async def test_the_partition_of_somebody_else_is_not_written(store: Store):
    conversation_id, first = await begin(store, "u1")
    theirs = turn(conversation_id, RecordAct.GROW, "u2", spot=first.spots[-1])
    theirs.owner = STRANGER
    assert (await store.recognition.record(theirs)).result is RecordResult.DROPPED
    assert (await store.conversations.list_page(STRANGER, PageRequest())).conversations == []


async def test_a_response_can_be_continued_by_its_id(store: Store):
    conversation_id = ids.new_conversation_id(new_partition())
    first = turn(conversation_id, RecordAct.NEW, "u1")
    done = await store.recognition.record(first)
    second = turn(conversation_id, RecordAct.GROW, "u2", spot=done.spots[-1])
    await store.recognition.record(second)
    opened = await open_turn(store, previous=second.response_id)
    assert texts(opened.items) == ["u1", "answer", "u2", "answer"]
    opened = await open_turn(store, previous=first.response_id)
    assert texts(opened.items) == ["u1", "answer"]


async def test_a_quota_of_conversations_holds(valkey_url: str, valkey: Redis):
    async with connect(valkey_url, most_conversations=1) as store:
        await begin(store, "u1")
        with pytest.raises(QuotaExceeded):
            await begin(store, "u1")
        assert len((await store.conversations.list_page(OWNER, PageRequest())).conversations) == 1


# Digests


def member(conversation_id: str, place: str, rest: str = "") -> str:
    return f"{partition_of(conversation_id)}:{place} {rest}"


async def note(store: Store, conversation_id: str, *notes: DigestNote, owner: str = OWNER) -> None:
    await store.recognition.note([DigestNotes(owner, partition_of(conversation_id), notes)])


async def found(store: Store, digest: str, text: str = "", owner: str = OWNER, kind: str = "") -> list[str]:
    (members,) = await store.recognition.find(owner, [DigestQuery(digest, kind, text)])
    return [one for one, _ in members]


async def test_a_digest_leads_to_the_newest_first_and_only_for_its_owner(store: Store):
    conversation_id, _ = await begin(store, "u1")
    older, newer = member(conversation_id, "0:0:0", "a"), member(conversation_id, "0:0:1", "b")
    await note(store, conversation_id, DigestNote("d", older, 1), DigestNote("d", newer, 2))
    assert await found(store, "d") == [newer, older]
    assert await found(store, "d", owner=STRANGER) == []
    assert await found(store, "e") == []
    await note(store, conversation_id, DigestNote("d", newer, -1, adds=False), DigestNote("d", "none", 9, adds=False))
    assert await found(store, "d") == [older, newer]


async def test_a_member_replaces_what_it_begins_like(store: Store):
    conversation_id, _ = await begin(store, "u1")
    await note(store, conversation_id, DigestNote("d", member(conversation_id, "0", "a"), 1))
    await note(store, conversation_id, DigestNote("d", member(conversation_id, "0", "b"), 2))
    assert await found(store, "d") == [member(conversation_id, "0", "b")]


async def test_notes_of_many_turns_and_owners_are_written_together(store: Store):
    conversations = [(await begin(store, "u"))[0] for _ in range(3)]
    notes = [
        DigestNotes(OWNER, partition_of(one), [DigestNote(f"d{number}", f"{one} a", number) for number in range(400)])
        for one in conversations
    ]
    strange = new_partition()
    record = turn(ids.new_conversation_id(strange), RecordAct.NEW, "u")
    record.owner = STRANGER
    await store.recognition.record(record)
    await store.recognition.note([*notes, DigestNotes(STRANGER, strange, [DigestNote("d0", "s a", 1)])])
    assert await found(store, "d0", owner=STRANGER) == ["s a"]
    for digest in ("d0", "d1", "d399"):
        assert sorted(await found(store, digest)) == sorted(f"{one} a" for one in conversations)


async def test_only_members_that_begin_exactly_so_are_replaced(store: Store):
    conversation_id, _ = await begin(store, "u")
    await note(
        store, conversation_id, DigestNote("d", "ab t", 1), DigestNote("d", "[a] t", 2), DigestNote("d", "* t", 3)
    )
    await note(
        store, conversation_id, DigestNote("d", "* u", 4), DigestNote("d", "[a] u", 5), DigestNote("d", "a\\b u", 6)
    )
    assert await found(store, "d") == ["a\\b u", "[a] u", "* u", "ab t"]


async def test_of_many_members_those_with_the_text_are_told(store: Store):
    conversation_id, _ = await begin(store, "u1")
    many = [DigestNote("d", member(conversation_id, f"0:0:{i}", f"key{i}."), i) for i in range(40)]
    await note(store, conversation_id, *many)
    assert len(await found(store, "d")) == 16
    assert member(conversation_id, "0:0:3", "key3.") in await found(store, "d", "key3.")


async def test_what_is_not_asked_for_is_in_nobody_s_way(store: Store):
    conversation_id, _ = await begin(store, "u1")
    many = [DigestNote("d", member(conversation_id, f"0:0:{i}q", f"key{i}."), i) for i in range(1, 200)]
    await note(store, conversation_id, DigestNote("d", member(conversation_id, "0:0:0t"), 0), *many)
    assert await found(store, "d", kind="t ") == [member(conversation_id, "0:0:0t")]
    assert len(await found(store, "d", "key", kind="q ")) == 32


async def test_digests_go_with_their_conversation(store: Store, redis: Redis):
    conversation_id, _ = await begin(store, "u1")
    other_id, _ = await begin(store, "u1")
    await note(store, conversation_id, DigestNote("d", member(conversation_id, "0"), 1), DigestNote("e", "x", 1))
    await note(store, other_id, DigestNote("d", member(other_id, "0"), 1))
    await store.conversations.delete(OWNER, conversation_id)
    assert await found(store, "d") == [member(other_id, "0")]
    await store.conversations.delete_all(OWNER)
    assert await found(store, "d") == []
    assert [key for key in await redis.keys("*") if b"digests" in key] == []


async def test_nothing_leads_to_a_conversation_that_is_gone(store: Store, redis: Redis):
    conversation_id, _ = await begin(store, "u1")
    await store.conversations.delete(OWNER, conversation_id)
    await note(store, conversation_id, DigestNote("d", member(conversation_id, "0"), 1))
    assert [key for key in await redis.keys("*") if b"digest" in key] == []
    with pytest.raises(ConversationNotFound):
        await store.conversations.read(OWNER, conversation_id)


LEADS = [
    Lead(["full", "pair"], 2, "t k.", 1, "..x"),
    Lead(["old"], 1, "t k.", NOWHERE, "..", is_behind=True),
    Lead(["said"], ON_LINE, "s k.", 1, "..", replaces=True),
]


async def scored(store: Store, digest: str) -> list[tuple[str, int]]:
    (members,) = await store.recognition.find(OWNER, [DigestQuery(digest)])
    return members


@pytest.mark.parametrize("plain", [True, False])
async def test_what_leads_to_a_turn_is_written_with_it(store: Store, *, plain: bool):
    conversation_id = ids.new_conversation_id(new_partition())
    partition = partition_of(conversation_id)
    # of one that is not stored the general case takes care
    fields: dict[str, Any] = {"leads": LEADS, "stored": plain}
    done = await store.recognition.record(turn(conversation_id, RecordAct.NEW, "u1", **fields))
    assert await found(store, "full") == await found(store, "pair") == [f"{partition}:0:0:1t k.0:0..x"]
    assert await found(store, "said") == [f"{partition}:0s k.0:0.."]
    ((member, score),) = await scored(store, "old")
    assert (member, score + CONTINUED) == (f"{partition}:0:0:0t k.-1:-1..", done.milliseconds)
    mark = DigestNote("full", f"{partition}:0:0:1t k.0:0..x", 5, adds=False)
    none = DigestNote("full", "none", 5, adds=False)
    fields |= {"spot": done.spots[-1], "marks": [mark, none]}
    done = await store.recognition.record(turn(conversation_id, RecordAct.TIP, "u2", **fields))
    assert await scored(store, "full") == [(f"{partition}:0:0:3t k.0:2..x", done.milliseconds), (mark.member, 5)]
    # a line is there once
    assert await found(store, "said") == [f"{partition}:0s k.0:2.."]
    spots = [Spot(0, 0, 1), *done.spots]
    notes = [lead.note(partition, done.line, spots, done.milliseconds) for lead in LEADS]
    assert [(note.member, note.score) for note in notes if note] == [
        (await scored(store, lead.digests[0]))[0] for lead in LEADS
    ]


async def test_what_leads_to_a_fork_leads_to_its_line(store: Store):
    conversation_id, first = await begin(store, "u1")
    side = turn(conversation_id, RecordAct.SIDE, spot=first.spots[-1], name="s")
    side.leads = [Lead(["full"], 1, "t ", 0, ".")]
    await store.recognition.record(side)
    assert await found(store, "full") == [f"{partition_of(conversation_id)}:1:1:0t 0:1."]


async def test_nothing_leads_to_what_is_not_written(store: Store, redis: Redis):
    conversation_id, first = await begin(store, "u1")
    await store.recognition.record(turn(conversation_id, RecordAct.GROW, "u2", spot=first.spots[-1]))
    fields: dict[str, Any] = {"leads": LEADS, "spot": first.spots[-1]}
    done = await store.recognition.record(turn(conversation_id, RecordAct.TIP, "u2'", **fields))
    assert done.result is RecordResult.MOVED
    await store.conversations.delete(OWNER, conversation_id)
    done = await store.recognition.record(turn(conversation_id, RecordAct.GROW, "u2'", **fields))
    assert done.result is RecordResult.DROPPED
    assert [key for key in await redis.keys("*") if b"digest" in key] == []


async def test_a_repeat_leads_nowhere_else(store: Store):
    conversation_id = ids.new_conversation_id(new_partition())
    one = turn(conversation_id, RecordAct.NEW, "u1", leads=LEADS)
    await store.recognition.record(one)
    before = await scored(store, "full")
    await store.recognition.record(one)
    assert await scored(store, "full") == before


async def test_nothing_leads_to_an_entry_that_was_left_out(store: Store):
    conversation_id = ids.new_conversation_id(new_partition())
    one = turn(conversation_id, RecordAct.NEW, "u1", leads=LEADS)
    one.inputs = [Entry(Origin.REFERENCE, "msg_unknown", b"")]
    await store.recognition.record(one)
    assert await found(store, "full") == await found(store, "old") == await found(store, "said") == []
    one = turn(conversation_id, RecordAct.GROW, spot=Spot(0, 0, 0), leads=[Lead(["answer"], 2, "t ", NOWHERE, ".")])
    one.inputs = [Entry(Origin.REFERENCE, "msg_unknown", b"")]
    await store.recognition.record(one)
    assert await found(store, "answer") == [f"{partition_of(conversation_id)}:0:0:1t -1:-1."]


@pytest.mark.parametrize("plain", [True, False])
async def test_of_more_than_the_most_the_lowest_go(store: Store, *, plain: bool):
    conversation_id, _ = await begin(store, "u1")
    many = [DigestNote("full", f"{partition_of(conversation_id)}:{i}t x", i + 1) for i in range(MOST_MEMBERS)]
    await store.recognition.note([DigestNotes(OWNER, partition_of(conversation_id), many)])
    other = ids.new_conversation_id(new_partition())
    await store.recognition.record(turn(other, RecordAct.NEW, "u1", leads=LEADS, stored=plain))
    (members,) = await store.recognition.find(OWNER, [DigestQuery("full")], MOST_MEMBERS + 1)
    assert [members[0][0], members[-1]] == [f"{partition_of(other)}:0:0:1t k.0:0..x", (many[1].member, 2)]
    assert len(members) == MOST_MEMBERS


async def test_what_leads_to_an_item_that_was_staged_is_its_place(valkey: Redis):
    hosting = Hosting(Safeguards(portion=Portion(items=2)))
    store = Store(*channels_to(valkey), prefix=PREFIX, retention_seconds=RETENTION_SECONDS, hosting=hosting)
    conversation_id = ids.new_conversation_id(new_partition())
    leads = [Lead([f"d{number}"], number, "t ", NOWHERE, ".") for number in range(1, 6)]
    done = await store.recognition.record(turn(conversation_id, RecordAct.NEW, *"abcd", leads=leads))
    assert len(done.spots) == 5
    for number, (line, segment, offset) in enumerate(done.spots, start=1):
        expected = f"{partition_of(conversation_id)}:{line}:{segment}:{offset}t -1:-1."
        assert await found(store, f"d{number}") == [expected]
    await store.close()


async def test_what_leads_to_a_turn_goes_with_its_conversation(store: Store, redis: Redis):
    conversation_id = ids.new_conversation_id(new_partition())
    await store.recognition.record(turn(conversation_id, RecordAct.NEW, "u1", leads=LEADS))
    await store.conversations.delete(OWNER, conversation_id)
    assert [key for key in await redis.keys("*") if b"digest" in key] == []


async def test_a_purge_leaves_no_digest(store: Store, redis: Redis):
    conversation_id, _ = await begin(store, "u1")
    await note(store, conversation_id, DigestNote("d", member(conversation_id, "0"), 1))
    await store.purger.purge(OWNER)
    assert await redis.keys("*") == []
