"""Items: what a client may send, and the form in which it is stored and sent on. Pure.

Items are opaque: of each only the envelope is read (`id`, `type`, `role`, `status`, `call_id`), unknown types and
fields go through untouched. Normalisation is OpenAI's (recorded answers): a string becomes a user message, a message's
string content becomes a list, what clients leave out is filled in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.protocol import integers
from proxy.protocol.calls import mark_of
from proxy.protocol.errors import (
    BadRequest,
    duplicate_item,
    invalid_id_characters,
    invalid_id_prefix,
    invalid_type,
    json_type,
    missing_parameter,
    too_long,
)
from proxy.protocol.ids import MAX_LENGTH, is_minted, is_valid
from proxy.protocol.item_types import item_type_of
from proxy.protocol.notes import note_of
from storage import Entry, KnownItem, Origin

MAX_TEXT = 10_485_760

#: How a stored reasoning item with sealed content begins; `dump` writes it in this order.
_SEALED = re.compile(rb'\{"id":"[A-Za-z0-9_-]*","type":"reasoning","encrypted_content":"')


#: Role → types of content parts that are not its own, and those that are, as OpenAI's message lists them. Others may be
#: a model server's own.
_OF_THE_MODEL = (frozenset({"output_text", "refusal"}), "'input_text', 'input_image', and 'input_file'")
_MISFITS = {
    "user": _OF_THE_MODEL,
    "system": _OF_THE_MODEL,
    "developer": _OF_THE_MODEL,
    "assistant": (frozenset({"input_text", "input_image", "input_file"}), "'output_text' and 'refusal'"),
}


#: Fields of a user's message as clients send it.
_QUESTIONS = ({"role", "content"}, {"type", "role", "content"})


@dataclass(slots=True)
class InputItem:
    """One item of a request. id: the client's, or None; body: the item as it is to be stored, None for a reference."""

    type: str
    id: str | None
    body: dict[str, Any] | None
    path: str

    def to_entry(self, new_id: Callable[[str], str], exempt: AbstractSet[str] = frozenset()) -> Entry:
        """Return the item as the store takes it; `new_id` mints an id for the type. exempt: see `mark_of`."""
        if self.body is None:
            return Entry(Origin.REFERENCE, self.id or "", b"")
        origin, item_id = (Origin.CLIENT, self.id) if self.id else (Origin.MINTED, new_id(self.type))
        data = dump({**self.body, "id": item_id})
        return Entry(origin, item_id, data, mark_of(self.body, exempt), note_of(self.body))


def stored_entry(known: KnownItem, exempt: AbstractSet[str] = frozenset()) -> Entry:
    """Return an item that the store has as it is taken to another place. exempt: see `mark_of`."""
    item = orjson.loads(known.data)
    return Entry(Origin.CLIENT, item["id"], known.data, mark_of(item, exempt), known.note)


def check_content(item: InputItem, stored: bytes) -> None:
    """Refuse an item that says something else than the stored one under its id, if the id is the client's own.

    Ids that were minted here stand for their items, whatever comes beside them; but clients count messages (`msg_1`),
    and count anew. What the item leaves out or empty contradicts nothing. Raises BadRequest.
    """
    if item.id is None or item.body is None or is_minted(item.id):
        return
    there = integers.loads_exact(stored)
    if any(not _agrees(value, there.get(name)) for name, value in item.body.items() if name != "status"):
        raise duplicate_item(item.id, f"{item.path}.id")


def is_edited(item: InputItem, stored: bytes) -> bool:
    """Whether an item with an id that was minted here says something else than the stored one under that id.

    What is said is the text of a message, or what a call of a function names; all else is the stored item's.
    """
    if item.id is None or item.body is None or not is_minted(item.id):
        return False
    there = integers.loads_exact(stored)
    if item.type == "message":
        return "content" in item.body and _text(item.body) != _text(there)
    if item.type != "function_call":
        return False
    return any(field in item.body and item.body[field] != there.get(field) for field in ("name", "arguments"))


def _text(message: dict[str, Any]) -> str:
    parts = message.get("content")
    texts = [part.get("text", part.get("refusal")) for part in parts if isinstance(part, dict)] if parts else []
    return "".join(text for text in texts if isinstance(text, str))


def _agrees(value: Any, stored: Any) -> bool:
    # integers beyond 64 bits are the same where their digits are
    return value in (None, "", [], {}) or value == stored or orjson.dumps(value) == orjson.dumps(stored)


def read_input(value: Any, param: str = "input") -> list[InputItem]:
    """Return the items of a request's `input`: a string, a list, or null.

    Raises BadRequest naming the offending field.
    """
    if value is None:
        return []
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise too_long(param, MAX_TEXT, len(value))
        return [_read_one({"role": "user", "content": value}, param)]
    if not isinstance(value, list):
        raise invalid_type(param, "one of a string or array", json_type(value))
    return [_read_one(item, f"{param}[{i}]") for i, item in enumerate(value)]


def _read_one(item: Any, path: str) -> InputItem:
    said = plain_question(item)
    return _read_item(item, path) if said is None else InputItem("message", None, said, path)


