"""Bulk workers: processes beside one that serves, for the requests that would hold everybody else up there.

Each is a worker (`proxy.cli.worker`) that listens nowhere and takes no background responses, at a lower priority; it is
started when it is first needed, and again if it has died, after a pause if it died soon. All requests of one caller go
to the same one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING
from zlib import crc32

import msgspec

from proxy.background.worker import WORKER
from proxy.cli.crew import STEADY_SERVICE_SECONDS, death_pause
from proxy.cli.messages import Assignment, write_entry, write_passed
from proxy.cli.process import StartError, ending
from proxy.cli.worker_process import WorkerProcess
from proxy.config.settings import Secret
from proxy.http.handover import HANDOVER
from proxy.runtime.tasks import TASKS, TaskRecord
from storage.embedded import running_in

if TYPE_CHECKING:
    from aiohttp import web

    from proxy.config.settings import Config
    from proxy.http.handover import TakeConnection
    from proxy.http.passed import Passed
    from storage import JobEntry

#: What the index of a bulk worker is more than that of the process beside which it is, for the first, second, ...
FIRST_INDEX = 1000
#: Seconds without taking a connection after which one is killed: it does nothing else for so long.
HUNG_SECONDS = 60.0
#: Seconds after one could not be started until that is tried again.
FAILED_PAUSE = 5.0
#: Seconds beyond `server.shutdown_timeout_seconds` that they get to stop before they are killed: fewer than a
#: supervisor gives to whom they belong to.
LAST_SECONDS = 5.0

logger = logging.getLogger(__name__)


class BulkWorkers:
    """The bulk workers of one process.

    config: of that. index: of that, 0 if it is the only one. cells: see `Assignment`. changed: told of the processes
    that live, by their indexes, when one begins or ends.
    """

    def __init__(
        self,
        config: Config,
        index: int = 0,
        cells: str = "",
        changed: Callable[[Mapping[int, int]], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._size = config.server.bulk_workers
        self._index = index
        self._cells = cells
        self._changed = changed
        self._workers: dict[int, WorkerProcess] = {}
        self._hiring: dict[int, asyncio.Task[WorkerProcess | None]] = {}
        self._failed_at = -FAILED_PAUSE
        #: Deaths in a row, by place.
        self._deaths: Counter[int] = Counter()
        self._record = TaskRecord(is_vital=False)
        self._is_over = False
        self._store_url = ""

    @property
    def processes(self) -> dict[int, int]:
        """The process of each that lives, by index."""
        return {worker.index: worker.pid for worker in tuple(self._workers.values())}

    async def find(self, owner: str) -> TakeConnection | None:
        """Return what takes a request of this owner, once it is there; None if there is nothing that does."""
        worker = await self._find(owner)
        return partial(_give, worker) if worker is not None else None

    async def run(self, entry: JobEntry) -> bool:
        """Have an entry of the queue run, and wait for its end; return False if there is nothing that does."""
        worker = await self._find(entry.owner)
        if worker is None:
            return False
        with _nameless_file() as file:
            _write(file, [write_entry(entry)])
            # one that is given to a worker that dies is taken over when its lease is over
            await worker.give_job(file.fileno())
        return True

    async def _find(self, owner: str) -> WorkerProcess | None:
        place = crc32(owner.encode()) % self._size
        worker = self._workers.get(place)
        if worker is not None and worker.stuck_seconds > HUNG_SECONDS:
            logger.error("%s has not answered for %d s and is killed", worker, HUNG_SECONDS)
            worker.kill()
            await asyncio.wait([worker.ended])
            worker = None
        if worker is None or not worker.is_ready:
            worker = await self._hire_once(place)
        return worker

    async def provide(self, app: web.Application) -> AsyncIterator[None]:
        """Have an application give its requests to them for as long as it runs, and wait for their end (a context)."""
        with ExitStack() as held:
            if self._size and not self._config.redis.url:
                self._store_url = held.enter_context(running_in(Path(self._config.data.dir))) or ""
            if self._size:
                app[HANDOVER] = self
                app[WORKER].elsewhere = self.run
                app[TASKS].records["bulk workers"] = self._record
            yield
            await self._end()

    async def _end(self) -> None:
        self.stop()
        seconds = self._config.server.shutdown_timeout_seconds + LAST_SECONDS
        try:
            async with asyncio.timeout(seconds):
                await self.wait()
        except TimeoutError:
            logger.warning("stopping: bulk workers that have not ended are killed")
            for worker in self._workers.values():
                worker.kill()
            await self.wait()

    def stop(self) -> None:
        """Let all stop as on SIGTERM."""
        self._is_over = True
        for worker in self._workers.values():
            worker.stop()

    def leave(self) -> None:
        """Let all end when what they have open has ended; nothing more is given to them."""
        self._is_over = True
        for worker in self._workers.values():
            worker.leave()

    async def wait(self) -> None:
        """Wait until all have ended."""
        for hiring in self._hiring.values():
            hiring.cancel()
        while self._workers:
            await asyncio.wait([worker.ended for worker in self._workers.values()])

    async def _hire_once(self, place: int) -> WorkerProcess | None:
        """Start the worker of a place, or wait with all others that need it."""
        if self._is_over or time.monotonic() - self._failed_at < FAILED_PAUSE:
            return None
        hiring = self._hiring.get(place)
        if hiring is None:
            hiring = self._hiring[place] = asyncio.create_task(self._hire(place))
            hiring.add_done_callback(lambda _: self._hiring.pop(place))
        await asyncio.wait([hiring])
        return None if hiring.cancelled() else hiring.result()

    async def _hire(self, place: int) -> WorkerProcess | None:
        index = FIRST_INDEX * (place + 1) + self._index
        await asyncio.sleep(death_pause(self._deaths[place]))
        try:
            worker = await WorkerProcess.spawn(
                Assignment(index, _settings(self._config, self._store_url), self._cells, is_bulk=True)
            )
        except StartError as exc:
            self._note_failure(exc)
            return None
        self._workers[place] = worker
        worker.ended.add_done_callback(partial(self._dismiss, place, worker))
        self._changed(self.processes)
        try:
            await worker.until_ready()
        except StartError as exc:
            worker.kill()
            self._note_failure(exc)
            return None
        except BaseException:
            worker.kill()
            raise
        self._record.in_a_row = 0
        return worker

    def _note_failure(self, error: StartError) -> None:
        logger.error("large requests are handled among all others: %s", error)
        self._failed_at = time.monotonic()
        self._record.failures += 1
        self._record.in_a_row += 1

    def _dismiss(self, place: int, worker: WorkerProcess, ended: asyncio.Task[int]) -> None:
        if self._workers.get(place) is worker:
            del self._workers[place]
        if not self._is_over and worker.served_seconds:
            logger.error("%s %s; another is started when it is needed", worker, ending(ended.result()))
            self._deaths[place] = self._deaths[place] + 1 if worker.served_seconds < STEADY_SERVICE_SECONDS else 1
            self._record.failures += 1
            self._record.in_a_row += 1
        self._changed(self.processes)


async def _give(worker: WorkerProcess, connection: int, passed: Passed, received: Sequence[bytes]) -> bool:
    with _nameless_file() as file:
        await asyncio.to_thread(_write, file, [write_passed(passed), *received])
        return await worker.give_begun(connection, file.fileno())


def _nameless_file() -> IO[bytes]:
    """Return a file that is gone when nobody has it open any more, in memory where the system has such."""
    return os.fdopen(os.memfd_create("received"), "w+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()


def _write(file: IO[bytes], pieces: Sequence[bytes]) -> None:
    file.writelines(pieces)
    file.flush()


def _settings(config: Config, url: str) -> Config:
    """Return the settings of a bulk worker: nobody else to give a request to, and the store that is there already.

    url: of the embedded one, '' if there is another.
    """
    server = msgspec.structs.replace(config.server, bulk_workers=0)
    redis = msgspec.structs.replace(config.redis, url=Secret(url)) if url else config.redis
    return msgspec.structs.replace(config, server=server, redis=redis)
