"""What happens when an answer of the server is lost: the client sends the call again, and it must not count twice."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from storage import CommitResult, Missing, Store, Unavailable, partition_of
from tests.storage.builders import (
    OWNER,
    add,
    connect,
    finished,
    ids_in,
    list_ids,
    load_all,
    open_turn,
    read_all,
    start,
    take_turn,
)
from tests.storage.lossy import LossyProxy


@pytest.fixture
async def proxy(valkey_url: str, valkey: Redis) -> AsyncIterator[LossyProxy]:
    await load_all(valkey)
    async with LossyProxy(Path(valkey_url.removeprefix("unix://"))) as proxy:
        yield proxy


@pytest.fixture
async def lossy(proxy: LossyProxy) -> AsyncIterator[Store]:
    """A store whose connection is open and may lose an answer."""
    async with connect(proxy.url, max_connections=1) as store:
        await store.condition.look()
        yield store


async def test_a_conversation_whose_answer_got_lost_is_created_once(proxy: LossyProxy, lossy: Store):
    proxy.lose_next_answer()
    made = await start(lossy, "one", "two")
    assert proxy.lost == 1
    assert await read_all(lossy, made) == ["one", "two"]
    assert await list_ids(lossy) == [made.id]


async def test_an_append_whose_answer_got_lost_appends_once(proxy: LossyProxy, lossy: Store):
    made = await start(lossy, "one")
    proxy.lose_next_answer()
    await add(lossy, made, "two", "three")
    assert proxy.lost == 1
    assert await read_all(lossy, made) == ["one", "two", "three"]


async def test_a_turn_whose_answer_got_lost_finds_its_own_lock(proxy: LossyProxy, lossy: Store):
    made = await start(lossy, "one")
    proxy.lose_next_answer()
    opened = await open_turn(lossy, conversation=made)
    assert proxy.lost == 1
    await lossy.turns.commit(finished(opened, partition=partition_of(made.id), conversation=made))
    assert await read_all(lossy, made) == ["one", "question", "answer"]


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "unstored"])
async def test_a_commit_whose_answer_got_lost_counts_once(proxy: LossyProxy, lossy: Store, stored: bool):
    made = await start(lossy, "one")
    opened = await open_turn(lossy, conversation=made)
    commit = finished(opened, partition=partition_of(made.id), conversation=made, stored=stored)
    proxy.lose_next_answer()
    assert (await lossy.turns.commit(commit)).result is CommitResult.REPEATED
    assert proxy.lost == 1
    assert await read_all(lossy, made) == ["one", "question", "answer"]


async def test_a_commit_of_which_nothing_was_heard_can_be_repeated(proxy: LossyProxy, lossy: Store):
    made = await start(lossy, "one")
    opened = await open_turn(lossy, conversation=made)
    commit = finished(opened, partition=partition_of(made.id), conversation=made)
    proxy.lose_next_answer(times=100)
    with pytest.raises(Unavailable):
        await lossy.turns.commit(commit)
    proxy.lose_next_answer(times=0)
    assert (await lossy.turns.commit(commit)).result is CommitResult.REPEATED
    assert await read_all(lossy, made) == ["one", "question", "answer"]


async def test_an_update_whose_answer_got_lost_is_done(proxy: LossyProxy, lossy: Store):
    made = await start(lossy, metadata={"a": "1", "b": "1"})
    proxy.lose_next_answer()
    after = await lossy.conversations.update(OWNER, made.id, {"m:a": None, "m:b": "2"})
    assert proxy.lost == 1
    assert after.metadata == {"b": "2"}


async def test_a_deletion_whose_answer_got_lost_is_done_though_its_repeat_finds_nothing(
    proxy: LossyProxy, lossy: Store
):
    made = await start(lossy, "one", "two")
    response = await take_turn(lossy, conversation=made, says=[], answers=[])
    item_id = (await ids_in(lossy, made))[0]
    for delete in (
        lambda: lossy.items.delete(OWNER, made.id, item_id),
        lambda: lossy.responses.delete(OWNER, response),
    ):
        proxy.lose_next_answer()
        with pytest.raises(Missing):
            await delete()
    assert proxy.lost == 2
    assert await read_all(lossy, made) == ["two"]
    with pytest.raises(Missing):
        await lossy.responses.read(OWNER, response)
