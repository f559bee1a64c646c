"""Intake of a worker: its end of the channel, through which it gets connections and orders."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from proxy.cli.messages import (
    BEGUN,
    CONNECTION,
    JOB,
    LEAVE,
    Answering,
    Load,
    WorkerReport,
    read_entry,
    read_passed,
    write_report,
)
from proxy.runtime.tasks import Tasks

if TYPE_CHECKING:
    from proxy.http.connection import ClientConnection
    from proxy.http.runner import ClientServer
    from storage import JobEntry

#: Orders and connections that are taken before anything else has its turn.
TAKEN_AT_ONCE = 16
#: Seconds between two reports of connections that have ended.
REPORT_SECONDS = 1.0

#: Descriptors that come in are closed in whatever is executed; where the system can't say so, nothing is.
_FLAGS = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

_TOO_MANY_FILES = "a connection is lost: this process has too many open files"

logger = logging.getLogger(__name__)


class Intake:
    """A worker's end of the channel. leave, stop: called when the supervisor says so; stop also when it has died."""

    def __init__(self, channel: socket.socket, *, leave: Callable[[], None], stop: Callable[[], None]) -> None:
        self._channel = channel
        self._leave = leave
        self._stop = stop
        self._adopting: set[asyncio.Task[None]] = set()
        #: What waits for the ends of entries.
        self._running: set[asyncio.Task[None]] = set()
        self._taken = 0
        self._told = Load(0, 0)

    def tell(self, report: WorkerReport) -> None:
        """Send a report; it is lost if the supervisor is gone."""
        try:
            self._channel.send(write_report(report))
        except OSError as exc:
            logger.debug("the supervisor was not told: %s", exc)

    @asynccontextmanager
    async def taking(
        self, server: ClientServer, run: Callable[[JobEntry], Awaitable[None]], tasks: Tasks
    ) -> AsyncIterator[None]:
        """Let `server` answer the connections that come, and `run` the entries, for as long as the context lasts."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel, self._read, server, run)
        try:
            async with tasks.periodic(
                "reports to the supervisor", REPORT_SECONDS, lambda: self._report(server), logger
            ):
                yield
        finally:
            loop.remove_reader(self._channel)
            await asyncio.gather(*self._adopting)

    async def _report(self, server: ClientServer) -> None:
        self._tell_load(server)

    def _read(self, server: ClientServer, run: Callable[[JobEntry], Awaitable[None]]) -> None:
        for _ in range(TAKEN_AT_ONCE):
            try:
                order, descriptors, _, _ = socket.recv_fds(self._channel, 1, 2, _FLAGS)
            except BlockingIOError:
                break
            except OSError:
                order, descriptors = b"", []
            if order == CONNECTION:
                self._take(server, descriptors)
            elif order == BEGUN:
                self._resume(server, descriptors)
            elif order == JOB:
                self._run(run, descriptors)
            elif order == LEAVE:
                self._leave()
            else:
                self._end(order)
                return
        self._tell_load(server)

    def _end(self, order: bytes) -> None:
        asyncio.get_running_loop().remove_reader(self._channel)
        if not order:
            logger.error("the supervisor is gone; stopping")
        self._stop()

    def _take(self, server: ClientServer, descriptors: list[int]) -> None:
        self._taken += 1
        if not descriptors:
            logger.error(_TOO_MANY_FILES)
        for descriptor in descriptors:
            self._adopt(server, descriptor)

    def _resume(self, server: ClientServer, descriptors: list[int]) -> None:
        self._taken += 1
        if len(descriptors) < 2:
            logger.error(_TOO_MANY_FILES)
            for descriptor in descriptors:
                os.close(descriptor)
            return
        connection, received = descriptors
        with os.fdopen(received, "rb") as file:
            # whoever wrote it is at its end
            file.seek(0)
            passed = read_passed(file.readline())
            sent = file.read()
        answering = partial(self.tell, Answering(self._taken))
        self._adopt(lambda: server.resuming(sent, passed, answering), connection)

    def _run(self, run: Callable[[JobEntry], Awaitable[None]], descriptors: list[int]) -> None:
        self._taken += 1
        number = self._taken
        if not descriptors:
            logger.error("a background response is left to others: this process has too many open files")
            self.tell(Answering(number))
            return
        with os.fdopen(descriptors[0], "rb") as file:
            file.seek(0)
            entry = read_entry(file.read())

        async def run_and_tell() -> None:
            await run(entry)
            self.tell(Answering(number))

        task = asyncio.create_task(run_and_tell())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _adopt(self, make: Callable[[], ClientConnection], descriptor: int) -> None:
        task = asyncio.create_task(_adopt(make, descriptor))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    def _tell_load(self, server: ClientServer) -> None:
        load = Load(self._taken, len(server.connections) + len(self._adopting))
        if load != self._told:
            self._told = load
            self.tell(load)


async def _adopt(make: Callable[[], ClientConnection], descriptor: int) -> None:
    """Let a server answer on an accepted connection. make: its side of it."""
    connection = socket.socket(fileno=descriptor)
    try:
        connection.settimeout(0)
        await asyncio.get_running_loop().connect_accepted_socket(make, connection)
    except OSError as exc:
        # the client has gone again
        logger.debug("a connection was lost: %s", exc)
        connection.close()
