"""Whether what clients were told of a history that only grows can have been: a linearizability check. Pure.

A history is a list to which blocks of items are added, each all at once: the items of a request, or a turn's question
and answer. Each item has a key that is never given to another, so the list as it is at the end is the order of all
writes, and every reading is one of its beginnings. What is NP-complete in general takes a sort here, and is exact: the
list's order is total, so that real time contradicts it only if it contradicts it for two operations
(Kingsbury and Alvaro, Elle, https://arxiv.org/abs/2003.10554, infer orders of appends alike).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf


class Told(Enum):
    """What a client was told of its write."""

    DONE = "done"
    #: Nothing was changed.
    REFUSED = "refused"
    #: No answer, or one that says that it is not known.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Sight:
    """A beginning of the list that was seen: how many items, and the digest of their keys."""

    count: int
    digest: str


@dataclass(frozen=True, slots=True)
class Write:
    """A block that a client wanted added. asked, told: seconds of one clock, from the first attempt to the last answer.

    saw: what of the list was there when it was decided on, if that was told.
    """

    keys: tuple[str, ...]
    asked: float
    told: float
    outcome: Told
    saw: Sight | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """The whole list as a client was told it."""

    keys: tuple[str, ...]
    asked: float
    told: float


def digest(keys: Iterable[str]) -> str:
    """Return what stands for so many keys in that order."""
    return hashlib.blake2b("\n".join(keys).encode(), digest_size=8).hexdigest()


def check(final: Sequence[str], writes: Iterable[Write], reads: Iterable[Read]) -> list[str]:
    """Return what can't have been, a sentence each; empty if one order of all operations explains every answer.

    final: the list once nothing is under way.
    """
    return _Check(final, list(writes), list(reads)).faults()


@dataclass(frozen=True, slots=True)
class _Step:
    """An operation on the list. first, last: the length of the list before and after it."""

    name: str
    asked: float
    told: float
    first: int
    last: int


class _Check:
    def __init__(self, final: Sequence[str], writes: list[Write], reads: list[Read]) -> None:
        self._final, self._writes, self._reads = list(final), writes, reads
        self._places = {key: place for place, key in enumerate(final)}
        #: The lengths that the list has had.
        self._lengths = {0}
        self._steps: list[_Step] = []
        self._faults: list[str] = []

    def faults(self) -> list[str]:
        self._faults += [f"{key} is there {n} times" for key, n in Counter(self._final).items() if n > 1]
        known = {key for write in self._writes for key in write.keys}
        self._faults += [f"nobody wrote {key}" for key in self._places if key not in known]
        for write in self._writes:
            self._place(write)
        for write in self._writes:
            if write.saw is not None:
                self._compare_sight(write, write.saw)
        for read in self._reads:
            self._compare_read(read)
        self._compare_times()
        return self._faults

    def _place(self, write: Write) -> None:
        there = [key for key in write.keys if key in self._places]
        name = write.keys[0]
        if not there:
            if write.outcome is Told.DONE:
                self._faults.append(f"{name} was acknowledged and is lost")
            return
        start = self._places[there[0]]
        end = start + len(write.keys)
        if tuple(self._final[start:end]) != write.keys:
            self._faults.append(f"{name} is half there: {there} of {list(write.keys)}, or not together")
        elif write.outcome is Told.REFUSED:
            self._faults.append(f"{name} was refused and is there")
        else:
            self._lengths.add(end)
            told = write.told if write.outcome is Told.DONE else inf
            self._steps.append(_Step(f"the write of {name}", write.asked, told, start, end))

    def _compare_sight(self, write: Write, saw: Sight) -> None:
        name = f"the view of {write.keys[0]}"
        if saw.count > len(self._final) or saw.digest != digest(self._final[: saw.count]):
            self._faults.append(f"{name}, {saw.count} items, is no beginning of the list")
        elif self._places.get(write.keys[0], inf) < saw.count:
            self._faults.append(f"{name} has what came after it")
        else:
            self._add_reading(name, write, saw.count)

    def _compare_read(self, read: Read) -> None:
        name = f"a reading of {len(read.keys)} items"
        if list(read.keys) != self._final[: len(read.keys)]:
            self._faults.append(f"{name} is no beginning of the list")
        else:
            self._add_reading(name, read, len(read.keys))

    def _add_reading(self, name: str, told: Write | Read, length: int) -> None:
        if length not in self._lengths:
            self._faults.append(f"{name} ends within a block")
        self._steps.append(_Step(name, told.asked, told.told, length, length))

    def _compare_times(self) -> None:
        """What was over before something else was asked for comes before it in the list."""
        ended = sorted(self._steps, key=lambda step: step.told)
        past, latest = 0, _Step("", 0.0, 0.0, 0, 0)
        for step in sorted(self._steps, key=lambda step: step.asked):
            while past < len(ended) and ended[past].told < step.asked:
                latest = max(latest, ended[past], key=lambda one: one.last)
                past += 1
            if latest.last > step.first:
                self._faults.append(f"{step.name} was asked for after {latest.name} had ended, and does not know of it")
