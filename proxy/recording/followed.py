"""Followed turns: those that name what they go on from, in a conversation that recording has made.

What leads to them is noted with them, so that an app that resends them later goes on there. It takes the stream of what
was said before: as this process has left it at the end of the last turn, else of the history that the turn was opened
with, worked out while the model is asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.protocol.item_types import item_type_of
from proxy.recognition.hints import TURN, Hint, continued, digest_name, kind_text
from proxy.recognition.look import MAX_ELEMENTS, look_behind, stream_of
from proxy.recording.leads import Leads, NumberedTurn, waiting_calls
from proxy.runtime.offload import beside
from storage import MOST_TOLD, DigestNote, DigestQuery, Spot, StoreError

if TYPE_CHECKING:
    from proxy.protocol.item_types import Item
    from proxy.protocol.items import InputItem
    from proxy.recognition.hints import HintMemory
    from proxy.recognition.look import Look
    from proxy.recognition.stream import RequestStream
    from proxy.recording.search import Asking
    from storage import Entry, Members, Recognition

logger = logging.getLogger(__name__)

#: Ends of histories whose streams a process keeps, some 3 KB each.
MOST_ENDS = 4_000
#: Seconds that a turn waits at its end for what its history says.
HISTORY_SECONDS = 1.0


class EndMemory:
    """The streams of histories up to where they end, of turns that were followed here lately."""

    def __init__(self, most: int = MOST_ENDS) -> None:
        self._most = most
        self._known: OrderedDict[tuple[bytes, str, Spot], RequestStream] = OrderedDict()

    def find(self, key: bytes, partition: str, end: Spot, count: int) -> RequestStream | None:
        """Return the stream of a history; None if it is not known, or not with so many items: some were deleted."""
        stream = self._known.get((key, partition, end))
        return stream if stream is not None and stream.count == count else None

    def note(self, key: bytes, partition: str, end: Spot, stream: RequestStream) -> None:
        """Keep a stream that was closed at the end of a turn."""
        stream.keep_last()
        self._known[key, partition, end] = stream
        if len(self._known) > self._most:
            self._known.popitem(last=False)


@dataclass(slots=True)
class FollowedTurn:
    """What a turn goes on from. key: see `stream_key`. history: its items as stored. after: where it ends."""

    asking: Asking
    key: bytes = field(repr=False)
    partition: str
    history: Sequence[bytes]
    after: Spot
    recognition: Recognition
    memory: HintMemory
    ends: EndMemory
    _before: RequestStream | None = None
    _task: asyncio.Task[None] | None = None

    def begin(self, first: InputItem | None) -> None:
        """Have the history looked through, if it is not known. first: what the turn brings."""
        # what was closed can't be gone on with by more of the same answer
        if first is None or _ends_an_answer(first):
            self._before = self.ends.find(self.key, self.partition, self.after, len(self.history))
        if self._before is None and len(self.history) <= MAX_ELEMENTS:
            self._task = asyncio.create_task(self._look_through())

    async def looked_at(self, inputs: Sequence[Entry]) -> Look | None:
        """Return what the history says with what the turn has brought; None if that is not known in time."""
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task], timeout=HISTORY_SECONDS)
        if self._before is None:
            return None
        return look_behind(self._before, [entry.data for entry in inputs])

    def leads(
        self, look: Look, asked: int, last: int, answer: Sequence[Item], is_delivered: bool, *, is_tip: bool
    ) -> tuple[Leads, list[DigestNote]]:
        """Return what leads to the turn, and what is to be noted of what it was appended to, if it was (is_tip).

        asked: entries that it brings, last: with its answer's, whose items are in `answer`.
        """
        count = len(self.history)
        ends = {count + index: index + 1 for index in range(asked)}
        turn = NumberedTurn(ends, asked, last, count, is_tip=is_tip)
        answered, calls = look.answered(answer), waiting_calls(answer)
        leads = Leads(look, answered, self.asking, turn, calls, is_delivered)
        return leads, self._marks(look) if is_tip else []

    def remember(self, leads: Leads, end: Spot) -> None:
        """Keep the stream up to the end of a turn that was written. end: where it ends."""
        self.ends.note(self.key, self.partition, end, leads.answered)

    async def _look_through(self) -> None:
        """Read the history, and what is noted of its end if another process has noted it."""
        try:
            tells_said = bool(self.asking.session)
            before = await beside(len(self.history), lambda: stream_of(self.key, self.history, tells_said=tells_said))
            query = self._end_query(look_behind(before, ()))
            if query is not None and not self._of_end(query, self.memory.find(query, MOST_TOLD)):
                (told,) = await self.recognition.find(self.asking.owner, [query])
                self.memory.note(self._of_end(query, told))
            self._before = before
        except StoreError:
            # whoever goes on from the same place finds out when it writes
            logger.debug("the end of %s can't be looked up", self.partition)
            self._before = before
        except Exception:
            logger.exception("what leads to a turn can't be found out")

    def _end_query(self, look: Look) -> DigestQuery | None:
        """Return how the store is asked for the turn that the history ends with."""
        end = next((sample for sample in reversed(look.samples) if sample.end <= len(self.history)), None)
        return DigestQuery(digest_name(end.full), kind_text(TURN), f"{self.partition}:") if end is not None else None

    def _marks(self, look: Look) -> list[DigestNote]:
        query = self._end_query(look)
        found = self._of_end(query, self.memory.find(query, MOST_TOLD)) if query is not None else []
        return [DigestNote(digest, member, continued(score), adds=False) for digest, member, score, _ in found]

    def _of_end(self, query: DigestQuery, members: Members) -> list[DigestNote]:
        """Return what a digest has that leads to where the history ends."""
        found = []
        for member, score in members:
            hint = Hint.parse(member)
            if hint is not None and hint.partition == self.partition and hint.spot[1:] == self.after[1:]:
                found.append(DigestNote(query.digest, member, score))
        return found


def _ends_an_answer(item: InputItem) -> bool:
    if item.type == "message":
        return item.body is not None and item.body.get("role") == "user"
    return item_type_of(item.type).is_output
