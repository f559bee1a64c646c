from typing import Any

import pytest
from redis.asyncio import Redis

from storage import (
    CommitMode,
    CommitResult,
    Conflict,
    ConversationNotFound,
    Entry,
    ResponseNotFound,
    Store,
    StoredResponse,
    partition_of,
)
from tests.storage.builders import (
    OWNER,
    STRANGER,
    add,
    brought,
    continue_from,
    finished,
    history_of,
    ids_in,
    input_of,
    list_ids,
    minted,
    open_turn,
    output_of,
    read_all,
    reference,
    start,
    take_turn,
    texts_of_array,
)
from tests.storage.inspection import keys_of


async def everything_in(redis: Any) -> dict[str, object]:
    """Return every key with its value, lifetimes aside."""
    content: dict[str, object] = {}
    for key in sorted(await redis.keys("*")):
        kind = await redis.type(key)
        if kind == b"hash":
            content[key.decode()] = sorted((await redis.hgetall(key)).items())
        elif kind == b"list":
            content[key.decode()] = await redis.lrange(key, 0, -1)
        elif kind == b"string":
            content[key.decode()] = await redis.get(key)
    return content


# Opening


async def test_a_turn_on_nothing_has_no_history(store: Store):
    opened = await open_turn(store)
    assert (opened.history, opened.pending, opened.branch) == (b"", frozenset(), "")


async def test_a_turn_on_a_conversation_has_its_items_as_history(store: Store):
    made = await start(store, "one", "two", project_id="p", referrer="r")
    opened = await open_turn(store, conversation=made)
    assert history_of(opened) == ["one", "two"]
    assert (opened.branch, opened.project_id, opened.referrer) == ("MAIN", "p", "r")


async def test_the_history_is_the_stored_bytes_joined_by_commas(store: Store):
    made = await start(store, "one", "two", "three")
    ids = await ids_in(store, made)
    items = [await store.items.read(OWNER, made.id, item_id) for item_id in ids]
    assert (await open_turn(store, conversation=made)).history == b",".join(items)
    await store.items.delete(OWNER, made.id, ids[1])
    assert (await open_turn(store, conversation=made)).history == items[0] + b"," + items[2]


async def test_ten_thousand_items_of_history_are_complete_and_in_order(store: Store):
    wanted = [str(i) for i in range(10_000)]
    made = await start(store, *wanted)
    assert history_of(await open_turn(store, conversation=made)) == wanted


async def test_an_unknown_previous_response_is_refused(store: Store):
    response = await take_turn(store)
    for previous, owner in (("resp_unknown", OWNER), (response[:-4] + "0000", OWNER), (response, STRANGER)):
        with pytest.raises(ResponseNotFound) as refused:
            await open_turn(store, previous=previous, owner=owner)
        assert refused.value.subject == previous


async def test_opening_a_turn_writes_nothing_but_the_lock_and_who_took_it(redis: Redis, store: Store):
    made = await start(store, "one")
    response = await take_turn(store, conversation=made)
    before = await everything_in(redis)
    await open_turn(store, previous=response)
    assert await everything_in(redis) == before
    await open_turn(store, conversation=made, token="another")
    after = await everything_in(redis)
    assert {key for key in after if after[key] != before.get(key)} == {
        f"test:{{{partition_of(made.id)}}}:{name}" for name in ("branch:0", "lock:0")
    }


# Committing to a conversation


async def test_a_turn_appends_its_input_and_then_its_output(store: Store):
    made = await start(store, "one")
    await take_turn(store, conversation=made, says=["two", "three"], answers=["four", "five"])
    await take_turn(store, conversation=made, says=["six"], answers=["seven"])
    assert await read_all(store, made) == ["one", "two", "three", "four", "five", "six", "seven"]


async def test_a_turns_response_has_its_body_and_output(store: Store):
    made = await start(store, "one")
    opened = await open_turn(store, conversation=made)
    body = b'{"empty":[],"none":{},"text":"\xc3\xa9"}'
    commit = finished(opened, partition=partition_of(made.id), conversation=made, body=body)
    await store.turns.commit(commit)
    stored = await store.responses.read(OWNER, commit.response_id)
    assert stored == StoredResponse(body, [entry.data for entry in commit.outputs])
    assert await input_of(store, commit.response_id) == ["one", "question"]


