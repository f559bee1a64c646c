from collections.abc import Sequence

import pytest

from storage import CommitMode, CommitResult, Entry, Store, partition_of
from tests.storage.builders import (
    OWNER,
    STRANGER,
    add,
    brought,
    finished,
    ids_in,
    minted,
    open_turn,
    reference,
    start,
    take_turn,
)


def calls(partition: str, *call_ids: str) -> list[Entry]:
    return [minted(partition, f"call {call_id}", f"+{call_id}") for call_id in call_ids]


def outputs(partition: str, *call_ids: str) -> list[Entry]:
    return [minted(partition, f"output {call_id}", f"-{call_id}") for call_id in call_ids]


async def chain(store: Store, answers: Sequence[str], previous: str | None = None, says: Sequence[str] = ()) -> str:
    """Take a turn that answers calls (`says`) and makes new ones (`answers`)."""
    partition = partition_of(previous) if previous else "0123456789abcdef"
    opened = await open_turn(store, previous=previous)
    commit = finished(opened, partition=partition, says=outputs(partition, *says), answers=calls(partition, *answers))
    assert (await store.turns.commit(commit)).result is CommitResult.OK
    return commit.response_id


async def test_a_call_waits_until_its_output_comes(store: Store):
    made = await start(store)
    partition = partition_of(made.id)
    await take_turn(store, conversation=made, answers=calls(partition, "call_a", "call_b"))
    assert (await open_turn(store, conversation=made)).pending == {"call_a", "call_b"}
    await take_turn(store, conversation=made, says=outputs(partition, "call_b"), answers=calls(partition, "call_c"))
    assert (await open_turn(store, conversation=made)).pending == {"call_a", "call_c"}
    await take_turn(store, conversation=made, says=outputs(partition, "call_a", "call_c"))
    assert (await open_turn(store, conversation=made)).pending == frozenset()


async def test_calls_of_a_chain_wait_for_those_that_continue_there(store: Store):
    first = await chain(store, ["call_a"])
    second = await chain(store, ["call_b"], first, says=["call_a"])
    assert (await open_turn(store, previous=first)).pending == {"call_a"}
    assert (await open_turn(store, previous=second)).pending == {"call_b"}


async def test_a_chain_inherits_the_waiting_calls_of_a_conversation(store: Store):
    made = await start(store)
    response = await take_turn(store, conversation=made, answers=calls(partition_of(made.id), "call_a"))
    await take_turn(store, conversation=made, says=outputs(partition_of(made.id), "call_a"))
    assert (await open_turn(store, previous=response)).pending == {"call_a"}


async def test_calls_wait_when_items_are_added_directly(store: Store):
    made = await start(store)
    partition = partition_of(made.id)
    await add(store, made, *calls(partition, "call_a", "call_b"), *outputs(partition, "call_a"))
    assert (await open_turn(store, conversation=made)).pending == {"call_b"}


async def test_a_known_call_that_is_taken_in_by_reference_waits(store: Store):
    made = await start(store)
    partition = partition_of(made.id)
    aside = [brought("fc_aside", "call", "+call_a")]
    await take_turn(store, previous=await take_turn(store, conversation=made), answers=aside)
    await add(store, made, reference("fc_aside"))
    assert (await open_turn(store, conversation=made)).pending == {"call_a"}
    await add(store, made, *outputs(partition, "call_a"))
    assert (await open_turn(store, conversation=made)).pending == frozenset()


async def test_calls_of_a_failed_turn_do_not_wait(store: Store):
    made = await start(store)
    answers = calls(partition_of(made.id), "call_a")
    failed = await take_turn(store, conversation=made, mode=CommitMode.RECORD, answers=answers)
    assert (await open_turn(store, conversation=made)).pending == frozenset()
    assert (await open_turn(store, previous=failed)).pending == frozenset()


async def test_a_call_whose_item_was_deleted_does_not_wait(store: Store):
    made = await start(store)
    response = await take_turn(store, conversation=made, answers=calls(partition_of(made.id), "call_a", "call_b"))
    await store.items.delete(OWNER, made.id, (await ids_in(store, made))[1])
    assert (await open_turn(store, conversation=made, call_ids=["call_a"])).calls == frozenset()
    assert (await open_turn(store, conversation=made)).pending == {"call_b"}
    assert (await open_turn(store, previous=response)).pending == {"call_b"}


async def test_the_answered_calls_that_the_partition_knows_are_told(store: Store):
    made = await start(store)
    await take_turn(store, conversation=made, answers=calls(partition_of(made.id), "call_a", "call_b"))
    opened = await open_turn(store, conversation=made, call_ids=["call_a", "call_x", "call_b"])
    assert opened.calls == {"call_a", "call_b"}
    assert (await open_turn(store, owner=STRANGER, call_ids=["call_a"])).calls == frozenset()


@pytest.mark.parametrize("call_id", ["call 1", " ", "a,b", "+x", "-x", "é☃", "1:2", "tab\there", "a\nb", "x" * 3000])
async def test_a_call_id_may_be_any_text(store: Store, call_id: str):
    made = await start(store)
    partition = partition_of(made.id)
    response = await take_turn(store, conversation=made, answers=calls(partition, call_id, "call_b"))
    opened = await open_turn(store, conversation=made, call_ids=[call_id])
    assert opened.pending == {call_id, "call_b"}
    assert opened.calls == {call_id}
    await take_turn(store, conversation=made, says=outputs(partition, call_id))
    assert (await open_turn(store, conversation=made)).pending == {"call_b"}
    await take_turn(store, previous=response, says=outputs(partition, "call_b"), answers=[])
    assert (await open_turn(store, previous=response)).pending == {call_id, "call_b"}


async def test_a_call_that_may_do_without_an_output_does_not_wait_but_is_known(store: Store):
    made = await start(store)
    partition = partition_of(made.id)
    hosted = minted(partition, "hosted call", "~call_a")
    await take_turn(store, conversation=made, answers=[hosted, *calls(partition, "call_b")])
    opened = await open_turn(store, conversation=made, call_ids=["call_a", "call_b"])
    assert opened.pending == {"call_b"}
    assert opened.calls == {"call_a", "call_b"}
    await store.items.delete(OWNER, made.id, hosted.id)
    assert (await open_turn(store, conversation=made, call_ids=["call_a"])).calls == frozenset()
