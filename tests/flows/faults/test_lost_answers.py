"""A commit whose answer was lost and whose repeats are refused: it is not known, and not told as not saved."""

import asyncio
from typing import Any

from redis.asyncio import Redis

from benchmarks.faults.injector import link
from storage import partition_of
from tests.flows.conftest import running_proxy
from tests.flows.talk import answer_when, items_of, new_conversation, respond
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
