"""Complaints: what a model server's refusal is about, and what the client is told of it. Pure.

Every server words its refusals in its own way, so what counts is what they name, wherever they name it: by `param`, by
the `loc` of a validation error, in the text. A name is looked for in what was sent:

    a field that was added here                  `include`, `store`, …          asked again without it
    a field of a stored item, not an essential   `input[3].action`              … without it in items of this type
    a stored item's seal                         `invalid_encrypted_content`    … without the seals that were sent
    a stored reasoning item                      `rs_…`, `input[2]`             … without it and its like
    a type of stored items                       "reasoning input items …"      … without any
    anything else                                                               the client is told, in its own words

An item that the client has just brought itself is the client's to put right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from proxy.context.reader import Objections
from proxy.protocol.errors import UpstreamRefusal

if TYPE_CHECKING:
    from proxy.context.model_request import ModelRequest, SentItem
    from storage import TurnSource

#: Refusals that are about the caller, the load or the model, whatever they name.
_OTHER_STATUSES = frozenset({401, 402, 403, 405, 407, 408, 409, 413, 423, 424, 425, 429})
_OTHER_CODES = frozenset(
    {
        "context_length_exceeded",
        "insufficient_quota",
        "invalid_api_key",
        "model_not_found",
        "rate_limit_exceeded",
        "server_is_overloaded",
    }
)
#: Servers that were not written for a field may break over it.
_BROKEN_STATUSES = frozenset({500, 501})

#: Without these an item means nothing: to leave one out would be to say something else.
_ESSENTIAL = frozenset(
    {
        "approval_request_id",
        "approve",
        "arguments",
        "call_id",
        "code",
        "detail",
        "encrypted_content",
        "file_data",
        "file_id",
        "file_url",
        "filename",
        "image_url",
        "input",
        "name",
        "operation",
        "output",
        "refusal",
        "result",
        "role",
        "server_label",
        "text",
        "tools",
        "type",
    }
)
#: Types that every conversation is made of: no model that does not take them can go on with one.
_ESSENTIAL_TYPES = frozenset({"message", "function_call", "function_call_output"})

#: `input[3].status`, `input.3.status`, and pydantic's `input.list[union[…]].3.SomeModel.status`.
_IN_INPUT = re.compile(r"\binput(?:\.list\[[^.:]*?)?(?:\[(\d+)\]|\.(\d+)(?![.\d]*\d))((?:\.?[\w\[\]-]+)*)")
_FIELD_NAME = re.compile(r"[a-z_]+")
_QUOTED = re.compile(r"['\"`]([a-z_]+(?:\.[a-z_]+)*)['\"`]")
#: Ids as they are minted here.
_ID = re.compile(r"\b[a-z]+_[0-9a-f]{48}(?:[0-9a-f]{2})?\b")
_ABOUT_A_SEAL = re.compile(r"encrypted.?content|decrypt|\bsignature\b", re.IGNORECASE)
_TOO_LONG = re.compile(r"context (?:length|window|size)|too many (?:input )?tokens", re.IGNORECASE)
#: A setting of the client's own, not an item.
_REASONING_SETTING = re.compile(r"\breasoning[._](?!encrypted)\w+", re.IGNORECASE)
#: What is called a store, or spoken of, where the field is not what is at fault.
_OTHER_STORES = re.compile(r"\b(?:vector|file|data|document|key)[ _-]store|\bstore\W+is set to", re.IGNORECASE)
_UNKNOWN = re.compile(
    r"unknown|unsupported|unrecogni[sz]ed|unexpected|invalid|extra|additional|not (?:permitted|allowed|supported|valid)"
    r"|does not (?:support|accept|exist)",
    re.IGNORECASE,
)


class _Fault(NamedTuple):
    """An item that a refusal is about. field: the path of the one that is meant in it, '' for all of it."""

    item: SentItem
    field: str


def find_objection(refusal: UpstreamRefusal, asked: ModelRequest) -> Objections | None:
    """Return what a refusal objects to that can be left out of the question, None if there is nothing."""
    if refusal.status in _OTHER_STATUSES or (refusal.status >= 500 and refusal.status not in _BROKEN_STATUSES):
        return None
    complaint = _Complaint(refusal, asked)
    if (found := complaint.about_an_added_field()) or complaint.is_about_something_else:
        return found
    return (
        complaint.about_an_item()
        or complaint.about_seals()
        or complaint.about_a_type()
        or complaint.about_a_field_by_name()
        or complaint.mentions_an_added_field()
    )


class _Complaint:
    """One refusal, beside what was asked."""

    def __init__(self, refusal: UpstreamRefusal, asked: ModelRequest) -> None:
        told = refusal.to_dict()
        self.param = str(told.get("param") or "")
        self.code = str(told.get("code") or "")
        self.message = refusal.message
        self.text = _REASONING_SETTING.sub("", f"{self.message} {self.param}")
        self._asked = asked
        self._added = [name for name in asked.added if name in asked.settings]

    @property
    def is_about_something_else(self) -> bool:
        """A field that the client has sent itself is named as the place of the fault, or the whole is too long."""
        root = re.split(r"[.\[]", self.param, maxsplit=1)[0]
        is_own = root in self._asked.fields and root not in self._asked.added
        return is_own or self.code in _OTHER_CODES or bool(_TOO_LONG.search(self.message))

    def about_an_added_field(self) -> Objections | None:
        """A field that was added here is named as the place of the fault."""
        roots = {re.split(r"[.\[]", place, maxsplit=1)[0] for place in self._places()}
        return _settings(name for name in self._added if name in roots)

    def mentions_an_added_field(self) -> Objections | None:
        """A field that was added here, or what it asks for, is mentioned anywhere in the text."""
        message = _OTHER_STORES.sub("", self.message)
        found = [name for name in self._added if re.search(rf"\b{name}\b", message)]
        if "include" in self._added and _ABOUT_A_SEAL.search(self.text):
            found.append("include")
        return _settings(found)

    def about_an_item(self) -> Objections | None:
        """A stored item is named, by its place or its id; one that the client has just brought is not looked at."""
        for fault in self._faults():
            kind = _type_of(fault.item)
            if not fault.item.id:
                continue
            if fault.field and fault.field.rpartition(".")[2] not in _ESSENTIAL and not self._is_about_a_seal(fault):
                return Objections(fields=frozenset({f"{kind}.{fault.field}"}))
            if self._is_about_a_seal(fault):
                return self._without_seals()
            if kind == "reasoning":
                return self._without_items("reasoning")
            if kind not in _ESSENTIAL_TYPES and fault.field in ("", "type"):
                return Objections(types=frozenset({kind}))
        return None

    def about_seals(self) -> Objections | None:
        """Sealed content is what can't be read."""
        if any(_ABOUT_A_SEAL.search(text) for text in (self.code, self.message)) and self.param != "include":
            return self._without_seals()
        return None

    def about_a_type(self) -> Objections | None:
        """A type of items is mentioned, and stored ones of it were sent."""
        for kind in sorted({_type_of(item) for item in self._stored()} - _ESSENTIAL_TYPES):
            found = re.search(rf"\b{re.escape(kind)}\b((?:\.[a-z_]+)*)", self.text)
            field = found[1].removeprefix(".") if found else ""
            if field and field.rpartition(".")[2] not in _ESSENTIAL:
                return Objections(fields=frozenset({f"{kind}.{field}"}))
            if found and not field:
                return Objections(types=frozenset({kind}))
        return None

    def about_a_field_by_name(self) -> Objections | None:
        """A field is named that is unknown to the server, without saying of what; stored items have it."""
        if not (_UNKNOWN.search(self.message) or _UNKNOWN.search(self.code)):
            return None
        for name in dict.fromkeys([self.param, *_QUOTED.findall(self.message)]):
            last = name.rpartition(".")[2]
            if not name or last in _ESSENTIAL or name.partition(".")[0] in self._asked.settings:
                continue
            having = [item for item in self._stored() if b'"%b":' % last.encode() in item.data]
            kinds = {_type_of(item) for item in having if _has(orjson.loads(item.data), name.split("."))}
            if kinds:
                return Objections(fields=frozenset(f"{kind}.{name}" for kind in kinds))
        return None

    def _places(self) -> list[str]:
        """Return the places that are named: the `param`, and those of validation errors, which are in the message."""
        found = re.findall(r"(?:^|; )body\.([^:;]+)", self.message)
        return [place for place in (self.param.removeprefix("body."), *found) if place]

    def _faults(self) -> Iterator[_Fault]:
        sent = self._asked.sent_items
        for text in (self.param, self.message):
            for found in _IN_INPUT.finditer(text):
                place = int(found[1] or found[2])
                if place < len(sent):
                    yield _Fault(sent[place], _field_in(found[3]))
        ids = set(_ID.findall(self.message))
        yield from (_Fault(item, "") for item in sent if item.id in ids)

    def _is_about_a_seal(self, fault: _Fault) -> bool:
        return "encrypted" in f"{self.code} {fault.field}" or bool(_ABOUT_A_SEAL.search(self.message))

    def _stored(self) -> list[SentItem]:
        return [item for item in self._asked.sent_items if item.id]

    def _without_seals(self) -> Objections | None:
        """Without the seals that were sent; where there were none, without what they had been in."""
        sealed = [item.id for item in self._stored() if b'"encrypted_content":"' in item.data]
        return Objections(seals=frozenset(sealed)) if sealed else self._without_items("reasoning")

    def _without_items(self, kind: str) -> Objections | None:
        found = [item.id for item in self._stored() if _type_of(item) == kind]
        return Objections(items=frozenset(found)) if found else None


