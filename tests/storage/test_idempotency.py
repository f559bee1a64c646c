from __future__ import annotations

from typing import Any

import pytest

from storage import ANYBODY, KeptAnswer, KeyClaim, KeyState, Store, Unavailable
from tests.storage.builders import OWNER, STRANGER, connect

NAME = "ab" * 32
FIRST = KeyClaim(OWNER, NAME, "first")
SECOND = KeyClaim(OWNER, NAME, "second")
ANSWER = KeptAnswer(200, "application/json", b"\xff{}", "resp_1")


async def take(store: Store, claim: KeyClaim, fingerprint: str = "f", lease: float = 10, aside: str = "") -> Any:
    return await store.idempotency.claim(claim, fingerprint, lease, 60, aside=aside)


async def test_the_first_request_holds_the_key_and_the_next_one_does_not(store: Store):
    assert (await take(store, FIRST)).state is KeyState.MINE
    assert (await take(store, FIRST)).state is KeyState.MINE, "a repeat of the call finds its own claim"
    assert (await take(store, SECOND)).state is KeyState.RUNNING
    assert (await take(store, SECOND, "other")).state is KeyState.REUSED


async def test_an_answer_is_given_again_as_it_was(store: Store):
    await take(store, FIRST)
    await store.idempotency.answer(FIRST, ANSWER, 60)
    standing = await take(store, SECOND)
    assert (standing.state, standing.answer) == (KeyState.ANSWERED, ANSWER)
    assert (await take(store, SECOND, "other")).state is KeyState.REUSED


async def test_an_answer_that_was_too_large_is_remembered_without_its_body(store: Store):
    await take(store, FIRST)
    await store.idempotency.note(FIRST, "resp_2", 10)
    await store.idempotency.answer(FIRST, KeptAnswer(200, "text/event-stream", None), 60)
    answer = (await take(store, SECOND)).answer
    assert answer == KeptAnswer(200, "text/event-stream", None, "resp_2")


async def test_the_same_key_of_another_owner_is_another_key(store: Store):
    await take(store, FIRST)
    assert (await take(store, KeyClaim(STRANGER, NAME, "x"), "other")).state is KeyState.MINE


async def test_a_lapsed_key_is_taken_over_by_one_request_only(store: Store):
    await take(store, FIRST, lease=0)
    await store.idempotency.note(FIRST, "resp_9", 0)
    standing = await take(store, SECOND)
    assert (standing.state, standing.holder, standing.response_id) == (KeyState.LAPSED, "first", "resp_9")
    assert (await take(store, SECOND, aside="first")).state is KeyState.MINE
    assert (await take(store, KeyClaim(OWNER, NAME, "third"), aside="first")).state is KeyState.RUNNING


async def test_a_renewed_key_does_not_lapse(store: Store):
    await take(store, FIRST, lease=0)
    await store.idempotency.renew([FIRST], 10)
    assert (await take(store, SECOND)).state is KeyState.RUNNING


async def test_whoever_lost_the_key_can_neither_answer_nor_free_it(store: Store):
    await take(store, FIRST, lease=0)
    await take(store, SECOND, aside="first")
    assert not await store.idempotency.note(FIRST, "resp_1", 10)
    await store.idempotency.answer(FIRST, ANSWER, 60)
    await store.idempotency.free(FIRST)
    assert (await take(store, FIRST)).state is KeyState.RUNNING


async def test_a_freed_key_is_free_and_looking_changes_nothing(redis: Any, store: Store):
    await take(store, FIRST)
    assert (await store.idempotency.look(SECOND, "f")).state is KeyState.RUNNING
    await store.idempotency.free(FIRST)
    assert (await store.idempotency.look(SECOND, "f")).state is KeyState.FREE
    assert await redis.keys("*") == []


async def test_an_answered_key_is_freed_by_nobodys_token_only(store: Store):
    await take(store, FIRST)
    await store.idempotency.free(KeyClaim(OWNER, NAME, ""))
    assert (await store.idempotency.look(SECOND, "f")).state is KeyState.RUNNING
    await store.idempotency.answer(FIRST, ANSWER, 60)
    await store.idempotency.free(KeyClaim(OWNER, NAME, ""))
    assert (await store.idempotency.look(SECOND, "f")).state is KeyState.FREE


async def test_anybody_puts_aside_whatever_is_there(store: Store):
    await take(store, FIRST)
    await store.idempotency.answer(FIRST, ANSWER, 60)
    assert (await take(store, SECOND, "other", aside=ANYBODY)).state is KeyState.MINE
    assert (await take(store, FIRST, "other")).state is KeyState.RUNNING


async def test_a_key_expires_from_its_claim_on_and_anew_from_its_answer(redis: Any, store: Store):
    await store.idempotency.claim(FIRST, "f", 10, 60)
    (key,) = await redis.keys("*")
    assert 55 <= await redis.ttl(key) <= 60
    await store.idempotency.answer(FIRST, ANSWER, 600)
    assert 595 <= await redis.ttl(key) <= 600
    await redis.persist(key)
    assert (await store.auditor.audit()).complaints == [f"{key.decode()} never expires"]
    await redis.expire(key, 60)


async def test_a_store_that_is_not_there_is_unavailable():
    async with connect("redis://127.0.0.1:1") as store:
        with pytest.raises(Unavailable):
            await take(store, FIRST)
        with pytest.raises(Unavailable):
            await store.idempotency.renew([FIRST], 10)
