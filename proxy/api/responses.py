"""The endpoints under /v1/responses."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import orjson
from aiohttp import web

from proxy.api.rendering import item_list
from proxy.api.turns import inbound_of, read_turn_body, run_turn, take_here
from proxy.auth.caller import CALLER
from proxy.background.submission import submit
from proxy.http.answers import json_answer, whole
from proxy.http.body import refuse_selection
from proxy.http.keys import CONFIG, STORE
from proxy.idempotency.turns import note_submission
from proxy.protocol.errors import BadRequest
from proxy.protocol.params import asks_encrypted, check_id, read_flag, read_page
from proxy.protocol.request import read_request
from proxy.recording.recorder import RECORDER
from proxy.relay.replay import Replay
from proxy.services import SERVICES
from proxy.streams.follower import follow, read_starting_after
from proxy.turns.intake import take_in
from proxy.turns.running import TURNS
from storage import HistoryLimit


async def create_response(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses: one turn, plain or streamed; in the background its object at once, or its events."""
    turn_request = await take_in(request.app[CONFIG], await read_turn_body(request), read_request)
    if not turn_request.background:
        if turn_request.stream and (place := request.app[TURNS].entrance.wait()) is not None:
            await place
        return await run_turn(request, turn_request)
    app, inbound = request.app, inbound_of(request)

    def accept(most: HistoryLimit | None) -> Awaitable[dict[str, Any]]:
        return submit(app[SERVICES], app[RECORDER], request[CALLER], turn_request, inbound, most)

    response = await take_here(request, turn_request.source.subject, accept)
    await note_submission(request, response["id"], streamed=turn_request.stream)
    if turn_request.stream:
        return await follow(request, response["id"])
    return web.Response(body=orjson.dumps(response), content_type="application/json")


async def read_response(request: web.Request) -> web.StreamResponse:
    """GET /v1/responses/{response_id}: with `stream=true` its events, from `starting_after` on."""
    response_id = _response_id(request)
    if read_flag(request.query, "stream"):
        return await follow(request, response_id, read_starting_after(request.query))
    return await _render(request, response_id)


async def _render(request: web.Request, response_id: str) -> web.Response:
    """Return a stored response with its output. Raises ResponseNotFound."""
    stored = await request.app[STORE].responses.read(request[CALLER].owner, response_id)
    replay = Replay(stored, show_encrypted=asks_encrypted(request.query))
    return web.Response(body=replay.json, content_type="application/json")


async def delete_response(request: web.Request) -> web.Response:
    """DELETE /v1/responses/{response_id}: what descends from it keeps its snapshot."""
    response_id = _response_id(request)
    await request.app[STORE].responses.delete(request[CALLER].owner, response_id)
    body = orjson.dumps({"id": response_id, "object": "response", "deleted": True})
    return web.Response(body=body, content_type="application/json")


async def delete_responses(request: web.Request) -> web.Response:
    """DELETE /v1/responses: all that the caller has, conversations and everything else too; no key of it is left."""
    await refuse_selection(request)
    purged = await whole(request.app[STORE].purger.purge(request[CALLER].owner))
    request.app[RECORDER].memory.forget_all()
    return json_answer({"object": "responses.deleted", "deleted": True, "deleted_count": purged.responses})


async def cancel_response(request: web.Request) -> web.Response:
    """POST /v1/responses/{response_id}/cancel: one that is over already stays as it is."""
    response_id = _response_id(request)
    if not await request.app[STORE].jobs.cancel(request[CALLER].owner, response_id):
        raise BadRequest("Cannot cancel a synchronous response.")
    return await _render(request, response_id)


async def list_input_items(request: web.Request) -> web.Response:
    """GET /v1/responses/{response_id}/input_items: the history that the model saw, then the turn's own input."""
    page = await request.app[STORE].responses.list_input(
        request[CALLER].owner, _response_id(request), read_page(request.query)
    )
    body = item_list(page.items, has_more=page.has_more, show_encrypted=asks_encrypted(request.query))
    return web.Response(body=body, content_type="application/json")


def _response_id(request: web.Request) -> str:
    response_id = request.match_info["response_id"]
    check_id(response_id, "response_id")
    return response_id


TURN_PATH = "/v1/responses"
_ONE = f"{TURN_PATH}/{{response_id}}"

ROUTES = [
    web.post(TURN_PATH, create_response),
    web.delete(TURN_PATH, delete_responses),
    web.get(_ONE, read_response),
    web.delete(_ONE, delete_response),
    web.post(f"{_ONE}/cancel", cancel_response),
    web.get(f"{_ONE}/input_items", list_input_items),
]
