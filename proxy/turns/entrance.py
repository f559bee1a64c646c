"""Entrance: streams that are asked for in the same moment begin a few at a time, so that answers pass in between.

An event loop takes what is there before what comes later: of fifty requests that have come together, all would be
checked and sent on before the first answer is looked at, and half of the clients would wait for nearly all beginnings.
Turns that are not streamed have no first byte to wait for, and cost less the more of them are taken in one go.
"""

from __future__ import annotations

import asyncio
from collections import deque

#: Streams that begin before the loop looks for what else has come, as long as none waits; and from when some do, at
#: least so many, or a part of them: however much the loop has to do otherwise, nobody waits for ever.
FREE, AT_LEAST, PART = 16, 4, 8


class Entrance:
    """Where streams begin, in the order in which they come."""

    def __init__(self) -> None:
        #: How many more may begin before the loop looks again, and whether it will.
        self._room = FREE
        self._is_looking = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    def wait(self) -> asyncio.Future[None] | None:
        """Return what has to be waited for before a stream begins; None: it can begin at once."""
        loop = asyncio.get_running_loop()
        if not self._is_looking:
            self._is_looking = True
            loop.call_soon(self._go_on, loop)
        if self._room:
            self._room -= 1
            return None
        place = loop.create_future()
        self._waiting.append(place)
        return place

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting = self._waiting
        if not waiting:
            self._room, self._is_looking = FREE, False
            return
        room = max(AT_LEAST, len(waiting) // PART)
        while waiting and room:
            place = waiting.popleft()
            # else its client has left
            if not place.done():
                place.set_result(None)
                room -= 1
        self._room = room
        loop.call_soon(self._go_on, loop)
