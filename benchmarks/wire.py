"""HTTP/1.1 at as little cost as Python allows, for both ends of a measurement: the load and the model server.

A library's client costs as much as the proxy that is measured, and would share the processors with it. What is read
here is what the servers of a measurement send: bodies with a length or in chunks, connections that are kept.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager, closing
from typing import Any, NamedTuple, cast

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
#: What clients of every measurement send.
HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer bench"}

#: Most of a chunk's size line or of a trailer's line that is waited for.
_MAX_LINE_BYTES = 1024


class WireError(Exception):
    """What came is no HTTP/1.1 that is read here, or the connection ended within a message."""


class MessageReader:
    """Reads the messages of one side of a connection, cut anywhere.

    on_head: called with a message's start line and header lines. on_body: with each piece of its body as it comes.
    on_end: once it is whole. Raises WireError from `feed`.
    """

    def __init__(
        self, on_head: Callable[[bytes], None], on_body: Callable[[bytes], None], on_end: Callable[[], None]
    ) -> None:
        self._on_head, self._on_body, self._on_end = on_head, on_body, on_end
        self._kept = b""
        self._read = self._read_head
        self._left = 0

    def feed(self, data: bytes) -> None:
        """Read what came."""
        if self._kept:
            data, self._kept = self._kept + data, b""
        at = 0
        while at < len(data):
            reached = self._read(data, at)
            if reached < 0:
                self._kept = data[at:]
                return
            at = reached

    # Each returns how far it read, or -1 if it needs more than there is.

    def _read_head(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            return -1
        head = data[at:end]
        self._on_head(head)
        if (length := _LENGTH.search(head)) is not None:
            self._left = int(length[1])
            self._read = self._read_counted
        elif _CHUNKED.search(head) is not None:
            self._read = self._read_size
        elif head.startswith(b"HTTP/") and head[9:12] not in (b"204", b"304"):
            raise WireError("an answer without a length")
        if (self._read == self._read_counted and self._left == 0) or self._read == self._read_head:
            self._finish()
        return end + 4

    def _read_counted(self, data: bytes, at: int) -> int:
        piece = data[at : at + self._left]
        self._left -= len(piece)
        self._on_body(piece)
        if self._left == 0:
            self._finish()
        return at + len(piece)

    def _read_size(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n", at)
        if end < 0:
            return self._wait(data, at)
        self._left = int(data[at:end].partition(b";")[0], 16)
        self._read = self._read_chunk if self._left else self._read_trailer
        return end + 2

    def _read_chunk(self, data: bytes, at: int) -> int:
        piece = data[at : at + self._left]
        self._left -= len(piece)
        self._on_body(piece)
        if self._left == 0:
            self._read = self._read_chunk_end
        return at + len(piece)

    def _read_chunk_end(self, data: bytes, at: int) -> int:
        if len(data) - at < 2:
            return -1
        self._read = self._read_size
        return at + 2

    def _read_trailer(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n", at)
        if end < 0:
            return self._wait(data, at)
        if end == at:
            self._finish()
        return end + 2

    def _wait(self, data: bytes, at: int) -> int:
        if len(data) - at > _MAX_LINE_BYTES:
            raise WireError("a line without an end")
        return -1

    def _finish(self) -> None:
        self._read = self._read_head
        self._on_end()


class Answer(NamedTuple):
    """An answer's status and whole body; the body is empty if it went to a sink."""

    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """A client's connection that is kept: one request at a time. It is opened anew where an answer has ended it."""

    def __init__(self, host: str) -> None:
        fields = {"Host": host, **HEADERS}
        self._host = host
        #: Whether the last answer was the last of its connection.
        self._is_over = False
        self._head = " HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._transport: asyncio.Transport | None = None
        self._reader = MessageReader(self._begin, self._take, self._end)
        self._answer: asyncio.Future[Answer] | None = None
        self._status = 0
        self._pieces: list[bytes] = []
        self._sink: Callable[[bytes], None] | None = None

    @classmethod
    async def open(cls, url: str) -> Connection:
        """Connect to `http://HOST:PORT`."""
        host, _, port = url.removeprefix("http://").partition(":")
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: cls(f"{host}:{port}"), host, int(port))
        return connection

    async def request(
        self, method: str, path: str, body: bytes = b"", sink: Callable[[bytes], None] | None = None
    ) -> Answer:
        """Send a request and return its answer. Raises WireError, also if the connection was closed.

        sink: takes each piece of an answer's body as it comes, if its status is 200.
        """
        if self._is_over:
            await self._reopen()
        if self._transport is None:
            raise WireError("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._pieces, self._sink = [], sink
        head = f"{method} {path}{self._head}Content-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)
        return await self._answer

    async def _reopen(self) -> None:
        self.close()
        host, _, port = self._host.partition(":")
        self._reader = MessageReader(self._begin, self._take, self._end)
        await asyncio.get_running_loop().create_connection(lambda: self, host, int(port))
        self._is_over = False

    def close(self) -> None:
        """End the connection; what was asked on it is not answered any more."""
        if self._transport is not None:
            self._transport.close()

    def _begin(self, head: bytes) -> None:
        self._status = int(head[9:12])
        self._is_over = b"\r\nconnection: close\r\n" in head.lower() + b"\r\n"
        if self._status != 200:
            self._sink = None

    def _take(self, piece: bytes) -> None:
        if self._sink is not None:
            self._sink(piece)
        else:
            self._pieces.append(piece)

    def _end(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(self._status, b"".join(self._pieces)))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by class

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
        except Exception as exc:
            self._fail(exc)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_over and self._answer is not None and self._answer.done():
            return
        self._transport = None
        self._fail(WireError("the connection was closed"))

    def _fail(self, exc: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc)


@asynccontextmanager
async def connected(url: str, count: int) -> AsyncIterator[list[Connection]]:
    """Open so many connections; all are ended at the end, whatever is on its way."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(await Connection.open(url))) for _ in range(count)]


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Do all at once; if one fails the others are ended before that is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
