"""The turns that run in this process: started, kept alive and brought to an end here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from aiohttp.web import AppKey

from proxy.protocol.errors import ApiError, Unavailable
from proxy.runtime.tasks import periodic
from storage import StoreError

if TYPE_CHECKING:
    from aiohttp import web

    from proxy.delivery import Delivery

#: The turns that are running.
TURNS: AppKey[Turns] = AppKey("turns")


logger = logging.getLogger(__name__)

#: Seconds that turns get to write down what they have once they were told to end.
LAST_WORDS_SECONDS = 5.0


class Running(Protocol):
    """A turn, or what stands around one."""

    @property
    def delivery(self) -> Delivery:
        """The client's side."""
        ...

    async def run(self) -> web.StreamResponse:
        """Carry it out and return its response."""
        ...

    def leave(self, *, stopping: bool = False) -> None:
        """Note that the client has gone, or (stopping) that the server has to end."""
        ...


class Turns:
    """Running turns, with one keep-alive task for all of them. keepalive_seconds: silence that a stream may have."""

    def __init__(self, keepalive_seconds: float) -> None:
        self._keepalive_seconds = keepalive_seconds
        self._running: dict[asyncio.Task[web.StreamResponse], Running] = {}
        self._draining = False

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Turns]:
        """Keep streams alive for as long as the context lasts."""
        async with periodic(self._keepalive_seconds / 3, self._keep_alive, "streams could not be kept alive", logger):
            yield self

    async def run(self, turn: Running) -> web.StreamResponse:
        """Run a turn to its end in a task of its own, so that it survives its client; return its response.

        Raises what the turn raises; Unavailable when the server is stopping.
        """
        if self._draining:
            raise Unavailable("The server is stopping.", code="server_stopping")
        task = asyncio.create_task(turn.run())
        self._running[task] = turn
        task.add_done_callback(self._done)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            turn.leave()
            raise

    def _done(self, task: asyncio.Task[web.StreamResponse]) -> None:
        del self._running[task]
        # A turn whose client has gone has nobody else to tell.
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, ApiError | StoreError):
            logger.error("turn ended with an error", exc_info=error)

    async def drain(self, timeout_seconds: float) -> None:
        """Refuse new turns, let running ones finish, then end what is left as if its client had gone."""
        self._draining = True
        if self._running:
            logger.info("waiting for %d running turns", len(self._running))
            await asyncio.wait(list(self._running), timeout=timeout_seconds)
        for turn in self._running.values():
            turn.leave(stopping=True)
        if self._running:
            await asyncio.wait(list(self._running), timeout=LAST_WORDS_SECONDS)

    async def _keep_alive(self) -> None:
        for turn in list(self._running.values()):
            await turn.delivery.keep_alive(self._keepalive_seconds)
