"""Running turns: each in a task of its own, kept alive, and ended when its client leaves or the server stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp.web import AppKey

from proxy.protocol.errors import ApiError, ServiceUnavailable
from proxy.runtime.tasks import Tasks
from storage import StoreError

if TYPE_CHECKING:
    from proxy.turns.turn import Turn, TurnResult

logger = logging.getLogger(__name__)

#: Seconds that turns get to write down what they have once they were told to end.
LAST_WORDS_SECONDS = 5.0

#: The turns that are running.
TURNS: AppKey[RunningTurns] = AppKey("turns")


class RunningTurns:
    """Running turns, with one keep-alive task for all of them. keepalive_seconds: silence that a stream may have."""

    def __init__(self, keepalive_seconds: float) -> None:
        self._keepalive_seconds = keepalive_seconds
        self._running: dict[asyncio.Task[TurnResult], Turn] = {}
        self._draining = False

    @asynccontextmanager
    async def serving(self, tasks: Tasks) -> AsyncIterator[RunningTurns]:
        """Keep streams alive for as long as the context lasts."""
        async with tasks.periodic("keep-alive of streams", self._keepalive_seconds / 3, self._keep_alive, logger):
            yield self

    async def run(self, turn: Turn) -> TurnResult:
        """Run a turn to its end in a task of its own, so that it survives its client; return how it ended.

        Raises what the turn raises; ServiceUnavailable when the server is stopping.
        """
        if self._draining:
            raise ServiceUnavailable("The server is stopping.", code="server_stopping")
        turn.begin()
        task = asyncio.create_task(turn.run())
        self._running[task] = turn
        task.add_done_callback(self._done)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            turn.leave()
            raise

    def _done(self, task: asyncio.Task[TurnResult]) -> None:
        del self._running[task]
        # A turn whose client has gone has nobody else to tell.
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, ApiError | StoreError):
            logger.error("turn ended with an error", exc_info=error)

    async def drain(self, timeout_seconds: float | None) -> None:
        """Refuse new turns, let running ones finish, then end what is left as if its client had gone.

        timeout_seconds: None, for as long as it takes.
        """
        self._draining = True
        if self._running:
            logger.info("waiting for %d running turns", len(self._running))
            await asyncio.wait(list(self._running), timeout=timeout_seconds)
        for turn in self._running.values():
            turn.leave(stopping=True)
        if self._running:
            await asyncio.wait(list(self._running), timeout=LAST_WORDS_SECONDS)

    async def _keep_alive(self) -> None:
        for turn in list(self._running.values()):
            await turn.delivery.keep_alive(self._keepalive_seconds)
