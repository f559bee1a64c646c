"""The endpoints under /v1/conversations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from proxy.api.item_input import read_items, to_entries
from proxy.api.rendering import render
from proxy.auth.caller import CALLER
from proxy.http.answers import json_answer, path_conversation_id, whole
from proxy.http.body import read_json, refuse_selection
from proxy.http.keys import STORE
from proxy.protocol import ids
from proxy.protocol.errors import invalid_type, missing_parameter
from proxy.protocol.params import (
    read_metadata,
    read_page,
    read_text,
    refuse_misspelt,
    refuse_unknown,
)
from proxy.recording.recorder import RECORDER
from storage import Conversation, new_partition, partition_of

MAX_TITLE = 256
MAX_REFERRER = 64
MAX_PROJECT_ID = 64

_LIMITS = {"title": MAX_TITLE, "project_id": MAX_PROJECT_ID, "referrer": MAX_REFERRER}
#: Fields that a change may have; a new conversation may have items besides.
_FIELDS = ("metadata", *_LIMITS)
#: Query parameters of the list.
_LIST_QUERY = ("limit", "order", "after", "project_id", "referrer")


async def create_conversation(request: web.Request) -> web.Response:
    """POST /v1/conversations: metadata, title, project_id, referrer, up to 20 items; the body may be empty."""
    body = await read_json(request, allow_empty=True)
    refuse_unknown(body, (*_FIELDS, "items"))
    metadata = read_metadata(body.get("metadata"))
    texts = {name: read_text(body, name, limit) for name, limit in _LIMITS.items()}
    items = read_items(body.get("items")) if body.get("items") is not None else []
    partition = new_partition()
    owner = request[CALLER].owner
    entries = await to_entries(request.app[STORE], owner, items, partition)
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
    refuse_misspelt(request.query, _LIST_QUERY)
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
    await refuse_selection(request)
    count = await whole(request.app[STORE].conversations.delete_all(request[CALLER].owner))
    request.app[RECORDER].memory.forget_all()
    return json_answer({"object": "conversations.deleted", "deleted": True, "deleted_count": count})


async def read_conversation(request: web.Request) -> web.Response:
    """GET /v1/conversations/{conversation_id}."""
    conversation = await request.app[STORE].conversations.read(request[CALLER].owner, path_conversation_id(request))
    return json_answer(render(conversation))


async def update_conversation(request: web.Request) -> web.Response:
    """POST and PATCH /v1/conversations/{conversation_id}: metadata merges, null deletes a key or clears a field."""
    conversation_id = path_conversation_id(request)
    changes = read_conversation_changes(await read_json(request))
    store = request.app[STORE]
    conversation = await whole(store.conversations.update(request[CALLER].owner, conversation_id, changes))
    return json_answer(render(conversation))


async def delete_conversation(request: web.Request) -> web.Response:
    """DELETE /v1/conversations/{conversation_id}: its items can't be reached from then on."""
    conversation_id = path_conversation_id(request)
    await whole(request.app[STORE].conversations.delete(request[CALLER].owner, conversation_id))
    request.app[RECORDER].memory.forget(partition_of(conversation_id))
    return json_answer({"id": conversation_id, "object": "conversation.deleted", "deleted": True})


def read_conversation_changes(body: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the fields that an update sets, or (None) clears; metadata keys as `m:<key>`.

    OpenAI demands `metadata`; here any of our own fields will do instead. Raises BadRequest.
    """
    refuse_unknown(body, _FIELDS)
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


_ONE = "/v1/conversations/{conversation_id}"

ROUTES = [
    web.post("/v1/conversations", create_conversation),
    web.get("/v1/conversations", list_conversations),
    web.delete("/v1/conversations", delete_conversations),
    web.get(_ONE, read_conversation),
    web.post(_ONE, update_conversation),
    web.patch(_ONE, update_conversation),
    web.delete(_ONE, delete_conversation),
]
