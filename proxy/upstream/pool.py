"""Pool: the connections over which turns are posted to one model server, and what a request's head is made of.

A request is lost that is sent just when the server closes the connection, and a POST is never repeated: the server may
have begun to work on it. So none is used that has been idle for `IDLE_SECONDS`, or on which anything came meanwhile.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import TYPE_CHECKING, Self

import aiohttp
from aiohttp import hdrs

from proxy.upstream.dialer import OriginDialer
from proxy.upstream.last_look import LastLook
from proxy.upstream.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from yarl import URL

    from proxy.upstream.wire import Consumer

#: Seconds that an idle connection is kept. Many servers (uvicorn, Node) close theirs after 5 s.
IDLE_SECONDS = 4.0
#: Seconds that the end of an answer may take whose content has come, and bytes that may come with it.
TAIL_SECONDS = 1.0
MAX_TAIL_BYTES = 16 * 1024
#: Names of headers that are remembered to be good.
MAX_NAMES = 1024

#: A header's name is a token (RFC 9110, 5.6.2); the target of a request has no white space (RFC 9112, 3.2).
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(r"/[^\x00-\x20\x7f#]*")
#: What frames a message is written here and nowhere else.
_FRAMING = frozenset(
    {"connection", "content-length", "expect", "host", "te", "trailer", "transfer-encoding", "upgrade"}
)


class UpstreamAnswer:
    """An answer whose body is read from `content`, or given to a consumer.

    Whoever got it releases it, read or not; as a context it does that itself, as aiohttp's answers do.
    """

    __slots__ = ("_connection", "_give_back", "content", "headers", "status")

    def __init__(self, connection: Wire, give_back: Callable[[Wire], None]) -> None:
        self._connection: Wire | None = connection
        self._give_back = give_back
        self.status: int = connection.message.code
        self.headers: Mapping[str, str] = connection.message.headers
        self.content = connection.content

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.release()

    @property
    def content_type(self) -> str:
        """The media type, in lower case and without parameters."""
        return self.headers.get(hdrs.CONTENT_TYPE, "application/octet-stream").partition(";")[0].strip().lower()

    def take_whole(self) -> bytes | None:
        """Return the body, if all of it has come and it has no coding; None, and nothing is taken, if not."""
        content = self.content
        if not content.is_eof() or content.exception() is not None or hdrs.CONTENT_ENCODING in self.headers:
            return None
        return content.read_nowait()

    def consume(self, consumer: Consumer) -> None:
        """Give the body to a consumer, from now on and inside the event loop's own call; what is there, at once."""
        if self._connection is not None:
            self._connection.consume(consumer)

    def hold(self, *, held: bool) -> None:
        """Let the model server wait (held), or go on."""
        if self._connection is not None:
            self._connection.hold(held=held)

    def release(self, *, ends: bool = False) -> None:
        """Give the connection back; one whose answer was not read to its end is closed, so that the server notices.

        ends: nothing but that end is still to come. It is waited for, a moment, so that the connection can be kept.
        """
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if ends and not connection.content.is_eof():
            _Tail(connection, self._give_back)
        else:
            self._give_back(connection)


class _Tail:
    """Reads the end of an answer that nobody reads any more, then gives its connection back."""

    def __init__(self, connection: Wire, give_back: Callable[[Wire], None]) -> None:
        self._connection = connection
        self._give_back = give_back
        self._room = MAX_TAIL_BYTES
        self._timer = asyncio.get_running_loop().call_later(TAIL_SECONDS, connection.abort)
        connection.hold(held=False)
        connection.consume(self)

    def data(self, chunk: bytes) -> None:
        self._room -= len(chunk)
        if self._room < 0:
            self._connection.abort()

    def end(self) -> None:
        self._timer.cancel()
        self._give_back(self._connection)

    def failed(self, _error: Exception) -> None:
        self.end()


