"""Turn slots: how many turns run at a time, of one owner and of all, over all replicas."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING

from proxy.protocol.errors import TooManyRequests
from storage import ALL_OWNERS, StoreError, TurnSlot

if TYPE_CHECKING:
    from proxy.config.settings import QuotasConfig
    from storage import Quotas

logger = logging.getLogger(__name__)

#: Seconds after which a client that found no slot may ask again.
SLOT_RETRY_SECONDS = 1


class TurnSlots:
    """The slots that turns of this process have."""

    def __init__(self, quotas: Quotas, limits: QuotasConfig) -> None:
        self._quotas = quotas
        self._limits = limits
        self._taken: set[TurnSlot] = set()
        self._leaving: set[asyncio.Task[None]] = set()

    @classmethod
    def of(cls, quotas: Quotas, limits: QuotasConfig) -> TurnSlots | None:
        """Return what `limits` say; None where any number of turns may run."""
        return cls(quotas, limits) if limits.turns or limits.total_turns else None

    async def enter(self, owner: str) -> TurnSlot:
        """Take a slot for a turn of this owner. Raises TooManyRequests, Unavailable."""
        slot = TurnSlot(owner, secrets.token_hex(8), self._limits.turns, self._limits.total_turns)
        if (full := await self._quotas.enter(slot)) is not None:
            whose = "This server runs" if full == ALL_OWNERS else "You have"
            raise TooManyRequests(
                f"{whose} as many turns at a time as are allowed.", retry_after_seconds=SLOT_RETRY_SECONDS
            )
        self._taken.add(slot)
        return slot

    def leave(self, slot: TurnSlot) -> None:
        """Give a slot back; its turn is over. The command goes out before the end of its answer does."""
        self._taken.discard(slot)
        task = asyncio.create_task(self._leave(slot))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _leave(self, slot: TurnSlot) -> None:
        try:
            await self._quotas.leave(slot)
        except StoreError:
            logger.warning("the slot of a turn is left to its time: the store can't be reached")

    async def keep(self) -> None:
        """Renew all. Raises Unavailable."""
        if self._taken:
            await self._quotas.keep(list(self._taken))

    async def settle(self) -> None:
        """Wait until what has been given back is back."""
        await asyncio.gather(*self._leaving)
