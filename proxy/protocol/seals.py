"""Seals: which of several model servers sealed what is in an item's `encrypted_content`. Pure.

    bls1.NAME. + what the server sealed

Only the server that sealed it reads it, so with several of them its name stands before it, in the store and for the
client, and is taken off on the way back to the server. Stateless clients, which send items back, stay with their server
so. The digit is the version of the format.
"""

from __future__ import annotations

import re

_FIELD = b'"encrypted_content":"'
#: Strings inside an item have their quotes escaped: only a field looks like this.
_MARKED = re.compile(rb'("encrypted_content":")bls1\.([A-Za-z0-9][A-Za-z0-9_-]{0,31})\.')


def seal_mark(upstream: str) -> str:
    """Return what stands before what an upstream of this name sealed."""
    return f"bls1.{upstream}."


def sealed_by(item: bytes) -> str | None:
    """Return the name of the upstream that sealed what is in an item, '' if nobody is named, None if nothing is sealed.

    item: as `items.dump` writes it.
    """
    if _FIELD not in item:
        return None
    found = _MARKED.search(item)
    return found[2].decode() if found else ""


def without_marks(item: bytes) -> bytes:
    """Return an item with its seals as the model server made them."""
    return _MARKED.sub(rb"\1", item)
