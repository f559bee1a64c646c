"""JSON that is not quite JSON: read strictly first, by the fast parser, and only where that refuses as far as it goes.

    half a surrogate pair (`\\ud83d`), bytes that are not UTF-8     U+FFFD
    NaN, Infinity, fractions beyond a double                        null
    a byte order mark                                               dropped
    integers, of any length                                         exact, see `integers`

Whoever stores such a value could never send it on: each of these is refused by some model server, and then with every
turn again. Anything else that is not JSON stays refused.
"""

from __future__ import annotations

import json
import math
import os
import sys
from typing import Any

import orjson

from proxy.protocol import integers

_BOM = b"\xef\xbb\xbf"


def loads_lenient(data: bytes | bytearray, *, torn: str = "") -> Any:
    """Return what `data` says. Raises orjson.JSONDecodeError, with the strict parser's words.

    torn: a field of the outermost object that may end in half a surrogate pair, or begin with one: such halves are
    left in it, because the other half may come with the next event.
    """
    try:
        return integers.loads_exact(data)
    except orjson.JSONDecodeError as strict:
        try:
            return _repaired(bytes(data), torn)
        except (ValueError, RecursionError):
            # from here: its traceback must not lead to a frame that holds it
            raise strict from None


def _repaired(data: bytes, torn: str) -> Any:
    """Return what JSON that is not quite JSON says. Raises ValueError, RecursionError."""
    value = _DECODER.decode(_decoded(data.removeprefix(_BOM)))
    left = value.get(torn) if type(value) is dict else None
    value = _mended(value)
    if type(left) is str:
        value[torn] = mend_inside(left)
    return value


def mend(text: str) -> str:
    """Return `text` with its surrogate pairs joined, and U+FFFD for halves that stand alone."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def mend_inside(text: str) -> str:
    """Return `text` mended, but for a low half that it begins with and a high half that it ends with."""
    start = text[:1] if is_low(text[:1]) else ""
    end = text[-1:] if is_high(text[-1:]) else ""
    return start + mend(text[len(start) : len(text) - len(end)]) + end


def is_high(character: str) -> bool:
    """Whether a character is the first half of a surrogate pair."""
    return "\ud800" <= character <= "\udbff"


def is_low(character: str) -> bool:
    """Whether a character is the second half of a surrogate pair."""
    return "\udc00" <= character <= "\udfff"


def _decoded(data: bytes) -> str:
    try:
        # Java and JavaScript write halves of pairs as if they were characters.
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


def _mended(value: Any) -> Any:
    if type(value) is str:
        return mend(value)
    if type(value) is dict:
        return {mend(name): _mended(inner) for name, inner in value.items()}
    return [_mended(inner) for inner in value] if type(value) is list else value


def _number(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


_DECODER = json.JSONDecoder(parse_float=_number, parse_int=integers.read_integer, parse_constant=lambda _: None)


def repair_input() -> int:
    """Read a text from standard input, write what it says to standard output; 1, and nothing, if it is not JSON."""
    try:
        value = loads_lenient(sys.stdin.buffer.read())
    except orjson.JSONDecodeError:
        return 1
    sys.stdout.buffer.write(orjson.dumps(value))
    return 0


if __name__ == "__main__":
    # whoever else has work goes first
    os.nice(10)
    raise SystemExit(repair_input())
