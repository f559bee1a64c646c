"""Placing: where a history ends, and how plans name that. Pure."""

from __future__ import annotations

from storage import BEFORE_ALL, Spot


def end_of(chain: bytes) -> Spot:
    """Return where a closed chain ends."""
    if not chain:
        return BEFORE_ALL
    segment, _, stop = map(int, chain.rpartition(b",")[2].split(b":"))
    return Spot(segment, segment, stop - 1)


def spot_of(place: str) -> Spot:
    """Return what a plan names as the item that new ones come after."""
    return Spot(*map(int, place.split(":"))) if place else BEFORE_ALL
