"""Items that a request brings to a conversation: read within limits, and made ready for the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from proxy.protocol import ids
from proxy.protocol.errors import BadRequest, invalid_type, json_type
from proxy.protocol.items import InputItem, check_parts, read_input, stored_entry
from storage import Entry, Store, partition_of

#: Most items that one request may bring.
MAX_ITEMS = 20


def read_items(value: Any) -> list[InputItem]:
    """Return the items of a body's `items`, 20 at most. Raises BadRequest naming the field."""
    if not isinstance(value, list):
        raise invalid_type("items", "an array of objects", json_type(value))
    if len(value) > MAX_ITEMS:
        raise BadRequest(
            f"Invalid 'items': array too long. Expected an array with maximum length {MAX_ITEMS}, "
            f"but got an array with length {len(value)} instead.",
            param="items",
            code="array_above_max_length",
        )
    items = read_input(value, "items")
    for item in items:
        if item.type == "message" and item.body and isinstance(item.body.get("content"), list):
            check_parts(str(item.body.get("role")), item.body["content"], f"{item.path}.content", unseen=True)
    return items


async def to_entries(store: Store, owner: str, items: Sequence[InputItem], partition: str) -> list[Entry]:
    """Return items for the store; what they name in other partitions is fetched first, in one trip."""
    far = [item.id for item in items if item.id and partition_of(item.id) != partition]
    known = await store.items.resolve(owner, far)
    entries = []
    for item in items:
        if item.type == "compaction_trigger":
            continue
        entry = item.to_entry(lambda item_type: ids.new_added_item_id(item_type, partition))
        stored = known.get(entry.id)
        if stored is not None:
            entry = stored_entry(stored)
        entries.append(entry)
    return entries
