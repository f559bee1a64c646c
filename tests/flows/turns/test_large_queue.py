"""In a process for large requests all that comes waits for its turn: over HTTP, on WebSockets and in the background."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from openai import AsyncOpenAI

from proxy.background.worker import WORKER
from proxy.http.budget import BODY_BUDGET
from proxy.http.handover import LARGE_BODY_BYTES
from proxy.http.queue import LargeQueue, QueuePlace
from proxy.protocol.errors import ServiceUnavailable
from storage.client.keys import queue_key
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.connection import Connection
from tests.proxy.relay.streams import WHOLE
from tests.upstream import HANG, Reply

LARGE = "x" * LARGE_BODY_BYTES
OPEN = {"queued", "in_progress"}
QUEUE = queue_key("branchline")


class Queue(LargeQueue):
    """One place, and a sign of everybody who comes to wait for it."""

    def __init__(self, wait_seconds: float = 60.0) -> None:
        super().__init__(1, wait_seconds)
        self.came = asyncio.Semaphore(0)
        #: Whose turns there were.
        self.owners: list[str] = []

    async def fill(self) -> None:
        """Have another one take the place, for as long as he likes."""
        await self._room.take("another", 1, 5)

    def free(self) -> None:
        """Let others have it."""
        self._room.give_back("another", 1)

    async def enter(self, owner: str, wait_seconds: float | None = None) -> QueuePlace:
        self.came.release()
        place = await super().enter(owner, wait_seconds)
        self.owners.append(owner)
        return place


async def started(start_proxy: StartProxy, queue: Queue, **changes: Any) -> Proxy:
    """A proxy like a bulk worker."""
    proxy = await start_proxy(queue=queue, **changes)
    proxy.app[WORKER].queue = queue
    return proxy


async def submitted(start_proxy: StartProxy, queue: Queue) -> tuple[AsyncOpenAI, Any]:
    """A background response that only whoever has that queue may run, which is full; and a client to ask for it."""
    ordinary = await start_proxy()
    await ordinary.app[WORKER].drain(0)
    await queue.fill()
    client = ordinary.client()
    return client, await client.responses.create(model="echo", input="hi", background=True)


async def ended(client: AsyncOpenAI, response_id: str) -> Any:
    """Poll a response until it is over."""
    async with asyncio.timeout(20):
        while (response := await client.responses.retrieve(response_id)).status in OPEN:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return response


async def test_owners_take_turns_whichever_way_their_requests_come(start_proxy: StartProxy):
    queue = Queue()
    proxy = await started(start_proxy, queue)
    ordinary = await start_proxy()
    await ordinary.app[WORKER].drain(0)
    await queue.fill()
    bob = proxy.client("sk-bob")
    async with Connection(proxy) as connection:
        for lane in ("a1", "a2", "a3"):
            await connection.create(input=lane, stream_id=lane)
            await queue.came.acquire()
        later = await ordinary.client("sk-bob").responses.create(model="echo", input="b1", background=True)
        await queue.came.acquire()
        plain = asyncio.create_task(bob.responses.create(model="echo", input="b2"))
        await queue.came.acquire()
        queue.free()
        assert (await plain).status == "completed"
        assert (await ended(bob, later.id)).status == "completed"
        for _ in range(3):
            await connection.until("response.completed")
    alice, bob_s = queue.owners[:2]
    assert queue.owners == [alice, bob_s, alice, bob_s, alice]
    assert alice != bob_s


@pytest.mark.parametrize("text", ["small", LARGE])
async def test_a_message_that_has_no_turn_in_time_is_refused(start_proxy: StartProxy, text: str):
    queue = Queue(0.05)
    proxy = await started(start_proxy, queue)
    await queue.fill()
    async with Connection(proxy) as connection:
        await connection.create(input=text, stream_id="a")
        told = await connection.next()
        assert (told["type"], told["status"], told["error"]["code"]) == ("error", 503, "server_busy")
        assert told["error"]["headers"] == {"retry-after": "1"}
        queue.free()
        assert (await connection.turn(input=text, stream_id="a"))["status"] == "completed"
        # an answer that takes long holds nobody up, and neither does what is no message
        proxy.upstream.script(Reply.sse([*WHOLE[:4], HANG]))
        await connection.create(input=text)
        await connection.until("response.in_progress")
        await queue.fill()
        queue.free()
        await connection.send(type="no such", input=text)
        await connection.until("error")
        await queue.fill()
        queue.free()


async def test_a_response_in_the_background_waits_for_as_long_as_it_may_be_queued(start_proxy: StartProxy):
    queue = Queue()
    proxy = await started(start_proxy, queue, background={"max_queue_seconds": 0.3})
    client, made = await submitted(start_proxy, queue)
    failed = await ended(client, made.id)
    assert (failed.status, failed.error.code) == ("failed", "server_busy")
    queue.free()
    assert proxy.upstream.requests == []


async def test_nobody_takes_over_one_that_waits(start_proxy: StartProxy):
    queue = Queue()
    proxy = await started(start_proxy, queue, turns={"lock_lease_seconds": 1.0})
    client, made = await submitted(start_proxy, queue)
    await queue.came.acquire()
    assert (await client.responses.retrieve(made.id)).status == "queued"
    longest = 0
    async with asyncio.timeout(5):
        while (idle := await idle_ms(proxy)) >= longest:
            longest = idle
            await asyncio.sleep(0.02)
    assert longest < 1000
    await client.responses.cancel(made.id)
    queue.free()
    async with asyncio.timeout(5):
        while await proxy.redis.xlen(QUEUE):  # noqa: ASYNC110 (another connection: there is no event)
            await asyncio.sleep(0.01)
    assert proxy.upstream.requests == []


async def idle_ms(proxy: Proxy) -> int:
    """For how long nobody has given a sign of life for the entry of the queue."""
    (entry,) = await proxy.redis.xpending_range(QUEUE, "workers", "-", "+", 1)
    return int(entry["time_since_delivered"])


async def test_the_request_of_a_response_in_the_background_has_its_room_until_it_is_over(start_proxy: StartProxy):
    proxy = await started(start_proxy, Queue(), server={"max_held_bytes": 40_000_000})
    client, budget = proxy.client(), proxy.app[BODY_BUDGET]
    go = asyncio.Event()
    proxy.upstream.script(Reply.raw(200, "application/json", chunks=[go, b"{}"]))
    made = await client.responses.create(model="echo", input=LARGE, background=True)
    await proxy.upstream.wait_for_requests(1)
    with pytest.raises(ServiceUnavailable):
        await budget.take(40_000_000 - LARGE_BODY_BYTES, "another", 0.01)
    go.set()
    await ended(client, made.id)
    await budget.take(40_000_000, "another", 5)
