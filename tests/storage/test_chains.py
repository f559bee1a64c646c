import pytest
from redis.asyncio import Redis

from storage import CommitMode, CommitResult, Entry, ResponseNotFound, Store, partition_of
from tests.storage.builders import (
    OWNER,
    STRANGER,
    add,
    brought,
    continue_from,
    finished,
    id_of,
    ids_in,
    input_of,
    open_turn,
    output_of,
    read_all,
    reference,
    start,
    take_turn,
)
from tests.storage.inspection import keys_of


async def segments_of(redis: Redis, some_id: str) -> list[int]:
    """Return the lengths of a partition's segments, in the order they were opened."""
    keys = [key for key in await keys_of(redis, some_id) if ":segment:" in key]
    return [await redis.llen(key) for key in sorted(keys, key=lambda key: int(key.rpartition(":")[2]))]


async def qa(store: Store, number: int, previous: str | None = None) -> str:
    """Take a turn after a response with the question `q<number>` and the answer `a<number>`."""
    return await take_turn(store, previous=previous, says=[f"q{number}"], answers=[f"a{number}"])


async def test_a_chain_has_the_whole_history_at_any_depth(store: Store):
    previous, wanted = None, []
    for i in range(30):
        previous = await qa(store, i, previous)
        wanted += [f"q{i}", f"a{i}"]
        assert await continue_from(store, previous) == wanted
        assert await input_of(store, previous) == wanted[:-1]
        assert await output_of(store, previous) == wanted[-1:]


async def test_all_turns_of_a_chain_share_its_partition_and_its_segment(redis: Redis, store: Store):
    first = await qa(store, 0)
    second = await qa(store, 1, first)
    third = await qa(store, 2, second)
    assert partition_of(first) == partition_of(second) == partition_of(third)
    assert await segments_of(redis, first) == [6]


async def test_a_second_turn_after_the_same_response_opens_a_segment(redis: Redis, store: Store):
    first = await qa(store, 0)
    left = await qa(store, 1, first)
    right = await qa(store, 2, first)
    assert await segments_of(redis, first) == [4, 2]
    assert await continue_from(store, left) == ["q0", "a0", "q1", "a1"]
    assert await continue_from(store, right) == ["q0", "a0", "q2", "a2"]


async def test_two_chains_from_one_response_go_on_independently(redis: Redis, store: Store):
    first = await qa(store, 0)
    left, right = await qa(store, 1, first), await qa(store, 2, first)
    for i in range(3, 9, 2):
        left, right = await qa(store, i, left), await qa(store, i + 1, right)
    assert await continue_from(store, left) == [f"{kind}{i}" for i in (0, 1, 3, 5, 7) for kind in "qa"]
    assert await continue_from(store, right) == [f"{kind}{i}" for i in (0, 2, 4, 6, 8) for kind in "qa"]
    assert await segments_of(redis, first) == [10, 8]


async def test_turns_that_run_at_the_same_time_after_one_response_do_not_mix(store: Store):
    first = await qa(store, 0)
    opened = [await open_turn(store, previous=first) for _ in range(3)]
    commits = [
        finished(one, partition=partition_of(first), says=[f"q{i}"], answers=[f"a{i}"])
        for i, one in enumerate(opened, 1)
    ]
    for commit in commits:
        assert (await store.turns.commit(commit)).result is CommitResult.OK
    for i, commit in enumerate(commits, 1):
        assert await continue_from(store, commit.response_id) == ["q0", "a0", f"q{i}", f"a{i}"]


async def test_a_chain_from_a_conversation_never_writes_into_its_segment(redis: Redis, store: Store):
    made = await start(store, "one")
    response = await take_turn(store, conversation=made)
    aside = await qa(store, 1, response)
    await qa(store, 2, aside)
    assert await segments_of(redis, made.id) == [3, 4]
    assert await read_all(store, made) == ["one", "question", "answer"]


async def test_later_items_of_the_conversation_are_invisible_from_an_earlier_response(store: Store):
    made = await start(store, "one")
    response = await take_turn(store, conversation=made)
    await add(store, made, "later")
    aside = await qa(store, 1, response)
    await take_turn(store, conversation=made, says=["last"], answers=[])
    assert await continue_from(store, response) == ["one", "question", "answer"]
    assert await input_of(store, response) == ["one", "question"]
    assert await continue_from(store, aside) == ["one", "question", "answer", "q1", "a1"]
    assert await read_all(store, made) == ["one", "question", "answer", "later", "last"]


async def test_items_added_during_a_turn_are_not_in_its_responses_history(store: Store):
    made = await start(store, "one")
    opened = await open_turn(store, conversation=made)
    await add(store, made, "meanwhile")
    commit = finished(opened, partition=partition_of(made.id), conversation=made)
    await store.turns.commit(commit)
    assert await continue_from(store, commit.response_id) == ["one", "question", "answer"]
    assert await input_of(store, commit.response_id) == ["one", "question"]


async def test_responses_survive_their_conversation_and_chain_on(redis: Redis, store: Store):
    made = await start(store, "one")
    response = await take_turn(store, conversation=made)
    await store.conversations.delete(OWNER, made.id)
    assert await output_of(store, response) == ["answer"]
    after = await qa(store, 1, await qa(store, 0, response))
    assert await continue_from(store, after) == ["one", "question", "answer", "q0", "a0", "q1", "a1"]
    assert await segments_of(redis, made.id) == [3, 4]


