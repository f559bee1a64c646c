"""Lanes: work in order within a lane, lanes beside each other, no more than so many at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

LaneJob = TypeVar("LaneJob")


@dataclass(frozen=True, slots=True)
class Waiting(Generic[LaneJob]):
    """A job in its lane. size: what it takes of `max_waiting_bytes`."""

    job: LaneJob
    size: int


class Lanes(Generic[LaneJob]):
    """Lanes by name. A lane has a task only while there is something to do in it.

    max_running: jobs at a time; of the lanes that wait, the one that has waited longest is next. work: does a job,
    raises nothing. rest: called whenever all is done. max_waiting, max_waiting_bytes: see `room`.
    """

    def __init__(
        self,
        work: Callable[[str, LaneJob], Awaitable[None]],
        rest: Callable[[], None],
        *,
        max_running: int,
        max_waiting: int,
        max_waiting_bytes: int,
    ) -> None:
        self._work = work
        self._rest = rest
        self._slots = asyncio.Semaphore(max_running)
        self._max = (max_waiting, max_waiting_bytes)
        self._count = self._bytes = 0
        self._queues: dict[str, deque[Waiting[LaneJob]]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._taken = asyncio.Event()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._queues

    def put(self, lane: str, job: LaneJob, size: int) -> None:
        """Add a job at the end of its lane."""
        self._count += 1
        self._bytes += size
        if lane in self._queues:
            self._queues[lane].append(Waiting(job, size))
            return
        self._queues[lane] = deque([Waiting(job, size)])
        task = asyncio.create_task(self._run(lane))
        self._tasks[lane] = task
        task.add_done_callback(partial(self._forget, lane))

    def _forget(self, lane: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(lane) is task:
            del self._tasks[lane]

    async def room(self) -> None:
        """Wait until less waits than may."""
        while self._count >= self._max[0] or self._bytes >= self._max[1]:
            self._taken.clear()
            await self._taken.wait()

    async def until_over(self, lanes: Collection[str]) -> None:
        """Wait until there is nothing to do in any of these lanes."""
        while busy := [task for name, task in self._tasks.items() if name in lanes]:
            await asyncio.wait(busy)

    async def end(self) -> None:
        """Cancel what runs, drop what waits."""
        running = list(self._tasks.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._queues.clear()

    async def _run(self, lane: str) -> None:
        queue = self._queues[lane]
        while queue:
            async with self._slots:
                waiting = queue.popleft()
                self._count -= 1
                self._bytes -= waiting.size
                self._taken.set()
                await self._work(lane, waiting.job)
        del self._queues[lane]
        if self.idle:
            self._rest()
