"""Plain turns: how few commands they take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from storage import ForkPoint, Store, partition_of
from tests.storage.builders import (
    RETENTION_SECONDS,
    finished,
    load_all,
    open_turn,
    start,
    store_on,
    take_turn,
)
from tests.storage.talks import Talk

#: Commands that Redis does for a turn with one question and one answer: to open it, and to commit it with its listing.
CONVERSATION = (9, 20)
CHAIN = (4, 16)


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


async def test_a_turn_on_an_edited_branch_takes_one_more_for_each_span_that_is_read(valkey_store: Store, count: Count):
    talk = await Talk(valkey_store).begin("u1 a1 u2 a2")
    await talk.turn("u3", "a3", fork=talk.point(ForkPoint.EDIT, "u2", backup="old"))
    for depth in range(4):
        opening, opened = await count(talk.open())
        committing, _ = await count(talk.commit(talk.end(opened)))
        # both spans where nothing is known of them, from then on the end of the second
        assert (opening, committing) == (CONVERSATION[0] + (1 if depth else 2), CONVERSATION[1])
        assert len(opened.items) == 4 + 2 * depth


async def test_a_turn_of_a_chain_takes_few_commands_from_its_first_on(valkey_store: Store, count: Count):
    committing, response = await count(take_turn(valkey_store))
    # that was opened too, from nothing
    assert committing - 1 <= CHAIN[1]
    for depth in range(1, 5):
        opening, opened = await count(open_turn(valkey_store, previous=response))
        commit = finished(opened, partition=partition_of(response))
        committing, _ = await count(valkey_store.turns.commit(commit))
        assert opening == CHAIN[0] + 1
        # within the millisecond of the last commit nothing has to live any longer
        assert committing in (CHAIN[1] - 3, CHAIN[1])
        assert len(opened.items) == 2 * depth
        response = commit.response_id


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
