"""Item form: how one stored item goes to a model, whatever stands beside it. Pure.

Output form in, input form out: the table of item types says what of an item is of output alone; types that need more
than that have a function here. Fields that stay keep their bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import not_
from typing import Any

import msgspec
import orjson

from proxy.context.reader import Reader
from proxy.protocol import integers
from proxy.protocol.item_types import ITEM_TYPES, ItemType, item_type_of
from proxy.protocol.notes import ItemNote, is_broken, read_note
from proxy.protocol.seals import sealed_by, without_marks

#: How `items.dump` begins an item; a summary's message has no id.
_HEAD = re.compile(rb'\{(?:"id":"([^"\\]*)",)?"type":"([^"\\]*)"(?:,"role":"([^"\\]*)")?')
#: The same of a message.
_MESSAGE_HEAD = re.compile(rb'\{"id":"[^"\\]{1,64}","type":"message","role":"([a-z]+)"')
#: Strings inside an item have their quotes escaped: only a field looks like this.
CALL_ID = re.compile(rb'"call_id":"([^"\\]*)"')
CREATED_BY, INCOMPLETE, NO_ARGUMENTS = b'"created_by":', b'"status":"incomplete"', b'"arguments":""'
_EMPTY_OBJECT = b'"arguments":"{}"'
_SEAL = b'"encrypted_content":'
#: Parts that only a model's messages have, and such as its messages have not.
_OUTPUT_TEXT, _REFUSAL, _INPUT_TEXT = b'"type":"output_text"', b'"type":"refusal"', b'"type":"input_text"'
_OF_THE_MODEL, _OF_OTHERS = (_OUTPUT_TEXT, _REFUSAL), (_INPUT_TEXT,)
#: An id that was made up here for an item of a type that nobody knows.
_NAMELESS = re.compile(rb'(\{)"id":"item_[0-9a-f]{48,50}",')
#: What a seal lies in: a field, or a part of an item's content.
_SEALED_PART = "encrypted_content"
#: The id of sealed reasoning, as `items.dump` writes it.
_ID_OF_SEALED = re.compile(
    rb'\{("id":"[^"\\]*",)"type":"reasoning","encrypted_content":"((?:bls1\.[A-Za-z0-9_-]{1,32}\.)?)'
)

Fields = dict[str, msgspec.Raw]
_FIELDS = msgspec.json.Decoder(Fields)


@dataclass(slots=True)
class OutgoingItem:
    """An item on its way. sent: as it goes to the model, None if it does not. opens: the call or request that it makes.

    answers: the one that it belongs to. is_led_on: it is reasoning, and what it led to is sent.
    """

    item: bytes
    id: str
    type: str
    role: str
    row: ItemType
    note: ItemNote
    sent: bytes | None = None
    opens: str = ""
    answers: str = ""
    is_led_on: bool = False

    @property
    def is_made(self) -> bool:
        """Whether a model made it, and may have thought before it did."""
        return not self.row.is_output and not self.role


def read_outgoing(item: bytes, notes: Mapping[str, str]) -> OutgoingItem:
    """Return an item with what has to be known of it. notes: by the ids of items that have one."""
    head = _HEAD.match(item)
    if head is None:
        body = orjson.loads(item)
        item_id, kind, role = (str(body.get(name) or "") for name in ("id", "type", "role"))
    else:
        item_id, kind, role = map(bytes.decode, head.groups(b""))
    row = item_type_of(kind)
    piece = OutgoingItem(item, item_id, kind, role, row, read_note(notes.get(item_id, "")))
    if row.is_output:
        piece.answers = _link(item, "approval_request_id" if kind == "mcp_approval_response" else "call_id")
        if kind == "local_shell_call_output":
            piece.answers = piece.answers or item_id
    elif row.is_call or row.needs_call_id:
        piece.opens = _link(item, "call_id")
    elif kind == "mcp_approval_request":
        piece.opens = item_id
    return piece


def _link(item: bytes, name: str) -> str:
    if name == "call_id" and len(found := CALL_ID.findall(item)) == 1:
        return str(found[0].decode())
    value = field_value(item, name)
    return value if isinstance(value, str) else ""


def field_value(item: bytes, name: str) -> Any:
    """Return what a field of an item holds, None if it is not there."""
    return integers.loads_exact(bytes(_FIELDS.decode(item).get(name, b"null")))


def is_fitting_message(item: bytes) -> bool:
    """Whether an item is a message, and surely has nothing that is not its role's."""
    head = _MESSAGE_HEAD.match(item)
    if head is None:
        return False
    if head[1] == b"assistant":
        return item.find(_INPUT_TEXT) < 0
    return item.find(_OUTPUT_TEXT) < 0 and item.find(_REFUSAL) < 0