def _read_item(item: Any, path: str) -> InputItem:
    if not isinstance(item, dict):
        raise invalid_type(path, "an object", json_type(item))
    item_id, item_type = item.get("id"), item.get("type")
    if item_id == "":
        item_id = None
    if item_id is not None:
        _check_id(item_id, f"{path}.id")
    if item_type is not None and not isinstance(item_type, str):
        raise invalid_type(f"{path}.type", "a string", json_type(item_type))
    if item_type is None:
        # clients leave `type` out of plain messages and of references (`{"id": …}`)
        item_type = "item_reference" if item_id is not None and "role" not in item else "message"
    if item_type == "item_reference":
        if item_id is None:
            raise missing_parameter(f"{path}.id")
        return InputItem(item_type, item_id, None, path)
    row, call_id = item_type_of(item_type), item.get("call_id")
    if row.is_paired and call_id is not None and not isinstance(call_id, str):
        raise invalid_type(f"{path}.call_id", "a string", json_type(call_id))
    if row.checks_prefix and item_id is not None and not item_id.startswith(row.id_prefix):
        raise invalid_id_prefix(f"{path}.id", item_id, row.id_prefix)
    return InputItem(item_type, item_id, normalise({**item, "type": item_type}, path), path)


def plain_question(item: Any) -> dict[str, Any] | None:
    """Return the stored form of what nearly every item of a request is, told at a glance; None for all others.

    That is a user's message of one text, without an id or a status: there is nothing in it to refuse.
    """
    if type(item) is not dict or item.keys() not in _QUESTIONS or item["role"] != "user":
        return None
    content = item["content"]
    if type(content) is str:
        content = [{"type": "input_text", "text": content}]
    elif type(content) is not list or len(content) != 1 or type(content[0]) is not dict:
        return None
    if content[0].get("type") != "input_text" or item.get("type", "message") != "message":
        return None
    return {**item, "type": "message", "content": content, "status": "completed"}


def _check_id(item_id: Any, path: str) -> None:
    if not isinstance(item_id, str):
        raise invalid_type(path, "a string", json_type(item_id))
    if len(item_id) > MAX_LENGTH:
        raise too_long(path, MAX_LENGTH, len(item_id))
    if not is_valid(item_id):
        raise invalid_id_characters(path, item_id)


def normalise(item: dict[str, Any], path: str) -> dict[str, Any]:
    """Return an item with a `type` in the form it is stored in, without its id.

    Raises BadRequest for a message without role or with content that is neither a string nor a list of objects.
    """
    body = {key: value for key, value in item.items() if key != "id"}
    if body["type"] == "message":
        body = _normalise_message(body, path, known=bool(item.get("id")))
    if body.get("status") is None and item_type_of(body["type"]).takes_status:
        body["status"] = "completed"
    return body


def _normalise_message(body: dict[str, Any], path: str, *, known: bool) -> dict[str, Any]:
    role, content = body.get("role"), body.get("content")
    if not isinstance(role, str):
        if role is None and known:
            return body
        raise (
            missing_parameter(f"{path}.role")
            if role is None
            else invalid_type(f"{path}.role", "a string", json_type(role))
        )
    if isinstance(content, str):
        kind = "output_text" if role == "assistant" else "input_text"
        parts: list[Any] = [{"type": kind, "text": content}]
    elif isinstance(content, list):
        parts = content
    elif content is None and known:
        return body
    elif content is None:
        raise missing_parameter(f"{path}.content")
    else:
        raise invalid_type(f"{path}.content", "one of a string or array of objects", json_type(content))
    check_parts(role, parts, f"{path}.content")
    return {**body, "content": [_complete_part(part) for part in parts]}


def check_parts(role: str, parts: Sequence[Any], path: str, *, unseen: bool = False) -> None:
    """Raise BadRequest for a content part that is no object, or of a type that a message of this role can't have.

    unseen: the message is stored without a model having seen it. What an assistant's message has is else left to the
    model server: OpenAI refuses `input_text` there, others take it.
    """
    misfits, fits = _MISFITS.get(role, (frozenset(), ""))
    for i, part in enumerate(parts):
        if not isinstance(part, dict):
            raise invalid_type(f"{path}[{i}]", "an object", json_type(part))
        kind = part.get("type")
        if isinstance(kind, str) and kind in misfits and (unseen or role != "assistant"):
            message = f"Invalid value: '{kind}'. Supported values are: {fits}."
            raise BadRequest(message, param=f"{path}[{i}]", code="invalid_value")


def _complete_part(part: dict[str, Any]) -> dict[str, Any]:
    """Return a content part with the arrays that `output_text` must have."""
    if part.get("type") != "output_text":
        return part
    return {
        **part,
        "annotations": part.get("annotations") or [],
        "logprobs": part.get("logprobs") or [],
    }


def dump(item: dict[str, Any]) -> bytes:
    """Return an item's bytes for the store: first `id`, `type` and `role`, which are then found without parsing.

    Raises BadRequest for nesting that can't be written.
    """
    head = {"id": item["id"], "type": item["type"]}
    if isinstance(item.get("role"), str):
        head["role"] = item["role"]
    if isinstance(item.get("encrypted_content"), str):
        head["encrypted_content"] = item["encrypted_content"]
    try:
        return orjson.dumps({**head, **item})
    except orjson.JSONEncodeError as exc:
        raise BadRequest("The item is nested too deeply.", code="json_too_deep") from exc


def stored_id(data: bytes) -> str:
    """Return the id of a stored item, which `dump` put first, without parsing the rest."""
    return data[len(b'{"id":"') : data.index(b'"', len(b'{"id":"'))].decode()


def item_id_of(data: bytes) -> str:
    """Return the id of an item in the form of stored ones, '' if it has none: not all that is sent was ever stored."""
    return stored_id(data) if data.startswith(b'{"id":"') else ""


def hide_sealed(items: Sequence[bytes]) -> list[bytes]:
    """Return stored items as a client sees them that did not ask for `reasoning.encrypted_content`."""
    shown = []
    for data in items:
        if _SEALED.match(data):
            item = integers.loads_exact(data)
            del item["encrypted_content"]
            data = orjson.dumps(item)
        shown.append(data)
    return shown
