"""The endpoints under /v1/conversations."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import orjson
from aiohttp import web
from multidict import MultiMapping

from proxy import ids
from proxy.body import read_json
from proxy.errors import ApiError, BadRequest, NotFound, from_store_error, invalid_type, missing_parameter
from proxy.fields import (
    MAIN,
    asks_encrypted,
    check_conversation_id,
    check_id,
    item_list,
    read_branch,
    read_metadata,
    read_page,
    read_text,
)
from proxy.items import InputItem, hide_sealed, json_type, read_input, stored_entry
from proxy.services import CALLER, CONFIG, STORE
from storage import Conversation, Entry, Fork, ForkPoint, ItemNotFound, Store, StoreError, new_partition, partition_of

Written = TypeVar("Written")

#: Most items that one request may bring.
MAX_ITEMS = 20
MAX_TITLE = 256
MAX_REFERRER = 64
MAX_PROJECT_ID = 64

_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_LIMITS = {"title": MAX_TITLE, "project_id": MAX_PROJECT_ID, "referrer": MAX_REFERRER}


async def create_conversation(request: web.Request) -> web.Response:
    """POST /v1/conversations: metadata, title, project_id, referrer, up to 20 items; the body may be empty."""
    body = await read_json(request, allow_empty=True)
    metadata = read_metadata(body.get("metadata"))
    texts = {name: read_text(body, name, limit) for name, limit in _LIMITS.items()}
    items = _read_items(body.get("items")) if body.get("items") is not None else []
    partition = new_partition()
    owner = request[CALLER].owner
    entries = await _to_entries(request.app[STORE], owner, items, partition)
    draft = Conversation(
        id=ids.new_conversation_id(partition),
        created_at=0,
        updated_at=0,
        metadata={key: value for key, value in metadata.items() if value is not None},
        title=texts["title"],
        project_id=texts["project_id"],
        referrer=texts["referrer"],
    )
    conversation, _ = await whole(request.app[STORE].conversations.create(owner, draft, entries))
    return json_answer(render(conversation))


async def list_conversations(request: web.Request) -> web.Response:
    """GET /v1/conversations: the caller's own, by last activity; filters project_id and referrer."""
    page = await request.app[STORE].conversations.list_page(
        request[CALLER].owner,
        read_page(request.query),
        project_id=request.query.get("project_id") or None,
        referrer=request.query.get("referrer") or None,
    )
    data = [render(conversation) for conversation in page.conversations]
    return json_answer(
        {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": page.has_more,
            "next_cursor": page.next_cursor,
        }
    )


async def delete_conversations(request: web.Request) -> web.Response:
    """DELETE /v1/conversations: all of the caller's."""
    count = await whole(request.app[STORE].conversations.delete_all(request[CALLER].owner))
    return json_answer({"object": "conversations.deleted", "deleted": True, "deleted_count": count})


async def read_conversation(request: web.Request) -> web.Response:
    """GET /v1/conversations/{conversation_id}."""
    conversation = await request.app[STORE].conversations.read(request[CALLER].owner, path_conversation_id(request))
    return json_answer(render(conversation))


async def update_conversation(request: web.Request) -> web.Response:
    """POST and PATCH /v1/conversations/{conversation_id}: metadata merges, null deletes a key or clears a field."""
    conversation_id = path_conversation_id(request)
    changes = read_changes(await read_json(request))
    store = request.app[STORE]
    conversation = await whole(store.conversations.update(request[CALLER].owner, conversation_id, changes))
    return json_answer(render(conversation))


async def delete_conversation(request: web.Request) -> web.Response:
    """DELETE /v1/conversations/{conversation_id}: its items can't be reached from then on."""
    conversation_id = path_conversation_id(request)
    await whole(request.app[STORE].conversations.delete(request[CALLER].owner, conversation_id))
    return json_answer({"id": conversation_id, "object": "conversation.deleted", "deleted": True})


