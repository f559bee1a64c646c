"""Coverage: which parts of which segments a set of chains reads. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from storage.records import Chain


class Coverage:
    """The union of chains: for each segment the ranges of offsets that any of them reads."""

    def __init__(self) -> None:
        self._ranges: dict[int, list[tuple[int, int]]] = {}

    def add(self, chain: Chain) -> None:
        """Add all that a chain reads."""
        for segment, start, stop in chain:
            ranges = self._ranges.setdefault(segment, [])
            first = bisect_left(ranges, start, key=lambda one: one[1])
            last = bisect_right(ranges, stop, key=lambda one: one[0])
            if first < last:
                start, stop = min(start, ranges[first][0]), max(stop, ranges[last - 1][1])
            ranges[first:last] = [(start, stop)]

    @property
    def segments(self) -> list[int]:
        """The segments that are read, in order."""
        return sorted(self._ranges)

    def ranges(self, segment: int) -> list[tuple[int, int]]:
        """Return the ranges that are read in a segment, in order, with gaps between them."""
        return self._ranges.get(segment, [])

    def length(self, segment: int) -> int:
        """Return how far a segment is read."""
        ranges = self._ranges.get(segment)
        return ranges[-1][1] if ranges else 0
