"""Turns of the page: begun on the server, where they go on whether the page stays or not; and any turn stopped."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from multidict import CIMultiDict

from proxy.auth.caller import CALLER
from proxy.delivery import Unattended
from proxy.http.keys import STORE
from proxy.page.hub import HUB
from proxy.protocol.errors import ApiError
from proxy.protocol.store_errors import from_store_error
from proxy.services import SERVICES
from proxy.turns.running import TURNS
from proxy.turns.turn import Turn
from proxy.upstream.model_call import Inbound
from storage import StopResult, StoreError

if TYPE_CHECKING:
    from aiohttp import web

    from proxy.page.hub import Hub
    from proxy.protocol.request import TurnRequest
    from proxy.protocol.sse import FrameBytes
    from proxy.turns.observer import TurnResult
    from proxy.turns.options import TurnOptions

logger = logging.getLogger(__name__)

#: Seconds that whoever begins a turn waits for the model server to take it; what goes wrong later is told where the
#: turn is watched.
BEGIN_SECONDS = 30.0


@dataclass(slots=True)
class BegunTurn:
    """A turn that was begun. status: how it ended, '' while it runs, or if nothing is kept of it."""

    response_id: str
    is_over: bool
    status: str
    task: asyncio.Task[TurnResult]

    async def ended(self, seconds: float) -> None:
        """Wait for its end, at most so long. Raises ApiError or StoreError if it failed and nothing is kept of it."""
        await asyncio.wait({self.task}, timeout=seconds)
        if self.task.done():
            result = self.task.result()
            self.is_over, self.status = True, result.status


class _Awaited(Unattended):
    """The delivery of a turn that nobody waits for beyond its beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()

    async def send(self, frames: FrameBytes) -> bool:
        self.begun.set()
        return await super().send(frames)


async def begin_turn(request: web.Request, turn_request: TurnRequest, options: TurnOptions | None = None) -> BegunTurn:
    """Begin a turn that runs to its end by itself, watched from its start; return once the model server answers.

    turn_request: a streamed one, else its text can't be followed. Raises ApiError or StoreError for what is refused
    before that, within `BEGIN_SECONDS`; then nothing was kept.
    """
    app, caller = request.app, request[CALLER]
    services, place = app[SERVICES], turn_request.source.conversation_id
    if place:
        await services.store.watching.mark([(caller.owner, place)])
    # of what a browser sends nothing is for the model server
    call = services.model_call(caller, Inbound(CIMultiDict(), ""))
    delivery = _Awaited()
    turn = Turn(services, call, turn_request, delivery, options)
    task = app[TURNS].begin(turn)
    beginning = asyncio.create_task(delivery.begun.wait())
    try:
        await asyncio.wait({task, beginning}, timeout=BEGIN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        beginning.cancel()
    if task.done():
        result = task.result()
        return BegunTurn(result.response_id, is_over=True, status=result.status, task=task)
    task.add_done_callback(lambda done: _note_failure(app[HUB], turn.response_id, done))
    return BegunTurn(turn.response_id, is_over=False, status="", task=task)


async def stop_turn(request: web.Request, conversation_id: str, branch: str, response_id: str) -> bool:
    """End the turn that makes a response with what it has, wherever it runs; return whether it ran.

    branch: on which it runs, '' for the active one. What waits for a worker is cancelled. Raises ConversationNotFound,
    Unavailable.
    """
    owner, store = request[CALLER].owner, request.app[STORE]
    seconds = 2 * request.app[SERVICES].leases.seconds
    result = await store.watching.stop(owner, conversation_id, branch, response_id, seconds)
    if result is StopResult.QUEUED:
        return await store.jobs.cancel(owner, response_id)
    # here it need not wait until the mark is found
    is_here = request.app[TURNS].stop(owner, response_id)
    return is_here or result is StopResult.MARKED


def _note_failure(hub: Hub, response_id: str, done: asyncio.Task[TurnResult]) -> None:
    error = None if done.cancelled() else done.exception()
    if isinstance(error, StoreError):
        error = from_store_error(error)
    if isinstance(error, ApiError):
        hub.note_failure(response_id, error)
