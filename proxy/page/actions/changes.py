"""Actions that ask no model: branches made, named, made active and deleted; conversations named and deleted.

Each is a form and ends on the screen that shows what it did; one that failed comes back filled in.
"""

from __future__ import annotations

from urllib.parse import quote

from aiohttp import web

from proxy.api.archive import export_conversation as export_file
from proxy.api.branches import read_branch_changes, read_fork
from proxy.api.conversations import read_conversation_changes
from proxy.api.items import delete_for_good, leave_out
from proxy.auth.caller import CALLER
from proxy.http.answers import path_conversation_id, whole
from proxy.http.keys import STORE
from proxy.page.content.forms import branch_in, id_in, text_in
from proxy.page.guard import as_api_error, read_form
from proxy.page.layout import ROOT_PATH, see_other
from proxy.page.screens.branches import branches_screen
from proxy.page.screens.conversations import item_screen
from proxy.protocol import ids
from proxy.protocol.errors import ApiError, BadRequest
from proxy.protocol.params import MAIN
from proxy.runtime.reclaimer import RECLAIMER
from storage import Fork, ForkPoint, StoreError

_POINTS = {"branch": ForkPoint.WITHOUT, "cascade": ForkPoint.BEFORE}


async def do_fork(request: web.Request) -> web.StreamResponse:
    """POST …/fork: item, branch, name, description; a branch that ends with the item."""
    conversation_id, form = path_conversation_id(request), await read_form(request)
    try:
        body = {"name": text_in(form, "name", required=True), "fork_from_item_id": id_in(form, "item")}
        body |= {"parent_branch": branch_in(form), "description": text_in(form, "description")}
        source, wanted = read_fork(body)
        create = request.app[STORE].branches.create(request[CALLER].owner, conversation_id, source, wanted)
        made = await whole(create)
    except (ApiError, StoreError) as exc:
        return await item_problem(request, exc, "fork")
    return see_other(branch_url(conversation_id, made.branch.name))


async def do_activate(request: web.Request) -> web.StreamResponse:
    """POST …/activate: branch."""
    conversation_id, form = path_conversation_id(request), await read_form(request)
    name = branch_in(form)
    await whole(request.app[STORE].branches.activate(request[CALLER].owner, conversation_id, name))
    if form.get("back") == "branches":
        return see_other(f"{ROOT_PATH}c/{conversation_id}/branches")
    return see_other(branch_url(conversation_id, name))


async def do_rename(request: web.Request) -> web.StreamResponse:
    """POST …/rename: title of the conversation; or branch, name, description."""
    conversation_id, form = path_conversation_id(request), await read_form(request)
    store, owner = request.app[STORE], request[CALLER].owner
    branch = branch_in(form)
    if not branch:
        changes = read_conversation_changes({"title": text_in(form, "title")})
        await whole(store.conversations.update(owner, conversation_id, changes))
        return see_other(f"{ROOT_PATH}c/{conversation_id}")
    try:
        name, description = read_branch_changes({one: text_in(form, one) for one in ("name", "description")})
        new_name = name if name != branch else None
        await whole(store.branches.update(owner, conversation_id, branch, new_name=new_name, description=description))
    except (ApiError, StoreError) as exc:
        error = as_api_error(request, exc)
        return await branches_screen(request, {"problem": error}, error.status)
    return see_other(f"{ROOT_PATH}c/{conversation_id}/branches#b-{quote(new_name or branch)}")


async def do_delete_branch(request: web.Request) -> web.StreamResponse:
    """POST …/delete-branch: branch."""
    conversation_id, form = path_conversation_id(request), await read_form(request)
    try:
        await whole(request.app[STORE].branches.delete(request[CALLER].owner, conversation_id, branch_in(form)))
    except (ApiError, StoreError) as exc:
        error = as_api_error(request, exc)
        return await branches_screen(request, {"problem": error}, error.status)
    request.app[RECLAIMER].reclaim(conversation_id)
    return see_other(f"{ROOT_PATH}c/{conversation_id}/branches")


async def do_delete_item(request: web.Request) -> web.StreamResponse:
    """POST …/delete-item: item, branch, mode (branch, cascade: on a new MAIN; item: for good)."""
    conversation_id, form = path_conversation_id(request), await read_form(request)
    store, owner = request.app[STORE], request[CALLER].owner
    try:
        item_id, branch, mode = id_in(form, "item"), branch_in(form), text_in(form, "mode")
        if mode == "item":
            await whole(delete_for_good(store, owner, conversation_id, "", item_id))
            return see_other(branch_url(conversation_id, branch))
        if mode not in _POINTS:
            raise BadRequest("Invalid 'mode': expected branch, cascade or item.", param="mode", code="invalid_value")
        wanted = Fork(_POINTS[mode], item_id, backup=ids.new_branch_name(MAIN))
        await whole(leave_out(store, owner, conversation_id, branch, wanted))
    except (ApiError, StoreError) as exc:
        return await item_problem(request, exc, "delete")
    return see_other(branch_url(conversation_id, MAIN))


async def do_delete_conversation(request: web.Request) -> web.StreamResponse:
    """POST …/delete: the whole conversation."""
    conversation_id = path_conversation_id(request)
    await whole(request.app[STORE].conversations.delete(request[CALLER].owner, conversation_id))
    return see_other(ROOT_PATH)


async def send_export(request: web.Request) -> web.StreamResponse:
    """GET …/export: the conversation as JSON Lines."""
    return await export_file(request)


def branch_url(conversation_id: str, branch: str, item_id: str = "") -> str:
    """Return where a branch is shown, at its tip or around an item."""
    url = f"{ROOT_PATH}c/{conversation_id}" + (f"?branch={quote(branch)}" if branch else "")
    return f"{url}{'&' if branch else '?'}around={quote(item_id)}#i-{quote(item_id)}" if item_id else url


async def item_problem(request: web.Request, exc: ApiError | StoreError, opened: str) -> web.StreamResponse:
    """Return an item's screen with the form that failed, as it was filled in. opened: which form."""
    form = {name: value for name, value in (await read_form(request)).items() if isinstance(value, str)}
    error, item_id = as_api_error(request, exc), form.get("item", "")
    if not ids.is_valid(item_id):
        raise error
    return await item_screen(request, {**form, "problem": error, "open": opened}, error.status, item_id)