async def test_a_turn_moves_the_time_of_the_conversation(redis: Redis, store: Store):
    made = await start(store)
    await redis.hset(f"test:{{{partition_of(made.id)}}}:conversation", "updated_at", "1")
    await take_turn(store, conversation=made)
    assert (await store.conversations.read(OWNER, made.id)).updated_at >= made.updated_at


async def test_a_turn_without_items_is_a_turn(store: Store):
    made = await start(store, "one")
    response = await take_turn(store, conversation=made, says=[], answers=[])
    assert await read_all(store, made) == await input_of(store, response) == ["one"]
    assert await output_of(store, response) == []
    alone = await take_turn(store, says=[], answers=[])
    assert await continue_from(store, alone) == await input_of(store, alone) == []


@pytest.mark.parametrize("mode", list(CommitMode))
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "unstored"])
async def test_a_repeated_commit_changes_nothing(redis: Redis, store: Store, mode: CommitMode, stored: bool):
    made = await start(store, "one")
    opened = await open_turn(store, conversation=made)
    commit = finished(opened, partition=partition_of(made.id), conversation=made, mode=mode, stored=stored)
    assert (await store.turns.commit(commit)).result is CommitResult.OK
    before = await everything_in(redis)
    assert (await store.turns.commit(commit)).result is CommitResult.REPEATED
    assert await everything_in(redis) == before


async def test_an_unstored_turn_is_appended_but_leaves_no_response(redis: Redis, store: Store):
    made = await start(store, "one")
    response = await take_turn(store, conversation=made, stored=False)
    assert await read_all(store, made) == ["one", "question", "answer"]
    for call in (store.responses.read(OWNER, response), continue_from(store, response), input_of(store, response)):
        with pytest.raises(ResponseNotFound):
            await call
    assert not [key for key in await keys_of(redis, made.id) if ":response:" in key]


async def test_an_unstored_turn_without_a_conversation_leaves_no_items(redis: Redis, store: Store):
    response = await take_turn(store, stored=False)
    keys = [key.partition("}:")[2] for key in await keys_of(redis, response)]
    assert keys == [f"commit:{response}"]


async def test_a_known_item_in_a_turn_is_the_stored_one_and_is_not_stored_again(redis: Redis, store: Store):
    made = await start(store)
    await take_turn(
        store, previous=await take_turn(store, conversation=made), answers=[brought("msg_aside", "original")]
    )
    says = [brought("msg_aside", "changed"), "new", reference("msg_aside")]
    response = await take_turn(store, conversation=made, says=says)
    assert (await read_all(store, made))[2:] == ["original", "new", "original", "answer"]
    assert (await input_of(store, response))[2:] == ["original", "new", "original"]
    assert "changed" not in str(await everything_in(redis))


async def test_a_reference_whose_item_was_deleted_during_the_turn_is_left_out(store: Store):
    made = await start(store)
    await add(store, made, brought("msg_mine"))
    opened = await open_turn(store, conversation=made)
    await store.items.delete(OWNER, made.id, "msg_mine")
    says: list[str | Entry] = ["before", reference("msg_mine"), "after"]
    await store.turns.commit(finished(opened, partition=partition_of(made.id), conversation=made, says=says))
    assert await read_all(store, made) == ["before", "after", "answer"]


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "unstored"])
async def test_a_turn_on_a_conversation_that_was_deleted_meanwhile_is_not_appended(store: Store, stored: bool):
    made = await start(store, "one")
    opened = await open_turn(store, conversation=made)
    await store.conversations.delete(OWNER, made.id)
    commit = finished(opened, partition=partition_of(made.id), conversation=made, stored=stored)
    assert (await store.turns.commit(commit)).result is CommitResult.DROPPED
    with pytest.raises(ConversationNotFound):
        await read_all(store, made)
    assert await list_ids(store) == []
    if stored:
        assert await output_of(store, commit.response_id) == ["answer"]
        assert await continue_from(store, commit.response_id) == ["one", "question", "answer"]


async def test_a_turn_commits_only_into_its_owners_partition(redis: Redis, store: Store):
    made = await start(store, "one")
    opened = await open_turn(store, conversation=made)
    before = await everything_in(redis)
    for mode in CommitMode:
        with pytest.raises(Conflict):
            await store.turns.commit(
                finished(opened, partition=partition_of(made.id), conversation=made, mode=mode, owner=STRANGER)
            )
    assert await everything_in(redis) == before
    await redis.delete("test:owner:{mallory}:conversations")


