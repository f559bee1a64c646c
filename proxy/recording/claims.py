"""Claims: what the turns of this process are going on from, so that no other one goes on from it too. Pure.

A turn's claim is kept for longer than the turn where somebody is searching who may have asked the store before the turn
was written: he was told that nobody has gone on from there.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import TypeAlias

#: What is gone on from: a partition and a place in it, as `hint_place` has them.
ClaimedPlace: TypeAlias = tuple[str, str]


class Claims:
    """The places that are claimed."""

    def __init__(self) -> None:
        self._held: Counter[ClaimedPlace] = Counter()
        self._numbers = count()
        #: Searches that are under way, by number, the oldest first.
        self._searching: dict[int, None] = {}
        #: What was given back, each with the number of a search that would begin then.
        self._given_back: deque[tuple[int, ClaimedPlace]] = deque()

    def __contains__(self, place: object) -> bool:
        return place in self._held

    def take(self, place: ClaimedPlace) -> None:
        """Claim a place; several may."""
        self._held[place] += 1

    def give_back(self, place: ClaimedPlace) -> None:
        """End a claim, as soon as nobody searches who has begun before."""
        self._given_back.append((next(self._numbers), place))
        self._settle()

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Search, and decide before the context ends."""
        number = next(self._numbers)
        self._searching[number] = None
        try:
            yield
        finally:
            del self._searching[number]
            self._settle()

    def _settle(self) -> None:
        oldest = next(iter(self._searching), None)
        while self._given_back and (oldest is None or self._given_back[0][0] < oldest):
            _, place = self._given_back.popleft()
            self._held[place] -= 1
            if self._held[place] <= 0:
                del self._held[place]
