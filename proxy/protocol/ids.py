"""Ids: minted in OpenAI's shapes; 16 hex digits of each name its partition, the Redis slot all its relatives live in.

    conv_ 8 hex time, 24 hex random, 16 hex partition        conversations, and items added to them directly
    resp_ 16 hex partition, 00, 8 hex time, 24 hex random    responses and the items of a turn; 01 when not stored

Ids that a client brings along are opaque. `storage.partition_of` finds the partition of any of them.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
import time
from typing import Any

from proxy.protocol.item_types import ITEM_TYPES, item_type_of
from storage import random_hex

MAX_LENGTH = 64
VALID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
#: What follows the prefix of a response's id.
_TURN_BODY = re.compile(r"[0-9a-f]{50}")
#: Ids that are minted here have this form; OpenAI's too.
_MINTED = re.compile(r"[A-Za-z]+_[0-9a-f]{48}(?:[0-9a-f]{2})?")
#: The prefix of an id that somebody else minted.
_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9]{0,11}(?=_)")


def new_conversation_id(partition: str) -> str:
    """Return `conv_` + 48 hex digits, the last 16 of them `partition`."""
    return f"conv_{_stamp()}{partition}"


def new_added_item_id(item_type: str, partition: str) -> str:
    """Return an id for an item that is added to a conversation directly, outside a turn."""
    return f"{item_type_of(item_type).id_prefix}_{_stamp()}{partition}"


def new_response_id(partition: str, *, stored: bool) -> str:
    """Return `resp_` + 50 hex digits, the first 16 of them `partition`."""
    return f"resp_{_turn_body(partition, stored=stored)}"


def new_turn_item_id(item_type: str, partition: str, *, stored: bool) -> str:
    """Return an id for an input or output item of a turn."""
    return f"{item_type_of(item_type).id_prefix}_{_turn_body(partition, stored=stored)}"


def moved(item_id: str, partition: str, *, stored: bool) -> str:
    """Return a fresh id with the prefix of another, for an item of a turn in this partition."""
    return f"{item_id.partition('_')[0]}_{_turn_body(partition, stored=stored)}"


def derived_item_id(item_type: str, response_id: str, number: int) -> str:
    """Return the id of the number-th item of a stored response: the same whenever the response is made again."""
    body = response_id.rpartition("_")[2]
    digest = hashlib.sha256(f"{response_id}:{number}".encode()).hexdigest()
    return f"{item_type_of(item_type).id_prefix}_{body[:26]}{digest[:24]}"


def new_call_id() -> str:
    """Return a `call_id` for a call that came without."""
    return "call_" + "".join(secrets.choice(_BASE62) for _ in range(24))


def with_prefix_of(minted: str, item_type: str, upstream_id: Any) -> str:
    """Return an id that was minted for an item of a type that is unknown here, with the prefix of the upstream's id.

    Model servers look at the prefixes of the ids that they are sent.
    """
    row = item_type_of(item_type)
    found = _PREFIX.match(upstream_id) if row.name not in ITEM_TYPES and isinstance(upstream_id, str) else None
    return found[0] + minted.removeprefix(row.id_prefix) if found else minted


def is_minted(item_id: str) -> bool:
    """Tell whether an id has the form of those that are minted here, and so stands for one item alone."""
    return _MINTED.fullmatch(item_id) is not None


def new_branch_name(prefix: str) -> str:
    """Return `<prefix>_<UTC time to the second>_<4 hex digits>`: a name for a branch that nobody named."""
    return f"{prefix}_{time.strftime('%Y%m%d%H%M%S', time.gmtime())}_{secrets.token_hex(2)}"


def age_seconds(response_id: str) -> float:
    """Return how long ago a response's id was minted, as far as clocks agree; infinite if it is none of ours."""
    body = response_id.rpartition("_")[2]
    if not _TURN_BODY.fullmatch(body):
        return math.inf
    return time.time() - int(body[18:26], 16)


def is_valid(some_id: str) -> bool:
    """Tell whether `some_id` has an id's characters and length (OpenAI's rule for ids that clients bring)."""
    return VALID.fullmatch(some_id) is not None


def _stamp() -> str:
    return f"{int(time.time()):08x}{random_hex(24)}"


def _turn_body(partition: str, *, stored: bool) -> str:
    return f"{partition}{'00' if stored else '01'}{int(time.time()):08x}{random_hex(24)}"
