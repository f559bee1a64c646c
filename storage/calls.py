"""Call marks: what an item is to the pairing of tool calls with their outputs, and which calls wait for an output.

A mark is stored beside its item's places, as its sign and the call's key (`lua/lib/append.lua`).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple


class CallSign(StrEnum):
    """What an item is to a call."""

    NONE = ""
    CALL = "+"  #: a call that must get its output
    OPTIONAL_CALL = "~"  #: a call that may get an output
    OUTPUT = "-"


class CallMark(NamedTuple):
    """What an item is to the call named by `key`; without both, that it has to do with none.

    `str()` is its stored form.
    """

    sign: CallSign = CallSign.NONE
    key: str = ""

    @classmethod
    def parse(cls, text: str) -> CallMark:
        """Return the mark of a stored form; a sign that is none marks nothing."""
        sign = text[:1]
        return cls(CallSign(sign), text[1:]) if sign and sign in "+~-" else cls()

    @property
    def is_call(self) -> bool:
        """Whether it is a call, of either kind."""
        return self.sign in (CallSign.CALL, CallSign.OPTIONAL_CALL)

    def __str__(self) -> str:
        return self.sign + self.key


#: Of an item that has to do with no call.
NO_MARK = CallMark()


class Pairing(NamedTuple):
    """How calls and outputs meet. waiting: calls that must get an output and have none. known: all calls.

    unmatched: keys of outputs whose call was not known before them, in order.
    """

    waiting: frozenset[str]
    known: frozenset[str]
    unmatched: tuple[str, ...]


def pair(marks: Iterable[CallMark], *, waiting: Iterable[str] = (), known: Iterable[str] = ()) -> Pairing:
    """Return how the calls and outputs of items meet, one after the other.

    waiting, known: keys of calls before them: those that wait, and those that an output may answer besides.
    """
    open_calls, calls, unmatched = set(waiting), {*waiting, *known}, []
    for mark in marks:
        if mark.sign is CallSign.OUTPUT:
            if mark.key not in calls:
                unmatched.append(mark.key)
            open_calls.discard(mark.key)
        elif mark.is_call:
            calls.add(mark.key)
            if mark.sign is CallSign.CALL:
                open_calls.add(mark.key)
    return Pairing(frozenset(open_calls), frozenset(calls), tuple(unmatched))
