"""History: what the spans of a chain hold, made ready for a model. Pure.

An element that was deleted is empty and left out here; whoever sends the rest to a model has to know where: some items
mean nothing without the one behind them. So it is told of which items the next one is missing. A chain may have an item
twice, where somebody added it twice in one call: the history has it once, where it was first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain as chained
from itertools import pairwise
from typing import Any, NamedTuple

from storage.client.values import read_chain
from storage.envelope import NOTE_END, item_id, open_envelope, read_parted
from storage.errors import HeavyHistory
from storage.records import Chain, HistoryLimit


class HistoryItems(list[bytes]):
    """Items as they were read; nobody changes them. size: their bytes.

    memo: what readers found out of the beginning, each under its own key. It goes on to the longer history that begins
    with these items. What is in it must not be changed either: two turns may go on from one history.
    """

    __slots__ = ("memo", "size")

    def __init__(self, items: Iterable[bytes] = (), earlier: HistoryItems | None = None) -> None:
        """items: all of them, or those behind `earlier`."""
        super().__init__(items)
        self.size = sum(map(len, self))
        self.memo: dict[object, Any] = {}
        if earlier is not None:
            self[:0] = earlier
            self.size += earlier.size
            self.memo |= earlier.memo


class History(NamedTuple):
    """notes: by the id of the item that has one. severed: ids of the items behind which one is missing."""

    items: HistoryItems
    notes: Mapping[str, str]
    severed: frozenset[str]


class HistoryScale:
    """Weighs a history while it is read.

    limit: from which on it is too much, None for any. refusal: is raised then. held: bytes that were read before.
    """

    def __init__(self, limit: HistoryLimit | None, refusal: HeavyHistory, held: int) -> None:
        self._limit = limit
        self._refusal = refusal
        self._bytes = held

    def count(self, chain: bytes) -> None:
        """Count the items of a closed chain, deleted ones too. Raises HeavyHistory."""
        if self._limit is not None and sum(span[2] - span[1] for span in read_chain(chain)) >= self._limit.items:
            raise self._refusal

    def add(self, spans: Iterable[Sequence[bytes]]) -> None:
        """Add elements that were read; that of an item in pieces has the item's weight. Raises HeavyHistory."""
        if self._limit is None:
            return
        for element in chained.from_iterable(spans):
            parted = read_parted(element)
            self._bytes += parted.size if parted is not None else len(element)
        if self._bytes >= self._limit.bytes:
            raise self._refusal


def read_history(spans: Sequence[Sequence[bytes]], chain: bytes) -> History:
    """Return what a chain holds. spans: the elements of each of its spans, in order, deleted ones included.

    Raises InPieces.
    """
    elements = list(filter(None, chained.from_iterable(spans)))
    places = read_chain(chain) if len(spans) > 1 else ()
    severed: set[str] = set()
    if len(elements) != sum(map(len, spans)) or _has_cuts(places):
        severed = _severed(spans, places)
    if _overlap(places):
        elements = list(dict.fromkeys(elements))
    notes = _take_off_notes(elements)
    return History(HistoryItems(elements), notes, frozenset(severed))


def extend_history(earlier: History, rest: Sequence[bytes]) -> History:
    """Return a history with what lies behind it, in the same span. rest: elements from its last one on.

    Raises InPieces.
    """
    if len(rest) == 1:
        return earlier
    elements = list(filter(None, rest[1:]))
    severed = earlier.severed
    if len(elements) != len(rest) - 1:
        severed |= _severed([rest], ())
    notes = _take_off_notes(elements)
    return History(
        HistoryItems(elements, earlier.items), {**earlier.notes, **notes} if notes else earlier.notes, severed
    )


def _take_off_notes(elements: list[bytes]) -> dict[str, str]:
    """Leave the items of elements in their place; return the notes by the items' ids."""
    notes = {}
    # every turn looks at every element: a comparison costs a third of a call
    for place in [place for place, element in enumerate(elements) if element[-1] == NOTE_END]:
        elements[place], note = open_envelope(elements[place])
        notes[item_id(elements[place])] = note
    return notes


def _has_cuts(places: Chain) -> bool:
    """Whether something between two spans was left out: a chain that goes on further on in the same segment."""
    return any(one[0] == other[0] and one[2] < other[1] for one, other in pairwise(places))


def _overlap(places: Chain) -> bool:
    return any(one[0] == other[0] and one[2] > other[1] for one, other in pairwise(sorted(places)))


def _severed(spans: Sequence[Sequence[bytes]], places: Chain) -> set[str]:
    found: set[str] = set()
    last = b""
    for number, span in enumerate(spans):
        if last and number and _has_cuts(places[number - 1 : number + 1]):
            found.add(item_id(last))
        for element in span:
            if element:
                last = element
            elif last:
                found.add(item_id(last))
    return found
