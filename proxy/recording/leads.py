"""Leads: what is noted at a turn's end, so that the next request of its conversation finds it. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from proxy.recognition.decision import LONG_ENOUGH
from proxy.recognition.hints import continued, digest_name, said_name, short
from storage import DigestNote, Spot

if TYPE_CHECKING:
    from proxy.recognition.decision import Plan
    from proxy.recognition.hints import Hint
    from proxy.recognition.look import Look
    from proxy.recognition.stream import Sample, TurnDigests
    from proxy.recording.search import Asking

#: Answers in a history that is new here to each of which something is to lead: the last ones.
MOST_SAMPLES = 64


@dataclass(slots=True)
class Leads:
    """What leads to one recorded turn. hint: what all of it has in common. spots: of its new items, in order."""

    look: Look
    plan: Plan
    asking: Asking
    hint: Hint
    spots: Sequence[Spot]

    def of_turn(self, ended: TurnDigests, calls: tuple[str, ...]) -> Iterator[DigestNote]:
        """Yield what leads to the turn's end and to its question. calls: of the answer, as hints have them."""
        now = time.time_ns() // 1_000_000
        asked = self._asked()
        if not ended.full or not self.spots:
            return
        hint = replace(self.hint, spot=self.spots[-1], question=asked[1:], strict=short(ended.strict), calls=calls)
        yield from self._of_end(hint, ended, now)
        question = hint.as_question(short(self.look.question))
        if self.look.samples:
            yield DigestNote(digest_name(self.look.samples[-1].full), question.member, now)
        elif self.asking.session:
            yield DigestNote(digest_name(self.look.question), question.member, now)
        if self.asking.session:
            for index, digest in self.look.said:
                if (spot := self._spot_of(index)) is not None:
                    yield DigestNote(said_name(self.asking.session, digest), hint.as_said(spot).member, now)
        for key in (self.asking.session, *self.asking.others):
            if key and self.plan.conversation == "":
                yield DigestNote(digest_name(key), hint.as_said(self.spots[0]).member, now)

    def of_history(self) -> Iterator[DigestNote]:
        """Yield what leads to the answers that the request has brought and that were not recorded before."""
        now = time.time_ns() // 1_000_000
        for sample in self.look.samples[-MOST_SAMPLES:]:
            if sample.end > self.plan.covered and (spot := self._spot_of(sample.end - 1)) is not None:
                hint = replace(self.hint, spot=spot, strict=short(sample.strict), is_delivered=True)
                yield from self._of_end(hint, sample, continued(now))

    def _of_end(self, hint: Hint, end: Sample | TurnDigests, score: int) -> Iterator[DigestNote]:
        yield DigestNote(digest_name(end.full), hint.member, score)
        if self.asking.session or end.length >= LONG_ENOUGH:
            yield DigestNote(digest_name(end.anchor), hint.member, score)
        if end.pair and (self.asking.session or end.pair_length >= LONG_ENOUGH):
            yield DigestNote(digest_name(end.pair), hint.member, score)

    def _asked(self) -> Spot:
        """Return where the last item of what was asked is."""
        count = len(self.plan.new)
        if count and count <= len(self.spots):
            return self.spots[count - 1]
        return Spot(*map(int, self.plan.after.split(":"))) if self.plan.after else Spot()

    def _spot_of(self, index: int) -> Spot | None:
        """Return where an element of the request was put, None if it was not written now."""
        try:
            return self.spots[self.plan.new.index(index)]
        except (ValueError, IndexError):
            return None
