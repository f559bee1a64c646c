"""The endpoints under /v1/responses."""

from __future__ import annotations

import orjson
from aiohttp import hdrs, web

from proxy.body import read_json
from proxy.delivery import HttpDelivery
from proxy.errors import BadRequest, UpgradeRequired, method_not_allowed
from proxy.fields import asks_encrypted, check_id, item_list, read_page
from proxy.items import hide_sealed
from proxy.question import Inbound
from proxy.request import TurnRequest, read_request
from proxy.services import CALLER, CONFIG, SERVICES, STORE, TURNS, UPSTREAM_REQUEST_ID
from proxy.turn import Turn


async def create_response(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses: one turn, plain or streamed."""
    turn_request = read_request(await read_json(request))
    if turn_request.background:
        raise BadRequest(
            "Background mode is not supported by this server. Leave 'background' out, or set it to false.",
            param="background",
            code="unsupported_parameter",
        )
    return await run_turn(request, turn_request)


async def run_turn(request: web.Request, turn_request: TurnRequest) -> web.StreamResponse:
    """Carry a turn out and return its answer. Raises ApiError, StoreError."""
    delivery = HttpDelivery(request, request.app[CONFIG].server.unread_seconds)
    turn = Turn(request.app[SERVICES], request[CALLER], turn_request, Inbound.of(request), delivery)
    try:
        return await request.app[TURNS].run(turn)
    finally:
        request[UPSTREAM_REQUEST_ID] = turn.upstream_request_id


async def read_response(request: web.Request) -> web.Response:
    """GET /v1/responses/{response_id}."""
    response_id = _response_id(request)
    stored = await request.app[STORE].turns.read_response(request[CALLER].owner, response_id)
    if request.query.get("stream", "").lower() in {"true", "1"}:
        raise BadRequest(
            "This response was not created in background mode with stream=true, so it can't be streamed.",
            param="stream",
        )
    output = stored.output if asks_encrypted(request.query) else hide_sealed(stored.output)
    body = stored.body[:-1] + b',"output":[' + b",".join(output) + b"]}"
    return web.Response(body=body, content_type="application/json")


async def delete_response(request: web.Request) -> web.Response:
    """DELETE /v1/responses/{response_id}: what descends from it keeps its snapshot."""
    response_id = _response_id(request)
    await request.app[STORE].turns.delete_response(request[CALLER].owner, response_id)
    body = orjson.dumps({"id": response_id, "object": "response", "deleted": True})
    return web.Response(body=body, content_type="application/json")


async def cancel_response(request: web.Request) -> web.Response:
    """POST /v1/responses/{response_id}/cancel: only background responses can be cancelled, and there are none."""
    await request.app[STORE].turns.read_response(request[CALLER].owner, _response_id(request))
    raise BadRequest("Cannot cancel a synchronous response.")


async def list_input_items(request: web.Request) -> web.Response:
    """GET /v1/responses/{response_id}/input_items: the history that the model saw, then the turn's own input."""
    page = await request.app[STORE].turns.list_input(
        request[CALLER].owner, _response_id(request), read_page(request.query)
    )
    body = item_list(page.items, has_more=page.has_more, show_encrypted=asks_encrypted(request.query))
    return web.Response(body=body, content_type="application/json")


async def refuse_websocket(request: web.Request) -> web.Response:
    """GET /v1/responses: 426 for a WebSocket, on which Codex CLI falls back to HTTP; there is no list, so else 405."""
    if request.headers.get(hdrs.UPGRADE, "").lower() == "websocket":
        raise UpgradeRequired("WebSocket mode is not supported by this server. Use HTTP.")
    raise method_not_allowed(request.method, "POST")


def _response_id(request: web.Request) -> str:
    response_id = request.match_info["response_id"]
    check_id(response_id, "response_id")
    return response_id


_ONE = "/v1/responses/{response_id}"

ROUTES = [
    web.post("/v1/responses", create_response),
    web.get("/v1/responses", refuse_websocket),
    web.get(_ONE, read_response),
    web.delete(_ONE, delete_response),
    web.post(f"{_ONE}/cancel", cancel_response),
    web.get(f"{_ONE}/input_items", list_input_items),
]
