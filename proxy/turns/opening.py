"""How a turn begins: where it lives, who it is, and its branch, waited for as long as it may."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.context.input import Prepared, prepare
from proxy.protocol import ids
from proxy.protocol.errors import (
    ApiError,
    branch_exists,
    item_not_found,
    previous_response_not_found,
    response_unfinished,
)
from proxy.turns.continuation import Ending, recall
from storage import (
    BranchExists,
    ItemNotFound,
    Lease,
    Locked,
    OpenedTurn,
    ResponseNotFound,
    ResponseUnfinished,
    TurnSource,
    new_partition,
    partition_of,
)

if TYPE_CHECKING:
    from proxy.protocol.request import TurnRequest
    from proxy.services import Services

#: First and longest pause between attempts at a lock or a commit, in seconds.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class Identity:
    """What a turn is known by that was accepted before it runs, perhaps in another process and not for the first time.

    token: of its lock, and of the right to commit. created_at: Unix seconds. lock_wait_seconds: how long it waits for
    its branch.
    """

    response_id: str
    token: str
    created_at: int
    lock_wait_seconds: float


@dataclass(frozen=True, slots=True)
class Opening:
    """One turn's way into the store. lease: its partition and token; which lock it is, the store decides."""

    services: Services
    owner: str
    request: TurnRequest
    lease: Lease
    wait_seconds: float

    async def open(self, is_leaving: Callable[[], bool]) -> OpenedTurn:
        """Open the turn when its branch is free. Raises ApiError, StoreError; Locked when it was not free in time."""
        if self.request.before is not None:
            return await self._recall(self.request.before)
        give_up = time.monotonic() + self.wait_seconds
        pause = FIRST_PAUSE
        while True:
            try:
                return await self.services.store.turns.open(
                    self.owner,
                    self.request.source,
                    self.lease,
                    self.services.leases.seconds,
                    self.request.item_ids,
                    self.request.answered_calls,
                )
            except ResponseNotFound as missing:
                raise previous_response_not_found(missing.subject) from missing
            except ResponseUnfinished as unfinished:
                param = self.request.fork_param or "previous_response_id"
                raise response_unfinished(unfinished.subject, param) from unfinished
            except (ItemNotFound, BranchExists) as refusal:
                raise self._fork_refused(refusal) from refusal
            except Locked:
                if is_leaving() or time.monotonic() + pause > give_up:
                    raise
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _recall(self, before: Ending) -> OpenedTurn:
        """Begin with what the store does not have; it is only asked for what the input names beyond that."""
        request, found = self.request, OpenedTurn()
        if request.item_ids or not before.calls.issuperset(request.answered_calls):
            found = await self.services.store.turns.peek(
                self.owner, TurnSource(), self.lease.partition, request.item_ids, request.answered_calls
            )
        return recall(before, request.item_ids, found)

    def _fork_refused(self, refusal: ItemNotFound | BranchExists) -> ApiError:
        if isinstance(refusal, BranchExists):
            return branch_exists(refusal.subject, "conversation.branch")
        return item_not_found(refusal.subject, self.request.fork_param)


async def look(services: Services, owner: str, request: TurnRequest) -> tuple[OpenedTurn, Prepared]:
    """Return the history and the input that a turn would have, without locking or writing anything.

    Raises what the turn would be refused with.
    """
    partition, opened = partition_for(request), OpenedTurn()
    if request.source.subject or request.item_ids:
        # without a token the store only looks
        opening = Opening(services, owner, request, Lease(partition, "", ""), wait_seconds=0)
        opened = await opening.open(lambda: True)

    def new_item_id(item_type: str) -> str:
        return ids.new_turn_item_id(item_type, partition, stored=False)

    return opened, prepare(request, opened, new_item_id, check_calls=services.config.turns.check_tool_calls)


def partition_for(request: TurnRequest) -> str:
    """Return where a turn lives: with what it continues, else with the newest item it names, else somewhere new."""
    anchor = request.source.subject or "".join(request.item_ids[-1:])
    return partition_of(anchor) if anchor else new_partition()
