"""HTTP delivery: a turn's answer as one JSON body or as a stream of server-sent events."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from aiohttp import hdrs, web

from proxy.http.answers import TurnAnswer
from proxy.http.connection import ClientConnection, client_connection
from proxy.protocol import sse

#: Bytes of a body that are sent in one go; of a larger one these at a time.
MOST_AT_ONCE, SENT_AT_A_TIME = 8 * 1024 * 1024, 256 * 1024

logger = logging.getLogger(__name__)


class _EventStream(web.StreamResponse):
    """A stream of events, whose head leaves in one write with its first frames. headers: of the upstream's answer."""

    _send_headers_immediately = False

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__(headers=headers)
        self.headers[hdrs.CONTENT_TYPE] = "text/event-stream"
        self.headers[hdrs.CACHE_CONTROL] = "no-cache"
        # nginx and its kin buffer otherwise
        self.headers["X-Accel-Buffering"] = "no"


class HttpDelivery:
    """An HTTP client.

    unread_seconds: how long it may leave what it was sent unread before it counts as gone; its turn holds a lock.
    """

    def __init__(self, request: web.Request, unread_seconds: float) -> None:
        self._request = request
        self._unread_seconds = unread_seconds
        self._headers: Mapping[str, str] = {}
        self._response: web.StreamResponse | None = None
        #: From when the stream has begun.
        self._connection: ClientConnection
        self._transport: asyncio.Transport
        self.gone = False
        #: A stream was sent to its end: whether the client leaves after that is all the same.
        self.delivered = False
        self._last_sent = 0.0
        self._ended = False
        self._probing: asyncio.Task[None] | None = None
        self._chunked = False

    @property
    def started(self) -> bool:
        """Whether the stream's head was sent."""
        return self._response is not None

    def begin(self, headers: Mapping[str, str]) -> None:
        """Note the upstream's headers that go along with the answer."""
        self._headers = headers

    async def send(self, frames: sse.FrameBytes) -> bool:
        """Send whole frames in one write, the response's head before the first; return whether the client is there."""
        if self.gone:
            return False
        try:
            response = self._response or await self._begin_stream()
            self._last_sent = time.monotonic()
            if not isinstance(frames, bytes):
                *pieces, frames = frames
                for piece in pieces:
                    await _write_slowly(response, memoryview(piece))
            if frames.endswith(sse.DONE):
                # the last frames and the end of the body leave in one write
                self._ended = True
                client_connection(self._request).probe = None
                await response.write_eof(frames)
                self.delivered = True
            else:
                await response.write(frames)
        except ConnectionError:
            logger.debug("client left its stream")
            self.gone = True
        return not self.gone

    async def _begin_stream(self) -> web.StreamResponse:
        connection = self._connection = client_connection(self._request)
        response = self._response = _EventStream(headers=self._headers)
        connection.probe = self._probe
        await response.prepare(self._request)
        self._chunked = hdrs.TRANSFER_ENCODING in response.headers
        if connection.transport is None:
            raise ConnectionResetError
        self._transport = connection.transport
        return response

    def push(self, frames: sse.FrameBytes) -> bool:
        """Send whole frames after `send` has begun the stream, in one write; return whether the client keeps up."""
        if self.gone:
            return True
        transport = self._transport
        if transport.is_closing():
            self.gone = True
            return True
        self._last_sent = time.monotonic()
        if not isinstance(frames, bytes):
            # not copied: what is not read yet stays as it is
            for piece in (b"%x\r\n" % sum(map(len, frames)), *frames, b"\r\n") if self._chunked else frames:
                transport.write(piece)
            return not self._connection.writing_paused
        # as aiohttp would write it, which can't be called without waiting
        transport.write(b"%x\r\n%b\r\n" % (len(frames), frames) if self._chunked else frames)
        return not self._connection.writing_paused

    async def caught_up(self) -> None:
        """Return when the client has read enough of what it was sent, or has gone."""
        try:
            await client_connection(self._request).caught_up()
        except ConnectionError:
            self.gone = True

    async def keep_alive(self, silence_seconds: float) -> None:
        """Send a comment if the stream has been silent for that long. Never waits for the client.

        A client that has not read what it was sent needs no comment; if that lasts, it is cut off.
        """
        transport = self._request.transport
        if self._response is None or transport is None:
            return
        if transport.get_write_buffer_size():
            if time.monotonic() - self._last_sent >= self._unread_seconds:
                logger.info("a client that does not read its stream is cut off")
                transport.abort()
            return
        if self._ended:
            return
        if time.monotonic() - self._last_sent >= silence_seconds:
            await self.send(sse.comment("keep-alive"))

    def _probe(self) -> None:
        self._probing = asyncio.create_task(self.keep_alive(0.0))

    async def finish(self, body: bytes | None = None) -> web.StreamResponse:
        """Return the answer: one JSON body, or the stream, which is ended cleanly."""
        if body is not None and len(body) <= MOST_AT_ONCE:
            return TurnAnswer(body, self._headers)
        self._ended = True
        if body is not None:
            return await self._send_slowly(body)
        response = self._response or web.StreamResponse(headers=self._headers)
        if not self.gone:
            try:
                await response.write_eof()
            except ConnectionError:
                self.gone = True
        return response

    async def _send_slowly(self, body: bytes) -> web.StreamResponse:
        """Send a large body as fast as it is read: aiohttp would copy it, and have the socket take it in one go."""
        response = web.StreamResponse(headers=self._headers)
        response.content_type, response.content_length = "application/json", len(body)
        try:
            await response.prepare(self._request)
            await _write_slowly(response, memoryview(body))
            await response.write_eof()
        except ConnectionError:
            self.gone = True
        return response


async def _write_slowly(response: web.StreamResponse, body: memoryview) -> None:
    for start in range(0, len(body), SENT_AT_A_TIME):
        await response.write(body[start : start + SENT_AT_A_TIME])
