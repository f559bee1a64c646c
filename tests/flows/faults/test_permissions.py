"""A store that takes rights away for a while: what goes on beside requests fails, is told, and works again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.flows.conftest import Proxy, running_proxy
from tests.flows.streams import Stream, answer_after
from tests.flows.talk import items_of, new_conversation
from tests.storage.servers import run_valkey

LEASE_SECONDS = 1.5


async def readiness(proxy: Proxy) -> dict[str, str]:
    status, told = await proxy.call("GET", "/readyz")
    assert (status == 200) == (told["status"] == "ok")
    answer: dict[str, str] = told
    return answer


async def until_ready_says(proxy: Proxy, *tasks: str) -> dict[str, str]:
    """Wait until these tasks fail, or with none until all is well."""
    async with asyncio.timeout(10):
        while True:
            told = await readiness(proxy)
            if all(task in told["tasks"] for task in tasks) and (tasks or told["status"] == "ok"):
                return told
            await asyncio.sleep(0.05)


async def test_what_fails_for_want_of_a_right_is_told_and_goes_on_when_the_right_is_back(
    caplog: pytest.LogCaptureFixture,
):
    with run_valkey() as server:
        async with Redis.from_url(server.url) as operator:
            await operator.acl_setuser("app", enabled=True, nopass=True, keys="*", categories=["+@all"])
            url = server.url.replace("unix://", "unix://app:any@")
            async with running_proxy(url, turns={"lock_lease_seconds": LEASE_SECONDS}) as proxy:
                await take_rights_away_and_back(proxy, operator)
    lines = [record.getMessage() for record in caplog.records]
    fails = "fails, and is tried again: the store does not let Branchline in, or do this"
    for task in ("renewal of locks", "reading of event logs"):
        assert len([line for line in lines if line.startswith(f"{task} {fails}")]) == 1
        assert len([line for line in lines if line.startswith(f"{task} works again")]) == 1


async def take_rights_away_and_back(proxy: Proxy, operator: Redis) -> None:
    conversation = await new_conversation(proxy)
    gate, other = asyncio.Event(), asyncio.Event()
    proxy.upstream.script(answer_after(gate), answer_after(other))
    async with (
        Stream(proxy, {"conversation": conversation}) as turn,
        Stream(proxy, {"background": True}) as followed,
    ):
        await turn.until("response.output_text.delta")
        await followed.until("response.output_text.delta")
        await operator.acl_setuser("app", categories=["-@all"])
        told = await until_ready_says(proxy, "renewal of locks", "reading of event logs", "writing to the store")
        assert told["store"] == "permission denied"
        await refuses_a_turn(proxy)
        gate.set()
        other.set()
        await operator.acl_setuser("app", categories=["+@all"])
        await turn.until("response.completed")
        await followed.until("response.completed")
        await until_ready_says(proxy)
    assert len(await items_of(proxy, conversation)) == 2


async def refuses_a_turn(proxy: Proxy) -> None:
    """A turn that continues nothing, and so does not ask the store for anything first, is refused all the same."""
    asked = len(proxy.upstream.requests)
    body: dict[str, Any] = {"model": "m", "input": "hi"}
    status, answer = await proxy.call("POST", "/v1/responses", body)
    assert (status, answer["error"]["code"]) == (503, "store_permission_denied")
    assert answer["error"]["message"].endswith("Nothing was changed; try again.")
    assert len(proxy.upstream.requests) == asked
