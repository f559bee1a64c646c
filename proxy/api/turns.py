"""api.turns."""

from __future__ import annotations

from aiohttp import web

from proxy.auth.caller import CALLER
from proxy.http.delivery import HttpDelivery
from proxy.http.keys import CONFIG, UPSTREAM_REQUEST_ID
from proxy.idempotency.turns import attend, find_lost_answer
from proxy.protocol.request import TurnRequest
from proxy.services import SERVICES
from proxy.turns.running import TURNS
from proxy.turns.turn import Turn
from proxy.upstream.call import Inbound


async def run_turn(request: web.Request, turn_request: TurnRequest) -> web.StreamResponse:
    """Carry a turn out and return its answer. Raises ApiError, StoreError."""
    if (lost := await find_lost_answer(request, turn_request)) is not None:
        return lost
    delivery = HttpDelivery(request, request.app[CONFIG].server.unread_seconds)
    turn = Turn(request.app[SERVICES], request[CALLER], turn_request, Inbound.of(request), delivery)
    try:
        return await request.app[TURNS].run(attend(request, turn_request, turn))
    finally:
        request[UPSTREAM_REQUEST_ID] = turn.upstream_request_id
