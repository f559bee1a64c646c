"""WebSocket delivery: a turn's frames as messages on its lane of a connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeAlias

from proxy.websocket.messages import to_messages

#: Sends messages in order; returns whether the client is there.
Send: TypeAlias = Callable[[Iterable[bytes]], Awaitable[bool]]


class WebSocketDelivery:
    """A lane of a connection as a turn's client. send: the connection's."""

    def __init__(self, send: Send, lane: str) -> None:
        self._send = send
        self._lane = lane
        self.gone = False
        self.started = False

    def begin(self, headers: Mapping[str, str]) -> None:
        """Let the headers go: messages have none."""

    async def send(self, frames: bytes) -> bool:
        """Send what whole SSE frames say; return whether the client is there."""
        if not self.gone:
            self.started = True
            self.gone = not await self._send(to_messages(frames, self._lane))
        return not self.gone

    async def keep_alive(self, silence_seconds: float) -> None:
        """Do nothing: the connection as a whole is kept alive."""
