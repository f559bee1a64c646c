"""Answers that get lost while the store is away: of the store to a commit, and of a turn to a client that left."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any

import orjson
import pytest
from aiohttp.test_utils import make_mocked_request
from redis.asyncio import Redis

from benchmarks.faults.injector import Link, link
from benchmarks.processes import free_ports
from proxy.http.keys import REQUEST_ID
from proxy.idempotency.keys import IDEMPOTENCY_KEYS, HeldKey
from proxy.idempotency.turns import KeyedAnswer
from proxy.turns.observer import AnsweredBefore
from storage import KeptAnswer, KeyClaim, partition_of
from tests.flows.conftest import Proxy, running_proxy
from tests.flows.talk import Answer, answer_when, items_of, new_conversation, post, respond, settled
from tests.flows.telemetry import counted
from tests.storage.servers import run_valkey

IMPATIENT: dict[str, Any] = {
    "redis": {"timeout_seconds": 1.0},
    "turns": {"commit_retry_seconds": 1.0, "lock_lease_seconds": 1.0},
}


async def test_what_may_have_been_saved_is_not_told_as_not_saved():
    (port,) = free_ports(1)
    gate = asyncio.Event()
    with run_valkey("--port", str(port), "--bind", "127.0.0.1"):
        async with link(port) as way, Redis(port=port) as operator:
            await operator.acl_setuser("app", enabled=True, nopass=True, keys="*", categories=["+@all"])
            url = f"redis://app:any@127.0.0.1:{way.port}"
            async with running_proxy(url, **IMPATIENT) as proxy, asyncio.timeout(20):
                # so that the server knows the scripts: what is asked by name alone is done at once
                await respond(proxy, conversation=await new_conversation(proxy))
                proxy.upstream.script(answer_when(gate, "late"))
                conversation = await new_conversation(proxy)
                body = {"model": "m", "input": "hi", "conversation": conversation}
                turn = asyncio.create_task(proxy.call("POST", "/v1/responses", body))
                await proxy.upstream.wait_for_requests(2)
                way.swallow()
                gate.set()
                while not await operator.keys(f"*:{{{partition_of(conversation)}}}:response:*"):  # noqa: ASYNC110 (another process)
                    await asyncio.sleep(0.01)
                await operator.acl_setuser("app", enabled=True, categories=["-@all"])
                way.restore()
                status, response = await turn
                await operator.acl_setuser("app", enabled=True, categories=["+@all"])
                while (await proxy.call("GET", "/readyz"))[0] != 200:  # noqa: ASYNC110 (found out by asking)
                    await asyncio.sleep(0.05)
                assert (status, response["status"]) == (200, "failed")
                assert response["error"]["message"].startswith("Whether the answer was saved is not known")
                assert len(await items_of(proxy, conversation)) == 2
                assert counted.number(proxy.app, "turns_total", outcome="unsaved") == 1
                assert counted.number(proxy.app, "commit_retries_total") > 0
                assert counted.number(proxy.app, "store_calls_total", script="commit_turn", outcome="unavailable") > 0


async def test_an_answer_is_kept_for_a_retry_though_the_store_was_away_when_its_client_left(
    caplog: pytest.LogCaptureFixture,
):
    (port,) = free_ports(1)
    gate = asyncio.Event()
    changes: dict[str, Any] = {"redis": {"timeout_seconds": 1.0}, "turns": {"on_disconnect": "finish"}}
    with run_valkey("--port", str(port), "--bind", "127.0.0.1"):
        async with link(port) as way, running_proxy(f"redis://127.0.0.1:{way.port}", **changes) as proxy:
            proxy.upstream.script(answer_when(gate, "late"))
            body = {"model": "m", "input": "hi"}
            leaving = asyncio.create_task(post(proxy, "/v1/responses", body, None))
            await proxy.upstream.wait_for_requests(1)
            way.refuse()
            leaving.cancel()
            async with asyncio.timeout(20):
                while "is not noted for its retry" not in caplog.text:  # noqa: ASYNC110 (only the log tells)
                    await asyncio.sleep(0.01)
            way.restore()
            gate.set()
            await settled(proxy)
            headers = {"x-stainless-retry-count": "1"}
            answer = await post(proxy, "/v1/responses", body, None, headers=headers)
            assert (answer.status, answer.replayed) == (200, True)
            assert len(proxy.upstream.requests) == 1


@asynccontextmanager
async def two_replicas() -> AsyncIterator[tuple[Link, Proxy, Proxy, Redis]]:
    """Two replicas on one store: its way to the first, the first, the second, and the store itself."""
    (port,) = free_ports(1)
    # sooner than a retry gives up to wait for what may have been stored
    first: dict[str, Any] = {"redis": {"timeout_seconds": 0.3}, "turns": {"lock_lease_seconds": 60.0}}
    with run_valkey("--port", str(port), "--bind", "127.0.0.1"):
        async with AsyncExitStack() as stack:
            operator = await stack.enter_async_context(Redis(port=port))
            way = await stack.enter_async_context(link(port))
            cut = await stack.enter_async_context(running_proxy(f"redis://127.0.0.1:{way.port}", **first))
            other = await stack.enter_async_context(running_proxy(f"redis://127.0.0.1:{port}"))
            # so that the server knows the scripts: what is asked by name alone is done at once
            await respond(cut, conversation=await new_conversation(cut))
            await stack.enter_async_context(asyncio.timeout(30))
            yield way, cut, other, operator


async def retry(proxy: Proxy, body: Any) -> Answer:
    """Ask again, as a client that waits for its conversation, until it is answered."""
    for number in count(1):
        answer = await post(proxy, "/v1/responses", body, None, headers={"x-stainless-retry-count": str(number)})
        if answer.status == 200:
            return answer
        assert answer.json["error"]["code"] == "conversation_locked"
        await asyncio.sleep(0.05)
    raise AssertionError


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_retry_without_key_is_no_second_turn_though_the_store_failed_when_its_client_left(is_stored: bool):
    """is_stored: the commit was carried out and its answer lost, else it could not even be sent."""
    async with two_replicas() as (way, cut, other, operator):
        conversation, gate = await new_conversation(cut), asyncio.Event()
        cut.upstream.script(answer_when(gate, "late"))
        body = {"model": "m", "input": "hi", "conversation": conversation}
        leaving = asyncio.create_task(post(cut, "/v1/responses", body, None))
        await cut.upstream.wait_for_requests(2)
        way.swallow() if is_stored else way.refuse()
        gate.set()
        if is_stored:
            while not await operator.keys(f"*:{{{partition_of(conversation)}}}:response:*"):  # noqa: ASYNC110 (another process)
                await asyncio.sleep(0.01)
        else:
            while (await cut.call("GET", "/readyz"))[0] == 200:  # noqa: ASYNC110 (found out by asking)
                await asyncio.sleep(0.05)
        leaving.cancel()
        asked = asyncio.create_task(retry(other, body))
        await asyncio.sleep(0.5)
        way.restore()
        answer = await asked
        assert answer.replayed
        assert other.upstream.requests == []
        assert len(await items_of(other, conversation)) == 2


async def test_a_repeat_with_a_key_that_was_taken_over_too_early_gets_the_answer_that_was_stored_since(
    proxy: Proxy,
):
    """The lease of its first holder was over, and that one's commit came just before the branch was free."""
    conversation = await new_conversation(proxy)
    stored = await respond(proxy, conversation=conversation)
    restated = [None, KeptAnswer(200, "application/json", orjson.dumps(stored), stored["id"])]
    keys = proxy.app[IDEMPOTENCY_KEYS]
    owner, name = f"token:{hashlib.sha256(b'sk-alice').hexdigest()}", "f" * 64
    await keys.store.idempotency.claim(KeyClaim(owner, name, "first"), "same", 0.001, 60)
    await keys.store.idempotency.note(KeyClaim(owner, name, "first"), stored["id"], 0.001)

    async def restate(response_id: str) -> KeptAnswer | None:
        assert response_id == stored["id"]
        return restated.pop(0)

    held = await keys.take(owner, name, "same", restate)
    assert isinstance(held, HeldKey)
    request = make_mocked_request("POST", "/v1/responses", app=proxy.app)
    request[REQUEST_ID] = "req_1"
    observer = KeyedAnswer(request, held, None)
    with pytest.raises(AnsweredBefore) as before:
        await observer.identified("resp_2", lambda: False)
    await observer.ended(before.value)
    assert await keys.take(owner, name, "same", restate) == before.value.answer
