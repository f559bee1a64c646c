"""Pipelined connection: one connection to Redis that many exchanges share; replies are matched in order.

What is sent in one iteration of the event loop leaves in one write. Redis answers commands in the order in which they
were sent, so the reply that comes next belongs to the exchange that waits longest. Whoever gives up an exchange
(its time is over, its task was cancelled) leaves its place in that order: what still comes for it is thrown away.

A connection ends in one of two ways. It is *retired* if it may still answer but is not to be asked any more: a reply
did not come in time, or the server says that it is no primary. Then it takes no more commands, waits for the replies
that are under way, and closes. Or it is *lost*, and everything that waits fails.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import hiredis
from redis import exceptions as redis_errors
from redis.asyncio.connection import DefaultParser

from storage.client.channel import AnswerLost, Command, GarbledAnswer, NoAnswerInTime, Uncopied

#: Bytes that wait to be written, or that came of a reply that has not ended, from which on a connection is busy.
BUSY_BYTES = 1 << 20

_INCOMPLETE = object()
#: What most replies are: neither an error nor one that nobody asked for.
_PLAIN_REPLIES = (bytes, list, int)
#: Replies after which nothing more is asked of a server: it is no primary, or not yet, or not any more, or may be cut
#: off from the others. redis-py makes ConnectionErrors of LOADING, NOAUTH and "max number of clients reached".
_REFUSALS = (redis_errors.ConnectionError, redis_errors.ReadOnlyError, redis_errors.MasterDownError)
_REFUSAL_CODES = ("NOREPLICAS", "UNBLOCKED")


class Refused(Exception):
    """The server refused an exchange as one that should not be asked. replies: all of them, errors included."""

    def __init__(self, replies: list[Any]) -> None:
        super().__init__("refused by the server")
        self.replies = replies


class _Exchange:
    """Commands that wait for their replies."""

    __slots__ = ("deadline", "future", "owed", "packed", "refusal", "replies")

    def __init__(self, future: asyncio.Future[list[Any]], packed: list[bytes], owed: int, deadline: float) -> None:
        self.future = future
        #: The commands as bytes, until they are written.
        self.packed = packed
        #: How many replies have not come.
        self.owed = owed
        self.deadline = deadline
        self.replies: list[Any] = []
        self.refusal: Exception | None = None

    def finish(self) -> None:
        """Tell who waits that all replies are here."""
        if self.refusal is None:
            if not self.future.done():
                self.future.set_result(self.replies)
        elif not isinstance(self.refusal, redis_errors.ConnectionError):
            self.fail(Refused(self.replies))
        elif all(isinstance(reply, Exception) for reply in self.replies):
            self.fail(self.refusal)
        else:
            # what goes together is not one
            self.fail(AnswerLost(*self.refusal.args))

    def fail(self, error: Exception) -> None:
        """Tell who waits that there will be no replies, or not the wanted ones."""
        if not self.future.done():
            self.future.set_exception(error)

    @property
    def is_written(self) -> bool:
        """Whether the server may have it."""
        return not self.packed

    def lose(self, reason: str) -> None:
        """Tell who waits that the connection ends."""
        self.fail(AnswerLost(reason) if self.is_written else redis_errors.ConnectionError(reason))

    def expire(self) -> None:
        """Tell who waits that the time is over."""
        self.fail(NoAnswerInTime() if self.is_written else TimeoutError())


class PipelinedConnection(asyncio.Protocol):
    """One connection, from its transport on; whoever makes it says hello. For one event loop.

    changed: called with the connection when it is made, has room again, takes no more, and is closed.
    """

    def __init__(self, changed: Callable[[PipelinedConnection], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = changed
        self._reader = hiredis.Reader(
            protocolError=redis_errors.InvalidResponse,
            replyError=DefaultParser.parse_error,
            notEnoughData=_INCOMPLETE,
        )
        self._transport: asyncio.Transport
        #: What was sent in this iteration of the loop, and what was written and waits.
        self._queued: list[_Exchange] = []
        self._queued_bytes = 0
        self._waiting: deque[_Exchange] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._is_paused = False
        #: Bytes that came since the last reply ended.
        self._unfinished_bytes = 0
        self._has_ended = False
        self._end_reason = "the connection is not used any more"
        self._closed: asyncio.Future[None] = self._loop.create_future()
        #: Whether it takes commands.
        self.is_open = False
        #: Whether much waits to be written.
        self.is_full = False
        #: Whether a long reply is on its way, which all others wait for.
        self.is_receiving = False
        #: Whether it has answered before: if it fails now, another connection may do better.
        self.is_proven = False

    @property
    def is_closed(self) -> bool:
        """Whether its transport is closed."""
        return self._closed.done()

    # --- for who sends ----------------------------------------------------------------------------------------------

    def send(self, commands: Sequence[Command], deadline: float) -> asyncio.Future[list[Any]]:
        """Write commands, at least one, with all that is sent in this iteration of the loop; returns their replies.

        deadline: in the loop's time. The future raises TimeoutError at that time, redis-py's ConnectionError if the
        connection was lost or the server refuses all commands, InvalidResponse if what came is no reply, or Refused.
        All but the refusals are Unanswered if the commands were written.
        """
        try:
            # the stub wants a tuple of one element, and gives what it does not name
            packed: list[bytes] = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]
        except TypeError:
            # one has an argument that hiredis does not know, because it is not to be copied
            packed = [piece for command in commands for piece in _in_pieces(command)]
        exchange = _Exchange(self._loop.create_future(), packed, len(commands), deadline)
        if not self.is_open:
            exchange.fail(redis_errors.ConnectionError(self._end_reason))
            return exchange.future
        if not self._queued:
            self._loop.call_soon(self._write)
        self._queued.append(exchange)
        self._queued_bytes += sum(map(len, packed))
        if self._queued_bytes >= BUSY_BYTES:
            self.is_full = True
        if deadline < self._timer_at:
            self._set_timer(deadline)
        return exchange.future

    def retire(self) -> None:
        """Take no more commands, and close once nobody waits for a reply. What is not written yet fails."""
        if self.is_open:
            self.is_open = False
            queued, self._queued = self._queued, []
            for exchange in queued:
                exchange.fail(redis_errors.ConnectionError(self._end_reason))
            self._changed(self)
        self._close_if_unused()

    def abort(self, reason: str = "the connection was given up") -> None:
        """Close at once; what waits fails."""
        self._end(reason)
        self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the transport is closed."""
        await asyncio.wait([self._closed])

    # --- for the transport ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take commands from now on."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(BUSY_BYTES)
        self.is_open = True
        self._changed(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits."""
        self._end(f"the server closed the connection{f': {exc}' if exc else ''}")
        self._closed.set_result(None)
        self._changed(self)

    def pause_writing(self) -> None:
        """Note that the server reads slowly."""
        self._is_paused = self.is_full = True

    def resume_writing(self) -> None:
        """Note that there is room again."""
        self._is_paused = self.is_full = False
        self._changed(self)

    def data_received(self, data: bytes) -> None:
        """Match what came with what waits."""
        self._unfinished_bytes += len(data)
        try:
            self._reader.feed(data)
            while not self._has_ended and (reply := self._reader.gets()) is not _INCOMPLETE:
                self._unfinished_bytes = 0
                self._take(reply)
        except redis_errors.InvalidResponse as error:
            if self._waiting:
                self._waiting[0].fail(GarbledAnswer(*error.args))
            self.abort()
        if self.is_receiving is not (self._unfinished_bytes >= BUSY_BYTES):
            self.is_receiving = not self.is_receiving
            self._changed(self)

    # --- within -----------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        """Write what was sent since the last time, but for what was given up already."""
        exchanges, self._queued, self._queued_bytes = self._queued, [], 0
        pieces = []
        for exchange in exchanges:
            if not exchange.future.done():
                pieces += exchange.packed
                exchange.packed = []
                self._waiting.append(exchange)
        # not by writelines: on CPython 3.12 and 3.13 it may forget to pause (CVE-2024-12254)
        if self.is_full:
            for piece in pieces:
                self._transport.write(piece)
        elif pieces:
            self._transport.write(b"".join(pieces))
        if self.is_full and not self._is_paused:
            self.is_full = False
            self._changed(self)

    def _take(self, reply: Any) -> None:
        is_plain = type(reply) in _PLAIN_REPLIES
        if not is_plain and isinstance(reply, hiredis.PushNotification):
            return
        if not self._waiting:
            # a server that has too many clients says so at once, before it is asked
            self.abort(str(reply) if isinstance(reply, Exception) else "a reply came that nobody waits for")
            return
        exchange = self._waiting[0]
        exchange.replies.append(reply)
        exchange.owed -= 1
        if not is_plain and isinstance(reply, Exception) and refuses(reply):
            exchange.refusal = exchange.refusal or reply
            self.retire()
        if not exchange.owed:
            self._waiting.popleft()
            exchange.finish()
            if not self.is_open:
                self._close_if_unused()

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._check_time)
        self._timer_at = when

    def _check_time(self) -> None:
        """Fail what is overdue, and then retire: its reply may still come. Set the timer to what is due next."""
        now = max(self._loop.time(), self._timer_at)
        self._timer, self._timer_at = None, math.inf
        pending = [*self._waiting, *self._queued]
        overdue = [exchange for exchange in pending if exchange.deadline <= now]
        for exchange in overdue:
            exchange.expire()
        if overdue:
            self.retire()
        # what was given up counts too: its reply tells whether the server still answers
        due = [exchange.deadline for exchange in pending if exchange.deadline > now]
        if due and not self._has_ended:
            self._set_timer(min(due))

    def _close_if_unused(self) -> None:
        if all(exchange.future.done() for exchange in self._waiting):
            self.abort()

    def _end(self, reason: str) -> None:
        was_open, self.is_open = self.is_open, False
        if self._has_ended:
            return
        self._has_ended, self._end_reason = True, reason
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pending = [*self._waiting, *self._queued]
        self._waiting.clear()
        self._queued.clear()
        for exchange in pending:
            exchange.lose(reason)
        if was_open:
            self._changed(self)


def _in_pieces(command: Command) -> Iterator[bytes]:
    """Yield a command as it is sent, large arguments alone."""
    begin: list[bytes] = [b"*%d\r\n" % len(command)]
    for argument in command:
        if isinstance(argument, Uncopied):
            yield b"".join([*begin, b"$%d\r\n" % len(argument)])
            yield argument.data
            begin = [b"\r\n"]
        else:
            # what is said of a command of one argument, but for their number
            packed: bytes = hiredis.pack_command((argument,))
            begin.append(packed[len(b"*1\r\n") :])
    yield b"".join(begin)


def refuses(error: Exception) -> bool:
    """Tell whether a reply means that nothing more is to be asked of the server."""
    return isinstance(error, _REFUSALS) or str(error).startswith(_REFUSAL_CODES)
