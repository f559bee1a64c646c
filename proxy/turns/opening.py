"""Turn opening: where a turn lives, the lock on its branch, its history, and its input checked against that.

One way for every turn: those that run at once, those that are accepted for later, and those that are only looked at.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING

from proxy.context.input import TurnInput, ends_with_turn_of, prepare
from proxy.protocol.errors import (
    ApiError,
    branch_exists,
    history_too_long,
    item_not_found,
    previous_response_not_found,
    response_unfinished,
)
from proxy.runtime.offload import beside
from proxy.runtime.tasks import Backoff
from proxy.turns.continuation import recall
from proxy.turns.identity import FreshIdentity, Identity
from proxy.turns.options import TurnOptions
from storage import (
    BranchExists,
    ForkPoint,
    HeavyHistory,
    HistoryItems,
    ItemNotFound,
    Lease,
    Locked,
    OpenedTurn,
    ResponseNotFound,
    ResponseUnfinished,
    TurnSource,
    Unavailable,
    new_partition,
    partition_of,
)

if TYPE_CHECKING:
    from proxy.config.settings import TurnsConfig
    from proxy.protocol.request import TurnRequest
    from proxy.services import Services
    from proxy.telemetry.records import TurnRecord
    from proxy.turns.continuation import Continuation
    from storage import HistoryLimit

logger = logging.getLogger(__name__)

#: What a turn begins with that continues nothing and names nothing.
_NOTHING = OpenedTurn()

#: First and longest pause between attempts at a lock or a commit, in seconds.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0


@dataclass(slots=True)
class Opening:
    """What a turn begins with.

    request: with the model of the previous response where it names none. lease: its partition, token and lock, '' if it
    holds none. opened: what the store has of it. turn_input: what it brings. created_at: Unix seconds. waited_seconds:
    for its branch.
    """

    request: TurnRequest
    options: TurnOptions
    identity: Identity
    lease: Lease
    opened: OpenedTurn
    turn_input: TurnInput
    response_id: str
    created_at: int
    waited_seconds: float = 0.0

    def note(self, record: TurnRecord) -> None:
        """Note what the turn begins with."""
        source = self.request.source
        record.opened_at = perf_counter()
        record.lock_seconds = self.waited_seconds
        record.response_id = self.response_id
        record.model = self.request.model
        record.history, record.history_bytes = len(self.opened.items), _size_of(self.opened)
        if record.trace is not None and record.trace.sampled:
            record.conversation_id = source.conversation_id or ""
            record.previous_response_id = source.previous_response_id or ""
            record.branch = self.opened.branch

    @property
    def is_fresh(self) -> bool:
        """Whether nothing is in its partition yet."""
        return not (self.request.source.subject or self.opened.known or self.identity.partition)

    def moved_to(self, partition: str) -> Opening:
        """Return the same turn in another partition; it must hold no lock. Items of its input keep their ids."""
        response_id = self.identity.response_id(partition, stored=self.request.stored)
        lease = Lease(partition, "", self.identity.token(response_id))
        return replace(self, lease=lease, response_id=response_id)

    def may_repeat(self) -> bool:
        """Tell whether its history may end with a turn that brought the same."""
        return ends_with_turn_of(self.opened.items, self.turn_input.entries)

    def new_item_id(self, item_type: str) -> str:
        """Return the id of one more item of the turn."""
        return self.identity.item_id(item_type, self.lease.partition, stored=self.request.stored)


async def open_turn(
    services: Services,
    owner: str,
    request: TurnRequest,
    options: TurnOptions | None = None,
    is_leaving: Callable[[], bool] = lambda: False,
) -> Opening:
    """Open a turn when its branch is free; its lock is renewed from then on.

    is_leaving: whether it need not wait any more. Raises ApiError, StoreError (Locked when the branch was not free in
    time, HeavyHistory if it is more than `options.most_history`); then nothing is held.
    """
    options = options or TurnOptions()
    identity = options.identity or FreshIdentity(services.config.turns.lock_wait_seconds)
    partition = identity.partition or _partition_for(request)
    # a lock, which only conversations have, says whose it is; elsewhere the partition may turn out to be another one
    response_id = identity.response_id(partition, stored=request.stored) if request.source.conversation_id else ""
    lease = Lease(partition, "", identity.token(response_id))
    opened, waited = _NOTHING, 0.0
    append_unstored = services.config.conversations.append_unstored
    keeps = lease.token and not identity.job_token and request.keeps_items(append_unstored=append_unstored)
    checking = _require_room(services, owner) if keeps else None
    if request.source.subject or request.item_ids:
        attempt = _Attempt(services, owner, request, options, lease)
        opened = await attempt.open(identity.lock_wait_seconds, is_leaving)
        waited = attempt.waited_seconds
    if not identity.partition:
        partition = _home(request, opened, partition)
    response_id = response_id or identity.response_id(partition, stored=request.stored)
    if opened.lock or partition != lease.partition:
        lease = Lease(partition, opened.lock, lease.token)
    if lease.lock:
        services.leases.hold(lease)
    request = _with_model(request, opened)

    def new_item_id(item_type: str) -> str:
        return identity.item_id(item_type, partition, stored=request.stored)

    try:
        if checking is not None:
            await checking
        _check_history(services.config.turns, opened)
        # refused here already where no server has the model
        services.upstreams.choose(request.model)
        check_calls = services.config.turns.check_tool_calls
        takes_edits = options.recording is not None and not request.source.subject
        turn_input = await beside(
            len(request.items),
            lambda: prepare(request, opened, new_item_id, check_calls=check_calls, takes_edits=takes_edits),
        )
    except BaseException:
        await release(services, lease)
        raise
    if notes := {entry.id: entry.note for entry in turn_input.entries if entry.note}:
        opened = replace(opened, notes={**opened.notes, **notes})
    created_at = identity.created_at or int(time.time())
    return Opening(request, options, identity, lease, opened, turn_input, response_id, created_at, waited)


def _with_model(request: TurnRequest, opened: OpenedTurn) -> TurnRequest:
    """Return a request with the model of what it goes on with, if it names none."""
    if not opened.model or request.model:
        return request
    return replace(request, body={**request.body, "model": opened.model})


def _require_room(services: Services, owner: str) -> asyncio.Task[None] | None:
    """Refuse a turn for which the store has no room; ask whether its owner may store more, None where it may anyway.

    All that before the model is asked. What was found of the store a moment ago takes no round trip; the owner's quota
    is asked for beside the opening, which is given back if there may be none. Raises StoreError.
    """
    services.store.condition.require()
    if not services.config.quotas.stored_bytes:
        return None
    checking = asyncio.create_task(services.store.ledger.require(owner))
    # where the opening fails nobody asks for it
    checking.add_done_callback(lambda task: task.cancelled() or task.exception())
    return checking


def _check_history(limits: TurnsConfig, opened: OpenedTurn) -> None:
    """Refuse a turn on more history than one may have: all of it is held in memory, and sent."""
    if len(opened.items) > limits.max_history_items:
        raise history_too_long(f"{limits.max_history_items} items")
    if _size_of(opened) > limits.max_history_bytes:
        raise history_too_long(f"{limits.max_history_bytes} bytes")


def _size_of(opened: OpenedTurn) -> int:
    """Return the bytes of a history."""
    return opened.items.size if isinstance(opened.items, HistoryItems) else sum(map(len, opened.items))


async def look(
    services: Services, owner: str, request: TurnRequest, most_history: HistoryLimit | None = None
) -> Opening:
    """Return what a turn would begin with; nothing is locked or written. Raises what it would be refused with."""
    options = TurnOptions(identity=FreshIdentity.looking(), most_history=most_history)
    return await open_turn(services, owner, request, options, lambda: True)


async def release(services: Services, lease: Lease) -> None:
    """Give a lock back, if the lease has one; as soon as the store can be reached, where it can't be now."""
    if lease.lock:
        await services.leases.give_back(lease)


