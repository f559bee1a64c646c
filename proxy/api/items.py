"""The endpoints under /v1/conversations/{conversation_id}/items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web
from multidict import MultiMapping

from proxy.api.item_input import read_items, to_entries
from proxy.api.rendering import item_list, render, show
from proxy.auth.caller import CALLER
from proxy.http.answers import json_answer, path_conversation_id, path_item_id, whole
from proxy.http.body import read_json
from proxy.http.keys import CONFIG, STORE
from proxy.protocol import ids
from proxy.protocol.errors import BadRequest, NotFound, missing_parameter
from proxy.protocol.items import InputItem
from proxy.protocol.params import (
    MAIN,
    asks_encrypted,
    check_id,
    read_branch_name,
    read_flag,
    read_page,
    refuse_misspelt,
    refuse_unknown,
)
from storage import Fork, ForkPoint, ItemNotFound, Store, TurnSource, partition_of


async def create_items(request: web.Request) -> web.Response:
    """POST /v1/conversations/{conversation_id}/items: up to 20, all or none; answers just these, in their order."""
    conversation_id = path_conversation_id(request)
    refuse_misspelt(request.query, ("branch",))
    body = await read_json(request)
    refuse_unknown(body, ("items",), in_query=("branch",))
    if "items" not in body:
        raise missing_parameter("items")
    items = read_items(body["items"])
    if not items:
        raise BadRequest(
            "Invalid 'items': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            param="items",
            code="empty_array",
        )
    append = _append(request, conversation_id, read_branch_name(request.query), items)
    return _items(request, await whole(append), has_more=False)


async def list_items(request: web.Request) -> web.Response:
    """GET /v1/conversations/{conversation_id}/items: after, limit, order, include[], branch, at."""
    conversation_id, query = path_conversation_id(request), request.query
    refuse_misspelt(query, ("branch", "at"))
    branch, at = read_branch_name(query), query.get("at") or ""
    if at:
        check_id(at, "at")
    try:
        page = await request.app[STORE].items.list_page(
            request[CALLER].owner, conversation_id, read_page(query), branch=branch, at=at
        )
    except ItemNotFound as exc:
        raise NotFound(f"No item or response found with id '{at}'.", param="at") from exc
    return _items(request, page.items, has_more=page.has_more)


async def read_item(request: web.Request) -> web.Response:
    """GET /v1/conversations/{conversation_id}/items/{item_id}: the bare item."""
    item = await request.app[STORE].items.read(
        request[CALLER].owner, path_conversation_id(request), path_item_id(request)
    )
    return web.Response(body=show(item, request), content_type="application/json")


async def delete_item(request: web.Request) -> web.Response:
    """DELETE /v1/conversations/{conversation_id}/items/{item_id}: mode, cascade, branch; answers the conversation."""
    store, owner, query = request.app[STORE], request[CALLER].owner, request.query
    conversation_id, item_id = path_conversation_id(request), path_item_id(request)
    refuse_misspelt(query, ("branch", "mode", "cascade"))
    branch, point = read_branch_name(query), _read_fork_point(query, request.app[CONFIG].conversations.delete_mode)
    if point is None:
        deletion = delete_for_good(store, owner, conversation_id, branch, item_id)
    else:
        deletion = leave_out(
            store, owner, conversation_id, branch, Fork(point, item_id, backup=ids.new_branch_name(MAIN))
        )
    return json_answer(await whole(deletion))


def _read_fork_point(query: MultiMapping[str], default_mode: str) -> ForkPoint | None:
    """Return where a deletion forks, None if it just removes the item; from `mode` and `cascade`."""
    mode = query.get("mode") or default_mode
    if mode not in {"item", "branch"}:
        message = f"Invalid value: '{mode}'. Supported values are: 'item' and 'branch'."
        raise BadRequest(message, param="mode", code="invalid_value")
    cascade = read_flag(query, "cascade")
    if mode == "branch":
        return ForkPoint.BEFORE if cascade else ForkPoint.WITHOUT
    if cascade:
        message = "Invalid 'cascade': only 'mode=branch' can leave out what comes after the item."
        raise BadRequest(message, param="cascade", code="invalid_value")
    return None


async def _append(
    request: web.Request, conversation_id: str, branch: str, items: Sequence[InputItem]
) -> Sequence[bytes]:
    store, owner = request.app[STORE], request[CALLER].owner
    source = TurnSource(conversation_id, branch=branch)
    entries = await to_entries(store, owner, items, partition_of(conversation_id), source)
    if entries:
        most = request.app[CONFIG].turns.max_history_items
        return await store.items.append(owner, conversation_id, branch, entries, most)
    # nothing but compaction triggers, which are taken and never stored
    if branch:
        await store.branches.read(owner, conversation_id, branch)
    else:
        await store.conversations.read(owner, conversation_id)
    return []


async def delete_for_good(store: Store, owner: str, conversation_id: str, branch: str, item_id: str) -> dict[str, Any]:
    """Delete an item from every branch; return what the answer says. branch: that it must lie on, '' for any."""
    conversation = await store.items.delete(owner, conversation_id, item_id, branch=branch)
    return render(conversation) | {
        "branch": branch or conversation.active_branch,
        "branch_created": False,
        "deleted": True,
        "old_main_backup": "",
        "deleted_item_id": item_id,
    }


async def leave_out(store: Store, owner: str, conversation_id: str, branch: str, fork: Fork) -> dict[str, Any]:
    """Make a new MAIN that lacks what `fork` says; return what the answer says."""
    forked = await store.branches.create(owner, conversation_id, branch, fork)
    return render(await store.conversations.read(owner, conversation_id)) | {
        "branch": MAIN,
        "branch_created": True,
        "deleted": True,
        "old_main_backup": forked.backup,
        "deleted_item_id": fork.target,
    }


def _items(request: web.Request, items: Sequence[bytes], *, has_more: bool) -> web.Response:
    body = item_list(items, has_more=has_more, show_encrypted=asks_encrypted(request.query))
    return web.Response(body=body, content_type="application/json")


_ALL = "/v1/conversations/{conversation_id}/items"

ROUTES = [
    web.post(_ALL, create_items),
    web.get(_ALL, list_items),
    web.get(f"{_ALL}/{{item_id}}", read_item),
    web.delete(f"{_ALL}/{{item_id}}", delete_item),
]
