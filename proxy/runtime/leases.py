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
#: Seconds between two looks at the locks of turns that somebody watches: so soon they end when they are to.
WATCHED_PAUSE_SECONDS = 0.5


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
        #: What ends the turns that may be ended by others, and which of them are watched.
        self._stops: dict[Lease, Callable[[], None]] = {}
        self._watched: set[Lease] = set()
        self._has_watched = asyncio.Event()
        self._owed: list[_Owed] = []
        self._owes = asyncio.Event()

    def hold(self, lease: Lease) -> None:
        """Renew this lock until it is forgotten, or somebody else's."""
        self._held.add(lease)

    def forget(self, lease: Lease) -> None:
        """Stop renewing a lock."""
        self._held.discard(lease)
        self._stops.pop(lease, None)
        self._watched.discard(lease)

    def on_stop(self, lease: Lease, stop: Callable[[], None], *, watched: bool) -> None:
        """Have `stop` called when somebody wants the turn that holds this lock to end, until the lock is forgotten.

        watched: somebody watches the turn: then that is soon, else when the lock is renewed.
        """
        self._stops[lease] = stop
        if watched:
            self._watch(lease)

    def _watch(self, lease: Lease) -> None:
        self._watched.add(lease)
        self._has_watched.set()

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
            tasks.periodic("look at watched turns", WATCHED_PAUSE_SECONDS, self._look, logger, when=self._has_watched),
            tasks.periodic("giving back of locks", UNDO_PAUSE_SECONDS, self._settle, logger, when=self._owes),
        ):
            yield self

    async def _renew(self) -> None:
        if self._held:
            await self._renew_some(list(self._held))

    async def _look(self) -> None:
        if self._watched:
            await self._renew_some(list(self._watched))
        if not self._watched:
            self._has_watched.clear()

    async def _renew_some(self, leases: list[Lease]) -> None:
        # without the store a lock may run out: its turn finds out at its commit whether anybody came in between
        for lease, found in zip(leases, await self._store.turns.renew(leases, self.seconds), strict=True):
            stop = self._stops.get(lease)
            if not found.held:
                self.forget(lease)
            elif stop is None:
                continue
            elif found.stop:
                stop()
            elif found.watched:
                self._watch(lease)
            else:
                self._watched.discard(lease)

    async def _settle(self) -> None:
        now = asyncio.get_running_loop().time()
        self._owed = [one for one in self._owed if one.until > now]
        while self._owed:
            await self._owed[0].undo()
            del self._owed[0]
        self._owes.clear()
