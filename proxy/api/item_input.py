"""Items that a request brings to a conversation: read within limits, and made ready for the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from proxy.context.pairing import answer_by_name, is_addressed
from proxy.protocol import ids
from proxy.protocol.errors import BadRequest, duplicate_item, invalid_type, json_type
from proxy.protocol.items import InputItem, check_content, check_parts, read_input, stored_entry
from storage import Entry, KnownItem, OpenedTurn, Store, TurnSource, partition_of

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


async def to_entries(
    store: Store, owner: str, items: Sequence[InputItem], partition: str, source: TurnSource | None = None
) -> list[Entry]:
    """Return items for the store; what they name is fetched first where that is somewhere else, in one trip.

    source: the branch that they are for, None for a new conversation. Raises BadRequest for an id that stands for
    another item, and for an output that does not say of which call it is.
    """
    items = await _with_call_ids(store, owner, items, partition, source)
    known = await _find_known(store, owner, items, partition)
    entries = []
    for item in items:
        if item.type == "compaction_trigger":
            continue
        entry = item.to_entry(lambda item_type: ids.new_added_item_id(item_type, partition))
        stored = known.get(entry.id)
        if stored is not None:
            check_content(item, stored.data)
            entry = stored_entry(stored)
        entries.append(entry)
    return entries


async def _with_call_ids(
    store: Store, owner: str, items: Sequence[InputItem], partition: str, source: TurnSource | None
) -> Sequence[InputItem]:
    if all(is_addressed(item) for item in items):
        return items
    opened = await store.turns.peek(owner, source, partition, (), ()) if source else OpenedTurn()
    return answer_by_name(items, opened, is_strict=True)


async def _find_known(store: Store, owner: str, items: Sequence[InputItem], partition: str) -> dict[str, KnownItem]:
    """Return what is stored under the items' ids: where these lead elsewhere, are the client's own, or come twice."""
    counts = Counter(item.id for item in items if item.id)
    far = [item_id for item_id in counts if partition_of(item_id) != partition]
    here = [item_id for item_id, count in counts.items() if count > 1 or not ids.is_minted(item_id)]
    known = await store.items.resolve(owner, far, here, partition)
    seen: set[str] = set()
    for item in items:
        if item.id in seen and item.id not in known and item.body is not None:
            raise duplicate_item(item.id, f"{item.path}.id")
        seen.update([item.id] if item.id else [])
    return known
