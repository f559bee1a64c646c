"""Large queue: what is large begins a few at a time, and whose comes next goes round by owner.

There is one only in a process that is for large requests. All that may be large waits there: requests whose bodies have
come, messages of WebSockets, background responses. Each has its turn until it is open, which is when what is left of it
is to wait for the model server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from proxy.http.budget import FairRoom

#: Of them at a time, and seconds that one waits for its turn.
AT_ONCE, TURN_WAIT_SECONDS = 2, 60.0
#: Seconds that one may have its turn for: one that waits, as for a locked branch, holds nobody else up.
LONGEST_TURN_SECONDS = 2.0

#: Where large requests wait for their turn; not set where all are handled that come.
LARGE_QUEUE: web.AppKey[LargeQueue] = web.AppKey("large_queue")


class QueuePlace:
    """A turn of something large; it is over with `leave`, or after `LONGEST_TURN_SECONDS`. Made by `enter`."""

    def __init__(self, room: FairRoom, owner: str) -> None:
        self._room = room
        self._owner = owner
        self._timer = asyncio.get_running_loop().call_later(LONGEST_TURN_SECONDS, self.leave)
        self._is_over = False

    def leave(self) -> None:
        """Let the next one begin; a second call does nothing."""
        if not self._is_over:
            self._is_over = True
            self._timer.cancel()
            self._room.give_back(self._owner, 1)


class LargeQueue:
    """Where what is large waits for its turn. at_once: of them. wait_seconds: that one waits at most."""

    def __init__(self, at_once: int = AT_ONCE, wait_seconds: float = TURN_WAIT_SECONDS) -> None:
        busy = "The server has too much to do with other large requests; please retry."
        self._room = FairRoom(at_once, at_once, wait_seconds, busy)

    async def enter(self, owner: str, wait_seconds: float | None = None) -> QueuePlace:
        """Return a turn, once it is this owner's. wait_seconds: see `FairRoom.take`. Raises ServiceUnavailable."""
        await self._room.take(owner, 1, wait_seconds)
        return QueuePlace(self._room, owner)


@asynccontextmanager
async def large_turn(queue: LargeQueue | None, owner: str) -> AsyncIterator[Callable[[], None]]:
    """Wait for a turn, where there is a queue, and have it for the context's time; gives what ends it before.

    Raises ServiceUnavailable.
    """
    if queue is None:
        yield _nothing
        return
    place = await queue.enter(owner)
    try:
        yield place.leave
    finally:
        place.leave()


def _nothing() -> None:
    pass
