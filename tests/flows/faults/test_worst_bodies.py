"""While one caller sends the worst bodies that the limits allow, another's turn keeps its lock and its answer."""

from __future__ import annotations

import asyncio
import gzip

from tests.flows.conftest import Proxy, StartProxy
from tests.flows.streams import Stream, answer_after
from tests.flows.talk import items_of, new_conversation

ITEM = b'{"role":"user","content":"a"}'
MANY_ITEMS = b'{"model":"echo","input":[' + b",".join([ITEM] * 2_500) + b"]}"
TOO_MANY_ITEMS = b'{"model":"echo","input":[' + b",".join([ITEM] * 40_000) + b"]}"
MANY_ELEMENTS = b'{"model":"echo","input":"a","tools":[' + b",".join([b"{}"] * 249_000) + b"]}"
TOO_MANY_ELEMENTS = b'{"model":"echo","input":"a","tools":[' + b",".join([b"{}"] * 3_000_000) + b"]}"


async def send(proxy: Proxy, body: bytes) -> int:
    headers = {"Authorization": "Bearer sk-mallory", "Content-Type": "application/json", "Content-Encoding": "gzip"}
    async with proxy.http.post(f"{proxy.url}/v1/responses", data=gzip.compress(body, 1), headers=headers) as answer:
        await answer.read()
        return answer.status


async def test_a_running_turn_of_another_keeps_its_lock_and_its_answer(start_proxy: StartProxy):
    proxy = await start_proxy(turns={"lock_lease_seconds": 2.0})
    conversation = await new_conversation(proxy)
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    async with Stream(proxy, {"conversation": conversation}) as stream:
        await stream.until("response.output_text.delta")
        statuses = [
            await send(proxy, body) for body in (MANY_ITEMS, TOO_MANY_ITEMS, MANY_ELEMENTS, TOO_MANY_ELEMENTS) * 2
        ]
        gate.set()
        await stream.until("response.completed")
    assert [status for status in statuses if status >= 500] == []
    assert statuses[:2] == [200, 400]
    assert [item["role"] for item in await items_of(proxy, conversation)] == ["user", "assistant"]
