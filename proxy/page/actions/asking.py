"""Actions that ask the model: a message sent, an edit, a new answer. The turn runs on whether the page stays or not.

A form waits for the turn's end, for as long as a browser waits, and then shows what came of it. The script, which says
that it takes JSON, is told at once where to look.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

import orjson
from aiohttp import hdrs, web

from proxy.api.edits import describe_edit, describe_regeneration, edit_alone, read_message, read_turn
from proxy.auth.caller import CALLER
from proxy.http.answers import json_answer, path_conversation_id, whole
from proxy.http.keys import CONFIG, REQUEST_ID, STORE
from proxy.page.actions.changes import branch_url, item_problem
from proxy.page.content.forms import branch_in, id_in, message_turn, renewed, text_in
from proxy.page.guard import as_api_error, error_screen, read_form
from proxy.page.layout import ROOT_PATH, see_other
from proxy.page.running import begin_turn, stop_turn
from proxy.page.screens.conversations import conversation_screen, list_screen
from proxy.page.screens.responses import path_response_id, response_screen
from proxy.protocol import ids
from proxy.protocol.errors import ApiError
from proxy.protocol.params import MAIN
from proxy.protocol.request import read_request
from proxy.turns.intake import take_in
from proxy.turns.options import TurnOptions
from storage import Conversation, Fork, ForkPoint, ResponseNotFound, StoreError, TurnSource, new_partition

if TYPE_CHECKING:
    from proxy.page.running import BegunTurn

#: Seconds that a form waits for the end of its turn.
FORM_PATIENCE_SECONDS = 20.0

_JSON = "application/json"

#: What shows a screen with a form: as it was filled in, and the status.
Screen: TypeAlias = Callable[[web.Request, dict[str, Any], int], Awaitable[web.StreamResponse]]


async def do_begin(request: web.Request) -> web.StreamResponse:
    """POST /ui/new: message, model; a new conversation with its first turn."""
    form, store, owner = await read_form(request), request.app[STORE], request[CALLER].owner
    conversation_id = ids.new_conversation_id(new_partition())
    made = False
    try:
        body = message_turn(form, {"id": conversation_id})
        await whole(store.conversations.create(owner, Conversation(conversation_id, 0, 0), []))
        made = True
        begun = await _begin(request, body)
    except (ApiError, StoreError) as exc:
        if made:
            # nobody has seen it yet, and it has nothing in it
            await whole(store.conversations.delete(owner, conversation_id))
        return await _problem(request, exc, list_screen)
    return await _result(request, begun, conversation_id, "")


async def do_send(request: web.Request) -> web.StreamResponse:
    """POST …/turn: message, model, branch; with `at` (an item or a response) as the first of a new branch, `name`."""
    conversation_id, form = path_conversation_id(request), await read_form(request)
    try:
        at, name = id_in(form, "at", required=False), branch_in(form, "name") or ids.new_branch_name("branch")
        place = {"at": at, "branch": name} if at else {"branch": branch_in(form)}
        conversation = {"id": conversation_id} | {key: value for key, value in place.items() if value}
        begun = await _begin(request, message_turn(form, conversation))
    except (ApiError, StoreError) as exc:
        return await _problem(request, exc, conversation_screen)
    return await _result(request, begun, conversation_id, name if at else branch_in(form))


async def do_edit(request: web.Request) -> web.StreamResponse:
    """POST …/edit: item, branch, message; mode (answer, save, branch), name, model, response (that is replaced)."""
    conversation_id, form = path_conversation_id(request), await read_form(request)
    try:
        item_id, mode = id_in(form, "item"), text_in(form, "mode") or "answer"
        message = read_message({"content": text_in(form, "message", required=True)})
        name = branch_in(form, "name") or ids.new_branch_name("branch")
        backup = {"name": name} if mode == "branch" else {"backup": ids.new_branch_name(MAIN)}
        source = TurnSource(conversation_id, branch=branch_in(form), fork=Fork(ForkPoint.EDIT, item_id, **backup))
        if mode == "save":
            await whole(edit_alone(request.app[STORE], request[CALLER].owner, source, message))
            return _told(request, branch_url(conversation_id, MAIN))
        body = {**renewed(await _replaced(request, form), form), "input": [message]}
        options = TurnOptions(describe=describe_edit)
        begun = await begin_turn(request, read_turn(body, source), options)
    except (ApiError, StoreError) as exc:
        return _told_wrong(request, exc) or await item_problem(request, exc, "edit")
    return await _result(request, begun, conversation_id, name if mode == "branch" else MAIN)


async def do_regenerate(request: web.Request) -> web.StreamResponse:
    """POST …/regenerate: item, branch, model, temperature, response (that is replaced)."""
    conversation_id, form = path_conversation_id(request), await read_form(request)
    try:
        fork = Fork(ForkPoint.REPLY, id_in(form, "item"), backup=ids.new_branch_name(MAIN))
        source = TurnSource(conversation_id, branch=branch_in(form), fork=fork)
        body = renewed(await _replaced(request, form), form)
        options = TurnOptions(describe=describe_regeneration)
        begun = await begin_turn(request, read_turn(body, source), options)
    except (ApiError, StoreError) as exc:
        return _told_wrong(request, exc) or await item_problem(request, exc, "regenerate")
    return await _result(request, begun, conversation_id, MAIN)


async def do_go_on(request: web.Request) -> web.StreamResponse:
    """POST /ui/r/RESP/turn: message, model; in a conversation as the first turn of a new branch, `name`."""
    response_id, form = path_response_id(request), await read_form(request)
    try:
        stored = await request.app[STORE].responses.read(request[CALLER].owner, response_id)
        conversation = orjson.loads(stored.body).get("conversation") or {}
        if conversation.get("id"):
            name = branch_in(form, "name") or ids.new_branch_name("branch")
            body = message_turn(form, {"id": conversation["id"], "at": response_id, "branch": name})
        else:
            name, body = "", message_turn(form, None) | {"previous_response_id": response_id}
        begun = await _begin(request, body)
    except (ApiError, StoreError) as exc:
        return await _problem(request, exc, response_screen)
    return await _result(request, begun, conversation.get("id") or "", name)


async def do_stop(request: web.Request) -> web.StreamResponse:
    """POST …/stop: branch, response; what has come of its answer stays."""
    conversation_id, form = path_conversation_id(request), await read_form(request)
    branch = branch_in(form)
    await stop_turn(request, conversation_id, branch, id_in(form, "response"))
    return _told(request, branch_url(conversation_id, branch) + "#end")


async def _begin(request: web.Request, body: dict[str, Any]) -> BegunTurn:
    return await begin_turn(request, await take_in(request.app[CONFIG], body, read_request))


async def _replaced(request: web.Request, form: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the Response object whose place a new answer takes, None where it is gone or unknown."""
    response_id = id_in(form, "response", required=False)
    if not response_id:
        return None
    try:
        stored = await request.app[STORE].responses.read(request[CALLER].owner, response_id)
    except ResponseNotFound:
        return None
    found: dict[str, Any] = orjson.loads(stored.body)
    return found


