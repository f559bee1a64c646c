"""A turn's stream, taken down while it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

    from proxy.delivery import Delivery


class RecordedDelivery:
    """A delivery whose frames are kept, up to `limit` bytes, also those that a client that has gone never got."""

    def __init__(self, inner: Delivery, limit: int) -> None:
        self._inner = inner
        self._room = limit
        self._frames: list[bytes] = []

    @property
    def recorded(self) -> bytes | None:
        """All frames so far; None if they were too many."""
        return b"".join(self._frames) if self._room >= 0 else None

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        return self._inner.gone

    @gone.setter
    def gone(self, value: bool) -> None:
        """Note that it has."""
        self._inner.gone = value

    @property
    def started(self) -> bool:
        """Whether anything of the stream was sent."""
        return self._inner.started

    def keep_headers(self, headers: Mapping[str, str]) -> None:
        """Note the upstream's headers that go along with the answer."""
        self._inner.keep_headers(headers)

    async def send(self, frames: bytes) -> bool:
        """Keep and send whole frames; return whether the client is there."""
        self._room -= len(frames)
        if self._room >= 0:
            self._frames.append(frames)
        else:
            self._frames.clear()
        return await self._inner.send(frames)

    async def keep_alive(self, silence_seconds: float) -> None:
        """Do what a silent stream needs; comments are not kept."""
        await self._inner.keep_alive(silence_seconds)

    async def secure(self) -> None:
        """Return when what was sent is safe."""
        await self._inner.secure()

    async def finish_stream(self) -> web.StreamResponse:
        """End the stream and return its response."""
        return await self._inner.finish_stream()

    def json_response(self, body: bytes) -> web.Response:
        """Return the whole answer as one JSON body."""
        return self._inner.json_response(body)
