"""Wire: one HTTP/1.1 connection to a model server, for one turn's request and answer after the other.

aiohttp's client takes 2.5 times the CPU for a POST; its parser and exceptions are used, so that readers see one thing.
Only whole chunks of a body that is consumed pass the parser by (`chunks`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
from aiohttp.http_parser import HttpResponseParser

from proxy.protocol.header_limits import MAX_HEADER_BYTES, MAX_HEADERS
from proxy.upstream.chunks import Chunks
from proxy.upstream.last_look import LastLook

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Largest body that is sent in one piece, so that a larger one does not hold up the event loop.
MAX_BYTES_AT_ONCE = 256 * 1024
#: Half of what is kept of a body for a reader who does not come; then the model server has to wait.
READ_AHEAD_BYTES = 64 * 1024
#: How answers are parsed.
_PARSING: dict[str, Any] = {
    "max_line_size": MAX_HEADER_BYTES,
    "max_field_size": MAX_HEADER_BYTES,
    "max_headers": MAX_HEADERS,
    "payload_exception": aiohttp.ClientPayloadError,
    "read_until_eof": True,
    "auto_decompress": False,
}


class MalformedAnswer(aiohttp.ClientError):
    """What came is not HTTP/1.1, or more of it than is taken; it is not quoted."""


class Consumer(Protocol):
    """Takes a body as it arrives, called inside the event loop's own call: it must not raise."""

    def data(self, chunk: bytes) -> None:
        """Take the next bytes."""
        ...

    def end(self) -> None:
        """Know that the body is complete; nothing follows."""
        ...

    def failed(self, error: Exception) -> None:
        """Know that the rest won't come; nothing follows. error: TimeoutError, or one of aiohttp's client."""
        ...


