"""Crew: the workers of one configuration; one that dies is replaced until the crew is told to leave or to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING

from proxy.cli.messages import Assignment
from proxy.cli.process import StartError, ending
from proxy.cli.worker_process import WorkerProcess

if TYPE_CHECKING:
    import socket

    from proxy.config.settings import Config

#: Seconds of service after which a death is not counted with the ones before it.
STEADY_SERVICE_SECONDS = 30.0
#: Deaths in a row after which nothing is tried any more, if no worker is left that serves.
MAX_DEATHS = 5
#: Seconds before a replacement is started: none the first time, then these, doubled each time.
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Indexes:
    """The numbers of the living workers of all crews: each is the smallest that was free."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def take(self) -> int:
        """Return a number that nobody has."""
        index = next(number for number in count(1) if number not in self._taken)
        self._taken.add(index)
        return index

    def give_back(self, index: int) -> None:
        """Let the next one have a number."""
        self._taken.discard(index)


class Crew:
    """The workers.

    config: theirs. size: how many. give_up: told why, when replacing the dead makes no sense any more. cells: see
    `Assignment`.
    """

    def __init__(
        self, config: Config, size: int, indexes: Indexes, give_up: Callable[[StartError], None], cells: str = ""
    ) -> None:
        self.config = config
        self.size = size
        self._indexes = indexes
        self._give_up = give_up
        self._cells = cells
        self._members: set[WorkerProcess] = set()
        self._keepers: list[asyncio.Task[None]] = []
        self._deaths = 0

    @property
    def has_members(self) -> bool:
        """Whether any worker lives, or is being started."""
        return bool(self._members)

    @property
    def processes(self) -> dict[int, int]:
        """The process of each living worker, and of their bulk workers, by index."""
        members = tuple(self._members)
        bulk = {index: process for worker in members for index, process in worker.bulk_processes.items()}
        return bulk | {worker.index: worker.pid for worker in members}

    async def start(self) -> None:
        """Start all; return when all take connections. Raises StartError, and leaves none running then."""
        hiring = [asyncio.create_task(self._hire()) for _ in range(self.size)]
        try:
            workers = await asyncio.gather(*hiring)
        except BaseException:
            for task in hiring:
                task.cancel()
            await asyncio.gather(*hiring, return_exceptions=True)
            self.kill()
            await self.wait()
            raise
        self._keepers = [asyncio.create_task(self._keep(worker)) for worker in workers]

    def give(self, connection: socket.socket) -> bool:
        """Pass a connection on to the worker that is least busy; return whether one took it."""
        ready = sorted((worker for worker in self._members if worker.is_ready), key=lambda worker: worker.busyness)
        return any(worker.give(connection) for worker in ready)

    def leave(self) -> None:
        """Let all end when what they have open has ended; others take new connections."""
        self._release()
        for worker in self._members:
            worker.leave()

    def stop(self) -> None:
        """Let all stop as on SIGTERM."""
        self._release()
        for worker in self._members:
            worker.stop()

    def kill(self) -> None:
        """End all at once."""
        self._release()
        for worker in self._members:
            worker.kill()

    async def wait(self) -> None:
        """Wait until all have ended."""
        while self._members:
            await asyncio.wait([worker.ended for worker in self._members])

    def _release(self) -> None:
        """Replace nobody any more."""
        for keeper in self._keepers:
            keeper.cancel()

    async def _hire(self) -> WorkerProcess:
        """Start a worker and return it when it is ready. Raises StartError."""
        index = self._indexes.take()
        try:
            worker = await WorkerProcess.spawn(Assignment(index, self.config, self._cells))
        except BaseException:
            self._indexes.give_back(index)
            raise
        self._members.add(worker)
        worker.ended.add_done_callback(lambda _: self._dismiss(worker))
        try:
            await worker.until_ready()
        except BaseException:
            worker.kill()
            raise
        return worker

    def _dismiss(self, worker: WorkerProcess) -> None:
        self._members.discard(worker)
        self._indexes.give_back(worker.index)

    async def _keep(self, worker: WorkerProcess) -> None:
        """See to it that there always is a worker in the place of this one."""
        with suppress(StartError):
            while True:
                code = await asyncio.shield(worker.ended)
                logger.error("%s %s; starting another", worker, ending(code))
                self._count_death(f"{worker} {ending(code)}", worker.served_seconds)
                worker = await self._replacement()

    async def _replacement(self) -> WorkerProcess:
        while True:
            await asyncio.sleep(death_pause(self._deaths))
            try:
                return await self._hire()
            except (StartError, OSError) as exc:
                logger.warning("no worker could be started, trying again: %s", exc)
                self._count_death(str(exc), 0.0)

    def _count_death(self, how: str, served_seconds: float) -> None:
        """Raise StartError, after giving up, for one too many."""
        self._deaths = self._deaths + 1 if served_seconds < STEADY_SERVICE_SECONDS else 1
        if self._deaths >= MAX_DEATHS and not any(worker.is_ready for worker in self._members):
            failure = StartError(f"the workers end again and again, {self._deaths} times in a row; the last: {how}")
            self._give_up(failure)
            raise failure


def death_pause(deaths: int) -> float:
    """Return how long to wait before a replacement is started after so many deaths in a row, in seconds."""
    return min(FIRST_PAUSE_SECONDS * 2 ** (deaths - 2), LONGEST_PAUSE_SECONDS) if deaths > 1 else 0.0
