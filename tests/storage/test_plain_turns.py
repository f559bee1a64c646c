"""Plain turns: how few commands they take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from storage import ForkPoint, Lease, Safeguards, Store, partition_of
from storage.store import Hosting
from tests.fake import channels_to
from tests.storage.builders import (
    OWNER,
    PREFIX,
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
CONVERSATION = (9, 17)
CHAIN = (4, 17)
#: Those for the list of the latest responses.
LISTED = 2


@pytest.fixture
async def count(valkey: Redis) -> Callable[[Awaitable[Any]], Awaitable[tuple[int, Any]]]:
    """Return what counts the commands of a call, those of its scripts too but not those that carry them.

    That the list of the latest responses is cut short, with one response in sixteen, does not count.
    """
    await load_all(valkey)

    async def counted(call: Awaitable[Any]) -> tuple[int, Any]:
        await valkey.config_resetstat()
        answer = await call
        stats: dict[str, dict[str, int]] = await valkey.info("commandstats")
        carriers = ("info", "config", "eval", "multi", "exec", "hello", "client", "zremrangebyrank")
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
        # where a history is there and not known, that it is read is one command; later it tells where the branch ends;
        # the life of the list of responses is given it once
        assert (opening, committing) == (CONVERSATION[0] + (depth == 1), CONVERSATION[1] + (depth == 0))
        assert len(opened.items) == 2 * depth


async def test_a_turn_on_an_edited_branch_takes_one_more_for_each_span_that_is_read(valkey_store: Store, count: Count):
    talk = await Talk(valkey_store).begin("u1 a1 u2 a2")
    await talk.turn("u3", "a3", fork=talk.point(ForkPoint.EDIT, "u2", backup="old"))
    for depth in range(4):
        opening, opened = await count(talk.open())
        committing, _ = await count(talk.commit(talk.end(opened)))
        # both spans where nothing is known of them, from then on the end of the second
        assert (opening, committing) == (CONVERSATION[0] + (0 if depth else 2), CONVERSATION[1])
        assert len(opened.items) == 4 + 2 * depth


async def test_a_turn_of_a_chain_takes_few_commands_from_its_first_on(valkey_store: Store, count: Count):
    committing, response = await count(take_turn(valkey_store))
    # that was opened too, from nothing
    assert committing - 2 <= CHAIN[1]
    for depth in range(1, 5):
        opening, opened = await count(open_turn(valkey_store, previous=response))
        commit = finished(opened, partition=partition_of(response))
        committing, _ = await count(valkey_store.turns.commit(commit))
        assert opening == CHAIN[0] + 1
        # within the millisecond of the last commit nothing has to live any longer
        assert committing in (CHAIN[1] - 3, CHAIN[1])
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
    # what lives long enough, because it was written in the same millisecond, is not given a time
    assert (await count(store.turns.commit(commit)))[0] <= CHAIN[1] - LISTED
    await store.close()


async def test_a_turn_is_listed_by_the_script_that_writes_it(valkey: Redis, valkey_store: Store):
    conversation = await start(valkey_store, title="one", project_id="p", referrer="r")
    await load_all(valkey)
    opened = await open_turn(valkey_store, conversation=conversation)
    commit = finished(opened, partition=partition_of(conversation.id), conversation=conversation)
    await valkey.config_resetstat()
    await valkey_store.turns.commit(commit)
    stats: dict[str, dict[str, int]] = await valkey.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 1
    (listed,) = {
        await valkey.zscore(f"{PREFIX}:owner:{{{OWNER}}}:{name}", conversation.id)
        for name in ("conversations", "project:p", "referrer:r")
    }
    assert (listed or 0) >= (await valkey_store.conversations.read(OWNER, conversation.id)).updated_at


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
        # the first response begins the list of the latest
        assert committing == CONVERSATION[1] + (said == "u1")
    assert (await talk.open()).pending == set()


async def test_a_turn_of_a_conversation_that_expires_is_plain_too(valkey: Redis, count: Count):
    async with store_on(valkey, conversation_seconds=2 * RETENTION_SECONDS) as store:
        conversation = await start(store)
        for depth in range(3):
            opening, opened = await count(open_turn(store, conversation=conversation))
            commit = finished(opened, partition=partition_of(conversation.id), conversation=conversation)
            committing, _ = await count(store.turns.commit(commit))
            # four keys are asked for how long they live, and three are given it where they are new
            assert (opening, committing) == (CONVERSATION[0] + (depth == 1), CONVERSATION[1] + (4 if depth else 8))
