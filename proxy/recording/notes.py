"""Notes behind the answer: what digests lead to from now on, written in batches, soon after their turns have ended.

They are hints. What can't be written is kept for later, up to a limit; what is lost is made up for by the next request
of its conversation, whose history is then looked through from further behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from storage import Unavailable

if TYPE_CHECKING:
    from proxy.runtime.tasks import Tasks
    from storage import DigestNotes, Recognition

logger = logging.getLogger(__name__)

#: Seconds that notes wait for others to be written with; another replica may get the next request at once.
NOTE_SECONDS = 0.035
#: Turns whose notes are written in one round trip, and that may wait.
NOTES_AT_ONCE, MAX_NOTES = 256, 10_000


class NoteQueue:
    """Notes of this process's turns that wait to be written. dropped: those of how many turns were lost.

    on_drop: is told of each.
    """

    def __init__(self, recognition: Recognition, on_drop: Callable[[], object]) -> None:
        self._on_drop = on_drop
        self._recognition = recognition
        self._waiting: deque[DigestNotes] = deque()
        self._has_some = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.dropped = 0

    def put(self, notes: DigestNotes) -> None:
        """Have notes written soon."""
        if len(self._waiting) >= MAX_NOTES:
            self._waiting.popleft()
            self.dropped += 1
            self._on_drop()
            if self.dropped == 1:
                logger.warning("the store is behind: some turns will be recognised only by what came before them")
        self._waiting.append(notes)
        self._has_some.set()
        self._idle.clear()

    def writing(self, tasks: Tasks) -> AbstractAsyncContextManager[None]:
        """Write them while the context lasts."""
        return tasks.steady("notes of recorded turns", self._write, logger, vital=False)

    async def settle(self, seconds: float) -> None:
        """Return when all is written, or after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            logger.warning("notes of %d recorded turns are lost: the store can't be reached", len(self._waiting))

    async def _write(self) -> None:
        await self._has_some.wait()
        await asyncio.sleep(NOTE_SECONDS)
        batch = [self._waiting.popleft() for _ in range(min(NOTES_AT_ONCE, len(self._waiting)))]
        try:
            await self._recognition.note(batch)
        except Unavailable:
            self._waiting.extendleft(reversed(batch))
            raise
        finally:
            if not self._waiting:
                self._has_some.clear()
                self._idle.set()
