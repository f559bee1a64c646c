"""The endpoints under /v1/conversations/{conversation_id}/branches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from proxy.api.rendering import naming, render, render_branch, render_comparison
from proxy.auth.caller import CALLER
from proxy.http.answers import json_answer, path_conversation_id, whole
from proxy.http.body import read_json
from proxy.http.keys import STORE
from proxy.protocol.errors import BadRequest, invalid_type, json_type, missing_parameter
from proxy.protocol.ids import MAX_LENGTH
from proxy.protocol.params import (
    MAX_PAGE,
    asks_encrypted,
    check_branch_name,
    check_id,
    read_limit,
    read_page,
    read_text,
    refuse_misspelt,
    refuse_unknown,
)
from proxy.runtime.reclaimer import RECLAIMER
from storage import BranchNotFound, Fork, ForkPoint, ItemNotFound

MAX_DESCRIPTION = 512


async def list_branches(request: web.Request) -> web.Response:
    """GET …/branches: in the order of their creation; after (a name), limit, order."""
    conversation_id = path_conversation_id(request)
    refuse_misspelt(request.query, ("limit", "order", "after"))
    wanted = read_page(request.query, limit=MAX_PAGE, order="asc")
    page = await request.app[STORE].branches.list_page(request[CALLER].owner, conversation_id, wanted)
    data = [render_branch(branch) for branch in page.branches]
    return json_answer(
        {
            "object": "list",
            "data": data,
            "active_branch": page.active_branch,
            "first_id": data[0]["name"] if data else None,
            "last_id": data[-1]["name"] if data else None,
            "has_more": page.has_more,
        }
    )


async def create_branch(request: web.Request) -> web.Response:
    """POST …/branches: name, parent_branch, fork_from_item_id (inclusive), description; 201."""
    conversation_id = path_conversation_id(request)
    source, fork = read_fork(await read_json(request))
    create = request.app[STORE].branches.create(request[CALLER].owner, conversation_id, source, fork)
    try:
        forked = await whole(create)
    except BranchNotFound as exc:
        raise naming(exc, "parent_branch") from exc
    except ItemNotFound as exc:
        raise naming(exc, "fork_from_item_id") from exc
    return json_answer(render_branch(forked.branch), status=201)


async def read_branch(request: web.Request) -> web.Response:
    """GET …/branches/{branch}."""
    conversation_id, name = path_conversation_id(request), _path_branch(request)
    return json_answer(
        render_branch(await request.app[STORE].branches.read(request[CALLER].owner, conversation_id, name))
    )


async def update_branch(request: web.Request) -> web.Response:
    """POST and PATCH …/branches/{branch}: name, description; at least one of them."""
    conversation_id, name = path_conversation_id(request), _path_branch(request)
    new_name, description = read_branch_changes(await read_json(request))
    update = request.app[STORE].branches.update(
        request[CALLER].owner, conversation_id, name, new_name=new_name, description=description
    )
    return json_answer(render_branch(await whole(update)))


async def delete_branch(request: web.Request) -> web.Response:
    """DELETE …/branches/{branch}: 204; what other branches share with it stays."""
    conversation_id, name = path_conversation_id(request), _path_branch(request)
    await whole(request.app[STORE].branches.delete(request[CALLER].owner, conversation_id, name))
    request.app[RECLAIMER].reclaim(conversation_id)
    return web.Response(status=204)


async def activate_branch(request: web.Request) -> web.Response:
    """POST …/branches/{branch}/activate: requests that name no branch mean this one from now on."""
    conversation_id, name = path_conversation_id(request), _path_branch(request)
    refuse_unknown(await read_json(request, allow_empty=True), ())
    conversation = await whole(request.app[STORE].branches.activate(request[CALLER].owner, conversation_id, name))
    return json_answer(render(conversation) | {"message": "Branch activated successfully"})


async def compare_branches(request: web.Request) -> web.Response:
    """GET …/branches/{branch}/compare/{other_branch}: limit (of each side), include[]."""
    conversation_id = path_conversation_id(request)
    first, second = _path_branch(request), _path_branch(request, "other_branch")
    refuse_misspelt(request.query, ("limit",))
    limit = read_limit(request.query, MAX_PAGE)
    compare = request.app[STORE].branches.compare(request[CALLER].owner, conversation_id, first, second, limit)
    try:
        comparison = await compare
    except BranchNotFound as exc:
        raise naming(exc, "branch" if exc.subject == first else "other_branch") from exc
    body = render_comparison(first, second, comparison, show_encrypted=asks_encrypted(request.query))
    return web.Response(body=body, content_type="application/json")


def read_fork(body: Mapping[str, Any]) -> tuple[str, Fork]:
    """Return the branch to fork from ('' = the active one, or where the fork item lies) and the fork.

    Raises BadRequest naming the field.
    """
    refuse_unknown(body, ("name", "parent_branch", "fork_from_item_id", "description"))
    if body.get("name") is None:
        raise missing_parameter("name")
    name = _read_name(body["name"], "name")
    parent = body.get("parent_branch")
    source = "" if parent is None or parent == "" else _read_name(parent, "parent_branch")
    item_id = read_text(body, "fork_from_item_id", MAX_LENGTH)
    if item_id:
        check_id(item_id, "fork_from_item_id")
    description = read_text(body, "description", MAX_DESCRIPTION)
    point = ForkPoint.AFTER if item_id else ForkPoint.TIP
    return source, Fork(point, item_id or "", name=name, description=description)


def read_branch_changes(body: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return a branch's new name and description; None leaves as it is, '' clears the description.

    Raises BadRequest naming the field.
    """
    refuse_unknown(body, ("name", "description"))
    if not body.keys() & {"name", "description"}:
        message = "Missing required parameter: 'name' or 'description'."
        raise BadRequest(message, param="name", code="missing_required_parameter")
    name = _read_name(body["name"], "name") if "name" in body else None
    return name, (read_text(body, "description", MAX_DESCRIPTION) or "") if "description" in body else None


def _read_name(value: Any, param: str) -> str:
    if not isinstance(value, str):
        raise invalid_type(param, "a string", json_type(value))
    return check_branch_name(value, param)


def _path_branch(request: web.Request, param: str = "branch") -> str:
    return check_branch_name(request.match_info[param], param)


_ALL = "/v1/conversations/{conversation_id}/branches"
_ONE = f"{_ALL}/{{branch}}"

ROUTES = [
    web.get(_ALL, list_branches),
    web.post(_ALL, create_branch),
    web.get(_ONE, read_branch),
    web.post(_ONE, update_branch),
    web.patch(_ONE, update_branch),
    web.delete(_ONE, delete_branch),
    web.post(f"{_ONE}/activate", activate_branch),
    web.get(f"{_ONE}/compare/{{other_branch}}", compare_branches),
]
