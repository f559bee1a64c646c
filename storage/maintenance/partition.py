"""Partition as it was read, key by key, and the chains in it. Nothing here talks to Redis."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import NamedTuple

from storage.calls import CallMark
from storage.client.values import FIELD_BREAK, place_of, split_calls

#: A branch's chain ends in one open span; a response's chain has none.
OPEN_CHAIN = re.compile(r"(?:\d+:\d+:\d+,)*\d+:\d+:", re.ASCII)
CLOSED_CHAIN = re.compile(r"(?:\d+:\d+:\d+(?:,\d+:\d+:\d+)*)?", re.ASCII)


class Span(NamedTuple):
    """A stretch of one segment; `to` is exclusive."""

    segment: int
    start: int
    to: int


@dataclass
class Partition:
    """One partition. Keys go by their names without prefix and partition.

    What is derived from several keys is worked out once: ask for it when all is read.

    now_ms: the server's clock. lives: seconds to live, infinite without a TTL. scores: sorted sets. segments: the ids
    of the items in order, '' for a deleted one. logs: the entries of logs of events, id and fields, without the events.
    parted: name of pieces -> place of the item whose they are. pieces: their name -> how many are there.
    job_pieces: the same of what it takes to run responses, by their ids.
    digests: names of those that lead here.
    unlisted: listings that should name the conversation and do not. faults: what could not be read as what it should
    be.
    """

    name: str
    now_ms: float = 0
    lives: dict[str, float] = field(default_factory=dict)
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)
    scores: dict[str, dict[str, int]] = field(default_factory=dict)
    segments: dict[int, list[str]] = field(default_factory=dict)
    logs: dict[str, list[tuple[str, dict[str, str]]]] = field(default_factory=dict)
    parted: dict[str, tuple[int, int]] = field(default_factory=dict)
    pieces: dict[str, int] = field(default_factory=dict)
    job_pieces: dict[str, int] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def head(self) -> dict[str, str]:
        """The partition's own hash."""
        return self.hashes.get("partition", {})

    @property
    def index(self) -> dict[str, str]:
        """Item id -> places and mark; `call:ID` -> item id."""
        return self.hashes.get("index", {})

    @cached_property
    def entries(self) -> dict[str, tuple[list[tuple[int, int]], CallMark]]:
        """Item id -> its places (segment, offset) and its mark."""
        return {key: parse_entry(value) for key, value in self.index.items() if not key.startswith("call:")}

    @property
    def conversation(self) -> dict[str, str] | None:
        """The facts of its living conversation."""
        facts = self.hashes.get("conversation", {})
        return facts if "id" in facts and "deleted_at" not in facts else None

    @cached_property
    def branches(self) -> dict[int, dict[str, str]]:
        """Line -> the branch's hash."""
        return {int(name[7:]): content for name, content in self.hashes.items() if name.startswith("branch:")}

    @property
    def responses(self) -> dict[str, dict[str, str]]:
        """Key -> the response's hash."""
        return {name: content for name, content in self.hashes.items() if name.startswith("response:")}

    @property
    def unfinished(self) -> set[str]:
        """Ids of the responses that are queued or being made."""
        running = ("queued", "in_progress")
        return {name[len("response:") :] for name, one in self.responses.items() if one.get("status") in running}

    @cached_property
    def pieces_noted(self) -> dict[str, tuple[int, int]]:
        """Name of pieces -> place of their item, as the partition has noted it."""
        parts = (one.split(":") for one in self.head.get("pieces", "").split(",") if one.count(":") == 2)
        return {name: (int(segment), int(offset)) for name, segment, offset in parts}

    def length(self, segment: int) -> int:
        """Return how many elements a segment has; 0 where there is none."""
        return len(self.segments.get(segment, ()))

    def is_there(self, segment: int) -> bool:
        """Tell whether a segment is there, be it without an element as a new branch's is."""
        return segment in self.segments or f"branch:{segment}" in self.hashes

    def chain(self, text: str) -> list[Span]:
        """Return a chain, closed at this moment; what is no chain gives none."""
        if not (OPEN_CHAIN.fullmatch(text) or CLOSED_CHAIN.fullmatch(text)):
            return []
        parts = (span.split(":") for span in text.split(",") if span)
        spans = [Span(int(one), int(start), int(to) if to else self.length(int(one))) for one, start, to in parts]
        return [span for span in spans if span.start < span.to]

    @cached_property
    def branch_chains(self) -> dict[int, list[Span]]:
        """Line -> the branch's chain."""
        return {line: self.chain(branch.get("chain", "")) for line, branch in self.branches.items()}

    @cached_property
    def reached(self) -> dict[int, bytearray]:
        """Segment -> a byte for each offset, 1 where a branch reads it."""
        reached = {segment: bytearray(len(ids)) for segment, ids in self.segments.items()}
        for chain in self.branch_chains.values():
            for segment, start, to in chain:
                if segment in reached:
                    to = min(to, len(reached[segment]))
                    reached[segment][start:to] = b"\1" * (to - start)
        return reached

    @cached_property
    def marks(self) -> dict[int, list[tuple[int, CallMark]]]:
        """Segment -> offset and mark of its live items that have one, in order."""
        marks: dict[int, list[tuple[int, CallMark]]] = {}
        for item, (places, mark) in self.entries.items():
            for segment, offset in places if mark.sign else ():
                if self.segments.get(segment, [])[offset : offset + 1] == [item]:
                    marks.setdefault(segment, []).append((offset, mark))
        return {segment: sorted(found) for segment, found in marks.items()}

    def marks_in(self, span: Span) -> list[CallMark]:
        """Return the marks of a span's items, in order."""
        placed = self.marks.get(span.segment, [])
        first, last = (bisect_left(placed, offset, key=itemgetter(0)) for offset in (span.start, span.to))
        return [mark for _, mark in placed[first:last]]

    def told_in(self, span: Span) -> list[tuple[int, set[str]]]:
        """Return what the journal tells behind the items of a span, as `told`."""
        told = self.told.get(span.segment, [])
        first, last = (bisect_right(told, offset, key=itemgetter(0)) for offset in (span.start, span.to))
        return told[first:last]

    @cached_property
    def told(self) -> dict[int, list[tuple[int, set[str]]]]:
        """Segment -> offsets before which the journal tells what calls wait, each with those, in order.

        Where appends tell of one place differently, as earlier versions wrote it, nobody believes them.
        """
        told: dict[tuple[int, int], set[str]] = {}
        for entry, score in self.scores.get("journal", {}).items():
            told.setdefault(place_of(score), set()).add(entry.rpartition(FIELD_BREAK)[2])
        places: dict[int, list[tuple[int, set[str]]]] = {}
        for (segment, offset), (calls, *others) in sorted(told.items()):
            if not others:
                places.setdefault(segment, []).append((offset, set(split_calls(calls))))
        return places

    @cached_property
    def deleted(self) -> dict[int, list[int]]:
        """Segment -> the offsets of its deleted items, in order."""
        return {segment: [at for at, item in enumerate(ids) if not item] for segment, ids in self.segments.items()}

    def reach_noted(self, segment: int) -> tuple[float, int]:
        """Return how long responses read a segment (ms of Unix time) and up to where, as the partition has noted it."""
        until, _, to = self.head.get(f"reach:{segment}", "0:0").partition(":")
        return float(until), int(to)


def reach_of(chain: Iterable[Span]) -> dict[int, int]:
    """Return segment -> how far a chain reads in it."""
    reached: dict[int, int] = {}
    for span in chain:
        reached[span.segment] = max(reached.get(span.segment, 0), span.to)
    return reached


def parse_entry(value: str) -> tuple[list[tuple[int, int]], CallMark]:
    """Return the places (segment, offset) and the mark of an index entry."""
    places, _, mark = value.partition(" ")
    pairs = (place.split(":") for place in places.split(",") if ":" in place)
    return [(int(segment), int(offset)) for segment, offset in pairs], CallMark.parse(mark)
