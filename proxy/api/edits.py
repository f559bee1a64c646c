"""Editing a message and answering one anew: the new line of history becomes MAIN, the old one stays as a backup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from aiohttp import web

from proxy.api.rendering import render_branch
from proxy.api.turns import read_turn_body, run_turn
from proxy.auth.caller import CALLER
from proxy.http.answers import json_answer, path_conversation_id, path_item_id, whole
from proxy.http.keys import STORE
from proxy.protocol import ids, integers
from proxy.protocol.errors import BadRequest, invalid_type, json_type, missing_parameter, unknown_parameter
from proxy.protocol.items import check_parts, hide_sealed, read_input
from proxy.protocol.params import MAIN, read_branch_name, refuse_misspelt, refuse_unknown
from proxy.protocol.request import REQUEST_FIELDS, TurnRequest, read_request
from proxy.turns.options import Revised, TurnOptions
from storage import Entry, Fork, ForkPoint, Store, TurnSource, partition_of

#: Fields of a body that are for us, not for the model server: of an edit, and of a regeneration.
_EDIT = ("content", "regenerate", "max_tokens")
_REGENERATE = ("regenerate", "max_tokens")
#: Query parameters that are for us.
_QUERY = ("branch",)
#: What a revision decides by itself.
_DECIDED = ("input", "conversation", "previous_response_id")


async def edit_item(request: web.Request) -> web.StreamResponse:
    """POST and PUT …/items/{item_id}/edit: content; with `regenerate` also answers it, plain or streamed."""
    fork, body = _backup_fork(request, ForkPoint.EDIT), await read_turn_body(request)
    asks = read_asks(body, _EDIT, default=False)
    message = read_message(body)
    if not asks:
        if body.get("stream"):
            raise BadRequest("Only an answer can be streamed: set 'regenerate' to true.", param="stream")
        return await _fork_alone(request, fork, describe_edit, message)
    turn = read_turn({**body, "input": [message]}, _source(request, fork))
    return await run_turn(request, turn, TurnOptions(describe=describe_edit), own_query=_QUERY)


async def regenerate_item(request: web.Request) -> web.StreamResponse:
    """POST …/items/{item_id}/regenerate: answers the user's message that the item is or answers, plain or streamed."""
    fork, body = _backup_fork(request, ForkPoint.REPLY), await read_turn_body(request, allow_empty=True)
    if not read_asks(body, _REGENERATE, default=True):
        return await _fork_alone(request, fork, describe_regeneration)
    turn = read_turn(body, _source(request, fork))
    return await run_turn(request, turn, TurnOptions(describe=describe_regeneration), own_query=_QUERY)


def read_message(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the user's message that an edit's `content`, a string or a list of parts, makes. Raises BadRequest."""
    _refuse_decided(body)
    content = body.get("content")
    if content is None:
        raise missing_parameter("content")
    if not isinstance(content, str | list):
        raise invalid_type("content", "one of a string or array of objects", json_type(content))
    if not content:
        raise BadRequest("Invalid 'content': it is empty.", param="content", code="invalid_value")
    if isinstance(content, list):
        check_parts("user", content, "content")
    return {"type": "message", "role": "user", "content": content}


def read_turn(body: Mapping[str, Any], source: TurnSource) -> TurnRequest:
    """Return the turn that a revision's body asks for: a response's fields, `max_tokens` for `max_output_tokens`.

    Raises BadRequest with the path of the offending field.
    """
    if source.fork and source.fork.point is ForkPoint.REPLY:
        _refuse_decided(body)
    fields = {key: value for key, value in body.items() if key not in _EDIT}
    if body.get("max_tokens") is not None:
        fields.setdefault("max_output_tokens", body["max_tokens"])
    turn = read_request(fields)
    if turn.background:
        raise BadRequest(
            "An answer in a revision can't be made in the background.", param="background", code="unsupported_parameter"
        )
    if not turn.stored:
        raise BadRequest("A new answer is stored in its conversation.", param="store", code="invalid_value")
    return replace(turn, source=source)


def describe_edit(revised: Revised) -> dict[str, Any]:
    """Return what the answer to an edit says of the branches; without a new branch the message was not kept."""
    made = revised.branch is not None and revised.item is not None
    item = integers.loads_exact(revised.item) if made and revised.item else None
    return {**_describe(revised), "user_item": item, "user_item_id": item["id"] if item else None}


def describe_regeneration(revised: Revised) -> dict[str, Any]:
    """Return what the answer to a regeneration says of the branches."""
    return {**_describe(revised), "user_item_id": revised.anchor}


def _describe(revised: Revised) -> dict[str, Any]:
    return {
        "branch": MAIN,
        "old_main_backup": revised.backup or "",
        "branch_created": revised.branch is not None,
        "new_branch": render_branch(revised.branch) if revised.branch else None,
    }


async def _fork_alone(
    request: web.Request, fork: Fork, describe: Any, message: Mapping[str, Any] | None = None
) -> web.Response:
    source = _source(request, fork)
    return json_answer(describe(await whole(edit_alone(request.app[STORE], request[CALLER].owner, source, message))))


async def edit_alone(store: Store, owner: str, source: TurnSource, message: Mapping[str, Any] | None = None) -> Revised:
    """Make the new line of history that `source` says, with a message at its end, and ask nobody; return what was done.

    Raises StoreError.
    """
    entries: list[Entry] = []
    conversation_id = source.conversation_id or ""
    if message:
        partition = partition_of(conversation_id)
        items = read_input([message], "content")
        entries = [item.to_entry(lambda item_type: ids.new_added_item_id(item_type, partition)) for item in items]
    fork = source.fork or Fork(ForkPoint.TIP)
    forked = await store.branches.create(owner, conversation_id, source.branch, fork, entries)
    item = hide_sealed(forked.items)[0] if forked.items else None
    return Revised(forked.branch, forked.backup, forked.anchor, item)


def _backup_fork(request: web.Request, point: ForkPoint) -> Fork:
    return Fork(point, path_item_id(request), backup=ids.new_branch_name(MAIN))


def _source(request: web.Request, fork: Fork) -> TurnSource:
    refuse_misspelt(request.query, _QUERY)
    return TurnSource(path_conversation_id(request), branch=read_branch_name(request.query), fork=fork)


def read_asks(body: Mapping[str, Any], ours: Sequence[str], *, default: bool) -> bool:
    """Return whether a body asks for an answer of the model. ours: fields that are not the model's.

    The model server judges the other fields, if it is asked; else nobody would. Raises BadRequest naming the field.
    """
    asks = body.get("regenerate")
    if asks is None:
        asks = default
    if not isinstance(asks, bool):
        raise invalid_type("regenerate", "a boolean", json_type(asks))
    if "content" in body and "content" not in ours:
        raise unknown_parameter("content", "A message's content is changed with '…/edit'.")
    if asks:
        refuse_misspelt(body, ours, in_query=_QUERY)
    else:
        refuse_unknown([name for name in body if name not in REQUEST_FIELDS], ours, in_query=_QUERY)
    return asks


def _refuse_decided(body: Mapping[str, Any]) -> None:
    for name in _DECIDED:
        if body.get(name) is not None:
            raise BadRequest(
                f"Unsupported parameter: '{name}' follows from the item.", param=name, code="unsupported_parameter"
            )


_ITEM = "/v1/conversations/{conversation_id}/items/{item_id}"

ROUTES = [
    web.post(f"{_ITEM}/edit", edit_item),
    web.put(f"{_ITEM}/edit", edit_item),
    web.post(f"{_ITEM}/regenerate", regenerate_item),
]