class Wire(asyncio.Protocol):
    """One connection, of one exchange at a time. silence_seconds: how long nothing may move in one."""

    def __init__(self, silence_seconds: float, lost: Callable[[Wire], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._silence_seconds = silence_seconds
        self._lost = lost
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | LastLook | None = None
        self._moved_at = 0.0
        self._parser: Any = None
        self._answered: asyncio.Future[Exception | None] | None = None
        self._consumer: Consumer | None = None
        #: Finds what the parser need not see of a body.
        self._chunks: Chunks | None = None
        self._unsent: deque[bytes | memoryview] = deque()
        self._is_choked = self._is_full = self._is_held = self._is_paused = self._is_spent = False
        self.connected = False
        #: The answer's head and body, from when `send` is done.
        self.message: Any = None
        self.content: aiohttp.StreamReader = aiohttp.EMPTY_PAYLOAD

    @property
    def is_open(self) -> bool:
        """Whether it can carry a request."""
        return self.connected and not self._transport.is_closing()

    async def send(self, head: bytes, body: Sequence[bytes], length: int) -> None:
        """Send a request; return when its answer begins. body: in pieces, `length` bytes in all.

        Raises TimeoutError and aiohttp's client errors.
        """
        if not self.connected:
            raise aiohttp.ServerDisconnectedError
        # a new parser for each answer: what the last one left is none of it
        self._parser = HttpResponseParser(self, self._loop, READ_AHEAD_BYTES, **_PARSING)  # type: ignore[arg-type]
        self._chunks = None
        self._answered = self._loop.create_future()
        self._moved_at = self._loop.time()
        self._timer = self._timer or self._loop.call_later(self._silence_seconds, self._watch)
        if length <= MAX_BYTES_AT_ONCE:
            self._transport.write(b"".join((head, *body)))
        else:
            self._unsent.extend((head, *body))
            self._send_on()
        if error := await self._answered:
            raise error

    def consume(self, consumer: Consumer) -> None:
        """Give the body to a consumer from now on, what of it is there at once."""
        self._consumer = consumer
        self._hand_on()

    def hold(self, *, held: bool) -> None:
        """Read no more until the consumer has room again, or go on reading."""
        self._is_held = held
        self._set_reading()

    def finish(self) -> bool:
        """End an exchange; return whether the connection can carry another one. If not, it is closed."""
        parser, self._parser, self._consumer = self._parser, None, None
        fit = self.is_open and not self._is_spent and not self._unsent and parser is not None
        fit = fit and self.message is not None and not self.message.should_close and self.content.is_eof()
        try:
            # what began after the answer has no question
            fit = fit and parser.feed_eof() is None
        except Exception:
            fit = False
        self.message, self.content = None, aiohttp.EMPTY_PAYLOAD
        if not fit:
            self.abort()
        elif self._is_held:
            self.hold(held=False)
        return fit

    def abort(self) -> None:
        """Close the connection at once."""
        self.connected = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self._transport = transport
        self.connected = True

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._moved_at = self._loop.time()
        if self._parser is None:
            self.abort()
            return
        if self._chunks is not None:
            if self._consumer is None:
                self._chunks.follow(data)
            elif content := self._chunks.take(data):
                self._consumer.data(content)
                return
            else:
                content, data = self._chunks.split(data)
                if content:
                    self._consumer.data(content)
        # who takes the content may have left
        if data and self._parser is not None:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        try:
            messages, upgraded, _ = self._parser.feed_data(data)
        except Exception as error:
            # its text quotes what came
            self.fail(MalformedAnswer(type(error).__name__))
            return
        for message, content in messages:
            if message.code >= 200:
                self._begin_answer(message, content, data)
        if upgraded:
            self.fail(MalformedAnswer("an upgrade"))
        elif self._consumer is not None:
            self._hand_on()

    def eof_received(self) -> None:
        """Nothing more comes."""
        self._end(None)
        # not closed in peace, which would wait for a server that may not read any more
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self.connected = False
        if self._timer is not None:
            self._timer.cancel()
        self._lost(self)
        self._end(exc)

    def pause_writing(self) -> None:
        """Send no more for now."""
        self._is_choked = True

    def resume_writing(self) -> None:
        """Go on sending."""
        self._is_choked = False
        self._send_on()

    def pause_reading(self) -> None:
        """Read no more: the reader is full."""
        self._is_full = True
        self._set_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on reading: the reader has room."""
        self._is_full = False
        self._set_reading()

    def _begin_answer(self, message: Any, content: aiohttp.StreamReader, data: bytes) -> None:
        if self.message is not None:
            self._is_spent = True
            return
        self.message, self.content = message, content
        self._chunks = Chunks(data) if message.chunked else None
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    def _hand_on(self) -> None:
        content = self.content
        if self._consumer is not None and content.exception() is None and (chunk := content.read_nowait()):
            self._consumer.data(chunk)
        error = content.exception()
        if self._consumer is not None and (error is not None or content.at_eof()):
            consumer, self._consumer = self._consumer, None
            consumer.end() if error is None else consumer.failed(error)  # type: ignore[arg-type]

    def _send_on(self) -> None:
        """Write what may be written at once, and what is left in the next iteration of the loop."""
        self._moved_at = self._loop.time()
        room = MAX_BYTES_AT_ONCE
        while self._unsent and room and not self._is_choked and self.connected:
            piece = self._unsent.popleft()
            if len(piece) > room:
                self._unsent.appendleft(memoryview(piece)[room:])
                piece = memoryview(piece)[:room]
            room -= len(piece)
            self._transport.write(piece)
        if self._unsent and not self._is_choked:
            self._loop.call_soon(self._send_on)

    def _set_reading(self) -> None:
        paused = self._is_full or self._is_held
        if paused != self._is_paused and self.connected:
            self._is_paused = paused
            self._moved_at = self._loop.time()
            self._transport.pause_reading() if paused else self._transport.resume_reading()

    def _watch(self, *, again: bool = False) -> None:
        self._timer = None
        if self._is_paused or (self.message is not None and self.content.is_eof()):
            self._moved_at = self._loop.time()
        if self._parser is None:
            return
        if (due := self._moved_at + self._silence_seconds) > self._loop.time():
            self._timer = self._loop.call_at(due, self._watch)
        elif not again:
            self._timer = LastLook(0.0, partial(self._watch, again=True))
        else:
            self.fail(aiohttp.SocketTimeoutError("nothing came"))

    def _end(self, exc: Exception | None) -> None:
        """Take note that nothing more comes: the end of a body that ends with its connection, else too early."""
        if self._parser is None:
            return
        try:
            exc or self._parser.feed_eof()
        except Exception as error:
            exc = error
        if self.message is not None and self.content.is_eof():
            self._parser = None
            self._hand_on()
        elif self.message is not None:
            self.fail(aiohttp.ClientPayloadError(), exc)
        else:
            lost = aiohttp.ClientOSError(*exc.args) if isinstance(exc, OSError) else aiohttp.ServerDisconnectedError()
            self.fail(lost, exc)

    def fail(self, error: Exception, cause: Exception | None = None) -> None:
        """Tell whoever waits for the answer's beginning, or reads it; an answer that is whole already stays so."""
        self._parser = None
        error.__cause__ = cause
        if self.message is None and self._answered is not None and not self._answered.done():
            self._answered.set_result(error)
        elif self.message is not None:
            if not self.content.is_eof():
                self.content.set_exception(error)
            self._hand_on()
        self.abort()
