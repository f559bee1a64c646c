"""Leases: the locks that running turns hold, renewed together: one task and one round trip for all of them.

What has to be given back while the store does not answer is owed: it is tried at once, and then until it is done. So a
client that was told to try again does not find its own lock in its way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from proxy.runtime.tasks import Tasks
from storage import Lease, Store, Unavailable

logger = logging.getLogger(__name__)

#: Something that undoes what was done, and changes nothing more if it is repeated.
Undo: TypeAlias = Callable[[], Awaitable[object]]

#: Seconds that a caller waits for something to be undone, before it goes on in the background.
UNDO_PATIENCE_SECONDS = 1.0
#: Seconds between two attempts, and after which nothing is tried any more.
UNDO_PAUSE_SECONDS = 0.1
LONGEST_UNDO_SECONDS = 300.0


@dataclass(frozen=True, slots=True, eq=False)
class _Owed:
    undo: Undo
    until: float


class Leases:
    """Held locks of this process. seconds: how long a lock lives without renewal."""

    def __init__(self, store: Store, seconds: float) -> None:
        self._store = store
        self.seconds = seconds
        self._held: set[Lease] = set()
        self._owed: list[_Owed] = []
        self._owes = asyncio.Event()

    def hold(self, lease: Lease) -> None:
        """Renew this lock until it is forgotten, or somebody else's."""
        self._held.add(lease)

    def forget(self, lease: Lease) -> None:
        """Stop renewing a lock."""
        self._held.discard(lease)

    async def give_back(self, lease: Lease) -> None:
        """Let the next one have a lock, now or as soon as the store can be reached."""
        self.forget(lease)
        await self.undo(lambda: self._store.turns.release(lease))

    async def undo(self, undo: Undo) -> bool:
        """Undo something; return whether that is done, else it goes on in the background.

        undo: may be called again and again, and raises Unavailable where it is not known to be done.
        """
        try:
            async with asyncio.timeout(UNDO_PATIENCE_SECONDS):
                await undo()
        except (Unavailable, TimeoutError):
            self._owed.append(_Owed(undo, asyncio.get_running_loop().time() + LONGEST_UNDO_SECONDS))
            self._owes.set()
            return False
        return True

    @asynccontextmanager
    async def renewing(self, tasks: Tasks) -> AsyncIterator[Leases]:
        """Renew what is held, and give back what is owed, for as long as the context lasts."""
        async with (
            tasks.periodic("renewal of locks", self.seconds / 3, self._renew, logger),
            tasks.periodic("giving back of locks", UNDO_PAUSE_SECONDS, self._settle, logger, when=self._owes),
        ):
            yield self

    async def _renew(self) -> None:
        if not self._held:
            return
        held = list(self._held)
        # without the store a lock may run out: its turn finds out at its commit whether anybody came in between
        kept = await self._store.turns.renew(held, self.seconds)
        self._held.difference_update(one for one, found in zip(held, kept, strict=True) if not found.held)

    async def _settle(self) -> None:
        now = asyncio.get_running_loop().time()
        self._owed = [one for one in self._owed if one.until > now]
        while self._owed:
            await self._owed[0].undo()
            del self._owed[0]
        self._owes.clear()
