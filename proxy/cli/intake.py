"""Intake of a worker: its end of the channel, through which it gets connections and orders."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from proxy.cli.messages import CONNECTION, LEAVE, Load, WorkerReport, write_report
from proxy.runtime.tasks import Tasks

if TYPE_CHECKING:
    from aiohttp import web

#: Orders and connections that are taken before anything else has its turn.
TAKEN_AT_ONCE = 16
#: Seconds between two reports of connections that have ended.
REPORT_SECONDS = 1.0

#: Descriptors that come in are closed in whatever is executed; where the system can't say so, nothing is.
_FLAGS = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

logger = logging.getLogger(__name__)


class Intake:
    """A worker's end of the channel. leave, stop: called when the supervisor says so; stop also when it has died."""

    def __init__(self, channel: socket.socket, *, leave: Callable[[], None], stop: Callable[[], None]) -> None:
        self._channel = channel
        self._leave = leave
        self._stop = stop
        self._adopting: set[asyncio.Task[None]] = set()
        self._taken = 0
        self._told = Load(0, 0)

    def tell(self, report: WorkerReport) -> None:
        """Send a report; it is lost if the supervisor is gone."""
        try:
            self._channel.send(write_report(report))
        except OSError as exc:
            logger.debug("the supervisor was not told: %s", exc)

    @asynccontextmanager
    async def taking(self, server: web.Server, tasks: Tasks) -> AsyncIterator[None]:
        """Let `server` answer the connections that come for as long as the context lasts."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel, self._read, server)
        try:
            async with tasks.periodic(
                "reports to the supervisor", REPORT_SECONDS, lambda: self._report(server), logger
            ):
                yield
        finally:
            loop.remove_reader(self._channel)
            await asyncio.gather(*self._adopting)

    async def _report(self, server: web.Server) -> None:
        self._tell_load(server)

    def _read(self, server: web.Server) -> None:
        for _ in range(TAKEN_AT_ONCE):
            try:
                order, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1, _FLAGS)
            except BlockingIOError:
                break
            except OSError:
                order, descriptors = b"", []
            if order == CONNECTION:
                self._take(server, descriptors)
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

    def _take(self, server: web.Server, descriptors: list[int]) -> None:
        self._taken += 1
        if not descriptors:
            logger.error("a connection is lost: this process has too many open files")
        for descriptor in descriptors:
            task = asyncio.create_task(_adopt(server, descriptor))
            self._adopting.add(task)
            task.add_done_callback(self._adopting.discard)

    def _tell_load(self, server: web.Server) -> None:
        load = Load(self._taken, len(server.connections) + len(self._adopting))
        if load != self._told:
            self._told = load
            self.tell(load)


async def _adopt(server: web.Server, descriptor: int) -> None:
    """Let the server answer on an accepted connection."""
    connection = socket.socket(fileno=descriptor)
    try:
        connection.settimeout(0)
        await asyncio.get_running_loop().connect_accepted_socket(server, connection)
    except OSError as exc:
        # the client has gone again
        logger.debug("a connection was lost: %s", exc)
        connection.close()
