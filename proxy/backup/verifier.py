"""A backup checked as a whole, before anything of it is written. Nothing in a file is trusted. Pure but for the file.

A file that passes breaks no rule of the store: every branch writes one segment and reads all of it, every chain stays
within the items that the file has, no branch has an item twice, and every response belongs to the conversation.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from operator import itemgetter
from typing import IO

from proxy.backup.format import (
    AnyLine,
    AppendLine,
    BranchLine,
    ConversationLine,
    EndLine,
    ItemLine,
    Spans,
    parse_line,
    to_append,
    to_branch,
    to_item,
)
from proxy.protocol.errors import ApiError
from proxy.protocol.params import read_metadata
from storage import ArchivedAppend, ArchivedBranch, ArchivedItem, CallMark, Conversation, Coverage, pair, partition_of

#: The lines in the order in which they come.
_ORDER = (ConversationLine, BranchLine, AppendLine, ItemLine, EndLine)


class InvalidBackup(Exception):
    """A file that is no backup; `str()` says on which line it is wrong and how, without quoting it."""


class Backup:
    """A file that was checked, as the store takes it (`storage.ImportSource`). owner: what its first line says."""

    def __init__(self, file: IO[bytes]) -> None:
        """Read all of `file` and check it. It must stay open, and as it is. Raises InvalidBackup."""
        self._file = file
        verifier = _Verifier()
        digest = hashlib.sha256()
        number = 0
        for number, text in enumerate(file, 1):
            digest.update(text)
            if text.strip():
                try:
                    verifier.take(parse_line(text))
                except (ValueError, RecursionError) as exc:
                    raise InvalidBackup(f"line {number}: {exc}") from exc
        try:
            verifier.finish()
        except ValueError as exc:
            raise InvalidBackup(f"line {number + 1}: {exc}") from exc
        self.fingerprint = digest.hexdigest()
        self.owner = verifier.head.owner
        self.conversation = verifier.conversation
        self._numbers = verifier.numbers
        self.lengths = [verifier.coverage.length(segment) for segment in self._numbers]
        self.branches: list[ArchivedBranch] = [
            replace(to_branch(line, self._numbers), pending=verifier.calls.pending(line)) for line in verifier.branches
        ]

    def appends(self) -> Iterator[ArchivedAppend]:
        """Read the journal once more."""
        for line in self._lines():
            if isinstance(line, AppendLine):
                yield to_append(line, self._numbers)

    def items(self) -> Iterator[ArchivedItem]:
        """Read the items once more."""
        for line in self._lines():
            if isinstance(line, ItemLine):
                yield to_item(line, self._numbers[line.segment])

    def _lines(self) -> Iterator[AnyLine]:
        self._file.seek(0)
        return (parse_line(text) for text in self._file if text.strip())


class _Verifier:
    """Takes a file's lines one after the other. Each method raises ValueError.

    numbers: the file's segments in order, each with its number in the store.
    """

    def __init__(self) -> None:
        self.head: ConversationLine
        self.conversation: Conversation
        self.branches: list[BranchLine] = []
        self.coverage = Coverage()
        self.numbers: dict[int, int] = {}
        self.calls = _Calls()
        self._stage = -1
        self._names: set[str] = set()
        #: Line of a branch → how much of its own segment it has.
        self._written: dict[int, int] = {}
        self._segments: set[int] = set()
        self._ends: dict[int, int] = {}
        self._appends = 0
        self._responses: set[str] = set()
        self._items = 0
        self._expected: Iterator[tuple[int, int, bool]] = iter(())
        #: Item id → its first place; and all places of those that have several.
        self._first: dict[str, tuple[int, int]] = {}
        self._repeated: dict[str, list[tuple[int, int]]] = {}

    def take(self, line: AnyLine) -> None:
        """Check the next line."""
        self._advance(_ORDER.index(type(line)))
        match line:
            case ConversationLine():
                self._take_head(line)
            case BranchLine():
                self._take_branch(line)
            case AppendLine():
                self._take_append(line)
            case ItemLine():
                self._take_item(line)
            case EndLine():
                self._take_end(line)

    def finish(self) -> None:
        """Check that the file is complete."""
        if self._stage != len(_ORDER) - 1:
            raise ValueError("the last line is missing, the file is not complete")

    def _advance(self, stage: int) -> None:
        once = stage in {0, len(_ORDER) - 1}
        if stage < self._stage or (once and stage == self._stage) or (self._stage < 0 < stage):
            raise ValueError("this line does not belong here: a conversation, its branches, appends, items, an end")
        if self._stage < _ORDER.index(ItemLine) <= stage:
            self._end_structure()
        self._stage = stage

    def _take_head(self, line: ConversationLine) -> None:
        try:
            metadata = read_metadata(line.metadata)
        except ApiError as exc:
            raise ValueError(exc.message) from exc
        self.head = line
        self.conversation = Conversation(
            id=line.id,
            created_at=line.created_at,
            updated_at=line.updated_at,
            active_branch=line.active_branch,
            title=line.title,
            project_id=line.project_id,
            referrer=line.referrer,
            metadata={key: value for key, value in metadata.items() if value is not None},
        )

    def _take_branch(self, line: BranchLine) -> None:
        if line.name in self._names or (line.name != "MAIN" and line.name.lower() == "main"):
            raise ValueError("there is a branch of this name already")
        if line.line in self._written:
            raise ValueError("another branch has this line")
        written = 0
        for segment, start, stop in line.chain:
            if segment == line.line:
                if start != written:
                    raise ValueError("a branch has all of its own segment, in order")
                written = stop
        self._add(line.chain)
        self._segments.add(line.line)
        self._written[line.line] = written
        self._names.add(line.name)
        self.branches.append(line)

    def _take_append(self, line: AppendLine) -> None:
        if line.id is not None:
            if partition_of(line.id) != partition_of(self.conversation.id):
                raise ValueError("the response does not belong to the conversation")
            if line.id in self._responses:
                raise ValueError("this response was there already")
            self._responses.add(line.id)
        if line.response is not None:
            if line.id is None or line.response.body.get("id") != line.id or "output" in line.response.body:
                raise ValueError("the response's body does not fit it")
            for chain in (line.response.snapshot, line.response.context, line.response.output):
                self._add(chain)
        self._segments.add(line.segment)
        self._ends[line.segment] = max(line.end, self._ends.get(line.segment, 0))
        self._appends += 1

    def _take_item(self, line: ItemLine) -> None:
        expected = next(self._expected, None)
        if expected is None or expected[:2] != (line.segment, line.offset):
            raise ValueError(f"not the item that comes next, which is {_place(expected)}")
        item = to_item(line, line.segment)
        if item.data and not expected[2]:
            raise ValueError("no branch and no response reads this item")
        self.calls.add(item)
        if item.data:
            place = (line.segment, line.offset)
            first = self._first.setdefault(item.id, place)
            if first != place:
                self._repeated.setdefault(item.id, [first]).append(place)
        self._items += 1

    def _take_end(self, line: EndLine) -> None:
        expected = next(self._expected, None)
        if expected is not None:
            raise ValueError(f"items are missing, the next is {_place(expected)}")
        if (line.branches, line.appends, line.items) != (len(self.branches), self._appends, self._items):
            raise ValueError("lines are missing: the counts differ")
        for places in self._repeated.values():
            if any(_count(branch.chain, places) > 1 for branch in self.branches):
                raise ValueError("a branch has an item twice")

    def _add(self, chain: Spans) -> None:
        for segment, start, stop in chain:
            if start >= stop:
                raise ValueError("a span is empty")
            self._segments.add(segment)
        self.coverage.add(chain)

    def _end_structure(self) -> None:
        """Check what branches and appends say about each other, and know from then on which items must come."""
        if not {"MAIN", self.conversation.active_branch} <= self._names:
            raise ValueError("MAIN or the active branch is missing")
        for segment, written in self._written.items():
            if self.coverage.length(segment) != written:
                raise ValueError(f"segment {segment} is read further than its branch wrote")
        for segment, end in self._ends.items():
            if end > self.coverage.length(segment):
                raise ValueError(f"an append ends behind segment {segment}")
        self.numbers = {segment: i for i, segment in enumerate(sorted(self._segments))}
        self._expected = self._places()

    def _places(self) -> Iterator[tuple[int, int, bool]]:
        """Yield the place of each item that must come, and whether anything reads it."""
        for segment in self.coverage.segments:
            at = 0
            for start, stop in self.coverage.ranges(segment):
                yield from ((segment, offset, offset >= start) for offset in range(at, stop))
                at = stop


class _Calls:
    """Which calls wait for an output at the end of a branch: those that were called and not answered.

    A deleted output's call does not wait for another. Only where items were deleted the file's word is needed for that.
    """

    def __init__(self) -> None:
        self._marks: dict[int, list[tuple[int, CallMark]]] = {}
        self._deleted: dict[int, list[int]] = {}

    def add(self, item: ArchivedItem) -> None:
        """Take the next item."""
        if not item.data:
            self._deleted.setdefault(item.segment, []).append(item.offset)
        elif item.mark and item.mark.sign:
            self._marks.setdefault(item.segment, []).append((item.offset, item.mark))

    def pending(self, branch: BranchLine) -> list[str]:
        """Return the calls that wait."""
        marks: list[CallMark] = []
        for segment, start, stop in branch.chain:
            placed = self._marks.get(segment, [])
            first, last = (bisect_left(placed, offset, key=itemgetter(0)) for offset in (start, stop))
            marks += [mark for _, mark in placed[first:last]]
        waiting = pair(marks).waiting
        return sorted(waiting & set(branch.pending) if self._has_gaps(branch.chain) else waiting)

    def _has_gaps(self, chain: Spans) -> bool:
        for segment, start, stop in chain:
            deleted = self._deleted.get(segment, [])
            if bisect_left(deleted, start) < bisect_left(deleted, stop):
                return True
        return any(one[0] == other[0] and one[2] != other[1] for one, other in pairwise(chain))


def _place(place: tuple[int, int, bool] | None) -> str:
    return f"the one at offset {place[1]} of segment {place[0]}" if place else "none"


def _count(chain: Spans, places: list[tuple[int, int]]) -> int:
    """Return how many of the places a chain reads."""
    return sum(any(one == segment and start <= at < stop for one, start, stop in chain) for segment, at in places)
