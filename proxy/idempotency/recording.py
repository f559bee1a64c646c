"""A turn's stream, taken down while it is sent."""

from __future__ import annotations

from proxy.delivery import Delivery, WrappedDelivery


class RecordedDelivery(WrappedDelivery):
    """A delivery whose frames are kept, up to `limit` bytes, also those that a client that has gone never got."""

    def __init__(self, inner: Delivery, limit: int) -> None:
        super().__init__(inner)
        self._room = limit
        self._frames: list[bytes] = []

    @property
    def recorded(self) -> bytes | None:
        """All frames so far; None if they were too many."""
        return b"".join(self._frames) if self._room >= 0 else None

    async def send(self, frames: bytes) -> bool:
        """Keep and send whole frames; return whether the client is there."""
        self._room -= len(frames)
        if self._room >= 0:
            self._frames.append(frames)
        else:
            self._frames.clear()
        return await super().send(frames)