class Pool:
    """Connections to the origin of a URL.

    slots: requests that may be under way at once, shared with others; None, any number. connect_seconds: how long one
    waits for a slot and a connection. silence_seconds: how long nothing may move in an exchange.
    """

    def __init__(
        self, url: URL, slots: asyncio.Semaphore | None, *, connect_seconds: float, silence_seconds: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._dialer = OriginDialer(url)
        self._host = url.host_port_subcomponent
        self._slots = slots
        self._connect_seconds = connect_seconds
        self._create = partial(Wire, silence_seconds, self._lost)
        self._names: set[str] = set()
        self._open: set[Wire] = set()
        #: Since when each idle connection has been so, the latest last.
        self._idle: dict[Wire, float] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._closed: asyncio.Future[None] | None = None

    async def post(self, target: str, headers: Mapping[str, str], body: Sequence[bytes]) -> UpstreamAnswer:
        """Send a POST and return its answer, whatever its status, its body unread.

        target: path and query, percent-encoded. headers: not those that frame the message. body: in pieces. Raises
        ValueError if a header can't be sent; TimeoutError and aiohttp's client errors.
        """
        length = sum(map(len, body))
        head = self._head(target, headers, length)
        connection = await self._reach()
        try:
            await connection.send(head, body, length)
            return UpstreamAnswer(connection, self._give_back)
        except BaseException:
            self._give_back(connection)
            raise

    async def close(self) -> None:
        """Close all connections, running exchanges too; return when they are closed."""
        self._closed = self._closed or self._loop.create_future()
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._dialer.close()
        for connection in list(self._open):
            connection.fail(aiohttp.ServerDisconnectedError())
        if self._open:
            await asyncio.shield(self._closed)

    def _head(self, target: str, headers: Mapping[str, str], length: int) -> bytes:
        # not of the mapping itself, which says a name once however often and in whatever case it is there
        names = {name for name, _ in headers.items()}
        if not names <= self._names:
            for name in names:
                if name not in self._names:
                    self._check_name(name)
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        start = f"POST {target} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {length}\r\n"
        text = f"{start}{''.join(lines)}\r\n"
        ends = len(lines) + 4
        if not _TARGET.fullmatch(target) or text.count("\n") != ends or text.count("\r") != ends or "\0" in text:
            raise ValueError("A header or the path of a request holds what would end it.")
        return text.encode()

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name) or name.lower() in _FRAMING:
            raise ValueError("A header of a request has a name that can't be sent.")
        if len(self._names) < MAX_NAMES:
            self._names.add(name)

    async def _reach(self) -> Wire:
        """Return a connection to send on, which is to be given back."""
        if self._slots is None and (idle := self._take()) is not None:
            return idle
        async with asyncio.timeout(None) as deadline:
            ending = LastLook(self._connect_seconds, lambda: deadline.reschedule(self._loop.time()))
            try:
                return await self._wait_for_one()
            finally:
                ending.cancel()

    async def _wait_for_one(self) -> Wire:
        slots = self._slots
        if slots is not None:
            await slots.acquire()
        try:
            return self._take() or await self._dial()
        except BaseException:
            if slots is not None:
                slots.release()
            raise

    async def _dial(self) -> Wire:
        connection = await self._dialer.dial(self._create)
        # not when it is made: uvloop does not tell of the loss of one whose dialling was cancelled
        if connection.connected:
            self._open.add(connection)
        if self._closed is not None:
            connection.abort()
        return connection

    def _take(self) -> Wire | None:
        oldest = self._loop.time() - IDLE_SECONDS
        while self._idle:
            connection, since = self._idle.popitem()
            if since > oldest and connection.is_open:
                return connection
            connection.abort()
        return None

    def _give_back(self, connection: Wire) -> None:
        if self._slots is not None:
            self._slots.release()
        if not connection.finish():
            return
        if self._closed is not None:
            connection.abort()
        else:
            self._idle[connection] = self._loop.time()
            if self._sweeping is None:
                self._sweeping = self._loop.call_later(IDLE_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Close what has been idle for too long."""
        self._sweeping = None
        now = self._loop.time()
        for connection, since in list(self._idle.items()):
            if since + IDLE_SECONDS > now:
                self._sweeping = self._loop.call_at(since + IDLE_SECONDS, self._sweep)
                return
            del self._idle[connection]
            connection.abort()

    def _lost(self, connection: Wire) -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)
        if self._closed is not None and not self._open and not self._closed.done():
            self._closed.set_result(None)
