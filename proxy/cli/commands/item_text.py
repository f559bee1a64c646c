"""An item as a line of text, for the terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

#: Fields of a call that say which it is, and those that hold what was asked and what came of it.
_CALL_FIELDS = ("arguments", "input", "action", "query", "queries", "code")
_OUTCOME_FIELDS = ("output", "result", "results")


@dataclass(frozen=True, slots=True)
class TextLine:
    """What is shown of an item. label: who speaks, or its type. text: safe for a terminal."""

    id: str
    label: str
    text: str


def line_of(item: bytes) -> TextLine:
    """Return what is shown of a stored item, of whatever type."""
    fields: dict[str, Any] = orjson.loads(item)
    kind = str(fields.get("type", "message"))
    if kind == "message":
        return TextLine(_id(fields), str(fields.get("role", "message")), plain_text(_content(fields.get("content"))))
    if kind == "reasoning":
        text = _content(fields.get("summary")) or _content(fields.get("content"))
        sealed = "(sealed)" if fields.get("encrypted_content") else ""
        return TextLine(_id(fields), kind, plain_text(text or sealed))
    name = str(fields.get("name", ""))
    told = [_compact(fields[one]) for one in (*_CALL_FIELDS, *_OUTCOME_FIELDS) if fields.get(one)]
    return TextLine(_id(fields), kind, plain_text(" ".join([*([name] if name else []), *told])))


def plain_text(text: str) -> str:
    """Return a stranger's text as a terminal may be given it: without control characters and changes of direction."""
    return "".join(one if one in "\n\t" or unicodedata.category(one) not in {"Cc", "Cf"} else "�" for one in text)


def _id(fields: dict[str, Any]) -> str:
    return str(fields.get("id", ""))


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(_parts(content)) if isinstance(content, list) else ""


def _parts(parts: list[Any]) -> Iterator[str]:
    for part in parts:
        if not isinstance(part, dict):
            continue
        text = part.get("text", part.get("refusal", part.get("transcript")))
        yield text if isinstance(text, str) else f"[{part.get('type', 'part')}]"


def _compact(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(one, dict) and "type" in one for one in value):
        return "\n".join(_parts(value))
    return value if isinstance(value, str) else orjson.dumps(value).decode()