async def _result(request: web.Request, begun: BegunTurn, conversation_id: str, branch: str) -> web.StreamResponse:
    """Send the browser to what came of a turn; one that failed, or is in no conversation, is seen at its response."""
    if _takes_json(request) and conversation_id:
        live = f"{ROOT_PATH}c/{conversation_id}/live" + (f"?branch={quote(branch)}" if branch else "")
        told = {"response": begun.response_id, "location": branch_url(conversation_id, branch)}
        if begun.is_over:
            # nobody need wait for it
            return json_answer({"location": _place_of(begun, told["location"])})
        return json_answer(told | {"branch": branch, "live": live})
    try:
        await begun.ended(FORM_PATIENCE_SECONDS)
    except (ApiError, StoreError) as exc:
        return error_screen(request, as_api_error(request, exc))
    place = branch_url(conversation_id, branch) + "#end" if conversation_id else f"{ROOT_PATH}r/{begun.response_id}"
    return _told(request, _place_of(begun, place))


def _place_of(begun: BegunTurn, place: str) -> str:
    """Return where to look at a turn: at its response if it failed."""
    failed = begun.is_over and begun.status not in {"completed", "incomplete"}
    return f"{ROOT_PATH}r/{begun.response_id}" if failed else place


def _told(request: web.Request, location: str) -> web.Response:
    return json_answer({"location": location}) if _takes_json(request) else see_other(location)


def _told_wrong(request: web.Request, exc: ApiError | StoreError) -> web.Response | None:
    """Return what is wrong with a form as the API says it, None for somebody who wants a screen."""
    if not _takes_json(request):
        return None
    error = as_api_error(request, exc)
    return json_answer({"error": error.to_dict() | {"request_id": request[REQUEST_ID]}}, status=error.status)


async def _problem(request: web.Request, exc: ApiError | StoreError, screen: Screen) -> web.StreamResponse:
    """Return the screen that a form came from, as it was filled in, with what is wrong."""
    if (told := _told_wrong(request, exc)) is not None:
        return told
    error = as_api_error(request, exc)
    filled = {name: value for name, value in (await read_form(request)).items() if isinstance(value, str)}
    return await screen(request, {**filled, "problem": error}, error.status)


def _takes_json(request: web.Request) -> bool:
    return request.headers.get(hdrs.ACCEPT, "").startswith(_JSON)
