"""Answers that get lost while the store is away: of the store to a commit, and of a turn to a client that left."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from benchmarks.faults.injector import link
from storage import partition_of
from tests.flows.conftest import running_proxy
from tests.flows.talk import answer_when, items_of, new_conversation, post, respond, settled
from tests.storage.servers import free_ports, run_valkey

IMPATIENT: dict[str, Any] = {
    "redis": {"timeout_seconds": 0.3},
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


async def test_an_answer_is_kept_for_a_retry_though_the_store_was_away_when_its_client_left(
    caplog: pytest.LogCaptureFixture,
):
    (port,) = free_ports(1)
    gate = asyncio.Event()
    changes: dict[str, Any] = {"redis": {"timeout_seconds": 0.3}, "turns": {"on_disconnect": "finish"}}
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