async def create_items(request: web.Request) -> web.Response:
    """POST /v1/conversations/{conversation_id}/items: up to 20, all or none; answers just these, in their order."""
    conversation_id = path_conversation_id(request)
    body = await read_json(request)
    if "items" not in body:
        raise missing_parameter("items")
    items = _read_items(body["items"])
    if not items:
        raise BadRequest(
            "Invalid 'items': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            param="items",
            code="empty_array",
        )
    append = _append(request.app[STORE], request[CALLER].owner, conversation_id, read_branch(request.query), items)
    return _items(request, await whole(append), has_more=False)


async def list_items(request: web.Request) -> web.Response:
    """GET /v1/conversations/{conversation_id}/items: after, limit, order, include[], branch, at."""
    conversation_id, query = path_conversation_id(request), request.query
    branch, at = read_branch(query), query.get("at") or ""
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
    branch, point = read_branch(query), _read_fork_point(query, request.app[CONFIG].conversations.delete_mode)
    if point is None:
        deletion = _delete_for_good(store, owner, conversation_id, branch, item_id)
    else:
        deletion = _leave_out(
            store, owner, conversation_id, branch, Fork(point, item_id, backup=ids.new_branch_name(MAIN))
        )
    return json_answer(await whole(deletion))


def render(conversation: Conversation) -> dict[str, Any]:
    """Return a Conversation object: OpenAI's four fields, then ours; times in seconds."""
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": conversation.created_at,
        "metadata": conversation.metadata,
        "title": conversation.title,
        "updated_at": conversation.updated_at // 1000,
        "project_id": conversation.project_id,
        "referrer": conversation.referrer,
        "active_branch": conversation.active_branch,
    }


