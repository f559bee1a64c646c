"""How a turn's answer reaches whoever waits for it: `Delivery`; over HTTP one JSON body or a stream: `HttpDelivery`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol

from aiohttp import web

logger = logging.getLogger(__name__)


class Delivery(Protocol):
    """The client's side of one turn. `gone`: it left; from then on sending does nothing."""

    gone: bool

    @property
    def started(self) -> bool:
        """Whether anything of a stream was sent."""
        ...

    def keep_headers(self, headers: Mapping[str, str]) -> None:
        """Note the upstream's headers that go along with the answer."""
        ...

    async def send(self, frames: bytes) -> bool:
        """Send whole SSE frames; return whether the client is there."""
        ...

    async def keep_alive(self, silence_seconds: float) -> None:
        """Do what a stream needs that has been silent for that long. Never waits for the client."""
        ...

    async def secure(self) -> None:
        """Return when what was sent is safe, where it is kept: the turn is about to be committed."""
        ...

    async def finish_stream(self) -> web.StreamResponse:
        """End the stream cleanly and return its response."""
        ...

    def json_response(self, body: bytes) -> web.Response:
        """Return the whole answer as one JSON body."""
        ...


class WrappedDelivery:
    """A delivery around another, which does everything: the base of those that only add to it."""

    def __init__(self, inner: Delivery) -> None:
        self._inner = inner

    @property
    def gone(self) -> bool:
        """Whether the client left."""
        return self._inner.gone

    @gone.setter
    def gone(self, value: bool) -> None:
        """Note that the client left."""
        self._inner.gone = value

    @property
    def started(self) -> bool:
        """Whether anything of the stream was sent."""
        return self._inner.started

    def keep_headers(self, headers: Mapping[str, str]) -> None:
        """Note the upstream's headers that go along with the answer."""
        self._inner.keep_headers(headers)

    async def send(self, frames: bytes) -> bool:
        """Send whole frames; return whether the client is there."""
        return await self._inner.send(frames)

    async def keep_alive(self, silence_seconds: float) -> None:
        """Do what the client's stream needs after that much silence."""
        await self._inner.keep_alive(silence_seconds)

    async def secure(self) -> None:
        """Return when the client's side has what it needs."""
        await self._inner.secure()

    async def finish_stream(self) -> web.StreamResponse:
        """End the client's stream cleanly and return its response."""
        return await self._inner.finish_stream()

    def json_response(self, body: bytes) -> web.Response:
        """Return the whole answer as one JSON body."""
        return self._inner.json_response(body)
