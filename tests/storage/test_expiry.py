import pytest
from redis.asyncio import Redis

from storage import CommitMode, Store, partition_of
from tests.storage.builders import (
    OWNER,
    RETENTION_SECONDS,
    add,
    continue_from,
    finished,
    id_of,
    open_turn,
    output_of,
    read_all,
    reference,
    start,
    store_on,
    take_turn,
)
from tests.storage.inspection import find_leaks, keys_of

ALMOST = RETENTION_SECONDS - 5


async def age(redis: Redis, some_id: str, seconds: int) -> None:
    """Make every expiring key of a partition as old as if `seconds` had passed."""
    for key in await keys_of(redis, some_id):
        milliseconds = await redis.pttl(key)
        if milliseconds > 0:
            await redis.pexpire(key, milliseconds - seconds * 1000)


async def lives_in(redis: Redis, some_id: str) -> dict[str, int]:
    """Return how many seconds each key of a partition has to live, by its last name; -1 for ever."""
    return {key.partition("}:")[2]: await redis.ttl(key) for key in await keys_of(redis, some_id)}


# The inspection that every test ends with


async def test_the_inspection_finds_a_key_that_never_expires(redis: Redis, store: Store):
    response = await take_turn(store)
    await redis.persist(f"test:{{{partition_of(response)}}}:response:{response}")
    assert any("never expires" in complaint for complaint in await find_leaks(redis))
    await redis.flushall()


@pytest.mark.parametrize("name", ["index", "partition", "segment:0"])
async def test_the_inspection_finds_a_response_that_outlives_what_it_needs(redis: Redis, store: Store, name: str):
    response = await take_turn(store)
    await redis.expire(f"test:{{{partition_of(response)}}}:{name}", 1_000)
    assert await find_leaks(redis) == [f"{partition_of(response)}: response:{response} lives longer than {name}"]
    await redis.flushall()


async def test_the_inspection_finds_a_conversation_whose_partition_goes_before_it(redis: Redis, store: Store):
    made = await start(store)
    await redis.expire(f"test:{{{partition_of(made.id)}}}:partition", 1_000)
    assert f"{partition_of(made.id)}: conversation never expires" in await find_leaks(redis)
    await redis.flushall()


@pytest.mark.parametrize("name", ["index", "conversation", "branches", "segment:0"])
async def test_the_inspection_finds_a_living_conversation_that_expires(redis: Redis, store: Store, name: str):
    made = await start(store, "one")
    await redis.expire(f"test:{{{partition_of(made.id)}}}:{name}", 1_000)
    assert f"{partition_of(made.id)}: {name} expires although the conversation lives" in await find_leaks(redis)
    await redis.flushall()


async def test_the_inspection_finds_listings_that_are_wrong_and_foreign_keys(redis: Redis, store: Store):
    made = await start(store)
    await redis.delete("test:owner:{alice}:conversations")
    await redis.zadd("test:owner:{mallory}:conversations", {made.id: 1})
    await redis.set("another", 1)
    assert len(await find_leaks(redis)) == 3
    await redis.flushall()


# Chains


async def test_all_keys_of_a_chain_expire_with_it(redis: Redis, store: Store):
    response = await take_turn(store)
    lives = await lives_in(redis, response)
    assert set(lives) == {"partition", "index", "segment:0", f"response:{response}"}
    assert all(ALMOST <= seconds <= RETENTION_SECONDS for seconds in lives.values())