@pytest.mark.parametrize("mode", list(CommitMode))
async def test_twenty_thousand_items_are_committed_and_opened_at_once(store: Store, mode: CommitMode):
    made = await start(store)
    says, answers = [f"q{i}" for i in range(10_000)], [f"a{i}" for i in range(10_000)]
    response = await take_turn(store, conversation=made, says=says, answers=answers, mode=mode)
    assert await input_of(store, response) == says
    assert await output_of(store, response) == answers
    if mode is CommitMode.APPEND:
        assert history_of(await open_turn(store, conversation=made)) == says + answers
    assert await continue_from(store, response) == ([] if mode is CommitMode.RECORD else says + answers)


async def test_a_turn_may_name_ten_thousand_ids_and_calls(store: Store):
    made = await start(store)
    ids = await add(store, made, *map(str, range(10_000)))
    opened = await open_turn(store, conversation=made, item_ids=ids, call_ids=[f"call_{i}" for i in range(10_000)])
    assert len(opened.known) == 10_000
    assert texts_of_array(opened.known[ids[-1]].data) == ["9999"]


# Failed turns


@pytest.mark.parametrize("place", ["conversation", "response", "nothing"])
async def test_a_recorded_turn_is_readable_but_nothing_inherits_it(store: Store, place: str):
    made = await start(store, "one")
    first = await take_turn(store, conversation=made, says=["two"], answers=["three"])
    history = [] if place == "nothing" else ["one", "two", "three"]
    failed = await take_turn(
        store,
        conversation=made if place == "conversation" else None,
        previous=first if place == "response" else None,
        mode=CommitMode.RECORD,
        status="failed",
        says=["four"],
        answers=["five"],
    )
    assert await output_of(store, failed) == ["five"]
    assert await input_of(store, failed) == [*history, "four"]
    assert await continue_from(store, failed) == history
    assert await read_all(store, made) == ["one", "two", "three"]
    after = await take_turn(store, previous=failed, says=["six"], answers=["seven"])
    assert await continue_from(store, after) == [*history, "six", "seven"]


async def test_a_recorded_turn_on_a_conversation_gives_the_lock_back(store: Store):
    made = await start(store)
    await take_turn(store, conversation=made, mode=CommitMode.RECORD)
    await open_turn(store, conversation=made, token="another")


async def test_an_item_with_the_clients_id_is_found_by_a_later_turn(store: Store):
    first = await take_turn(store, says=[brought("msg_mine", "original")])
    opened = await open_turn(store, previous=first, item_ids=["msg_mine"])
    assert opened.known["msg_mine"].in_history
    await take_turn(store, previous=first, says=[minted(partition_of(first), "more"), brought("msg_mine", "changed")])
    assert (await continue_from(store, first)) == ["original", "answer"]


@pytest.mark.parametrize("branch", ["", "MAIN"])
async def test_of_two_turns_of_which_a_failover_forgot_the_first_one_is_stored(redis: Redis, store: Store, branch: str):
    conversation = await start(store, "one")
    partition = partition_of(conversation.id)
    keys = [f"test:{{{partition}}}:{name}" for name in ("branch:0", "lock:0")]
    before: dict[Any, Any] = await redis.hgetall(keys[0])
    first = await open_turn(store, conversation=conversation, token="first", branch=branch)
    # a replica takes the primary's place that does not have this yet
    await redis.delete(*keys)
    await redis.hset(keys[0], mapping=before)
    second = await open_turn(store, conversation=conversation, token="second", branch=branch)
    assert first.lock == second.lock
    ends = [
        finished(opened, partition=partition, conversation=conversation, token=token)
        for opened, token in ((second, "second"), (first, "first"))
    ]
    await store.turns.commit(ends[0])
    with pytest.raises(Conflict):
        await store.turns.commit(ends[1])


async def test_a_turn_whose_lock_ran_out_is_stored_if_nobody_came_in_between(redis: Redis, store: Store):
    conversation = await start(store, "one")
    partition = partition_of(conversation.id)
    opened = await open_turn(store, conversation=conversation)
    await redis.delete(f"test:{{{partition}}}:lock:0")
    await store.turns.commit(finished(opened, partition=partition, conversation=conversation))
    await take_turn(store, conversation=conversation)
