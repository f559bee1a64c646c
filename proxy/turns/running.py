"""Running turns: counted, kept alive, and ended when the server stops."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from aiohttp.web import AppKey

from proxy.protocol.errors import ApiError, ServiceUnavailable
from proxy.runtime.tasks import Tasks
from proxy.turns.entrance import Entrance
from proxy.turns.observer import AnsweredBefore
from storage import HeavyHistory, StoreError

if TYPE_CHECKING:
    from proxy.turns.observer import TurnResult
    from proxy.turns.slots import TurnSlots
    from proxy.turns.turn import Turn

logger = logging.getLogger(__name__)

#: Seconds that turns get to write down what they have once they were told to end.
LAST_WORDS_SECONDS = 5.0

#: The turns that are running.
TURNS: AppKey[RunningTurns] = AppKey("turns")


class RunningTurns:
    """Running turns, with one keep-alive task for all of them.

    keepalive_seconds: silence that a stream may have. slots: of which each turn needs one, None for any number.
    """

    def __init__(self, keepalive_seconds: float, slots: TurnSlots | None = None) -> None:
        self._keepalive_seconds = keepalive_seconds
        self._slots = slots
        self._running: set[Turn] = set()
        #: Tasks of turns that nobody waits for.
        self._begun: set[asyncio.Task[TurnResult]] = set()
        #: Set whenever a turn ends.
        self._ended = asyncio.Event()
        self._draining = False
        #: Where streams wait that come all at once.
        self.entrance = Entrance()

    @asynccontextmanager
    async def serving(self, tasks: Tasks) -> AsyncIterator[RunningTurns]:
        """Keep streams alive for as long as the context lasts."""
        async with tasks.periodic("keep-alive of streams", self._keepalive_seconds / 3, self._keep_alive, logger):
            yield self
        if self._slots is not None:
            await self._slots.settle()

    async def run(self, turn: Turn) -> TurnResult:
        """Run a turn to its end, in the caller's task; return how it ended.

        That its client has gone is told by `Turn.leave`, not by cancellation.
        Raises what the turn raises; ServiceUnavailable when the server is stopping.
        """
        if self._draining:
            raise _stopping()
        slot = await self._slots.enter(turn.owner) if self._slots is not None else None
        self._running.add(turn)
        try:
            if self._draining:
                # it has begun to stop meanwhile
                raise _stopping()
            turn.begin()
            return await turn.run()
        except (ApiError, StoreError, AnsweredBefore, HeavyHistory):
            raise
        except Exception as error:
            # A turn whose client has gone has nobody else to tell.
            logger.error("turn ended with an error", exc_info=error)  # noqa: TRY400 (as its own, not of this frame)
            raise
        finally:
            self._running.discard(turn)
            if self._slots is not None and slot is not None:
                self._slots.leave(slot)
            self._ended.set()

    async def run_beside(self, turn: Turn) -> TurnResult:
        """Run a turn in a task of its own, which survives the caller's: its cancellation says that the client has gone.

        Raises as `run` does.
        """
        task = asyncio.create_task(self.run(turn))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            turn.leave()
            # what it raises was told
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    def begin(self, turn: Turn) -> asyncio.Task[TurnResult]:
        """Run a turn in a task of its own that nobody has to wait for. It raises as `run` does."""
        task = asyncio.create_task(self.run(turn))
        self._begun.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[TurnResult]) -> None:
        self._begun.discard(task)
        if not task.cancelled():
            # what it raises was told to whoever still waited
            task.exception()

    def stop(self, owner: str, response_id: str) -> bool:
        """End the turn that makes a response with what it has; return whether it runs here."""
        for turn in self._running:
            if turn.owner == owner and turn.response_id == response_id:
                turn.stop()
                return True
        return False

    async def drain(self, timeout_seconds: float | None) -> None:
        """Refuse new turns, let running ones finish, then end what is left as if its client had gone.

        timeout_seconds: None, for as long as it takes.
        """
        self._draining = True
        if self._running:
            logger.info("waiting for %d running turns", len(self._running))
            await self.settled(timeout_seconds)
        for turn in list(self._running):
            turn.leave(stopping=True)
        await self.settled(LAST_WORDS_SECONDS)

    async def settled(self, timeout_seconds: float | None = None) -> None:
        """Return when no turn runs any more, or after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while self._running:
                    self._ended.clear()
                    await self._ended.wait()

    async def _keep_alive(self) -> None:
        now = time.monotonic()
        for turn in list(self._running):
            turn.watch(now)
            await turn.delivery.keep_alive(self._keepalive_seconds)
        if self._slots is not None:
            await self._slots.keep()


def _stopping() -> ServiceUnavailable:
    return ServiceUnavailable("The server is stopping.", code="server_stopping")
