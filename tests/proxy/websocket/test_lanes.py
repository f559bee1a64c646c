"""Lanes without a connection: order, fairness, room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.websocket.lanes import Lanes


class Workshop:
    """Lanes whose jobs begin when they may and end when the test says so."""

    def __init__(self, **limits: int) -> None:
        self.begun: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.gates: dict[str, asyncio.Event] = {}
        self.rested = asyncio.Event()
        self.cancelled: list[str] = []
        bounds: dict[str, Any] = {"max_running": 2, "max_waiting": 100, "max_waiting_bytes": 1000, **limits}
        self.lanes: Lanes[str] = Lanes(self._work, self.rested.set, **bounds)

    def put(self, lane: str, *jobs: str, size: int = 1) -> None:
        for job in jobs:
            self.gates[job] = asyncio.Event()
            self.lanes.put(lane, job, size)

    async def _work(self, lane: str, job: str) -> None:
        self.begun.put_nowait((lane, job))
        try:
            await self.gates[job].wait()
        except asyncio.CancelledError:
            self.cancelled.append(job)
            raise


@pytest.fixture
async def workshop() -> AsyncIterator[Workshop]:
    workshop = Workshop()
    yield workshop
    await workshop.lanes.end()


async def test_a_lane_keeps_its_order_and_others_go_on_beside_it(workshop: Workshop):
    workshop.put("a", "a1", "a2")
    workshop.put("b", "b1", "b2")
    assert [await workshop.begun.get(), await workshop.begun.get()] == [("a", "a1"), ("b", "b1")]
    workshop.gates["b1"].set()
    assert await workshop.begun.get() == ("b", "b2")
    workshop.gates["a1"].set()
    assert await workshop.begun.get() == ("a", "a2")


async def test_a_lane_with_much_to_do_does_not_hold_up_those_that_wait(workshop: Workshop):
    workshop.put("a", "a1", "a2", "a3")
    workshop.put("b", "b1")
    await workshop.begun.get()
    await workshop.begun.get()
    workshop.put("c", "c1")
    await asyncio.sleep(0)
    workshop.gates["a1"].set()
    assert await workshop.begun.get() == ("c", "c1")


async def test_rest_is_when_all_is_done(workshop: Workshop):
    assert workshop.lanes.idle
    workshop.put("a", "a1", "a2")
    workshop.gates["a1"].set()
    await workshop.begun.get()
    await workshop.begun.get()
    assert not workshop.rested.is_set()
    assert not workshop.lanes.idle
    workshop.gates["a2"].set()
    await workshop.rested.wait()
    assert workshop.lanes.idle


@pytest.mark.parametrize(("limits", "size"), [({"max_waiting": 3}, 0), ({"max_waiting_bytes": 30}, 10)])
async def test_there_is_room_until_too_much_waits(limits: dict[str, int], size: int):
    workshop = Workshop(max_running=1, **limits)
    workshop.put("a", "a1", size=size)
    await workshop.begun.get()
    workshop.put("a", "a2", "a3", size=size)
    await workshop.lanes.room()
    workshop.put("b", "b1", size=size)
    waiting = asyncio.create_task(workshop.lanes.room())
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    workshop.gates["a1"].set()
    await waiting
    await workshop.lanes.end()


async def test_the_end_cancels_what_runs_and_drops_what_waits(workshop: Workshop):
    workshop.put("a", "a1", "a2")
    await workshop.begun.get()
    await workshop.lanes.end()
    assert workshop.cancelled == ["a1"]
    assert workshop.begun.empty()
    assert workshop.lanes.idle
