"""Leases: the locks that running turns hold, renewed together: one task and one round trip for all of them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.runtime.tasks import Tasks
from storage import Lease, Store

logger = logging.getLogger(__name__)


class Leases:
    """Held locks of this process. seconds: how long a lock lives without renewal."""

    def __init__(self, store: Store, seconds: float) -> None:
        self._store = store
        self.seconds = seconds
        self._held: set[Lease] = set()

    def hold(self, lease: Lease) -> None:
        """Renew this lock until it is forgotten, or somebody else's."""
        self._held.add(lease)

    def forget(self, lease: Lease) -> None:
        """Stop renewing a lock."""
        self._held.discard(lease)

    @asynccontextmanager
    async def renewing(self, tasks: Tasks) -> AsyncIterator[Leases]:
        """Renew what is held for as long as the context lasts."""
        async with tasks.periodic("renewal of locks", self.seconds / 3, self._renew, logger):
            yield self

    async def _renew(self) -> None:
        if not self._held:
            return
        held = list(self._held)
        # without the store a lock may run out: its turn finds out at its commit whether anybody came in between
        kept = await self._store.turns.renew(held, self.seconds)
        self._held.difference_update(one for one, is_kept in zip(held, kept, strict=True) if not is_kept)
