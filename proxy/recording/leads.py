"""Leads: what is noted at a turn's end, so that the next request of its conversation finds it. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.recognition.decision import LONG_ENOUGH
from proxy.recognition.hints import continued, digest_name, said_name, short
from storage import DigestNote

if TYPE_CHECKING:
    from proxy.recognition.decision import Plan
    from proxy.recognition.hints import Hint
    from proxy.recognition.look import Look
    from proxy.recognition.stream import Sample, TurnDigests
    from proxy.recording.search import Asking
    from storage import Spot

#: Answers in a history that is new here to each of which something is to lead: the last ones.
MOST_SAMPLES = 64


@dataclass(slots=True)
class Leads:
    """What leads to one recorded turn. hint: to its end, or what all of it has in common. ends: of its new elements."""

    look: Look
    plan: Plan
    asking: Asking
    hint: Hint
    ends: Mapping[int, Spot]

    def of_turn(self, ended: TurnDigests, calls: tuple[str, ...]) -> Iterator[DigestNote]:
        """Yield what leads to the turn's end and to its question. calls: of the answer, as hints have them."""
        now, session = time.time_ns() // 1_000_000, self.asking.session
        if not ended.full:
            return
        hint = self.hint._replace(strict=short(ended.strict), calls=calls)
        yield from self._of_end(hint, ended, now)
        if self.look.samples:
            # behind the turns that it lies beside: those that nobody has gone on from must be found among any number
            asked, score = self.look.samples[-1].full, continued(now)
        else:
            # a retry finds what nobody took without a key, too
            asked, score = self.look.question if session or not hint.is_delivered else b"", now
        if asked:
            yield DigestNote(digest_name(asked), hint.as_question(short(self.look.question)).member, score)
        for index, digest in self.look.said if session else ():
            if (spot := self.ends.get(index)) is not None:
                yield DigestNote(said_name(session, digest), hint.as_said(spot).member, now)
        for key in (session, *self.asking.others):
            if key and not self.plan.conversation:
                yield DigestNote(digest_name(key), hint.as_said(hint.spot).member, now)

    def of_history(self) -> Iterator[DigestNote]:
        """Yield what leads to the answers that the request has brought and that were not recorded before."""
        score = continued(time.time_ns() // 1_000_000)
        for sample in self.look.samples[-MOST_SAMPLES:]:
            if sample.end > self.plan.covered and (spot := self.ends.get(sample.end - 1)) is not None:
                hint = self.hint._replace(spot=spot, question=(-1, -1), strict=short(sample.strict), is_delivered=True)
                yield from self._of_end(hint, sample, score)

    def _of_end(self, hint: Hint, end: Sample | TurnDigests, score: int) -> Iterator[DigestNote]:
        session, member = self.asking.session, hint.member
        yield DigestNote(digest_name(end.full), member, score)
        if session or end.length >= LONG_ENOUGH:
            yield DigestNote(digest_name(end.anchor), member, score)
        if end.pair and (session or end.pair_length >= LONG_ENOUGH):
            yield DigestNote(digest_name(end.pair), member, score)
