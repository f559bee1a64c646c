"""Body budget: how many bytes of request bodies this process holds at a time; who comes when it is spent waits."""

from __future__ import annotations

import asyncio
from collections import deque

from aiohttp import web

from proxy.protocol.errors import ServiceUnavailable

#: Seconds that a request waits for room.
WAIT_SECONDS = 10.0
#: Bodies below this many bytes need no room: as many as there are connections are no matter.
FREE_BYTES = 16 * 1024

#: The budget of all requests.
BODY_BUDGET: web.AppKey[BodyBudget] = web.AppKey("body_budget")


class BodyBudget:
    """Room for bodies. total_bytes: of all of them; a single one that is larger takes all there is.

    repairing: is held by the one large body that is repaired at a time, because more would take the processor from
    everybody.
    """

    def __init__(self, total_bytes: int, *, wait_seconds: float = WAIT_SECONDS) -> None:
        self._total = self._left = total_bytes
        self._wait_seconds = wait_seconds
        self.repairing = asyncio.Lock()
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> int:
        """Take room for `size` bytes, in the order of coming; return what has to be given back.

        Raises ServiceUnavailable when there was none in time.
        """
        if size < FREE_BYTES:
            return 0
        size = min(size, self._total)
        if self._waiting or size > self._left:
            await self._wait(size)
        else:
            self._left -= size
        return size

    def give_back(self, size: int) -> None:
        """Give room back."""
        self._left += size
        while self._waiting and self._waiting[0][0] <= self._left:
            wanted, turn = self._waiting.popleft()
            if not turn.done():
                self._left -= wanted
                turn.set_result(None)

    async def _wait(self, size: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = size, turn
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout(self._wait_seconds):
                await turn
        except BaseException as exc:
            if turn.done() and not turn.cancelled():
                self.give_back(size)
            elif waiting in self._waiting:
                self._waiting.remove(waiting)
                # those behind it may need less
                self.give_back(0)
            if isinstance(exc, TimeoutError):
                message = "The server has too much to do with other requests' bodies; please retry."
                raise ServiceUnavailable(message, code="server_busy") from None
            raise
