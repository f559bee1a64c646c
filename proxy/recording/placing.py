"""Placing: where the items of a recorded turn were put. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage import BEFORE_ALL, Spot

if TYPE_CHECKING:
    from proxy.recognition.decision import Plan
    from storage import Entry


@dataclass(slots=True)
class PlacedTurn:
    """Where the entries of a turn were put. ends: of each element that was new, by its index. last: the turn's last.

    asked: the last of what was asked.
    """

    ends: Mapping[int, Spot]
    asked: Spot
    last: Spot


def place_turn(plan: Plan, groups: Sequence[Sequence[Entry]], spots: Sequence[Spot]) -> PlacedTurn:
    """Return where entries were put. groups: by elements, as `plan.new` has them. spots: of all, in order."""
    ends, at, asked = {}, 0, spot_of(plan.after)
    for index, group in zip(plan.new, groups, strict=False):
        at += len(group)
        if group and at <= len(spots):
            asked = ends[index] = spots[at - 1]
    return PlacedTurn(ends, asked, spots[-1] if spots else asked)


def end_of(chain: bytes) -> Spot:
    """Return where a closed chain ends."""
    if not chain:
        return BEFORE_ALL
    segment, _, stop = map(int, chain.rpartition(b",")[2].split(b":"))
    return Spot(segment, segment, stop - 1)


def spot_of(place: str) -> Spot:
    """Return what a plan names as the item that new ones come after."""
    return Spot(*map(int, place.split(":"))) if place else Spot()
