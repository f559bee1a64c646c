"""Recording: one request of an app that keeps no ids, from the look at its history to the line that it is put on.

look     what the history says, and where it leads: as this process knows it, else as the store does
settle   where the turn lives
record   the turn written there, with what leads to it from now on
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from proxy.recognition.decision import Action, Plan, plan_of_new
from proxy.recognition.look import is_question, look_at
from proxy.recording.followed import FollowedTurn
from proxy.recording.leads import Leads, NumberedTurn, numbered_groups, waiting_calls
from proxy.recording.placing import end_of
from proxy.recording.search import Search, asking_of, begins
from proxy.recording.writing import TurnWriter
from proxy.runtime.offload import MANY
from storage import (
    ConversationNotFound,
    DigestNote,
    Entry,
    QuotaExceeded,
    RecordResult,
    StoreError,
    Unavailable,
    branch_spots,
    new_partition,
    partition_of,
)

if TYPE_CHECKING:
    from proxy.protocol.items import InputItem
    from proxy.recognition.keys import RequestMarks
    from proxy.recognition.look import Look, Looker, ToItems
    from proxy.recording.finished import FinishedTurn
    from proxy.recording.recorder import Recorder
    from proxy.recording.search import Asking
    from proxy.recording.writing import WrittenTurn
    from storage import Committed, OpenedTurn

logger = logging.getLogger(__name__)

#: Partitions that are asked whether a request's ids lead to a conversation there.
MOST_PLACES = 3
#: Rounds of the loop that are left when the time is over: a process that was kept from running has what has come to do.
LAST_ROUNDS = 4
#: What is not known of its branch before it is written.
_ON_A_LINE = frozenset({Action.CONTINUE, Action.SIDE_BRANCH, Action.RETRY})
#: Where nothing was written, for what the turn goes on from has moved, or is gone.
_ELSEWHERE = frozenset({RecordResult.MOVED, RecordResult.ASTRAY})


class RequestRecording:
    """One request's. home: the partition that it has to be in, '' for any."""

    def __init__(self, recorder: Recorder, owner: str, marks: RequestMarks, home: str = "") -> None:
        self._recorder = recorder
        self._recognition = recorder.services.store.recognition
        self._owner = owner
        self._marks = marks
        self._home = home
        self._key = b""
        self._look: Look | None = None
        #: A question that begins a conversation, with its request's tools: looked at when its turn is written.
        self._question: tuple[list[Any] | str, Any] | None = None
        self._asking: Asking | None = None
        self._search: Search | None = None
        self._task: asyncio.Task[None] | None = None
        self._plan: Plan | None = None
        self._partition = ""
        self._branch = ""
        self._is_settled = False
        self._claimed: tuple[str, str] | None = None
        self._followed: FollowedTurn | None = None

    # --- where it belongs ---------------------------------------------------------------------------------------------

    def look(
        self,
        elements: list[Any] | str,
        tools: Any,
        to_items: ToItems | None = None,
        places: frozenset[str] = frozenset(),
    ) -> None:
        """Find out where a request belongs: at once, or in a task of its own if the store has to be asked.

        elements, to_items: see `Looker`. tools: of the request. places: partitions that its items' ids lead to.
        """
        if to_items is None and self._begins(elements):
            self._question = elements, tools
            self._decide(plan_of_new(1))
            return
        asking = self._ask_for(tools, places)
        if len(elements) >= MANY and isinstance(elements, list):
            self._task = asyncio.create_task(self._look_beside(elements, to_items, asking))
            return
        look = self._see(self._recorder.looker, elements, to_items)
        if look is not None and (search := self._begin(look, asking)) is not None:
            self._task = asyncio.create_task(self._ask(search))

    def _begins(self, elements: list[Any] | str) -> bool:
        """Whether a request is a single question without a key: it leads nowhere, whatever it says."""
        if self._marks.key or self._marks.retries or self._home:
            return False
        return isinstance(elements, str) or (len(elements) == 1 and is_question(elements[0]))

    def _looked(self) -> Look | None:
        """Return what the request says, None if that can't be looked at."""
        if self._question is not None:
            (elements, tools), self._question = self._question, None
            self._ask_for(tools)
            self._look = self._see(self._recorder.looker, elements, None)
        return self._look

    async def _look_beside(self, elements: list[Any], to_items: ToItems | None, asking: Asking) -> None:
        """Do the same with a long history, in a thread: others have their turn meanwhile."""
        async with self._recorder.long_turnstile:
            look = await asyncio.to_thread(self._see, self._recorder.long_looker, elements, to_items)
        if look is not None and (search := self._begin(look, asking)) is not None:
            await self._ask(search)

    def _ask_for(self, tools: Any, places: frozenset[str] = frozenset()) -> Asking:
        recorder = self._recorder
        self._key = recorder.stream_key(self._owner, self._marks.end_user)
        asking = asking_of(self._owner, self._key, self._marks, tools)
        asking.trusts_content, asking.places, asking.home = recorder.trusts_content, places, self._home
        self._asking = asking
        return asking

    def _begin(self, look: Look, asking: Asking) -> Search | None:
        """Begin to search; return the search if it has to go on in the store."""
        recorder, self._look = self._recorder, look
        if begins(look, asking):
            self._decide(plan_of_new(look.count))
            return None
        self._search = Search(asking, look, recorder.memory, self._recognition, recorder.taken)
        if (plan := self._search.at_once()) is not None:
            self._decide(plan)
            return None
        return self._search

    def follow(
        self, conversation_id: str, opened: OpenedTurn, tools: Any, first: InputItem | None, *, is_placed: bool
    ) -> None:
        """Take it that a request goes on from the end of a history, if that is in a recorded conversation.

        conversation_id: of the one that lives where the history does, '' for none. opened: with the history. tools: of
        the request; first: what it brings. is_placed: it names the conversation, and is committed there like any turn.
        """
        recorder = self._recorder
        if not (opened.chain or is_placed) or not recorder.has_made(conversation_id):
            return
        partition, after = partition_of(conversation_id), end_of(opened.chain)
        asking = self._ask_for(tools)
        self._followed = FollowedTurn(
            asking, self._key, partition, opened.items, after, self._recognition, recorder.memory, recorder.ends
        )
        self._followed.begin(first)
        if not is_placed:
            self._decide(Plan(Action.CONTINUE, (), partition, after.line, ":".join(map(str, after))))

    def _see(self, looker: Looker, elements: list[Any] | str, to_items: ToItems | None) -> Look | None:
        tells_said = bool(self._marks.key)
        if isinstance(elements, str):
            return look_at(self._key, [elements], to_items, tells_said=tells_said)
        if len(elements) == 1:
            # what would have to be known again is no more than what there is to look at
            return look_at(self._key, elements, to_items, tells_said=tells_said)
        try:
            return looker.look(self._key, orjson.dumps(elements), to_items, tells_said=tells_said)
        except orjson.JSONEncodeError:
            # integers that have more than 64 bits
            return look_at(self._key, elements, to_items, tells_said=tells_said)

    async def _ask(self, search: Search) -> None:
        with self._recorder.taken.searching():
            await self._find(search)

    async def _find(self, search: Search) -> None:
        started = time.monotonic()
        try:
            plan = await search.through()
            self._recorder.note_looked_up(time.monotonic() - started)
            if plan.action is Action.NEW and (home := await self._home_of(search.asking.places)):
                # its ids lead there, though its words do not
                plan = replace(plan, action=Action.REWRITTEN, conversation=home, is_main=True)
            self._decide(plan)
        except StoreError as error:
            self._recorder.note_unplaced(f"{type(error).__name__} {error}")
        except Exception:
            logger.exception("a history can't be looked up")
            self._search = None

    async def _home_of(self, places: frozenset[str]) -> str:
        """Return the one of some partitions that has a recorded conversation, '' if none has."""
        conversations = self._recorder.services.store.conversations
        for place in sorted(places)[:MOST_PLACES]:
            with suppress(ConversationNotFound):
                await conversations.read(self._owner, self._recorder.conversation_id(place))
                return place
        return ""

    def _decide(self, plan: Plan) -> None:
        if self._is_settled:
            return
        self._plan = plan
        if plan.action is Action.CONTINUE:
            self._claimed = (plan.conversation, plan.after)
            self._recorder.taken.take(self._claimed)

    async def placed(self, seconds: float) -> None:
        """Return once it is known where the turn belongs, or it has taken too long."""
        if self._task is not None and not self._task.done() and seconds:
            await asyncio.wait([self._task], timeout=seconds)
            for _ in range(LAST_ROUNDS):
                if self._task.done():
                    break
                await asyncio.sleep(0)

    def settle(self, partition: str, *, is_fresh: bool) -> str:
        """Return the partition that the turn lives in from now on.

        partition: where it would live by itself. is_fresh: nothing is there yet.
        """
        if self._task is not None and not self._task.done():
            # what it finds comes too late; how long it takes is of interest
            if self._search is not None and (plan := self._search.from_memory()) is not None:
                self._decide(plan)
            self._recorder.note_late(is_placed=self._plan is not None)
        self._is_settled = True
        if self._plan is not None:
            if self._plan.conversation:
                self._partition = self._plan.conversation
            else:
                self._partition = partition if is_fresh or self._home else new_partition()
        return self._partition or partition

    @property
    def is_looking(self) -> bool:
        """Whether a long history is still looked through here; the store has not been asked yet."""
        return self._task is not None and self._search is None and not self._task.done()

    @property
    def is_placed(self) -> bool:
        """Whether it is known where the request belongs."""
        return self._plan is not None

    @property
    def is_hopeless(self) -> bool:
        """Whether asking the store again would not tell where the request belongs: there is nothing to ask for."""
        return self._plan is None and self._search is None and (self._task is None or self._task.done())

    @property
    def header(self) -> str:
        """Where the turn is recorded, as far as it is known now; '' if it is not known, or is not."""
        if self._plan is None or not self._partition:
            return ""
        branch = self._branch or ("" if self._plan.action in _ON_A_LINE else "MAIN")
        conversation_id = self._recorder.conversation_id(self._partition)
        return f"{conversation_id}/{branch}" if branch else conversation_id

    # --- what is written ----------------------------------------------------------------------------------------------

    async def record(self, turn: FinishedTurn) -> bool:
        """Write a finished turn, with what leads to it; False if that can't be done here, and nothing was written.

        Raises Conflict, Unavailable, as a commit does.
        """
        plan = self._plan
        if plan is None or not self._partition:
            return False
        writer = TurnWriter(self._recorder, self._owner, self._marks.key, self._partition)
        try:
            written = await self._write(writer, turn, plan)
            if written.recorded.result in _ELSEWHERE:
                is_moved = written.recorded.result is RecordResult.MOVED
                plan = await self._plan_anew(plan) if is_moved else self._anew(plan)
                written = await self._write(writer, turn, plan)
        except QuotaExceeded:
            self._recorder.note_unplaced("its owner may not have more conversations")
            return False
        if not written.is_done:
            self._recorder.memory.forget(self._partition)
            self._recorder.note_unplaced("its conversation is gone")
            return False
        self._branch = written.recorded.branch
        writer.remember(written)
        if self._followed is not None and written.leads is not None and written.recorded.spots:
            self._followed.remember(written.leads, written.recorded.spots[-1])
        for number, other in enumerate(turn.others, start=1):
            await writer.write_beside(turn, written, other, number)
        return True

    async def _write(self, writer: TurnWriter, turn: FinishedTurn, plan: Plan) -> WrittenTurn:
        groups = turn.brings(plan.new) if self._followed is None else turn.brings(range(turn.count))
        leads: Leads | None = None
        marks: Sequence[DigestNote] = ()
        try:
            leads, marks = await self._leads(turn, plan, groups)
        except Exception:
            logger.exception("a turn is recorded, but nothing leads to it")
        return await writer.write(turn, plan, [entry for group in groups for entry in group], leads, marks)

    async def _leads(
        self, turn: FinishedTurn, plan: Plan, groups: Sequence[Sequence[Entry]]
    ) -> tuple[Leads | None, Sequence[DigestNote]]:
        """Return what is to lead to a turn, and what is to be noted of what it goes on from."""
        look, asking, answer, is_tip = self._looked(), self._asking, turn.answer, plan.action is Action.CONTINUE
        marks = self._search.marks(plan) if is_tip and self._search is not None else ()
        if not self._may_come_back(turn):
            return None, marks
        if self._followed is not None:
            look = await self._followed.looked_at([entry for group in groups for entry in group])
            if look is None:
                self._recorder.note_unled()
                return None, ()
            last = turn.count + len(answer.outputs)
            return self._followed.leads(look, turn.count, last, answer.items, turn.is_delivered, is_tip=is_tip)
        if look is None or asking is None:
            return None, ()
        ends, count = numbered_groups(plan.new, map(len, groups))
        is_new = not plan.conversation
        numbered = NumberedTurn(ends, count, count + len(answer.outputs), plan.covered, is_new=is_new, is_tip=is_tip)
        calls = waiting_calls(answer.items)
        leads = Leads(look, look.answered(answer.items), asking, numbered, calls, turn.is_delivered)
        return leads, marks

    def _may_come_back(self, turn: FinishedTurn) -> bool:
        """Whether an answer can be resent at all: a request may not be of any size."""
        return sum([len(entry.data) for entry in turn.answer.outputs]) <= self._recorder.most_resent_bytes

    async def note_followed(self, turn: FinishedTurn, committed: Committed, *, appended: bool) -> None:
        """Note a turn that was committed to its conversation. appended: to the end of what it was opened with."""
        try:
            await self._note_followed(turn, committed, appended=appended)
        except Exception:
            logger.exception("a turn was committed, but nothing leads to it")

    async def _note_followed(self, turn: FinishedTurn, committed: Committed, *, appended: bool) -> None:
        followed, placed = self._followed, branch_spots(committed.places)
        if followed is None or not placed or len(placed) != turn.count + len(turn.answer.outputs):
            return
        if not self._may_come_back(turn):
            return
        look = await followed.looked_at([entry for group in turn.brings(range(turn.count)) for entry in group])
        if look is None:
            self._recorder.note_unled()
            return
        spots, now = [followed.after, *placed], time.time_ns() // 1_000_000
        # not the turn itself: what was written of it need not be kept until then
        asked, last, items, is_delivered = turn.count, len(placed), turn.answer.items, turn.is_delivered

        def make() -> list[DigestNote]:
            leads, marks = followed.leads(look, asked, last, items, is_delivered, is_tip=appended)
            notes = [lead.notes(followed.partition, spots[-1].line, spots, now) for lead in leads.given]
            followed.remember(leads, spots[-1])
            return [*marks, *(note for some in notes for note in some)]

        self._recorder.notes.put(self._owner, followed.partition, make)

    def release(self) -> None:
        """Let others go on from where this turn wanted to."""
        self._is_settled = True
        if self._claimed is not None:
            taken, self._claimed = self._claimed, None
            self._recorder.taken.give_back(taken)

    async def _plan_anew(self, plan: Plan) -> Plan:
        """Return where the turn belongs in its conversation, now that the line has gone on."""
        search = self._search
        if search is None:
            return replace(plan, action=Action.FORK)
        asking = replace(search.asking, home=self._partition)
        anew = Search(asking, search.look, self._recorder.memory, self._recognition, ())
        try:
            found = await anew.through()
        except Unavailable:
            found = plan
        if found.conversation == plan.conversation:
            plan = found
        return replace(plan, action=Action.FORK) if plan.action is Action.CONTINUE else plan

    def _anew(self, plan: Plan) -> Plan:
        """Return the plan for a history whose branch was deleted: all of it on another one."""
        look = self._looked()
        if look is None:
            return plan
        return Plan(Action.REWRITTEN, tuple(range(look.count)), plan.conversation, is_main=True)
