"""The turns that run in this process: started, kept alive, renewed and brought to an end here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from proxy.errors import ApiError, Unavailable
from storage import Lease, Store, StoreError
from storage import Unavailable as StoreUnavailable

if TYPE_CHECKING:
    from aiohttp import web

    from proxy.config import Config
    from proxy.turn import Turn

logger = logging.getLogger(__name__)

#: Seconds that turns get to write down what they have once they were told to end.
LAST_WORDS_SECONDS = 5.0


class Turns:
    """Running turns and the locks they hold: one renewal and one keep-alive task for all of them."""

    def __init__(self, store: Store, config: Config) -> None:
        self._store = store
        self._lease_seconds = config.turns.lock_lease_seconds
        self._keepalive_seconds = config.server.keepalive_seconds
        self._running: dict[asyncio.Task[web.StreamResponse], Turn] = {}
        self._leases: set[Lease] = set()
        self._draining = False

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Turns]:
        """Renew locks and keep streams alive for as long as the context lasts."""
        tasks = [asyncio.create_task(self._renew_leases()), asyncio.create_task(self._keep_alive())]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def run(self, turn: Turn) -> web.StreamResponse:
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

    def hold(self, lease: Lease | None) -> None:
        """Renew this lock until it is forgotten."""
        if lease is not None:
            self._leases.add(lease)

    def forget(self, lease: Lease) -> None:
        """Stop renewing a lock."""
        self._leases.discard(lease)

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

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            if not self._leases:
                continue
            try:
                await self._store.turns.renew(list(self._leases), self._lease_seconds)
            except StoreUnavailable as error:
                logger.warning("locks could not be renewed: %s", error.subject)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self._keepalive_seconds / 3)
            for turn in list(self._running.values()):
                await turn.delivery.keep_alive(self._keepalive_seconds)
