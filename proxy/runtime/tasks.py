"""Background tasks and back-off: work that goes on beside other work, and pauses between attempts.

Every task that lives as long as the server does is one of `Tasks`: it belongs to a context, ends with it, and outlives
whatever its work raises. A failure is logged once, counted, told by `/readyz`, and tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from aiohttp.web import AppKey

from storage import Unavailable

Work: TypeAlias = Callable[[], Awaitable[object]]

#: Seconds after a first failure until the next attempt; doubled each time, up to the longer of the work's own pause and
#: the longest one.
FIRST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 1.0


@dataclass
class TaskRecord:
    """How one task fares.

    failures: in all. in_a_row: since its work was last done. cause: of the last, '' if none. is_vital: whether requests
    are better sent elsewhere while it fails.
    """

    failures: int = 0
    in_a_row: int = 0
    cause: str = ""
    is_vital: bool = True


class Tasks:
    """The long-lived tasks of a process. records: by name, also of those that have ended."""

    def __init__(self) -> None:
        self.records: dict[str, TaskRecord] = {}

    @property
    def failing(self) -> list[str]:
        """The names of the tasks whose work was not done when it was last due."""
        return sorted(name for name, record in self.records.items() if record.in_a_row)

    @property
    def fails_vitally(self) -> bool:
        """Whether one of those fails without which requests go wrong."""
        return any(record.in_a_row and record.is_vital for record in self.records.values())

    def periodic(
        self, name: str, seconds: float, work: Work, logger: logging.Logger, *, when: asyncio.Event | None = None
    ) -> AbstractAsyncContextManager[None]:
        """Do `work` while the context lasts, each time `seconds` after the last time has ended, the first included.

        name: what people read of it. when: nothing is due while it is not set. A round that fails is tried again soon.
        """
        return self._running(_Rounds(name, seconds, work, when, self.records.setdefault(name, TaskRecord()), logger))

    def steady(
        self, name: str, work: Work, logger: logging.Logger, *, vital: bool = True
    ) -> AbstractAsyncContextManager[None]:
        """Do `work`, which waits by itself for what there is to do, over and over while the context lasts.

        vital: whether requests are better sent elsewhere while it fails.
        """
        self.records.setdefault(name, TaskRecord(is_vital=vital))
        return self.periodic(name, 0.0, work, logger)

    @asynccontextmanager
    async def _running(self, rounds: _Rounds) -> AsyncIterator[None]:
        task = asyncio.create_task(rounds.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


#: The tasks of an application.
TASKS: AppKey[Tasks] = AppKey("tasks", Tasks)


@dataclass
class _Rounds:
    """One task's work, done again and again."""

    name: str
    seconds: float
    work: Work
    when: asyncio.Event | None
    record: TaskRecord
    logger: logging.Logger

    async def run(self) -> None:
        # asked for each time: work may answer its cancellation with a failure of its own
        while not _is_cancelled():
            if self.when is not None and not self.when.is_set():
                # nothing is due, so nothing fails
                self.record.in_a_row = 0
                await self.when.wait()
            await asyncio.sleep(self._pause())
            try:
                await self.work()
            except asyncio.CancelledError as error:
                if _is_cancelled():
                    raise
                # not this task was cancelled, but something that it waited for
                self._note(error)
            except Exception as error:
                self._note(error)
            else:
                self._recover()

    def _pause(self) -> float:
        if not self.record.in_a_row:
            return self.seconds
        longest = max(self.seconds, LONGEST_RETRY_SECONDS)
        doublings = min(self.record.in_a_row - 1, 32)
        return min(FIRST_RETRY_SECONDS * 2.0**doublings, longest)

    def _note(self, error: BaseException) -> None:
        record = self.record
        cause = f"the store {error.reason.value}" if isinstance(error, Unavailable) else type(error).__name__
        record.failures += 1
        record.in_a_row += 1
        if record.in_a_row > 1 and cause == record.cause:
            return
        record.cause = cause
        if isinstance(error, Unavailable):
            self.logger.warning("%s fails, and is tried again: %s (%s)", self.name, cause, error.subject)
        else:
            self.logger.error("%s fails, and is tried again", self.name, exc_info=error)

    def _recover(self) -> None:
        if self.record.in_a_row:
            self.logger.warning("%s works again, after failing %d times", self.name, self.record.in_a_row)
            self.record.in_a_row = 0


class Backoff:
    """Pauses between attempts: each is `factor` times the last, none is over `longest`, until the time is over.

    first, longest: seconds. give_up_after: seconds from now. cut_last: whether the last pause is cut short, for one
    more attempt when the time is over; otherwise a pause is not begun that would end later than that.
    """

    def __init__(
        self, first: float, longest: float, give_up_after: float, *, factor: float = 2.0, cut_last: bool = False
    ) -> None:
        self._next = first
        self._longest = longest
        self._factor = factor
        self._cut_last = cut_last
        self._end = asyncio.get_running_loop().time() + give_up_after

    async def pause(self) -> bool:
        """Wait for the next attempt and return True; False, at once, when there is no time for another one."""
        left = self._end - asyncio.get_running_loop().time()
        seconds = min(self._next, left) if self._cut_last else self._next
        if left <= 0 or seconds > left:
            return False
        self._next = min(self._next * self._factor, self._longest)
        await asyncio.sleep(seconds)
        return True


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
