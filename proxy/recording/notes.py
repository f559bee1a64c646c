"""Notes behind the answer: what digests lead to from now on, written in batches, soon after their turns have ended.

They are worked out no earlier: when they are written, or when a request of this process looks something up, whichever
comes first. So a turn's answer does not wait for it, and most is done for many turns at once.

They are hints. What can't be written is kept for later, up to a limit; what is lost is made up for by the next request
of its conversation, whose history is then looked through from further behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from storage import DigestNotes, Unavailable

if TYPE_CHECKING:
    from proxy.recognition.hints import HintMemory
    from proxy.runtime.tasks import Tasks
    from storage import DigestNote, Recognition

logger = logging.getLogger(__name__)

#: Seconds that notes wait for others to be written with; another replica may get the next request at once.
NOTE_SECONDS = 0.035
#: Turns whose notes are written in one round trip, and that may wait; and that are put off, which holds their items.
NOTES_AT_ONCE, MAX_NOTES, MOST_PUT_OFF = 256, 10_000, 64


class NoteQueue:
    """Notes of this process's turns that wait to be written. dropped: those of how many turns were lost.

    memory: is told of all. on_drop: is told of each that is lost.
    """

    def __init__(self, recognition: Recognition, memory: HintMemory, on_drop: Callable[[], object]) -> None:
        self._on_drop = on_drop
        self._recognition = recognition
        self._memory = memory
        memory.behind(self.catch_up)
        self._put_off: list[tuple[str, str, Callable[[], Sequence[DigestNote]]]] = []
        self._waiting: deque[DigestNotes] = deque()
        self._has_some = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.dropped = 0

    def put(self, owner: str, partition: str, make: Callable[[], Sequence[DigestNote]]) -> None:
        """Have notes of a conversation written soon. make: gives them, once, when they are needed."""
        self._put_off.append((owner, partition, make))
        self._has_some.set()
        self._idle.clear()
        if len(self._put_off) >= MOST_PUT_OFF:
            self.catch_up()

    def catch_up(self) -> None:
        """Work out what was put off, and remember it."""
        if not self._put_off:
            return
        put_off, self._put_off = self._put_off, []
        for owner, partition, make in put_off:
            try:
                notes = make()
            except Exception:
                logger.exception("a turn that was recorded can't be noted")
                continue
            if notes:
                self._memory.note(notes)
                self._wait(DigestNotes(owner, partition, notes))

    def _wait(self, notes: DigestNotes) -> None:
        if len(self._waiting) >= MAX_NOTES:
            self._waiting.popleft()
            self.dropped += 1
            self._on_drop()
            if self.dropped == 1:
                logger.warning("the store is behind: some turns will be recognised only by what came before them")
        self._waiting.append(notes)

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
        self.catch_up()
        batch = [self._waiting.popleft() for _ in range(min(NOTES_AT_ONCE, len(self._waiting)))]
        try:
            await self._recognition.note(batch)
        except Unavailable:
            self._waiting.extendleft(reversed(batch))
            raise
        finally:
            if not self._waiting and not self._put_off:
                self._has_some.clear()
                self._idle.set()
