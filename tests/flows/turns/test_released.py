"""What a turn held is given back when it ends, not when the cyclic collector comes: an answer may have 100 MB."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.flows.conftest import Proxy
from tests.flows.talk import new_conversation, respond
from tests.upstream import Reply

TURNS = 4

#: Where what a turn holds is made. A WebSocket's connection is not among it: it is made once, and lives long.
OF_A_TURN = ("proxy.turns", "proxy.relay", "proxy.protocol", "proxy.context", "storage")


@contextmanager
def collected() -> Iterator[list[Any]]:
    """Give what only the cyclic collector could free of all that is made meanwhile."""
    found: list[Any] = []
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        found += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def plain(proxy: Proxy) -> None:
    await respond(proxy, input="hi")


async def in_a_conversation(proxy: Proxy) -> None:
    await respond(proxy, input="hi", conversation=await new_conversation(proxy))


async def streamed(proxy: Proxy) -> None:
    body = {"model": "echo", "input": "hi", "stream": True}
    async with proxy.http.post(f"{proxy.url}/v1/responses", json=body, headers=KEY) as answer:
        assert b"response.completed" in await answer.read()


async def refused(proxy: Proxy) -> None:
    proxy.upstream.script(Reply.json(400, {"error": {"message": "no"}}))
    await respond(proxy, input="hi", expect=400)


async def of_no_use(proxy: Proxy) -> None:
    await respond(proxy, input=[{"role": "user"}], expect=400)


async def on_a_socket(proxy: Proxy) -> None:
    async with proxy.http.ws_connect(f"{proxy.url}/v1/responses", headers=KEY) as socket:
        await socket.send_json({"type": "response.create", "model": "echo", "input": "hi"})
        async with asyncio.timeout(10):
            while (await socket.receive_json())["type"] != "response.completed":
                continue


KEY = {"Authorization": "Bearer sk-alice"}


@pytest.mark.parametrize("turn", [plain, in_a_conversation, streamed, refused, of_no_use, on_a_socket])
async def test_a_turn_leaves_no_circles(proxy: Proxy, turn: Callable[[Proxy], Awaitable[None]]):
    await turn(proxy)
    with collected() as found:
        for _ in range(TURNS):
            await turn(proxy)
        await asyncio.sleep(0)
    assert [one for one in found if type(one).__module__.startswith(OF_A_TURN)] == []
    assert sum(len(one) for one in found if isinstance(one, bytes | bytearray | str)) < 1_000
