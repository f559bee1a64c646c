"""Pairing: which calls of a history need no output any more, and which call an output without a `call_id` is for. Pure.

Both are rare, so a history is looked through here only where a turn would be refused otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from proxy.context.compacted import kind_of
from proxy.protocol.calls import call_key, mark_of
from proxy.protocol.errors import BadRequest, missing_parameter
from proxy.protocol.item_types import item_type_of
from proxy.protocol.items import InputItem, stored_id
from storage import OpenedTurn

_OUTPUT = "function_call_output"
_CALL = "function_call"


class _Call(NamedTuple):
    key: str
    call_id: str
    name: str
    namespace: str


def settled_calls(opened: OpenedTurn, waiting: Collection[str]) -> frozenset[str]:
    """Return those of the `waiting` calls that the model has gone past: it has answered something that came after.

    Their output was there, and was deleted or left out of a branch; no turn could have gone on otherwise. Nobody will
    bring it again, and what is sent of the history has neither.
    """
    made = False
    for place in range(len(opened.items) - 1, -1, -1):
        item = opened.items[place]
        kind = kind_of(item)
        if made and (kind.is_given or stored_id(item) in opened.severed):
            return frozenset(call.key for call in _calls(opened.items[: place + 1]) if call.key in waiting)
        made = made or not kind.is_given
    return frozenset()


def is_addressed(item: InputItem) -> bool:
    """Whether an item is no function's output, or one that says of which call it is."""
    return item.type != _OUTPUT or item.body is None or bool(item.body.get("call_id"))


def answer_by_name(items: Sequence[InputItem], opened: OpenedTurn, *, is_strict: bool) -> Sequence[InputItem]:
    """Return a request's items, each function's output with its `call_id`.

    One that names the function only is for the call of that name that waits, if it is one alone. is_strict: raise
    BadRequest for any other.
    """
    if all(map(is_addressed, items)):
        return items
    waiting = {call.key: call for call in _calls(opened.items) if call.key in opened.pending}
    answered = []
    for item in items:
        if not is_addressed(item):
            item = _answered(item, list(waiting.values()), is_strict=is_strict)
        if item.type == _CALL and item.body is not None and isinstance(item.body.get("call_id"), str):
            call = _call_of(item.body)
            waiting[call.key] = call
        elif item.body is not None and item_type_of(item.type).is_output:
            waiting.pop(call_key(str(item.body.get("call_id"))), None)
        answered.append(item)
    return answered


class StoredCall(NamedTuple):
    """A call of the history: its item's id, and its own."""

    item_id: str
    call_id: str


def find_call(items: Iterable[bytes], key: str) -> StoredCall | None:
    """Return the first call of a key (`call_key`) among stored items."""
    for item in items:
        if item_type_of(kind_of(item).type).is_call and mark_of(body := orjson.loads(item)).key == key:
            return StoredCall(str(body.get("id")), str(body.get("call_id")))
    return None


def _answered(item: InputItem, waiting: Sequence[_Call], *, is_strict: bool) -> InputItem:
    body = item.body or {}
    name, namespace = body.get("name"), body.get("namespace")
    found = [call for call in waiting if call.name == name and namespace in (None, call.namespace)]
    if len(found) == 1:
        rest = {key: value for key, value in body.items() if key not in ("name", "namespace", "call_id")}
        return replace(item, body={"type": item.type, "call_id": found[0].call_id, **rest})
    if not is_strict:
        return item
    param = f"{item.path}.call_id"
    if not name:
        raise missing_parameter(param)
    count = "none is" if not found else f"{len(found)} are"
    raise BadRequest(
        f"Missing required parameter: '{param}'. It can be left out where one call of '{name}' is waiting for its "
        f"output: {count}.",
        param=param,
        code="missing_required_parameter",
    )


def _calls(items: Iterable[bytes]) -> list[_Call]:
    bodies = [orjson.loads(item) for item in items if item_type_of(kind_of(item).type).is_call]
    return [_call_of(body) for body in bodies if isinstance(body.get("call_id"), str)]


def _call_of(body: dict[str, Any]) -> _Call:
    call_id, name, namespace = body["call_id"], body.get("name"), body.get("namespace")
    return _Call(call_key(call_id), call_id, str(name), str(namespace or ""))
