"""The locks that running turns hold, renewed together: one task and one round trip for all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.runtime.tasks import beside
from storage import Lease, Store, Unavailable

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
    async def renewing(self) -> AsyncIterator[Leases]:
        """Renew what is held for as long as the context lasts."""
        async with beside(self._renew()):
            yield self

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self.seconds / 3)
            if not self._held:
                continue
            held = list(self._held)
            try:
                kept = await self._store.turns.renew(held, self.seconds)
            except Unavailable as error:
                # a turn whose lock ran out meanwhile finds out at its commit whether anybody came in between
                logger.warning("locks could not be renewed: %s", error.subject)
            else:
                self._held.difference_update(one for one, is_kept in zip(held, kept, strict=True) if not is_kept)
