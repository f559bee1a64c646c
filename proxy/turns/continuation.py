"""Continuation: what a response ended with that the store does not have, so that a turn can go on from it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from proxy.context.input import TurnInput, output_entries
from proxy.protocol.items import stored_id
from storage import Entry, KnownItem, OpenedTurn, Origin, pair

if TYPE_CHECKING:
    from proxy.protocol.request import TurnRequest
    from proxy.relay import Outcome


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a response ended with. stored: items of its history that the store has; chain: the same as refs.

    tail: the items after it, which the store does not have. pending: calls that wait for an output. calls: those
    that an output may answer.
    """

    stored: Sequence[bytes]
    chain: bytes
    tail: tuple[Entry, ...]
    pending: frozenset[str]
    calls: frozenset[str]

    @property
    def size(self) -> int:
        """Bytes of its items."""
        return sum(map(len, self.items))

    @property
    def items(self) -> list[bytes]:
        """All of its items, oldest first."""
        return [*self.stored, *(entry.data for entry in self.tail)]


def continuation_of(
    request: TurnRequest, before: Continuation | None, opened: OpenedTurn, turn_input: TurnInput, outcome: Outcome
) -> Continuation | None:
    """Return what a turn ended with; None if it came to no good end. before: what it continued itself, if that is not
    in the store.
    """
    if outcome.status not in {"completed", "incomplete"}:
        return None
    entries = [*turn_input.entries, *output_entries(outcome.items, request.exempt_tools)]
    new = [replace(entry, origin=Origin.CLIENT) if entry.origin is Origin.MINTED else entry for entry in entries]
    paired = pair((entry.mark for entry in new), waiting=opened.pending, known=opened.calls)
    stored, tail = (before.stored, before.tail) if before else (opened.items, ())
    return Continuation(stored, opened.chain, (*tail, *new), paired.waiting, paired.known)


def recall(before: Continuation, item_ids: Sequence[str], found: OpenedTurn) -> OpenedTurn:
    """Return what a turn begins with that continues an ending. found: what the store knows of the input."""
    items = before.items
    seen = {stored_id(item) for item in items} if item_ids else set()
    here = {one: KnownItem(b"", in_history=True) for one in item_ids if one in seen}
    return OpenedTurn(
        items=items,
        chain=before.chain,
        pending=before.pending,
        known={**found.known, **here},
        calls=before.calls | found.calls,
    )
