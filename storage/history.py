"""History: what the spans of a chain hold, made ready for a model. Pure.

An element that was deleted is empty and left out here; whoever sends the rest to a model has to know where: some items
mean nothing without the one behind them. So it is told of which items the next one is missing. A chain may have an item
twice, where somebody added it twice in one call: the history has it once, where it was first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain as chained
from itertools import pairwise
from typing import NamedTuple

from storage.client.values import read_chain
from storage.envelope import NOTE_END, item_id, open_envelope
from storage.records import Chain


class History(NamedTuple):
    """notes: by the id of the item that has one. severed: ids of the items behind which one is missing."""

    items: Sequence[bytes]
    notes: Mapping[str, str]
    severed: frozenset[str]


def read_history(spans: Sequence[Sequence[bytes]], chain: bytes) -> History:
    """Return what a chain holds. spans: the elements of each of its spans, in order, deleted ones included."""
    elements = list(filter(None, chained.from_iterable(spans)))
    places = read_chain(chain) if len(spans) > 1 else ()
    severed: set[str] = set()
    if len(elements) != sum(map(len, spans)) or _has_cuts(places):
        severed = _severed(spans, places)
    if _overlap(places):
        elements = list({item_id(element): element for element in elements}.values())
    notes = {}
    # every turn looks at every element: a comparison costs a third of a call
    for place in [place for place, element in enumerate(elements) if element[-1] == NOTE_END]:
        elements[place], note = open_envelope(elements[place])
        notes[item_id(elements[place])] = note
    return History(elements, notes, frozenset(severed))


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
