"""Background tasks and back-off: work that goes on beside other work, and pauses between attempts.

Every task that lives as long as the server does is one of these: it belongs to a context, ends with it, and outlives
whatever its work raises.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

from storage import Unavailable

Work: TypeAlias = Callable[[], Awaitable[object]]


@asynccontextmanager
async def supervised(
    work: Work, what_fails: str, logger: logging.Logger, *, rest_seconds: float
) -> AsyncIterator[None]:
    """Run `work` in a task of its own while the context lasts; when it fails, begin it anew after `rest_seconds`.

    what_fails: how the log tells of a failure, in one line while the store is away, else with the traceback.
    """
    task = asyncio.create_task(_supervise(work, what_fails, logger, rest_seconds))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def periodic(
    seconds: float,
    work: Work,
    what_fails: str,
    logger: logging.Logger,
    *,
    when: asyncio.Event | None = None,
    rest_seconds: float = 0.0,
) -> AbstractAsyncContextManager[None]:
    """Do `work` while the context lasts, each time `seconds` after the last time has ended, the first time included.

    when: nothing is due while it is not set. A round that fails is logged as `supervised` does, and followed by the
    next one, `rest_seconds` later than usual.
    """

    async def rounds() -> None:
        while True:
            if when is not None:
                await when.wait()
            await asyncio.sleep(seconds)
            await work()

    return supervised(rounds, what_fails, logger, rest_seconds=rest_seconds)


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


async def _supervise(work: Work, what_fails: str, logger: logging.Logger, rest_seconds: float) -> None:
    # asked for each time: work may answer its cancellation with a failure of its own
    while not _is_cancelled():
        try:
            await work()
        except Unavailable as error:
            logger.warning("%s: %s", what_fails, error.subject)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            # not this task was cancelled, but something that it waited for
            logger.exception("%s", what_fails)
        except Exception:
            logger.exception("%s", what_fails)
        else:
            return
        await asyncio.sleep(rest_seconds)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
