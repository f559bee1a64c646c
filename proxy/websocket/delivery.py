"""websocket.delivery."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

from aiohttp import web

from proxy.websocket.messages import to_messages

#: Sends messages in order; returns whether the client is there.
Send = Callable[[Iterable[bytes]], Awaitable[bool]]


class WebSocketDelivery:
    """A lane of a connection as a turn's client."""

    def __init__(self, send: Send, socket: web.StreamResponse, lane: str) -> None:
        self._send = send
        self._socket = socket
        self._lane = lane
        self.gone = False
        self.started = False

    def keep_headers(self, headers: Mapping[str, str]) -> None:
        """Let them go: messages have none."""

    async def send(self, frames: bytes) -> bool:
        """Send what whole SSE frames say; return whether the client is there."""
        if not self.gone:
            self.started = True
            self.gone = not await self._send(to_messages(frames, self._lane))
        return not self.gone

    async def keep_alive(self, silence_seconds: float) -> None:
        """Do nothing: the connection as a whole is kept alive."""

    async def secure(self) -> None:
        """Do nothing: what was sent is not kept."""

    async def finish_stream(self) -> web.StreamResponse:
        """Return the connection's response: it goes on."""
        return self._socket

    def json_response(self, body: bytes) -> web.Response:
        """Return a response that nobody reads: what is asked for on a connection is always streamed."""
        return web.Response(body=body)
