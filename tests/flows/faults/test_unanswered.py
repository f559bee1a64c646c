"""Openings of which no answer comes: undone, or said to be unknown; whoever tries again is not in his own way."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.http.keys import STORE
from proxy.runtime import store_watch
from tests.flows.conftest import Proxy, StartProxy, running_proxy
from tests.flows.talk import items_of, new_conversation, until_worker_waits
from tests.storage.lossy import LossyProxy
from tests.storage.servers import run_valkey

#: Of an answer, and of the greeting of the two connections that are tried after it.
LOST_ANSWERS = 3


@pytest.fixture
async def lossy(valkey_url: str) -> AsyncIterator[LossyProxy]:
    async with LossyProxy(Path(valkey_url.removeprefix("unix://"))) as lossy:
        yield lossy


@pytest.fixture
async def proxy(start_proxy: StartProxy, lossy: LossyProxy, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    # nothing else asks the store meanwhile
    monkeypatch.setattr(store_watch, "LOOK_SECONDS", 600.0)
    proxy = await start_proxy(redis={"url": lossy.url, "timeout_seconds": 600.0}, turns={"lock_lease_seconds": 60.0})
    await proxy.app[STORE].condition.look()
    await until_worker_waits(proxy)
    return proxy


async def take(proxy: Proxy, conversation: Any, **body: Any) -> tuple[int, Any]:
    asked = {"model": "m", "input": "hi", "conversation": conversation, **body}
    return await proxy.call("POST", "/v1/responses", asked)


@pytest.mark.parametrize("kind", ["a turn", "a fork", "in the background"])
async def test_an_opening_whose_answer_was_lost_is_undone_before_the_client_is_told(
    proxy: Proxy, lossy: LossyProxy, kind: str
):
    created = await proxy.call("POST", "/v1/conversations", {"items": [{"role": "user", "content": "hello"}]})
    conversation: Any = created[1]["id"]
    if kind == "a fork":
        items = await items_of(proxy, conversation)
        conversation = {"id": conversation, "fork_from": items[0]["id"], "branch": "draft"}
    body = {"background": kind == "in the background"}
    lossy.lose_next_answer(LOST_ANSWERS)
    status, answer = await take(proxy, conversation, **body)
    assert (lossy.lost, status) == (LOST_ANSWERS, 503)
    assert answer["error"]["code"] == "store_unavailable"
    assert answer["error"]["message"] == "The store can't be reached. Nothing was changed; try again."
    assert await proxy.redis.keys("*:lock:*") == []
    assert (await take(proxy, conversation, **body))[0] == 200


async def is_free(proxy: Proxy) -> bool:
    return not await proxy.redis.keys("*:lock:*") and (await proxy.call("GET", "/readyz"))[0] == 200


async def test_what_can_not_be_undone_in_time_is_said_to_be_unknown_and_undone_later():
    settings: dict[str, Any] = {"redis": {"timeout_seconds": 1.0}, "turns": {"lock_lease_seconds": 60.0}}
    with run_valkey() as server:
        async with running_proxy(server.url, **settings) as proxy:
            conversation = await new_conversation(proxy)
            os.kill(server.process.pid, signal.SIGSTOP)
            try:
                status, answer = await take(proxy, conversation)
            finally:
                os.kill(server.process.pid, signal.SIGCONT)
            assert (status, answer["error"]["code"]) == (503, "store_unavailable")
            told = "The store did not answer. Whether this was carried out is not known; try again."
            assert answer["error"]["message"] == told
            async with asyncio.timeout(20):
                while not await is_free(proxy):  # noqa: ASYNC110 (another process)
                    await asyncio.sleep(0.02)
            assert (await take(proxy, conversation))[0] == 200