def read_changes(body: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the fields that an update sets, or (None) clears; metadata keys as `m:<key>`.

    OpenAI demands `metadata`; here any of our own fields will do instead. Raises BadRequest.
    """
    changes: dict[str, str | None] = {
        name: read_text(body, name, limit) for name, limit in _LIMITS.items() if name in body
    }
    if "metadata" in body:
        if body["metadata"] is None:
            raise invalid_type("metadata", "an object", "null")
        metadata = read_metadata(body["metadata"], nullable_values=True)
        changes |= {f"m:{key}": value for key, value in metadata.items()}
    elif not changes:
        raise missing_parameter("metadata")
    return changes


def show(item: bytes, request: web.Request) -> bytes:
    """Return a stored item as this request may see it."""
    return item if asks_encrypted(request.query) else hide_sealed([item])[0]


def naming(error: StoreError, param: str) -> ApiError:
    """Return what a caller is told about a refusal of the store, with the field that it is about."""
    answer = from_store_error(error)
    answer.param = param
    return answer


def _read_fork_point(query: MultiMapping[str], default_mode: str) -> ForkPoint | None:
    """Return where a deletion forks, None if it just removes the item; from `mode` and `cascade`."""
    mode = query.get("mode") or default_mode
    if mode not in {"item", "branch"}:
        raise _invalid_choice("mode", mode, "'item' and 'branch'")
    cascade = query.get("cascade") or None
    if cascade is None:
        return ForkPoint.WITHOUT if mode == "branch" else None
    if cascade.lower() not in _FLAGS:
        raise _invalid_choice("cascade", cascade, "'true' and 'false'")
    if mode == "item":
        message = "Invalid 'cascade': only 'mode=branch' can leave out what comes after the item."
        raise BadRequest(message, param="cascade", code="invalid_value")
    return ForkPoint.BEFORE if _FLAGS[cascade.lower()] else ForkPoint.WITHOUT


def _invalid_choice(param: str, value: str, choices: str) -> BadRequest:
    message = f"Invalid value: '{value}'. Supported values are: {choices}."
    return BadRequest(message, param=param, code="invalid_value")


def _read_items(value: Any) -> list[InputItem]:
    if not isinstance(value, list):
        raise invalid_type("items", "an array of objects", json_type(value))
    if len(value) > MAX_ITEMS:
        raise BadRequest(
            f"Invalid 'items': array too long. Expected an array with maximum length {MAX_ITEMS}, "
            f"but got an array with length {len(value)} instead.",
            param="items",
            code="array_above_max_length",
        )
    return read_input(value, "items")


async def _append(
    store: Store, owner: str, conversation_id: str, branch: str, items: Sequence[InputItem]
) -> Sequence[bytes]:
    entries = await _to_entries(store, owner, items, partition_of(conversation_id))
    if entries:
        return await store.items.append(owner, conversation_id, branch, entries)
    # nothing but compaction triggers, which are taken and never stored
    if branch:
        await store.branches.read(owner, conversation_id, branch)
    else:
        await store.conversations.read(owner, conversation_id)
    return []


async def _delete_for_good(store: Store, owner: str, conversation_id: str, branch: str, item_id: str) -> dict[str, Any]:
    conversation = await store.items.delete(owner, conversation_id, item_id, branch=branch)
    return render(conversation) | {
        "branch": branch or conversation.active_branch,
        "branch_created": False,
        "deleted": True,
        "old_main_backup": "",
        "deleted_item_id": item_id,
    }


async def _leave_out(store: Store, owner: str, conversation_id: str, branch: str, fork: Fork) -> dict[str, Any]:
    forked = await store.branches.create(owner, conversation_id, branch, fork)
    return render(await store.conversations.read(owner, conversation_id)) | {
        "branch": MAIN,
        "branch_created": True,
        "deleted": True,
        "old_main_backup": forked.backup,
        "deleted_item_id": fork.target,
    }


async def _to_entries(store: Store, owner: str, items: Sequence[InputItem], partition: str) -> list[Entry]:
    """Return items for the store; what they name in other partitions is fetched first, in one trip."""
    far = [item.id for item in items if item.id and partition_of(item.id) != partition]
    known = await store.items.resolve(owner, far)
    entries = []
    for item in items:
        if item.type == "compaction_trigger":
            continue
        entry = item.to_entry(lambda item_type: ids.new_added_item_id(item_type, partition))
        stored = known.get(entry.id)
        if stored is not None:
            entry = stored_entry(stored)
        entries.append(entry)
    return entries


async def whole(write: Coroutine[Any, Any, Written]) -> Written:
    """Return what a write gives; carry it and what belongs to it to the end even if the client leaves meanwhile."""
    return await asyncio.shield(write)


def path_conversation_id(request: web.Request) -> str:
    """Return the path's `conversation_id`. Raises BadRequest."""
    conversation_id = request.match_info["conversation_id"]
    check_conversation_id(conversation_id, "conversation_id")
    return conversation_id


def path_item_id(request: web.Request) -> str:
    """Return the path's `item_id`. Raises BadRequest."""
    item_id = request.match_info["item_id"]
    check_id(item_id, "item_id")
    return item_id


def _items(request: web.Request, items: Sequence[bytes], *, has_more: bool) -> web.Response:
    body = item_list(items, has_more=has_more, show_encrypted=asks_encrypted(request.query))
    return web.Response(body=body, content_type="application/json")


def json_answer(data: Any, status: int = 200) -> web.Response:
    """Return an answer with `data` as its JSON body."""
    return web.Response(body=orjson.dumps(data), status=status, content_type="application/json")


_ONE = "/v1/conversations/{conversation_id}"

ROUTES = [
    web.post("/v1/conversations", create_conversation),
    web.get("/v1/conversations", list_conversations),
    web.delete("/v1/conversations", delete_conversations),
    web.get(_ONE, read_conversation),
    web.post(_ONE, update_conversation),
    web.patch(_ONE, update_conversation),
    web.delete(_ONE, delete_conversation),
    web.post(f"{_ONE}/items", create_items),
    web.get(f"{_ONE}/items", list_items),
    web.get(f"{_ONE}/items/{{item_id}}", read_item),
    web.delete(f"{_ONE}/items/{{item_id}}", delete_item),
]
