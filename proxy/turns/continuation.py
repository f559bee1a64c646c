"""Continuation: what a response ended with that the store does not have, so that a turn can go on from it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from proxy.protocol.items import stored_id
from storage import Entry, HistoryItems, KnownItem, OpenedTurn, Origin, pair

if TYPE_CHECKING:
    from proxy.relay import Outcome


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a response ended with. stored: items of its history that the store has; chain: the same as refs.

    tail: the items after it, which the store does not have. shown: what its turn began with, stored items and those of
    the tail that were there already; it remembers what was found out of them. pending: calls that wait for an output.
    calls: those that an output may answer. notes, severed: of all of these items, see `storage.OpenedTurn`.
    """

    stored: Sequence[bytes]
    chain: bytes
    tail: tuple[Entry, ...]
    shown: HistoryItems
    pending: frozenset[str]
    calls: frozenset[str]
    notes: Mapping[str, str]
    severed: frozenset[str]

    @property
    def size(self) -> int:
        """Bytes of its items."""
        return self.items.size

    @property
    def items(self) -> HistoryItems:
        """All of its items, oldest first."""
        new = self.tail[len(self.shown) - len(self.stored) :]
        return HistoryItems([entry.data for entry in new], self.shown)


def continuation_of(
    before: Continuation | None, opened: OpenedTurn, entries: Sequence[Entry], outcome: Outcome
) -> Continuation | None:
    """Return what a turn ended with; None if it came to no good end.

    before: what it continued itself, if that is not in the store. entries: its input and its output.
    """
    if outcome.status not in {"completed", "incomplete"}:
        return None
    new = [replace(entry, origin=Origin.CLIENT) if entry.origin is Origin.MINTED else entry for entry in entries]
    paired = pair((entry.mark for entry in new), waiting=opened.pending, known=opened.calls)
    stored, tail = (before.stored, before.tail) if before else (opened.items, ())
    shown = opened.items if isinstance(opened.items, HistoryItems) else HistoryItems(opened.items)
    notes = {**opened.notes, **{entry.id: entry.note for entry in new if entry.note}}
    return Continuation(stored, opened.chain, (*tail, *new), shown, paired.waiting, paired.known, notes, opened.severed)


def recall(before: Continuation, item_ids: Sequence[str], found: OpenedTurn) -> OpenedTurn:
    """Return what a turn begins with that continues an ending. found: what the store knows of the input."""
    items = before.items
    seen = {stored_id(item): item for item in items} if item_ids else {}
    here = {one: KnownItem(seen[one], in_history=True) for one in item_ids if one in seen}
    return OpenedTurn(
        items=items,
        chain=before.chain,
        pending=before.pending,
        known={**found.known, **here},
        calls=before.calls | found.calls,
        notes=before.notes,
        severed=before.severed,
    )
