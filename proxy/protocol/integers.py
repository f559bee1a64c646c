"""Integers beyond 64 bits in JSON: kept digit by digit, where the fast parser would make floats of them. Pure.

Such a number is an `orjson.Fragment` of its digits, which `orjson.dumps` writes as it is. JSON Schemas of tools have
them as bounds, arguments as identifiers; whoever passes them on has no right to round them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import orjson

#: Digits of the shortest integer that may be beyond 64 bits.
_DIGITS = 19
#: Every so many bytes one is looked at: of `_DIGITS` in a row three are.
_STRIDE = 6
_SAMPLE, _RUN = b"000", b"0" * _DIGITS
#: Digits become zeros, all else becomes spaces.
_IS_DIGIT = bytes(ord("0") if code in b"0123456789" else ord(" ") for code in range(256))
#: What stands before a number; before the digits in a string it is mostly a quote, or another character.
_BEFORE_NUMBERS = b" \t\r\n:,["
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1
#: Bytes from which on JSON is large, and how many are looked at at a time then; a multiple of the stride.
_LARGE = _STRIDE * 192 * 1024
#: By how much those overlap: no run of digits that counts is cut.
_OVERLAP = 2 * _STRIDE * _DIGITS


def loads_exact(data: bytes | bytearray) -> Any:
    """Return what JSON says, its integers exact. Raises orjson.JSONDecodeError."""
    if len(data) > _LARGE:
        return _loads_large(data)
    value = orjson.loads(data)
    return _exact(value, data) if has_long(data) else value


def _loads_large(data: bytes | bytearray) -> Any:
    """Return the same in half the memory: orjson copies what it reads, msgspec does not."""
    if not any(map(has_long, _windows(data))):
        try:
            return msgspec.json.decode(data)
        except (msgspec.MsgspecError, RecursionError):
            # orjson is to say what is wrong
            return orjson.loads(data)
    return _exact(orjson.loads(data), data)


def _windows(data: bytes | bytearray) -> Iterator[bytes]:
    for start in range(0, len(data), _LARGE):
        yield bytes(data[start : start + _LARGE + _OVERLAP])


def _exact(value: Any, data: bytes | bytearray) -> Any:
    """Return a value that was read from `data` with its long integers exact."""
    try:
        return json.loads(data, parse_int=read_integer)
    except RecursionError:
        # the fast parser reads deeper than anything here writes
        return value


def has_long(data: bytes | bytearray) -> bool:
    """Tell whether JSON may have an integer beyond 64 bits: a look at every sixth byte, and where digits are thrice in
    a row there, at all bytes.
    """
    # not by `in`: that tries whether what it looks for is a number first, and catches the TypeError
    if data[::_STRIDE].translate(_IS_DIGIT).find(_SAMPLE) < 0:
        return False
    digits = data.translate(_IS_DIGIT)
    at = digits.find(_RUN)
    while at >= 0:
        start = at - (data[at - 1 : at] == b"-")
        if start <= 0 or data[start - 1] in _BEFORE_NUMBERS:
            return True
        end = digits.find(b" ", at)
        at = digits.find(_RUN, end) if end >= 0 else -1
    return False


def read_integer(digits: str) -> int | orjson.Fragment:
    """Return an integer, a fragment of its digits if it is beyond 64 bits. digits: as JSON has them, with a sign."""
    if len(digits) <= _DIGITS + 1 and _SMALLEST <= int(digits) <= _LARGEST:
        return int(digits)
    return orjson.Fragment(digits.encode())
