"""Partitions: the Redis slot that an id and all its relatives live in, read from the id without an index.

    …_ 48 hex digits, the last 16 of them the partition     conversations, and items added to them directly
    …_ 50 hex digits, the first 16 of them the partition    responses, and the items of a turn

An id of any other shape, as clients make them up, gets the partition that its hash gives.
"""

from __future__ import annotations

import hashlib
import re

from storage.randomness import random_hex

_HEX_48 = re.compile(r"[0-9a-f]{48}")
_HEX_50 = re.compile(r"[0-9a-f]{50}")


def new_partition() -> str:
    """Return 16 random hex digits: the name of a new partition."""
    return random_hex(16)


def partition_of(some_id: str) -> str:
    """Return the partition that `some_id` names, or the one that its hash gives when it names none."""
    body = some_id.rpartition("_")[2]
    if len(body) == 48 and _HEX_48.fullmatch(body):
        return body[-16:]
    if len(body) == 50 and _HEX_50.fullmatch(body):
        return body[:16]
    return hashlib.sha256(some_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
