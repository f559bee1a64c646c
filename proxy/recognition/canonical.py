"""Canonical text and arguments: what is left of either when all that clients change on the way back is gone. Pure."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

import orjson

from proxy.protocol.lenient_json import loads_lenient

_THOUGHT, _THOUGHT_END = "<think>", "</think>"
#: Nesting that arguments may have; deeper ones count as text.
_MAX_DEPTH = 64
#: White space among the characters that ASCII has, as `str.split` takes it.
_SPACES = bytes(code for code in range(128) if chr(code).isspace())


def canonical_text(text: str) -> str:
    """Return text in NFC without any white space: clients trim it, and change its line ends."""
    if text.isascii():
        # a tenth of what a string for each word costs
        return text.encode().translate(None, _SPACES).decode()
    return unicodedata.normalize("NFC", "".join(text.split()))


def without_thought(text: str) -> str:
    """Return a canonical answer without the `<think>…</think>` that it begins with; clients cut that off, or do not."""
    while text.startswith(_THOUGHT):
        end = text.find(_THOUGHT_END)
        if end < 0:
            break
        text = text[end + len(_THOUGHT_END) :]
    return text


def canonical_arguments(arguments: Any) -> str:
    """Return a call's arguments in one form: parsed, keys sorted, numbers as floats.

    arguments: JSON text, or what such text says. None at all are an empty object. What is no JSON is taken as text.
    """
    if isinstance(arguments, str):
        if not arguments.strip():
            return "{}"
        try:
            arguments = loads_lenient(arguments.encode("utf-8", "surrogatepass"))
        except orjson.JSONDecodeError:
            return canonical_text(arguments)
    elif arguments is None:
        return "{}"
    try:
        return json.dumps(_plain(arguments, 0), sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        return canonical_text(str(arguments))


def _plain(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise RecursionError
    if type(value) is dict:
        return {str(name): _plain(inner, depth + 1) for name, inner in value.items()}
    if type(value) is list:
        return [_plain(inner, depth + 1) for inner in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    return _float(value)


def _float(number: Any) -> float | str:
    # integers beyond 64 bits are fragments of their digits
    try:
        value = float(orjson.dumps(number) if isinstance(number, orjson.Fragment) else number)
    except OverflowError:
        value = math.inf
    return value + 0.0 if math.isfinite(value) else str(value)
