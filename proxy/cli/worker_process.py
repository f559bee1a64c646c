"""Worker process: one worker as its supervisor sees it, from its start to its end."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from contextlib import suppress

from proxy.cli.messages import (
    BEGUN,
    CHANNEL_VARIABLE,
    CONNECTION,
    JOB,
    LEAVE,
    STOP,
    Answering,
    Assignment,
    BulkProcesses,
    Failed,
    Load,
    Ready,
    read_report,
    write_assignment,
)
from proxy.cli.process import StartError, ending

#: Seconds after which a worker that does not say that it is ready has failed.
READY_SECONDS = 60.0
#: Seconds without taking a connection after which a worker is given no more, if there are others.
STUCK_SECONDS = 1.0
#: Bytes of reports that are read at a time.
READ_BYTES = 65_536

logger = logging.getLogger(__name__)


class WorkerProcess:
    """A worker. Made by `spawn`.

    index: its number from 1, which no other living worker has. ended: how it ended, as an exit code, once it has.
    """

    def __init__(self, assignment: Assignment, process: Process, channel: socket.socket) -> None:
        self.index = assignment.index
        self._kind = "bulk worker" if assignment.is_bulk else "worker"
        #: The bulk workers that it has, by their indexes.
        self.bulk_processes: Mapping[int, int] = {}
        self._process = process
        self._channel = channel
        self._unread = b""
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ready_at = 0.0
        self._given = 0
        #: Since when the longest waiting of the connections that it was given waits to be taken, about.
        self._waits_since = math.inf
        self._load = Load(0, 0)
        #: The requests that were passed on and are not answered yet, by their numbers.
        self._unanswered: dict[int, asyncio.Future[bool]] = {}
        asyncio.get_running_loop().add_reader(channel, self._read)
        self.ended = asyncio.create_task(self._watch())

    @classmethod
    async def spawn(cls, assignment: Assignment) -> WorkerProcess:
        """Start a worker. Raises StartError if the system does not let it."""
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        try:
            with theirs:
                process = await _execute(theirs.fileno())
        except OSError as exc:
            ours.close()
            raise StartError(f"no worker can be started: {exc.strerror}") from exc
        except BaseException:
            ours.close()
            raise
        worker = cls(assignment, process, ours)
        try:
            await _hand_in(process, write_assignment(assignment))
        except BaseException:
            worker.kill()
            raise
        return worker

    def __str__(self) -> str:
        return f"{self._kind} {self.index} (process {self._process.pid})"

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def is_ready(self) -> bool:
        """Whether it takes connections."""
        return self._ready_at > 0 and not self.ended.done()

    @property
    def served_seconds(self) -> float:
        """For how long it has taken connections."""
        return time.monotonic() - self._ready_at if self._ready_at else 0.0

    @property
    def stuck_seconds(self) -> float:
        """For how long it has not taken a connection that it was given."""
        return max(0.0, time.monotonic() - self._waits_since)

    @property
    def busyness(self) -> tuple[bool, int]:
        """The worker with the least gets the next connection: whether it takes none at all, and how many it has."""
        return self.stuck_seconds > STUCK_SECONDS, self._given - self._load.taken + self._load.open

    async def until_ready(self) -> None:
        """Wait until it takes connections. Raises StartError: it ended, said why it can't, or took too long."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                await asyncio.shield(self._ready)
        except TimeoutError:
            raise StartError(f"{self} was not ready within {READY_SECONDS:.0f} s") from None

    def give(self, connection: socket.socket) -> bool:
        """Pass a connection on, which the caller then closes; return whether that was possible."""
        return self._send(CONNECTION, [connection.fileno()])

    async def give_begun(self, connection: int, received: int) -> bool:
        """Pass a connection on that a request has begun on. received: the descriptor of a file with what has come.

        Returns True once it is being answered, or its client has left; False if it was not passed on, or will not be
        answered, because the worker has ended.
        """
        return await self._give(BEGUN, [connection, received])

    async def give_job(self, entry: int) -> bool:
        """Have an entry run, and wait for its end. entry: the descriptor of a file with it. Returns as `give_begun`."""
        return await self._give(JOB, [entry])

    async def _give(self, order: bytes, descriptors: list[int]) -> bool:
        if not self._send(order, descriptors):
            return False
        number = self._given
        answering: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._unanswered[number] = answering
        try:
            return await answering
        finally:
            del self._unanswered[number]

    def _send(self, order: bytes, descriptors: list[int]) -> bool:
        try:
            socket.send_fds(self._channel, [order], descriptors)
        except OSError as exc:
            # it has just died, or has not taken any for long
            logger.debug("%s was given no connection: %s", self, exc)
            return False
        if self._given == self._load.taken:
            self._waits_since = time.monotonic()
        self._given += 1
        return True

    def leave(self) -> None:
        """Tell it that others take new connections from now on, so that it ends when what is open has ended."""
        self._order(LEAVE)

    def stop(self) -> None:
        """Tell it to stop as on SIGTERM."""
        self._order(STOP)

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):
            self._process.kill()

    def _order(self, order: bytes) -> None:
        try:
            self._channel.send(order)
        except BlockingIOError:
            # so many connections wait for it that it can't be told anything
            logger.warning("%s does not answer and is killed", self)
            self.kill()
        except OSError:
            logger.debug("%s has ended already", self)

    async def _watch(self) -> int:
        code = await self._process.wait()
        while self._read():
            pass
        asyncio.get_running_loop().remove_reader(self._channel)
        self._channel.close()
        for number in self._unanswered:
            self._note_answer(number, is_answered=False)
        if not self._ready.done():
            self._fail(StartError(f"{self} {ending(code)} at its start"))
        return code

    def _read(self) -> bool:
        """Hear what the worker has said; return whether there may be more."""
        try:
            data = self._channel.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._channel)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._hear(line)
        return bool(data)

    def _hear(self, line: bytes) -> None:
        match read_report(line):
            case Ready() if not self._ready.done():
                self._ready_at = time.monotonic()
                self._ready.set_result(None)
                logger.info("%s is ready", self)
            case Failed(message, status) if not self._ready.done():
                self._fail(StartError(message, status=status))
            case BulkProcesses(processes):
                self.bulk_processes = processes
            case Answering(number):
                self._note_answer(number, is_answered=True)
            case Load() as load:
                if load.taken > self._load.taken:
                    self._waits_since = time.monotonic() if load.taken < self._given else math.inf
                self._load = load

    def _note_answer(self, number: int, *, is_answered: bool) -> None:
        answering = self._unanswered.get(number)
        if answering is not None and not answering.done():
            answering.set_result(is_answered)

    def _fail(self, error: StartError) -> None:
        self._ready.set_exception(error)
        # nobody may be waiting for it any more
        self._ready.exception()


async def _execute(channel: int) -> Process:
    """Run this very command once more, as a worker: the same interpreter, options, modules and folder."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *sys.orig_argv[1:],
        stdin=PIPE,
        env={**os.environ, CHANNEL_VARIABLE: str(channel)},
        pass_fds=(channel,),
        # out of the terminal's process group: Ctrl-C is for the supervisor, which tells its workers
        start_new_session=True,
    )


async def _hand_in(process: Process, data: bytes) -> None:
    if process.stdin is None:
        raise RuntimeError("the process has no standard input")
    with suppress(ConnectionError):
        # it may have died already, which is noticed elsewhere
        process.stdin.write(data)
        await process.stdin.drain()
    process.stdin.close()