async def test_a_turn_keeps_what_it_continues_from_alive(redis: Redis, store: Store):
    first = await take_turn(store)
    await age(redis, first, RETENTION_SECONDS // 4)
    second = await take_turn(store, previous=first)
    lives = await lives_in(redis, first)
    assert lives.pop(f"response:{first}") <= RETENTION_SECONDS * 3 // 4
    assert set(lives) == {"partition", "index", "segment:0", f"response:{second}"}
    assert all(seconds >= ALMOST for seconds in lives.values())


async def test_a_response_near_its_end_lives_on_when_a_turn_is_opened_on_it(redis: Redis, store: Store):
    first = await take_turn(store)
    await age(redis, first, RETENTION_SECONDS * 3 // 4)
    await open_turn(store, previous=first)
    assert all(seconds >= ALMOST for seconds in (await lives_in(redis, first)).values())


async def test_a_failed_response_near_its_end_lives_on_with_its_own_items(redis: Redis, store: Store):
    first = await take_turn(store)
    failed = await take_turn(store, previous=first, mode=CommitMode.RECORD, says=["asked"], answers=["partial"])
    await age(redis, first, RETENTION_SECONDS * 3 // 4)
    await open_turn(store, previous=failed)
    assert await find_leaks(redis) == []
    assert (await lives_in(redis, first))["segment:1"] >= ALMOST
    assert await output_of(store, failed) == ["partial"]


async def test_an_aside_keeps_all_segments_alive_that_its_history_lies_in(redis: Redis, store: Store):
    first = await take_turn(store)
    left = await take_turn(store, previous=first)
    right = await take_turn(store, previous=first)
    await age(redis, first, RETENTION_SECONDS // 4)
    after = await take_turn(store, previous=right)
    lives = await lives_in(redis, first)
    assert min(lives[name] for name in ("segment:0", "segment:1", f"response:{after}")) >= ALMOST
    assert lives[f"response:{left}"] < ALMOST


@pytest.mark.parametrize("mode", [CommitMode.CHAIN, CommitMode.RECORD])
async def test_markers_and_responses_expire_in_any_mode(redis: Redis, store: Store, mode: CommitMode):
    await take_turn(store, mode=mode)
    await take_turn(store, mode=mode, stored=False)
    assert await find_leaks(redis) == []


async def test_a_shorter_retention_does_not_shorten_the_life_of_what_is_there(redis: Redis, store: Store):
    first = await take_turn(store)
    made = await start(store, "one")
    response = await take_turn(store, conversation=made)
    async with store_on(redis, retention_seconds=1_000) as short:
        second = await take_turn(short, previous=first)
        await open_turn(short, previous=first)
        await take_turn(short, previous=response)
    assert await find_leaks(redis) == []
    lives = await lives_in(redis, first)
    assert lives["segment:0"] >= ALMOST
    assert lives[f"response:{second}"] <= 1_000


async def test_a_longer_retention_lengthens_the_life_of_what_a_turn_uses(redis: Redis, store: Store):
    async with store_on(redis, retention_seconds=1_000) as short:
        first = await take_turn(short)
    second = await take_turn(store, previous=first)
    assert (await lives_in(redis, first))[f"response:{second}"] >= ALMOST


# Conversations


async def test_a_conversation_lives_for_ever_and_its_responses_do_not(redis: Redis, store: Store):
    made = await start(store, "one")
    response = await take_turn(store, conversation=made)
    lives = await lives_in(redis, made.id)
    assert lives.pop(f"response:{response}") >= ALMOST
    lasting = ["partition", "conversation", "branches", "branch:0", "journal", "index", "segment:0"]
    assert lives == dict.fromkeys(lasting, -1)


async def test_a_conversation_keeps_its_items_when_its_responses_expire(redis: Redis, store: Store):
    made = await start(store, "one")
    response = await take_turn(store, conversation=made)
    await redis.delete(f"test:{{{partition_of(made.id)}}}:response:{response}")
    assert await read_all(store, made) == ["one", "question", "answer"]


async def test_an_aside_of_a_conversation_expires_by_itself(redis: Redis, store: Store):
    made = await start(store, "one")
    await take_turn(store, previous=await take_turn(store, conversation=made))
    lives = await lives_in(redis, made.id)
    assert lives["segment:0"] == -1
    assert lives["segment:1"] >= ALMOST


@pytest.mark.parametrize("how", ["append", "turn"])
async def test_an_item_that_a_conversation_takes_in_from_an_aside_stays_for_ever(redis: Redis, store: Store, how: str):
    made = await start(store)
    aside = await take_turn(store, previous=await take_turn(store, conversation=made), answers=["aside"])
    taken = reference(id_of((await store.responses.read(OWNER, aside)).output[0]))
    if how == "append":
        await add(store, made, taken)
    else:
        await take_turn(store, conversation=made, says=[taken], answers=[])
    assert (await lives_in(redis, made.id))["segment:1"] == -1
    await take_turn(store, previous=aside)
    assert (await lives_in(redis, made.id))["segment:1"] == -1


async def test_a_response_of_a_deleted_conversation_keeps_its_history_as_long_as_it_lives(redis: Redis, store: Store):
    made = await start(store, "one")
    response = await take_turn(store, conversation=made)
    await store.conversations.delete(OWNER, made.id)
    await age(redis, made.id, RETENTION_SECONDS * 3 // 4)
    assert await continue_from(store, response) == ["one", "question", "answer"]
    lives = await lives_in(redis, made.id)
    # of use to a living conversation only
    assert 0 < lives.pop("journal") < ALMOST
    assert all(seconds >= ALMOST for seconds in lives.values())


async def test_a_turn_that_was_dropped_expires_like_a_chain(redis: Redis, store: Store):
    made = await start(store, "one")
    opened = await open_turn(store, conversation=made)
    await store.conversations.delete(OWNER, made.id)
    await age(redis, made.id, RETENTION_SECONDS // 2)
    await store.turns.commit(finished(opened, partition=partition_of(made.id), conversation=made))
    assert await find_leaks(redis) == []


async def test_the_marker_of_an_append_is_gone_after_two_minutes(redis: Redis, store: Store):
    made = await start(store)
    await add(store, made, "one")
    markers = [seconds for name, seconds in (await lives_in(redis, made.id)).items() if name.startswith("commit:")]
    assert len(markers) == 1
    assert 110 <= markers[0] <= 120