def misfits(items: Sequence[bytes], roles: Sequence[bool]) -> list[bool]:
    """Tell of each message whether it may have content that is not its role's. roles: which are the assistant's."""
    by_model, by_others = b"".join(compress(items, roles)), b"".join(compress(items, map(not_, roles)))
    wrong: tuple[tuple[bytes, ...], tuple[bytes, ...]] = (
        tuple(mark for mark in _OF_THE_MODEL if mark in by_others),
        tuple(mark for mark in _OF_OTHERS if mark in by_model),
    )
    if not any(wrong):
        return []
    return [any(mark in item for mark in wrong[role]) for item, role in zip(items, roles, strict=True)]


def form_of(piece: OutgoingItem, reader: Reader) -> bytes | None:
    """Return an item as the model takes it, whatever stands beside it; None if it takes none of it."""
    objections = reader.objections
    if piece.note.broken or piece.type in objections.types or piece.id in objections.items:
        return None
    item: bytes | None = piece.item
    if piece.type == "message":
        item = _message(piece)
    else:
        sealer = sealed_by(piece.item)
        is_own = reader.made(piece.note.maker, sealer) and piece.id not in objections.seals
        if is_own and sealer:
            piece.item = without_marks(piece.item)
        item = _SPECIAL.get(piece.type, _any_type)(piece, is_own)
    if item is not None and objections.fields and (unwanted := objections.fields_of(piece.type)):
        item = without_fields(item, unwanted)
    return item


def _message(piece: OutgoingItem) -> bytes:
    """Return a message with the text of its parts under the type that its role has; such ones were stored before."""
    item = without_fields(piece.item, ("created_by",)) if CREATED_BY in piece.item else piece.item
    if piece.role not in _FITTING or not any(misfits([item], [piece.role == "assistant"])):
        return item
    fields = _FIELDS.decode(item)
    content = field_value(item, "content")
    if not isinstance(content, list):
        return item
    fitting = _FITTING[piece.role]
    parts = [fitting(part) if isinstance(part, dict) else part for part in content]
    return _joined({**fields, "content": msgspec.Raw(orjson.dumps(parts))})


def _fitting_input(part: Mapping[str, Any]) -> Mapping[str, Any]:
    if part.get("type") not in ("output_text", "refusal"):
        return part
    return {"type": "input_text", "text": part.get("refusal" if part["type"] == "refusal" else "text")}


def _fitting_output(part: Mapping[str, Any]) -> Mapping[str, Any]:
    if part.get("type") != "input_text":
        return part
    return {"type": "output_text", "text": part.get("text"), "annotations": [], "logprobs": []}


_FITTING = {
    "assistant": _fitting_output,
    "developer": _fitting_input,
    "system": _fitting_input,
    "user": _fitting_input,
}


def _any_type(piece: OutgoingItem, is_own: bool) -> bytes | None:
    item, row = piece.item, piece.row
    dropped = [name for name in row.output_only if b'"%b":' % name.rpartition(".")[2].encode() in item]
    if _SEAL in item and not is_own:
        dropped.append(_SEALED_PART)
    if any(b'"status":"%b"' % status.encode() in item for status in row.output_statuses):
        dropped.append("status")
    if dropped:
        item = without_fields(item, dropped)
    if row.former_prefix:
        item = item.replace(b'"id":"%b_' % row.former_prefix.encode(), b'"id":"%b_' % row.id_prefix.encode(), 1)
    if piece.type not in ITEM_TYPES:
        item = _NAMELESS.sub(rb"\1", item, count=1)
    return item


