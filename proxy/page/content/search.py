"""Search: where a text occurs in items, and which words two texts differ in. Pure; runs in the rendering process."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

import orjson

#: Characters that are shown around what was found.
AROUND = 90
#: Most places that are told.
MAX_HITS = 200

#: Fields of items that hold no text of anybody.
_SILENT = frozenset({"id", "type", "status", "role", "call_id", "encrypted_content", "object", "image_url", "result"})


def matches(sought: str, items: Sequence[str]) -> list[list[Any]]:
    """Return, for each item that has the text in any case, its number in `items`, its role or type, and an excerpt.

    items: as JSON. At most `MAX_HITS`.
    """
    wanted, found = sought.casefold(), list[list[Any]]()
    # JSON may write characters otherwise; what is plain is looked for before anything is parsed
    plain = wanted if wanted.isascii() and wanted.isalnum() else ""
    for number, item in enumerate(items):
        if plain and plain not in item.casefold():
            continue
        value = orjson.loads(item)
        for text in _texts(value):
            if (at := text.casefold().find(wanted)) >= 0:
                found.append([number, str(value.get("role") or value.get("type")), *_excerpt(text, at, len(sought))])
                break
        if len(found) >= MAX_HITS:
            break
    return found


def _texts(value: Any) -> list[str]:
    texts: list[str] = []
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str() as text:
                texts.append(text)
            case list() as parts:
                waiting.extend(reversed(parts))
            case dict() as fields:
                waiting.extend(part for name, part in reversed(fields.items()) if name not in _SILENT)
    return texts


def _excerpt(text: str, at: int, length: int) -> list[str]:
    """Return what stands before, at and behind a place, in one line each."""
    before, there, behind = text[max(0, at - AROUND) : at], text[at : at + length], text[at + length :][: AROUND * 2]
    cut = "…" if at > AROUND else ""
    more = "…" if len(text) > at + length + AROUND * 2 else ""
    return [cut + " ".join(before.split(" ")), there, " ".join(behind.split(" ")) + more]


def word_diff(first: str, second: str) -> list[list[str]]:
    """Return two texts as one: pairs of `same`, `out` (only in the first) or `in` (only in the second), and words."""
    before, after = (re.findall(r"\S+|\n+", text) for text in (first, second))
    told: list[list[str]] = []
    for kind, low, high, start, end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "equal":
            told.append(["same", " ".join(before[low:high])])
        else:
            told += [["out", " ".join(before[low:high])]] if high > low else []
            told += [["in", " ".join(after[start:end])]] if end > start else []
    return told
