"""Followed turns: those that name what they go on from, in a conversation that recording has made.

What leads to them is found out behind the answer, so that an app that resends them later goes on there. The history is
the one that the turn was opened with; of one that was looked through before, only what is new is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from proxy.recognition.decision import Action, Plan
from proxy.recognition.hints import TURN, Hint, continued, digest_name, kind_text
from proxy.recognition.look import Looker
from proxy.recording.leads import leads_to
from proxy.recording.placing import PlacedTurn
from proxy.recording.search import asking_of
from proxy.runtime.offload import beside
from storage import MOST_TOLD, DigestNote, DigestQuery, HistoryItems, Spot, StoreError

if TYPE_CHECKING:
    from proxy.config.settings import RecordingConfig
    from proxy.recognition.hints import HintMemory
    from proxy.recognition.keys import RequestMarks
    from proxy.recognition.look import Look
    from proxy.recording.finished import FinishedTurn, RecordedAnswer
    from proxy.recording.notes import NoteQueue
    from proxy.runtime.tasks import Tasks
    from storage import Entry, Recognition

logger = logging.getLogger(__name__)

#: Samples of histories that are remembered; see `Looker`.
MAX_FOLLOWED_SAMPLES = 25_000


@dataclass(frozen=True, slots=True)
class FollowedTurn:
    """One turn. history: that it goes on from; after: where that ends, `BEFORE_ALL` if it is empty.

    key: see `stream_key`. tools: of the request. inputs, answer: what it has added; spots: where they are.
    is_appended: to the line that its history is, not on a branch from there.
    """

    owner: str
    key: bytes = field(repr=False)
    marks: RequestMarks
    tools: Any
    partition: str
    history: Sequence[bytes]
    after: Spot
    inputs: Sequence[Entry] = ()
    answer: RecordedAnswer | None = field(default=None, repr=False)
    spots: Sequence[Spot] = ()
    is_appended: bool = False
    is_delivered: bool = True

    def ended_by(self, turn: FinishedTurn, spots: Sequence[Spot], *, appended: bool) -> FollowedTurn:
        """Return the same as it has ended. spots: of its entries. appended: to the line that its history is."""
        inputs = [entry for group in turn.brings(range(turn.count)) for entry in group]
        return replace(
            self,
            inputs=inputs,
            answer=turn.answer,
            spots=spots,
            is_appended=appended,
            is_delivered=turn.is_delivered,
        )

    @property
    def is_placed(self) -> bool:
        """Whether it is known where all of it is: not where a reference led nowhere, or a commit was repeated."""
        return self.answer is not None and 0 < len(self.spots) == len(self.inputs) + len(self.answer.outputs)

    @property
    def size(self) -> int:
        """Bytes of the history."""
        return self.history.size if isinstance(self.history, HistoryItems) else sum(map(len, self.history))


class FollowedTurns:
    """Those of this process that wait to be looked at. dropped: how many were not, because too many waited.

    on_drop: is told of each.
    """

    def __init__(
        self,
        limits: RecordingConfig,
        recognition: Recognition,
        memory: HintMemory,
        notes: NoteQueue,
        on_drop: Callable[[], object],
    ) -> None:
        self._limits = limits
        self._recognition = recognition
        self._memory = memory
        self._notes = notes
        self._on_drop = on_drop
        #: Looks at one after the other, in a thread where that takes long.
        self._looker = Looker(MAX_FOLLOWED_SAMPLES)
        self._waiting: deque[FollowedTurn] = deque()
        self._waiting_bytes = 0
        self._has_some = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.dropped = 0

    def put(self, turn: FollowedTurn) -> None:
        """Have a turn looked at soon."""
        if not turn.is_placed:
            return
        is_full = len(self._waiting) >= self._limits.max_waiting
        if is_full or (self._waiting and self._waiting_bytes + turn.size > self._limits.max_waiting_bytes):
            self.dropped += 1
            self._on_drop()
            return
        self._waiting.append(turn)
        self._waiting_bytes += turn.size
        self._has_some.set()
        self._idle.clear()

    def serving(self, tasks: Tasks) -> AbstractAsyncContextManager[None]:
        """Look at them while the context lasts."""
        return tasks.steady("turns that follow recorded ones", self._look_at_first, logger, vital=False)

    async def settle(self, seconds: float) -> None:
        """Return when none waits, or after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            logger.warning("%d turns in recorded conversations can't be recognised", len(self._waiting))

    async def _look_at_first(self) -> None:
        await self._has_some.wait()
        turn = self._waiting[0]
        try:
            await self._note(turn)
        except StoreError:
            # whoever goes on from the same place finds out when it writes
            logger.debug("the end of %s can't be marked", turn.partition)
        except Exception:
            logger.exception("what leads to a turn can't be found out")
        finally:
            self._waiting_bytes -= self._waiting.popleft().size
            if not self._waiting:
                self._has_some.clear()
                self._idle.set()

    async def _note(self, turn: FollowedTurn) -> None:
        """Note what leads to a turn, and that what it was appended to has been gone on from. Raises Unavailable."""
        items = [*turn.history, *(entry.data for entry in turn.inputs)]
        look = await beside(len(items), lambda: self._looker.look_at_stored(turn.key, items))
        answer = turn.answer
        if look is None or answer is None:
            return
        count, asking = len(turn.history), asking_of(turn.owner, turn.key, turn.marks, turn.tools)
        ends = {count + index: turn.spots[index] for index in range(len(turn.inputs))}
        asked = turn.spots[len(turn.inputs) - 1] if turn.inputs else turn.after
        placed = PlacedTurn(ends, asked, turn.spots[-1])
        plan = Plan(Action.CONTINUE, (), turn.partition, covered=count)
        leads = leads_to(look, plan, asking, turn.partition, placed, answer.items, is_delivered=turn.is_delivered)
        self._notes.put(turn.owner, turn.partition, lambda: leads)
        if turn.is_appended and (marks := await self._marks(turn, look)):
            self._notes.put(turn.owner, turn.partition, lambda: marks)

    async def _marks(self, turn: FollowedTurn, look: Look) -> list[DigestNote]:
        """Return what is to be noted of the turn that this one was appended to."""
        before = next((sample for sample in reversed(look.samples) if sample.end <= len(turn.history)), None)
        if before is None:
            return []
        query = DigestQuery(digest_name(before.full), kind_text(TURN), f"{turn.partition}:")
        found = self._of_end(turn, query, self._memory.find(query, MOST_TOLD))
        if not found:
            (told,) = await self._recognition.find(turn.owner, [query])
            found = self._of_end(turn, query, told)
        return found

    def _of_end(self, turn: FollowedTurn, query: DigestQuery, members: Sequence[tuple[str, int]]) -> list[DigestNote]:
        ends = []
        for member, score in members:
            hint = Hint.parse(member)
            if hint is not None and hint.partition == turn.partition and hint.spot[1:] == turn.after[1:]:
                ends.append(DigestNote(query.digest, member, continued(score), adds=False))
        return ends
