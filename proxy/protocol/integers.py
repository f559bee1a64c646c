"""Integers beyond 64 bits in JSON: kept digit by digit, where the fast parser would make floats of them. Pure.

Such a number is an `orjson.Fragment` of its digits, which `orjson.dumps` writes as it is. JSON Schemas of tools have
them as bounds, arguments as identifiers; whoever passes them on has no right to round them.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

#: Digits of the shortest integer that may be beyond 64 bits.
_DIGITS = 19
#: Every so many bytes one is looked at: of `_DIGITS` in a row three are.
_STRIDE = 6
_SAMPLE = b"000"
#: Digits become zeros, all else becomes spaces.
_IS_DIGIT = bytes(ord("0") if chr(code).isdigit() else ord(" ") for code in range(256))
#: A number of so many digits, none in a string: those have a quote before them, or another character.
_LONG = re.compile(rb"(?:\A|[\s:,\[])-?\d{%d,}" % _DIGITS)
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1


def loads_exact(data: bytes) -> Any:
    """Return what JSON says, its integers exact. Raises orjson.JSONDecodeError."""
    value = orjson.loads(data)
    return json.loads(data, parse_int=read_integer) if has_long(data) else value


def has_long(data: bytes) -> bool:
    """Tell whether JSON may have an integer beyond 64 bits: a look at every sixth byte, and where that is a digit
    thrice in a row, at all bytes there.
    """
    sample = data[::_STRIDE].translate(_IS_DIGIT)
    at = sample.find(_SAMPLE)
    while at >= 0:
        around = at * _STRIDE
        if _LONG.search(data, max(around - _DIGITS - 2, 0), around + 2 * _DIGITS):
            return True
        at = sample.find(_SAMPLE, at + 1)
    return False


def read_integer(digits: str) -> int | orjson.Fragment:
    """Return an integer, a fragment of its digits if it is beyond 64 bits. digits: as JSON has them, with a sign."""
    if len(digits) <= _DIGITS + 1 and _SMALLEST <= int(digits) <= _LARGEST:
        return int(digits)
    return orjson.Fragment(digits.encode())
