"""http.delivery."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from aiohttp import web

from proxy.protocol import sse

logger = logging.getLogger(__name__)


class HttpDelivery:
    """An HTTP client.

    unread_seconds: how long it may leave what it was sent unread before it counts as gone; its turn holds a lock.
    """

    def __init__(self, request: web.Request, unread_seconds: float) -> None:
        self._request = request
        self._unread_seconds = unread_seconds
        self._headers: Mapping[str, str] = {}
        self._response: web.StreamResponse | None = None
        self.gone = False
        self._last_sent = 0.0
        self._ended = False

    @property
    def started(self) -> bool:
        """Whether the stream's head was sent."""
        return self._response is not None

    def keep_headers(self, headers: Mapping[str, str]) -> None:
        """Note the upstream's headers that go along with the answer."""
        self._headers = headers

    async def send(self, frames: bytes) -> bool:
        """Send whole frames in one write, the response's head before the first; return whether the client is there."""
        if self.gone:
            return False
        try:
            if self._response is None:
                self._response = web.StreamResponse(headers=self._headers)
                self._response.content_type = "text/event-stream"
                self._response.headers["Cache-Control"] = "no-cache"
                # nginx and its kin buffer otherwise
                self._response.headers["X-Accel-Buffering"] = "no"
                await self._response.prepare(self._request)
            self._last_sent = time.monotonic()
            await self._response.write(frames)
        except ConnectionError:
            logger.debug("client left its stream")
            self.gone = True
        return not self.gone

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

    async def secure(self) -> None:
        """Do nothing: what was sent is not kept."""

    async def finish_stream(self) -> web.StreamResponse:
        """End the stream cleanly and return its response."""
        self._ended = True
        response = self._response or web.StreamResponse(headers=self._headers)
        if not self.gone:
            try:
                await response.write_eof()
            except ConnectionError:
                self.gone = True
        return response

    def json_response(self, body: bytes) -> web.Response:
        """Return the whole answer as one JSON body."""
        response = web.Response(body=body, headers=self._headers)
        response.content_type = "application/json"
        return response
