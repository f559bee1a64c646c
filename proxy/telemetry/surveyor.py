"""Surveyor: what is looked at from time to time instead of being counted when it happens."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp.web import AppKey

from proxy.runtime.tasks import Tasks

if TYPE_CHECKING:
    from proxy.telemetry.telemetry import Telemetry
    from storage import Store, WaitingJobs

#: Seconds of the timer whose lateness is told.
LAG_SECONDS = 0.1
#: Seconds between two looks at the store's memory and queue.
SURVEY_SECONDS = 30.0

#: What looks, in an application.
SURVEYOR: AppKey[Surveyor] = AppKey("surveyor")

logger = logging.getLogger(__name__)


class Surveyor:
    """Looks at the event loop, at numbers of this process, and at the store. sizes: names of gauges → what they are."""

    def __init__(self, telemetry: Telemetry, store: Store, sizes: Mapping[str, Callable[[], int]]) -> None:
        self._metrics = telemetry.metrics
        self._store = store
        self._sizes = [(getattr(telemetry.metrics, name), size) for name, size in sizes.items()]
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    @asynccontextmanager
    async def running(self, tasks: Tasks) -> AsyncIterator[None]:
        """Look for as long as the context lasts."""
        loop = asyncio.get_running_loop()
        self._due = loop.time()
        self._timer = loop.call_at(self._due, self._tick, loop)
        # a server whose queue can't be counted serves all the same
        try:
            async with tasks.steady("survey of the store", self._survey_later, logger, vital=False):
                yield
        finally:
            self._timer.cancel()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        self._metrics.loop_lag_seconds.observe(max(now - self._due, 0.0))
        for gauge, size in self._sizes:
            gauge.set(float(size()))
        used, limit = self._store.condition.memory
        if used:
            self._metrics.store_memory_bytes.set(float(used), "used")
            self._metrics.store_memory_bytes.set(float(limit), "limit")
        # what was missed is not made up for
        self._due = max(self._due + LAG_SECONDS, now)
        self._timer = loop.call_at(self._due, self._tick, loop)

    async def _survey_later(self) -> None:
        await asyncio.sleep(SURVEY_SECONDS)
        await self.survey()

    async def survey(self) -> WaitingJobs:
        """Count the background responses that wait, and return that. Raises Unavailable."""
        waiting = await self._store.jobs.survey()
        self._metrics.background_waiting.set(float(waiting.jobs))
        self._metrics.background_oldest_seconds.set(max(time.time() - waiting.since, 0.0) if waiting.jobs else 0.0)
        return waiting