def _call(piece: OutgoingItem, is_own: bool) -> bytes | None:
    if INCOMPLETE in piece.item and is_broken(orjson.loads(piece.item)):
        return None
    item = _any_type(piece, is_own)
    return item and item.replace(NO_ARGUMENTS, _EMPTY_OBJECT, 1)


def _picture(piece: OutgoingItem, is_own: bool) -> bytes | None:
    result = _FIELDS.decode(piece.item).get(piece.row.needs)
    return _any_type(piece, is_own) if result is not None and bytes(result) not in (b"null", b'""') else None


def _program(piece: OutgoingItem, is_own: bool) -> bytes | None:
    return _any_type(piece, is_own) if is_own else None


def _compaction(piece: OutgoingItem, is_own: bool) -> bytes | None:
    """Return a compaction of the model server; what it stands for is not shown beside it."""
    return _any_type(piece, is_own) and without_fields(piece.item, ("id", "created_by")) if is_own else None


def _agent_message(piece: OutgoingItem, is_own: bool) -> bytes | None:
    item = _any_type(piece, is_own=True)
    if is_own or item is None or _SEAL not in item:
        return item
    fields = _FIELDS.decode(item)
    parts = [part for part in field_value(item, "content") or () if part.get("type") != _SEALED_PART]
    return _joined({**fields, "content": msgspec.Raw(orjson.dumps(parts))}) if parts else None


def sealed_form(item: bytes) -> bytes | None:
    """Return sealed reasoning as its maker takes it, unparsed, without a mark; None if it has to be looked into."""
    found = _ID_OF_SEALED.match(item)
    if found is None:
        return None
    # seals are long, and have no quote in them
    rest = item[item.index(b'"', found.end()) :]
    if b'"status":' in rest or CREATED_BY in rest:
        return None
    return item[: found.start(1)] + item[found.end(1) : found.start(2)] + item[found.end(2) :]


def _reasoning(piece: OutgoingItem, is_own: bool) -> bytes | None:
    if is_own and (form := sealed_form(piece.item)) is not None:
        return form
    fields = _FIELDS.decode(piece.item)
    for name in piece.row.output_only:
        fields.pop(name, None)
    is_sealed = bytes(fields.get(_SEALED_PART, b"null")).startswith(b'"')
    if is_sealed and is_own:
        fields.pop("id", None)
        return _joined(fields)
    summary = _has_content(fields, "summary")
    if is_sealed or not is_own:
        return _joined({"type": fields["type"], "summary": fields["summary"]}) if summary else None
    return _joined(fields) if summary or _has_content(fields, "content") else None


def _has_content(fields: Fields, name: str) -> bool:
    return bytes(fields.get(name, b"null")) not in (b"null", b"[]", b'""')


_SPECIAL: dict[str, Callable[[OutgoingItem, bool], bytes | None]] = {
    "agent_message": _agent_message,
    "compaction": _compaction,
    "function_call": _call,
    "image_generation_call": _picture,
    "mcp_call": _call,
    "multi_agent_call": _call,
    "program": _program,
    "program_output": _program,
    "reasoning": _reasoning,
}


def without_fields(item: bytes, paths: Sequence[str]) -> bytes:
    """Return an item without fields, all others as they are. paths: with dots between fields inside one another."""
    fields = _FIELDS.decode(item)
    for path in paths:
        name, _, inner = path.partition(".")
        if not inner:
            fields.pop(name, None)
        elif name in fields:
            value = integers.loads_exact(bytes(fields[name]))
            _drop(value, inner.split("."))
            fields[name] = msgspec.Raw(orjson.dumps(value))
    return _joined(fields)


def _drop(value: Any, path: Sequence[str]) -> None:
    """Take a field out of a value, of each element if it is a list."""
    if isinstance(value, list):
        for element in value:
            _drop(element, path)
    elif isinstance(value, dict) and len(path) > 1:
        _drop(value.get(path[0]), path[1:])
    elif isinstance(value, dict):
        value.pop(path[0], None)


def _joined(fields: Fields) -> bytes:
    return msgspec.json.encode(fields)
