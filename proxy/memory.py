"""What the unstored responses of one connection ended with, so that a later turn on it can go on from them. Pure.

The store knows nothing of them, and they are gone with the connection.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from proxy.history import Prepared, output_entries
from proxy.items import stored_id
from storage import Entry, KnownItem, OpenedTurn, Origin

if TYPE_CHECKING:
    from proxy.relay import Outcome
    from proxy.request import TurnRequest


@dataclass(frozen=True, slots=True)
class Ending:
    """What a response ended with. stored: items of its history that the store has; chain: the same as refs.

    tail: the items after it, which only this connection has. pending: calls that wait for an output. calls: those
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


def ending_of(request: TurnRequest, opened: OpenedTurn, prepared: Prepared, outcome: Outcome | None) -> Ending | None:
    """Return what a turn ended with; None if it has not ended, or came to no good end."""
    if outcome is None or outcome.status not in {"completed", "incomplete"}:
        return None
    entries = [*prepared.entries, *output_entries(outcome.items, request.exempt_tools)]
    new = [replace(entry, origin=Origin.CLIENT) if entry.origin is Origin.MINTED else entry for entry in entries]
    pending, calls = set(opened.pending), set(opened.calls | opened.pending)
    for entry in new:
        sign, call = entry.mark[:1], entry.mark[1:]
        if sign == "-":
            pending.discard(call)
        elif sign:
            calls.add(call)
            if sign == "+":
                pending.add(call)
    before = request.before
    stored, tail = (before.stored, before.tail) if before else (opened.items, ())
    return Ending(stored, opened.chain, (*tail, *new), frozenset(pending), frozenset(calls))


def recall(before: Ending, item_ids: Sequence[str], found: OpenedTurn) -> OpenedTurn:
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


class Memory:
    """The latest response of each lane, where it is not stored. max_bytes: of all of them; the oldest goes first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = self._room = max_bytes
        self._latest: OrderedDict[str, tuple[str, Ending]] = OrderedDict()

    def find(self, response_id: str) -> Ending | None:
        """Return what a response ended with, if it is the latest of any lane."""
        return next((kept for known, kept in self._latest.values() if known == response_id), None)

    def keep(self, lane: str, response_id: str, latest: Ending | None) -> None:
        """Put a response in the place of the lane's latest. latest: None if the store has it."""
        self._drop(lane)
        if latest is None or latest.size > self._max_bytes:
            return
        self._latest[lane] = (response_id, latest)
        self._room -= latest.size
        while self._room < 0:
            self._drop(next(iter(self._latest)))

    def forget(self, lane: str, response_id: str) -> None:
        """Drop a response if it is the latest of this lane; other lanes keep theirs."""
        if lane in self._latest and self._latest[lane][0] == response_id:
            self._drop(lane)

    def _drop(self, lane: str) -> None:
        if dropped := self._latest.pop(lane, None):
            self._room += dropped[1].size