@dataclass(slots=True)
class _Attempt:
    """One turn's way into the store. lease: its partition and token; which lock it is, the store decides."""

    services: Services
    owner: str
    request: TurnRequest
    options: TurnOptions
    lease: Lease
    waited_seconds: float = 0.0

    async def open(self, wait_seconds: float, is_leaving: Callable[[], bool]) -> OpenedTurn:
        if self.options.continuation is not None:
            return await self._recall(self.options.continuation)
        backoff, since = None, time.monotonic()
        while True:
            try:
                return await self._open_certainly()
            except Locked:
                began = perf_counter()
                # most find their branch free
                backoff = backoff or Backoff(FIRST_PAUSE, LONGEST_PAUSE, wait_seconds - (time.monotonic() - since))
                if is_leaving() or not await backoff.pause():
                    raise
                self.waited_seconds += perf_counter() - began

    async def _open_certainly(self) -> OpenedTurn:
        """Open, and where it is not known whether that was done undo it, so that the caller finds no lock of its own.

        A response that was accepted before keeps the lock that it came with.
        """
        try:
            return await self._open_once()
        except Unavailable as unknown:
            if not unknown.unsure or (self.options.identity is not None and self.options.identity.job_token):
                raise
            if await self._withdraw():
                raise Unavailable(unknown.subject, unknown.reason) from unknown
            raise

    async def _withdraw(self) -> bool:
        """Return whether nothing is held any more; where nothing was locked that is so anyway."""
        source, lease, turns = self.request.source, self.lease, self.services.store.turns
        if not (source.conversation_id and lease.token):
            return True
        new_branch = source.fork.name if source.fork else ""
        return await self.services.leases.undo(lambda: turns.withdraw(lease.partition, lease.token, new_branch))

    async def _open_once(self) -> OpenedTurn:
        request = self.request
        try:
            return await self.services.store.turns.open(
                self.owner,
                request.source,
                self.lease,
                self.services.leases.seconds,
                request.item_ids,
                request.answered_calls,
                self.options.most_history,
            )
        except HeavyHistory as heavy:
            # the lock of one that was accepted before is inherited by whoever runs it
            if self.options.identity is None or not self.options.identity.job_token:
                await release(self.services, replace(self.lease, lock=heavy.lock))
            raise
        except ResponseNotFound as missing:
            raise previous_response_not_found(missing.subject) from missing
        except ResponseUnfinished as unfinished:
            param = self._fork_param or "previous_response_id"
            raise response_unfinished(unfinished.subject, param) from unfinished
        except (ItemNotFound, BranchExists) as refusal:
            raise self._fork_refused(refusal) from refusal

    async def _recall(self, before: Continuation) -> OpenedTurn:
        """Begin with what the store does not have; it is only asked for what the input names beyond that."""
        request, found = self.request, OpenedTurn()
        if request.item_ids or not before.calls.issuperset(request.answered_calls):
            found = await self.services.store.turns.peek(
                self.owner, TurnSource(), self.lease.partition, request.item_ids, request.answered_calls
            )
        return recall(before, request.item_ids, found)

    @property
    def _fork_param(self) -> str | None:
        """The parameter that says where the turn forks; None if that is said by the path."""
        fork = self.request.source.fork
        if fork is None or self.options.describe is not None:
            return None
        return "conversation.at" if fork.point is ForkPoint.AT else "conversation.fork_from"

    def _fork_refused(self, refusal: ItemNotFound | BranchExists) -> ApiError:
        if isinstance(refusal, BranchExists):
            return branch_exists(refusal.subject, "conversation.branch")
        return item_not_found(refusal.subject, self._fork_param)


def _partition_for(request: TurnRequest) -> str:
    """Return where a turn may live: with what it continues, else with the newest item it names, else somewhere new."""
    anchor = request.source.subject or "".join(request.item_ids[-1:])
    return partition_of(anchor) if anchor else new_partition()


def _home(request: TurnRequest, opened: OpenedTurn, partition: str) -> str:
    """Return where a turn will live: somewhere new if what its input names is not this owner's."""
    if request.source.subject or not request.item_ids:
        return partition
    return partition if any(partition_of(one) == partition for one in opened.known) else new_partition()