def _settings(names: Iterator[str] | Sequence[str]) -> Objections | None:
    found = frozenset(names)
    return Objections(settings=found) if found else None


def _type_of(item: SentItem) -> str:
    # what is sent was brought into form here: its type is near its beginning
    found = re.search(rb'"type":"([^"\\]*)"', item.data)
    return found[1].decode() if found else ""


def _field_in(rest: str) -> str:
    """Return the path of a field behind an item's place, `content[0].text` as `content.text`."""
    names = re.split(r"[.\[\]]+", rest)
    return ".".join(name for name in names if _FIELD_NAME.fullmatch(name))


def _has(value: Any, path: Sequence[str]) -> bool:
    if isinstance(value, list):
        return any(_has(one, path) for one in value)
    if not isinstance(value, dict) or path[0] not in value:
        return False
    return len(path) == 1 or _has(value[path[0]], path[1:])


# What the client is told.


def in_the_clients_words(refusal: UpstreamRefusal, asked: ModelRequest, source: TurnSource) -> UpstreamRefusal:
    """Return a refusal as the client understands it, who does not know what was sent before its own input.

    Places of its own input are counted as it counts them. Where the history is at fault, the message names the stored
    item and says what to do. source: what the request goes on from.
    """
    told, sent = refusal.to_dict(), asked.sent_items
    history: list[str] = []

    def own(found: re.Match[str]) -> str:
        place = int(found[1] or found[2])
        if place >= len(sent):
            return found[0]
        item = sent[place]
        if item.path:
            # an input that is a text has no places in it
            return f"{item.path}{found[3]}" if item.path.endswith("]") else item.path
        history.append(item.id)
        return f"{item.id}{found[3]}" if item.id else found[0]

    message = _IN_INPUT.sub(own, refusal.message)
    if asked.reader.alias:
        message = message.replace(asked.reader.alias, asked.reader.model)
    param = _IN_INPUT.sub(own, told["param"]) if isinstance(told["param"], str) else told["param"]
    stored = {item.id for item in sent if item.id and not item.path}
    named = [one for one in (*history, *_ID.findall(message)) if one in stored]
    if history and isinstance(param, str) and param != told["param"] and _starts_with_one_of(param, history):
        param = "conversation" if source.conversation_id else "previous_response_id"
    if named:
        message = f"{message} {_advice(named[0], source)}"
    if (message, param) == (refusal.message, told["param"]):
        return refusal
    error = {**refusal.error, "message": message, "param": param}
    return UpstreamRefusal(refusal.status, error, refusal.headers)


def _starts_with_one_of(param: str, ids: Sequence[str]) -> bool:
    return any(one and param.startswith(one) for one in ids)


def _advice(item_id: str, source: TurnSource) -> str:
    about = f"This is about item '{item_id}' of the stored history, not about this request's input"
    if source.conversation_id:
        return (
            f"{about}: delete it (DELETE /v1/conversations/{source.conversation_id}/items/{item_id}), or go on from "
            "before it with 'fork_from'."
        )
    return f"{about}: go on from a response before it."
