"""Tool calls and their outputs: what an item is to the pairing of the two, by its `call_id`. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Set as AbstractSet
from typing import Any

from proxy.protocol.item_types import item_type_of
from storage import CallMark, CallSign

_NO_MARK = CallMark()
_PLAIN_CALL_ID = re.compile(r"[!-~]{1,128}")


def mark_of(item: dict[str, Any], exempt: AbstractSet[str] = frozenset()) -> CallMark:
    """Return what an item is to the pairing of calls and outputs.

    CALL: a finished call of a client's tool, which must get its output. OPTIONAL_CALL: a call that may get one:
    unfinished, of a tool in `exempt` (`async: true`), or of a hosted kind (Codex answers `local_shell_call` with
    `function_call_output`). OUTPUT: an output of a client's tool. The call id is made fit for the store: one with
    spaces or beyond 128 characters is named by its hash.
    """
    call_id = item.get("call_id")
    if not isinstance(call_id, str) or not call_id:
        return _NO_MARK
    row = item_type_of(item["type"])
    if row.is_output:
        return CallMark(CallSign.OUTPUT, call_key(call_id)) if row.is_paired else _NO_MARK
    must = row.is_paired and item.get("status") != "incomplete" and item.get("name") not in exempt
    return CallMark(CallSign.CALL if must else CallSign.OPTIONAL_CALL, call_key(call_id))


def call_key(call_id: str) -> str:
    """Return the name that the store knows a call by."""
    if _PLAIN_CALL_ID.fullmatch(call_id):
        return call_id
    return "sha256:" + hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()
