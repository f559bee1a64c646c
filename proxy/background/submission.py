"""POST /v1/responses with `background`: checked like any turn, queued, and answered at once.

The branch is locked from here on, so that no other turn comes in between; whoever runs the response inherits the lock.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from proxy.background.job import Parcel, settled
from proxy.context.input import prepare
from proxy.protocol import ids
from proxy.protocol.response import Ownership, complete_response, complete_settings
from proxy.turns.opening import Opening, partition_for
from storage import Lease, OpenedTurn, StoreError, Submission, Unavailable, new_partition, partition_of

if TYPE_CHECKING:
    from proxy.auth.caller import Caller
    from proxy.protocol.request import TurnRequest
    from proxy.services import Services
    from proxy.upstream.call import Inbound

#: What a stored body begins with, see job.lua.
_FIRST = ("id", "object", "created_at", "status", "error")


async def submit(services: Services, caller: Caller, request: TurnRequest, inbound: Inbound) -> dict[str, Any]:
    """Accept a background response; return the Response object, `queued`. From then on it will come to an end.

    Raises ApiError and StoreError as the turn itself would; then nothing is kept and nothing will run.
    """
    request = settled(request)
    lease = Lease(partition_for(request), "", secrets.token_hex(8))
    opened = OpenedTurn()
    if request.source.subject or request.item_ids:
        wait = services.config.turns.lock_wait_seconds
        opened = await Opening(services, caller.owner, request, lease, wait).open(lambda: False)
    lease = replace(lease, partition=_home(request, opened, lease.partition), lock=opened.lock)
    try:
        _check(services, request, opened)
        response = await _submit(services, caller, request, inbound, (lease, opened))
    except BaseException:
        await _release(services, lease)
        raise
    if lease.lock:
        # a lock that somebody else has inherited is forgotten there
        services.leases.hold(lease)
    return response


def _home(request: TurnRequest, opened: OpenedTurn, partition: str) -> str:
    """Return where the response will live: somewhere new if what it names is not this owner's."""
    known = any(partition_of(one) == partition for one in opened.known)
    return partition if request.source.subject or known else new_partition()


def _check(services: Services, request: TurnRequest, opened: OpenedTurn) -> None:
    """Refuse what the turn would refuse. Raises ApiError."""

    def new_item_id(item_type: str) -> str:
        return ids.new_turn_item_id(item_type, "0" * 16, stored=True)

    prepare(request, opened, new_item_id, check_calls=services.config.turns.check_tool_calls)


async def _submit(
    services: Services, caller: Caller, request: TurnRequest, inbound: Inbound, held: tuple[Lease, OpenedTurn]
) -> dict[str, Any]:
    lease, opened = held
    response_id = ids.new_response_id(lease.partition, stored=True)
    created_at = int(time.time())
    response = _queued(request, opened, response_id, created_at)
    kept = {key: value for key, value in response.items() if key != "output"}
    parcel = Parcel.pack(caller, request, inbound, created_at)
    submission = Submission(
        owner=caller.owner,
        response_id=response_id,
        token=lease.token,
        body=orjson.dumps({**{key: kept[key] for key in _FIRST}, **kept}),
        job=parcel.seal(services.sealer, caller.owner, response_id),
        opened=opened,
        streamed=request.stream,
    )
    try:
        await services.store.jobs.submit(submission)
    except Unavailable:
        # it may be there all the same, and its client will ask again
        with contextlib.suppress(StoreError):
            await services.store.jobs.cancel(caller.owner, response_id)
        raise
    return response


def _queued(request: TurnRequest, opened: OpenedTurn, response_id: str, created_at: int) -> dict[str, Any]:
    ownership = Ownership.of(
        request.body,
        request.source,
        response_id=response_id,
        created_at=created_at,
        store=request.stored,
        new_item_id=str,
        branch=opened.branch,
    )
    return complete_response({}, ownership, "queued", [], None, complete_settings({}, request.body))


async def _release(services: Services, lease: Lease) -> None:
    if lease.lock:
        with contextlib.suppress(Unavailable):
            await services.store.turns.release(lease)