async def test_deleting_a_response_keeps_what_descends_from_it(store: Store):
    first = await qa(store, 0)
    second = await qa(store, 1, first)
    third = await qa(store, 2, second)
    await store.responses.delete(OWNER, second)
    await store.responses.delete(OWNER, first)
    assert await continue_from(store, third) == ["q0", "a0", "q1", "a1", "q2", "a2"]
    for call in (store.responses.read(OWNER, second), continue_from(store, second), input_of(store, second)):
        with pytest.raises(ResponseNotFound):
            await call


async def test_a_response_is_deleted_once_and_by_its_owner_only(store: Store):
    response, other = await qa(store, 0), await qa(store, 1)
    with pytest.raises(ResponseNotFound):
        await store.responses.delete(STRANGER, response)
    assert await output_of(store, response) == ["a0"]
    await store.responses.delete(OWNER, response)
    with pytest.raises(ResponseNotFound) as refused:
        await store.responses.delete(OWNER, response)
    assert refused.value.subject == response
    assert await output_of(store, other) == ["a1"]


async def test_a_foreign_response_is_answered_like_an_unknown_one(store: Store):
    response = await qa(store, 0)
    for owner, response_id in ((STRANGER, response), (OWNER, "resp_unknown")):
        with pytest.raises(ResponseNotFound) as refused:
            await store.responses.read(owner, response_id)
        assert refused.value.subject == response_id


async def test_with_the_last_response_of_a_chain_every_key_goes(redis: Redis, store: Store):
    first = await qa(store, 0)
    responses = [first, await qa(store, 1, first), await qa(store, 2, first)]
    responses.append(await take_turn(store, previous=first, mode=CommitMode.RECORD))
    for response in responses:
        assert await keys_of(redis, first) != []
        await store.responses.delete(OWNER, response)
    assert await keys_of(redis, first) == []


async def test_deleting_the_last_response_of_a_conversation_leaves_the_conversation(store: Store):
    made = await start(store, "one")
    response = await take_turn(store, conversation=made)
    await store.responses.delete(OWNER, response)
    assert await read_all(store, made) == ["one", "question", "answer"]


async def test_turns_that_end_after_their_whole_chain_was_deleted_do_not_mix(store: Store):
    first = await qa(store, 0)
    opened = await open_turn(store, previous=first)
    await store.responses.delete(OWNER, first)
    commits = [finished(opened, partition=partition_of(first), says=[f"q{i}"], answers=[f"a{i}"]) for i in (1, 2)]
    for commit in commits:
        assert (await store.turns.commit(commit)).result is CommitResult.OK
    for i, commit in enumerate(commits, 1):
        assert await continue_from(store, commit.response_id) == [f"q{i}", f"a{i}"]
        assert await input_of(store, commit.response_id) == [f"q{i}"]
        assert await output_of(store, commit.response_id) == [f"a{i}"]
        after = await qa(store, 7, commit.response_id)
        assert await continue_from(store, after) == [f"q{i}", f"a{i}", "q7", "a7"]


async def test_an_item_of_a_chain_that_a_conversation_took_in_stays_though_the_chain_goes_on(
    redis: Redis, store: Store
):
    made = await start(store)
    aside = await qa(store, 1, await take_turn(store, conversation=made))
    await add(store, made, reference(id_of((await store.responses.read(OWNER, aside)).output[0])))
    after = await qa(store, 2, aside)
    assert await redis.ttl(f"test:{{{partition_of(made.id)}}}:segment:1") == -1
    await store.responses.delete(OWNER, after)
    assert await read_all(store, made) == ["question", "answer", "a1"]


async def test_a_turn_on_nothing_that_only_names_items_of_a_partition_goes_on_there(store: Store):
    first = await take_turn(store, says=[brought("msg_mine")])
    opened = await open_turn(store)
    says: list[str | Entry] = [reference(id_of((await store.responses.read(OWNER, first)).output[0])), "new"]
    commit = finished(opened, partition=partition_of(first), says=says)
    await store.turns.commit(commit)
    assert await continue_from(store, commit.response_id) == ["answer", "new", "answer"]
    assert await continue_from(store, first) == ["brought", "answer"]


async def test_forty_forks_deep_the_history_is_still_whole(store: Store):
    previous, wanted = await qa(store, 0), ["q0", "a0"]
    for i in range(1, 40):
        await take_turn(store, previous=previous, says=["other"], answers=[])
        previous = await qa(store, i, previous)
        wanted += [f"q{i}", f"a{i}"]
    assert await continue_from(store, previous) == wanted
    assert await input_of(store, previous) == wanted[:-1]


async def test_a_deleted_item_of_the_conversation_is_missing_in_every_chain(store: Store):
    made = await start(store, "one", "two")
    response = await take_turn(store, conversation=made)
    aside = await qa(store, 1, response)
    await store.items.delete(OWNER, made.id, (await ids_in(store, made))[0])
    assert await continue_from(store, aside) == ["two", "question", "answer", "q1", "a1"]
