"""Bodies are held to the end of their requests, and not longer."""

from __future__ import annotations

import asyncio

from proxy.http.budget import BODY_BUDGET
from tests.flows.conftest import StartProxy
from tests.upstream import HANG, Reply


async def test_a_request_s_room_is_held_to_its_end(start_proxy: StartProxy):
    proxy = await start_proxy(server={"max_held_bytes": 100_000})
    gate = asyncio.Event()
    proxy.upstream.script(Reply.raw(200, "application/json", chunks=[gate, b'{"output": []}']))
    body = {"model": "m", "store": False, "input": "x" * 90_000}
    first = asyncio.create_task(proxy.call("POST", "/v1/responses", body))
    await proxy.upstream.wait_for_requests(1)
    second = asyncio.create_task(proxy.call("POST", "/v1/responses", body))
    small = await proxy.call("POST", "/v1/responses", {**body, "input": "x"})
    assert small[0] == 200
    assert not second.done()
    gate.set()
    assert [(await one)[0] for one in (first, second)] == [200, 200]
    assert await proxy.app[BODY_BUDGET].take(100_000) == 100_000


async def test_a_client_that_leaves_gives_its_room_back(start_proxy: StartProxy):
    proxy = await start_proxy(server={"max_held_bytes": 100_000})
    proxy.upstream.script(Reply.raw(200, "application/json", chunks=[HANG]))
    body = {"model": "m", "store": False, "input": "x" * 90_000}
    leaving = asyncio.create_task(proxy.call("POST", "/v1/responses", body))
    await proxy.upstream.wait_for_requests(1)
    leaving.cancel()
    assert (await proxy.call("POST", "/v1/responses", body))[0] == 200
