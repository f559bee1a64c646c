"""Notes: what is kept beside an item, behind its bytes, and comes back with it to whoever sends the item on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from storage import Entry, Fork, ForkPoint, PageRequest, Store, partition_of
from storage.envelope import item_id, open_envelope, unwrap, unwrap_all, wrap
from storage.history import read_history
from tests.storage.builders import (
    OWNER,
    add,
    brought,
    history_of,
    ids_in,
    minted,
    open_turn,
    read_all,
    reference,
    start,
    take_turn,
    texts,
)

NOTE = '{"maker":["model.example/v1","thinker"]}'


def noted(entry: Entry, note: str = NOTE) -> Entry:
    return replace(entry, note=note)


@pytest.mark.parametrize("note", ["", "made by", '{"maker":["a","b"]}', "ünïcode", "}"])
def test_an_envelope_gives_back_what_was_put_into_it(note: str):
    data = b'{"id":"rs_1","type":"reasoning"}'
    element = wrap(data, note)
    assert open_envelope(element) == (data, note)
    assert (unwrap(element), item_id(element)) == (data, "rs_1")
    assert (element == data) is (note == "")
    assert unwrap_all([element, b""]) == [data, b""]


def test_an_item_without_a_note_lies_as_it_came():
    assert wrap(b'{"id":"msg_1"}', "") == b'{"id":"msg_1"}'


async def test_a_note_is_told_to_turns_and_to_nobody_else(store: Store):
    made = await start(store)
    partition = partition_of(made.id)
    thought, answer = noted(minted(partition, "thought")), minted(partition, "answer")
    response = await take_turn(store, conversation=made, answers=[thought, answer])
    assert await read_all(store, made) == ["question", "thought", "answer"]
    assert await store.items.read(OWNER, made.id, thought.id) == thought.data
    assert (await store.responses.read(OWNER, response)).output == [thought.data, answer.data]
    continued = await take_turn(store, previous=response)
    page = await store.responses.list_input(OWNER, continued, PageRequest(ascending=True))
    assert page.items[1] == thought.data
    sources: list[dict[str, Any]] = [{"conversation": made}, {"previous": response}]
    for source in sources:
        opened = await open_turn(store, **source)
        assert opened.notes == {thought.id: NOTE}
        assert thought.data in opened.items


async def test_a_note_goes_where_its_item_goes(store: Store):
    made, other = await start(store), await start(store)
    added = await store.items.append(OWNER, made.id, "", [noted(brought("rs_a", "thought"))])
    draft = Fork(ForkPoint.AFTER, "rs_a", name="draft")
    forked = await store.branches.create(OWNER, made.id, "", draft, [noted(brought("rs_b", "own"))])
    compared = await store.branches.compare(OWNER, made.id, "MAIN", "draft", 10)
    seen = [*added, *forked.items, compared.ancestor or b"", *compared.only_second.items]
    assert texts(seen) == ["thought", "own", "thought", "own"]
    assert unwrap_all(seen) == seen
    opened = await open_turn(store, conversation=made, branch="draft", item_ids=["rs_a"])
    assert opened.notes == {"rs_a": NOTE, "rs_b": NOTE}
    assert opened.known["rs_a"].note == NOTE
    there = await store.items.resolve(OWNER, [], ["rs_a", "rs_none"], partition_of(made.id))
    assert {name: one.note for name, one in there.items()} == {"rs_a": NOTE}
    assert (await open_turn(store, conversation=other, item_ids=["rs_a"])).known == {}


async def test_what_was_stored_without_notes_has_none(redis: Redis, store: Store):
    made = await start(store, "one", "two")
    await store.items.delete(OWNER, made.id, (await ids_in(store, made))[1])
    (key,) = [key async for key in redis.scan_iter("*segment:0")]
    elements: list[Any] = await redis.lrange(key, 0, -1)
    assert unwrap_all(elements) == elements
    assert (await open_turn(store, conversation=made)).notes == {}


async def test_a_turn_is_told_behind_which_items_one_was_deleted(store: Store):
    made = await start(store, *"abcdef")
    ids = await ids_in(store, made)
    assert (await open_turn(store, conversation=made)).severed == frozenset()
    for gone in (ids[1], ids[2], ids[5]):
        await store.items.delete(OWNER, made.id, gone)
    assert (await open_turn(store, conversation=made)).severed == {ids[0], ids[4]}


async def test_a_turn_is_told_behind_which_item_a_branch_leaves_one_out(store: Store):
    made = await start(store, *"abcd")
    ids = await ids_in(store, made)
    await store.branches.create(OWNER, made.id, "", Fork(ForkPoint.WITHOUT, ids[2], name="less"))
    assert (await open_turn(store, conversation=made, branch="less")).severed == {ids[1]}
    fork = Fork(ForkPoint.AFTER, ids[1], name="short")
    await store.branches.create(OWNER, made.id, "", fork, [brought("msg_new", "new")])
    assert (await open_turn(store, conversation=made, branch="short")).severed == frozenset()


async def test_a_turn_sees_an_item_once_that_was_added_twice(store: Store):
    made = await start(store, "one")
    # known to the partition, on no branch of the conversation
    await take_turn(store, previous=await take_turn(store, conversation=made), answers=[brought("msg_b", "b")])
    await add(store, made, reference("msg_b"), "c", reference("msg_b"))
    assert await read_all(store, made) == ["one", "question", "answer", "b", "c", "b"]
    assert history_of(await open_turn(store, conversation=made)) == ["one", "question", "answer", "b", "c"]


def test_a_history_of_one_span_needs_no_look_at_its_chain():
    assert read_history([[b'{"id":"a"}']], b"nonsense") == ([b'{"id":"a"}'], {}, frozenset())
