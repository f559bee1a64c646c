"""Reclaimer: frees what a deleted branch leaves behind, soon after the answer and off its path.

Best effort: what is dropped here (too many at once, the store away, the process killed) `branchline gc` frees.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp.web import AppKey

from storage import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.runtime.tasks import Tasks
    from storage import Store

#: Conversations that wait to be swept; further ones are left to `branchline gc`.
MAX_WAITING_CONVERSATIONS = 1000

log = logging.getLogger(__name__)

#: Frees what deleted branches leave behind.
RECLAIMER: AppKey[Reclaimer] = AppKey("reclaimer")


class Reclaimer:
    """Sweeps conversations one after the other, in one task of its own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # a dict keeps the order, and each once
        self._waiting: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def reclaim(self, conversation_id: str) -> None:
        """Have a conversation swept; returns at once. One that waits already is swept once."""
        if len(self._waiting) < MAX_WAITING_CONVERSATIONS:
            self._waiting[conversation_id] = None
            self._idle.clear()
            self._wake.set()

    async def wait(self) -> None:
        """Return when nothing is left to sweep."""
        await self._idle.wait()

    @asynccontextmanager
    async def running(self, tasks: Tasks) -> AsyncIterator[Reclaimer]:
        """Sweep while the context lasts; at its end what waits is dropped."""
        async with tasks.steady("reclaiming", self._work, log, vital=False):
            yield self

    async def _work(self) -> None:
        await self._wake.wait()
        self._wake.clear()
        while self._waiting:
            conversation_id = next(iter(self._waiting))
            del self._waiting[conversation_id]
            await self._sweep(conversation_id)
        self._idle.set()

    async def _sweep(self, conversation_id: str) -> None:
        try:
            await self._store.sweeper.sweep(conversation_id)
        except Unavailable as exc:
            log.info("nothing was reclaimed: the store is not available (%s)", exc.subject)
        except Exception:
            # whatever one conversation has wrong, the others are still to be swept
            log.exception("a conversation could not be swept")
