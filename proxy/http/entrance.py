"""Entrance: turns that are asked for in the same moment begin a few at a time, so that answers pass in between.

An event loop takes what is there before what comes later: of fifty requests that have come together, all would be
checked and sent on before the first answer is looked at, and half of the clients would wait for nearly all beginnings.
"""

from __future__ import annotations

import asyncio
from collections import deque

#: Turns that begin before the loop looks for what else has come. Where many wait, a part of them, so that nobody waits
#: for ever, however much the loop has to do otherwise.
AT_ONCE, PART = 4, 8


class Entrance:
    """Where turns begin, in the order in which they come."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        #: How many have begun since the loop has looked last.
        self._begun = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def wait(self) -> asyncio.Future[None] | None:
        """Return what has to be waited for before a turn begins; None: it can begin at once."""
        if self._begun < AT_ONCE:
            if not self._begun:
                self._loop.call_soon(self._go_on)
            self._begun += 1
            return None
        place = self._loop.create_future()
        self._waiting.append(place)
        return place

    def _go_on(self) -> None:
        waiting, self._begun = self._waiting, 0
        most = max(AT_ONCE, len(waiting) // PART)
        while waiting and self._begun < most:
            place = waiting.popleft()
            # else its client has left
            if not place.done():
                place.set_result(None)
                self._begun += 1
        if self._begun:
            self._loop.call_soon(self._go_on)
