"""Last look: a time is over when what has come meanwhile was dealt with too, however long this process did not run.

The event loop's timers do not wait for that: of what came by then, some has been read, and of that little was done.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds that others on a machine that stood still have, to do what they would have done meanwhile.
SECOND_LOOK_SECONDS = 0.05
#: Rounds of the loop that are left then. A connection takes six from its first packet to whoever waits for it.
LAST_LOOK_ROUNDS = 10


class LastLook:
    """Calls `late`, which takes nothing, some seconds from now and after a last look, unless it is cancelled."""

    __slots__ = ("_handle", "_late", "_loop", "_rounds")

    def __init__(self, seconds: float, late: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._late, self._rounds = late, LAST_LOOK_ROUNDS
        self._handle: asyncio.Handle = self._loop.call_later(seconds, self._wait)

    def cancel(self) -> None:
        """It is not late any more."""
        self._handle.cancel()

    def _wait(self) -> None:
        self._handle = self._loop.call_later(SECOND_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        if self._rounds:
            self._rounds -= 1
            self._handle = self._loop.call_soon(self._look)
        else:
            self._late()
