"""Partitions: the Redis slot that an id and all its relatives live in, read from the id without an index.

    …_ 48 hex digits, the last 16 of them the partition     conversations, and items added to them directly
    …_ 50 hex digits, the first 16 of them the partition    responses, and the items of a turn

An id of any other shape, as clients make them up, gets the partition that its hash gives.

The random digits of which ids and tokens are made are drawn ahead: a turn takes five such numbers, each of which would
be a call of the kernel that costs more than all the rest of making an id.
"""

from __future__ import annotations

import hashlib
import os
import re

_HEX_48 = re.compile(r"[0-9a-f]{48}")
_HEX_50 = re.compile(r"[0-9a-f]{50}")
#: Digits that one number may have, and numbers that are drawn at a time.
MAX_RANDOM_DIGITS = 32
_NUMBERS = 128

#: What was drawn and not given out yet. Taking one from a list is atomic: no two threads get the same.
_drawn: list[str] = []
# nor do two processes
os.register_at_fork(after_in_child=_drawn.clear)


def random_hex(digits: int) -> str:
    """Return so many random hex digits, at most `MAX_RANDOM_DIGITS`; fit for what nobody may guess."""
    while True:
        try:
            return _drawn.pop()[:digits]
        except IndexError:
            text = os.urandom(_NUMBERS * MAX_RANDOM_DIGITS // 2).hex()
            _drawn.extend([text[at : at + MAX_RANDOM_DIGITS] for at in range(0, len(text), MAX_RANDOM_DIGITS)])


def new_partition() -> str:
    """Return 16 random hex digits: the name of a new partition."""
    return random_hex(16)


def new_edition() -> str:
    """Return what the edition of a partition is called once something was taken away there: 32 random hex digits."""
    return random_hex(32)


def partition_of(some_id: str) -> str:
    """Return the partition that `some_id` names, or the one that its hash gives when it names none."""
    body = some_id.rpartition("_")[2]
    if len(body) == 48 and _HEX_48.fullmatch(body):
        return body[-16:]
    if len(body) == 50 and _HEX_50.fullmatch(body):
        return body[:16]
    return hashlib.sha256(some_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
