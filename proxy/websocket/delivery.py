"""WebSocket delivery: a turn's frames as messages on its lane of a connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeAlias

from proxy.protocol.sse import FrameBytes, joined
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
        self._waiting: list[bytes] = []

    def begin(self, headers: Mapping[str, str]) -> None:
        """Let the headers go: messages have none."""

    async def send(self, frames: FrameBytes) -> bool:
        """Send what whole SSE frames say; return whether the client is there."""
        if not self.gone:
            self.started = True
            self._waiting.append(joined(frames))
            await self.caught_up()
        return not self.gone

    def push(self, frames: FrameBytes) -> bool:
        """Leave whole frames to `caught_up`, which sends them as messages."""
        self._waiting.append(joined(frames))
        return False

    async def caught_up(self) -> None:
        """Send what was pushed."""
        while self._waiting:
            frames = b"".join(self._waiting)
            self._waiting.clear()
            if not self.gone:
                self.gone = not await self._send(to_messages(frames, self._lane))

    async def keep_alive(self, silence_seconds: float) -> None:
        """Do nothing: the connection as a whole is kept alive."""
