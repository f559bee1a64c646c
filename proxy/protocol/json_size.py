"""JSON size: how many elements a text has, found out before it is parsed, and how deep what was parsed is. Pure.

An empty object of three bytes becomes one of 64 and more: what parsing costs is counted in elements, not in bytes.
"""

from __future__ import annotations

import gc
import math
import re
from collections.abc import Iterator
from typing import Any

#: Bytes that are looked at before anything else may have its turn: a millisecond or less.
SLICE_BYTES = 256 * 1024
#: Bytes whose brackets are counted to tell how deep JSON can be at most.
GLANCE_BYTES = 16 * 1024

_ESCAPE = re.compile(rb"\\.", re.DOTALL)
#: A string without escapes, or what is there of one.
_STRING = re.compile(rb'"[^"]*+"?')


def count_elements(body: bytes, slice_bytes: int = SLICE_BYTES) -> Iterator[int]:
    """Yield, slice by slice, how many values begin there at most: one behind each comma and each opening bracket.

    What stands in strings does not count. Text that is no JSON gets some number.
    """
    start, open_quote = 0, b""
    while start < len(body):
        piece = body[start : start + slice_bytes]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:
            # an escape is not cut in two
            piece += body[start + len(piece) : start + len(piece) + 1]
        start += len(piece)
        plain = open_quote + _ESCAPE.sub(b"", piece)
        open_quote = b'"' if plain.count(b'"') % 2 else b""
        bare = _STRING.sub(b"", plain)
        yield bare.count(b",") + bare.count(b"[") + bare.count(b"{")


def estimate(body: bytes, slice_bytes: int = SLICE_BYTES) -> Iterator[int]:
    """Yield, slice by slice, the same with what stands in strings: ten times as fast, and never less."""
    for start in range(0, len(body), slice_bytes):
        stop = start + slice_bytes
        yield body.count(b",", start, stop) + body.count(b"[", start, stop) + body.count(b"{", start, stop)


def most_levels(body: bytes | bytearray) -> float:
    """Return how many levels of arrays and objects JSON has at most; infinite where that is not told at a glance.

    In a small body there are rarely more brackets than there may be levels, and they are counted quicker than walked.
    """
    return body.count(b"{") + body.count(b"[") if len(body) <= GLANCE_BYTES else math.inf


def is_deeper(value: Any, limit: int) -> bool:
    """Tell whether parsed JSON has more than `limit` levels of arrays and objects.

    The collector's view walks a level at C speed: 36 us beside 630 us of parsing for a 1 MB history, against
    170 us for a walk in Python and 560 us for counting brackets in the bytes. An innermost object that holds
    no container may go uncounted, because the collector does not track it.
    """
    level = [value]
    for _ in range(limit):
        level = list(filter(gc.is_tracked, gc.get_referents(*level)))
        if not level:
            return False
    return True
