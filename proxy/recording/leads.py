"""Leads: what is noted with a turn, so that the next request of its conversation finds it. Pure.

A turn is noted before it is known where it lies: its items are named by their numbers, and the store puts in where they
are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from proxy.recognition.decision import LONG_ENOUGH
from proxy.recognition.hints import (
    QUESTION,
    SAID,
    TURN,
    digest_name,
    said_name,
    short,
    short_call,
    short_key,
    text_before,
    text_behind,
)
from storage import NOWHERE, ON_LINE, Lead

if TYPE_CHECKING:
    from proxy.recognition.look import Look
    from proxy.recognition.stream import RequestStream, Sample, TurnDigests
    from proxy.recording.search import Asking

#: Answers in a history that is new here to each of which something is to lead: the last ones.
MOST_SAMPLES = 64


@dataclass(slots=True)
class NumberedTurn:
    """Which entries of a turn are which. ends: the last one of each element that is new, by its index.

    asked: the last of what was asked, last: of the turn; 0 for what it comes after. covered: elements of the request
    that were there before. is_new: it begins a conversation. is_tip: it goes on at the end of a line, or nowhere.
    """

    ends: Mapping[int, int]
    asked: int
    last: int
    covered: int = 0
    is_new: bool = False
    is_tip: bool = False


def numbered_groups(new: Iterable[int], counts: Iterable[int]) -> tuple[dict[int, int], int]:
    """Return the number of the last entry of each new element, by its index, and how many entries there are."""
    ends, number = {}, 0
    for index, count in zip(new, counts, strict=False):
        number += count
        if count:
            ends[index] = number
    return ends, number


def waiting_calls(answer: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    """Return the ids of an answer's calls that have no output, as hints have them."""
    calls = [item["call_id"] for item in answer if "call_id" in item and "output" not in item]
    return tuple([short_call(one) for one in calls if isinstance(one, str)])


@dataclass(slots=True)
class Leads:
    """What leads to one turn. answered: the stream up to its end. calls: of its answer, see `waiting_calls`.

    given: all of it, as the store is given it.
    """

    look: Look
    answered: RequestStream
    asking: Asking
    turn: NumberedTurn
    calls: tuple[str, ...] = ()
    is_delivered: bool = True
    given: list[Lead] = field(init=False)

    def __post_init__(self) -> None:
        self.given = self._all()

    def _all(self) -> list[Lead]:
        leads = list(self._of_history()) if self.look.samples else []
        ended = self.look.digests_of(self.answered)
        if not ended.full:
            return leads
        turn, behind = self.turn, text_behind(calls=self.calls, is_delivered=self.is_delivered)
        leads.append(self._of_end(ended, turn.last, turn.asked, behind))
        leads += self._of_question()
        if self.asking.session or self.asking.others:
            leads += self._of_session()
        return leads

    def _of_question(self) -> Iterator[Lead]:
        samples, session, turn = self.look.samples, self.asking.session, self.turn
        # behind the turns that it lies beside: those that nobody has gone on from must be found among any number
        asked, is_behind = (samples[-1].full, True) if samples else (b"", False)
        if not samples and (session or not self.is_delivered):
            # a retry finds what nobody took without a key, too
            asked = self.look.question
        if asked:
            behind = text_behind(short(self.look.question), is_delivered=self.is_delivered)
            yield self._lead([digest_name(asked)], turn.asked, QUESTION, turn.asked, behind, is_behind=is_behind)

    def _of_session(self) -> Iterator[Lead]:
        session, behind = self.asking.session, text_behind()
        # one a line and digest, the last
        said = {digest: end for index, digest in self.look.said if session and (end := self.turn.ends.get(index))}
        for digest, end in said.items():
            yield self._lead([said_name(session, digest)], ON_LINE, SAID, end, behind)
        if self.turn.is_new:
            names = [digest_name(key) for key in (session, *self.asking.others) if key]
            yield self._lead(names, ON_LINE, SAID, self.turn.last, behind)

    def _of_history(self) -> Iterator[Lead]:
        """Yield what leads to the answers that the request has brought and that were not recorded before."""
        for sample in self.look.samples[-MOST_SAMPLES:]:
            if sample.end > self.turn.covered and (end := self.turn.ends.get(sample.end - 1)) is not None:
                yield self._of_end(sample, end, NOWHERE, text_behind(), is_behind=True)

    def _of_end(
        self, end: Sample | TurnDigests, number: int, asked: int, behind: str, *, is_behind: bool = False
    ) -> Lead:
        session, names = self.asking.session, [digest_name(end.full)]
        if session or end.length >= LONG_ENOUGH:
            names.append(digest_name(end.anchor))
        if end.pair and (session or end.pair_length >= LONG_ENOUGH):
            names.append(digest_name(end.pair))
        return self._lead(names, number, TURN, asked, behind, end.strict, is_behind=is_behind)

    def _lead(
        self,
        names: list[str],
        number: int,
        kind: str,
        asked: int,
        behind: str,
        strict: bytes = b"",
        *,
        is_behind: bool = False,
    ) -> Lead:
        asking, turn = self.asking, self.turn
        before = text_before(kind, short_key(asking.session), short(asking.tools), short(strict))
        # nothing leads yet to what is put behind the end of a line
        replaces = not (turn.is_new or (turn.is_tip and number > 0))
        return Lead(names, number, before, asked, behind, is_behind, replaces)
