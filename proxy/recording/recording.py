"""Recording: one request of an app that keeps no ids, from the look at its history to the line that it is put on.

look     what the history says, and where it leads: as this process knows it, else as the store does
settle   where the turn lives
record   the turn written there, then what leads to it from now on, behind the answer
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

from proxy.context.input import moved_entry
from proxy.protocol.ids import is_minted, new_branch_name
from proxy.recognition.decision import Action, Plan
from proxy.recognition.look import look_at
from proxy.recording.followed import FollowedTurn
from proxy.recording.leads import leads_to
from proxy.recording.placing import PlacedTurn, end_of, place_turn, spot_of
from proxy.recording.search import Search, asking_of
from proxy.runtime.offload import MANY
from storage import (
    ConversationNotFound,
    DigestNote,
    Entry,
    Origin,
    QuotaExceeded,
    RecordAct,
    RecordedTurn,
    RecordResult,
    Spot,
    StoreError,
    Unavailable,
    branch_spots,
    new_partition,
    partition_of,
)

if TYPE_CHECKING:
    from proxy.recognition.keys import RequestMarks
    from proxy.recognition.look import Look, Looker, ToItems
    from proxy.recording.finished import FinishedTurn, RecordedAnswer
    from proxy.recording.recorder import Recorder
    from storage import Committed, OpenedTurn

logger = logging.getLogger(__name__)

#: Partitions that are asked whether a request's ids lead to a conversation there.
MOST_PLACES = 3
#: What a plan comes to in the store.
_ACTS = {
    Action.NEW: RecordAct.NEW,
    Action.SEPARATE: RecordAct.NEW,
    Action.CONTINUE: RecordAct.TIP,
    Action.SIDE_BRANCH: RecordAct.SIDE,
    Action.RETRY: RecordAct.REPLACE,
}
#: What is not known of its branch before it is written.
_ON_A_LINE = frozenset({Action.CONTINUE, Action.SIDE_BRANCH, Action.RETRY})
_DESCRIPTIONS = {Action.REWRITTEN: "rewritten history", Action.SIDE_BRANCH: "asked beside, without tools"}


class RequestRecording:
    """One request's. home: the partition that it has to be in, '' for any."""

    def __init__(self, recorder: Recorder, owner: str, marks: RequestMarks, home: str = "") -> None:
        self._recorder = recorder
        self._recognition = recorder.services.store.recognition
        self._owner = owner
        self._marks = marks
        self._home = home
        self._key = b""
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
        self._key = self._recorder.stream_key(self._owner, self._marks.end_user)
        if len(elements) >= MANY and isinstance(elements, list):
            self._task = asyncio.create_task(self._look_beside(elements, tools, to_items, places))
            return
        look = self._see(self._recorder.looker, elements, to_items)
        if look is not None and (search := self._begin(look, tools, places)) is not None:
            self._task = asyncio.create_task(self._ask(search))

    async def _look_beside(
        self, elements: list[Any], tools: Any, to_items: ToItems | None, places: frozenset[str]
    ) -> None:
        """Do the same with a long history, in a thread: others have their turn meanwhile."""
        async with self._recorder.long_turnstile:
            look = await asyncio.to_thread(self._see, self._recorder.long_looker, elements, to_items)
        if look is not None and (search := self._begin(look, tools, places)) is not None:
            await self._ask(search)

    def _begin(self, look: Look, tools: Any, places: frozenset[str]) -> Search | None:
        """Begin to search; return the search if it has to go on in the store."""
        recorder = self._recorder
        asking = replace(
            asking_of(self._owner, self._key, self._marks, tools),
            trusts_content=recorder.config.mode != "keys",
            places=places,
            home=self._home,
        )
        self._search = Search(asking, look, recorder.memory, self._recognition, recorder.taken)
        if (plan := self._search.at_once()) is not None:
            self._decide(plan)
            return None
        return self._search

    def follow(self, conversation_id: str, opened: OpenedTurn, tools: Any, *, is_placed: bool) -> None:
        """Take it that a request goes on from the end of a history, if that is in a recorded conversation.

        conversation_id: of the one that lives where the history does, '' for none. opened: with the history. tools: of
        the request. is_placed: it names the conversation, and is committed there like any turn.
        """
        if not (opened.chain or is_placed) or not self._recorder.has_made(conversation_id):
            return
        partition, after = partition_of(conversation_id), end_of(opened.chain)
        self._followed = FollowedTurn(
            self._owner,
            self._recorder.stream_key(self._owner, self._marks.end_user),
            self._marks,
            tools,
            partition,
            opened.items,
            after,
        )
        if not is_placed:
            self._decide(Plan(Action.CONTINUE, (), partition, after.line, ":".join(map(str, after))))

    def _see(self, looker: Looker, elements: list[Any] | str, to_items: ToItems | None) -> Look | None:
        if isinstance(elements, str):
            return look_at(self._key, [elements], to_items)
        if len(elements) == 1:
            # what would have to be known again is no more than what there is to look at
            return look_at(self._key, elements, to_items)
        try:
            return looker.look(self._key, orjson.dumps(elements), to_items)
        except orjson.JSONEncodeError:
            # integers that have more than 64 bits
            return look_at(self._key, elements, to_items)

    async def _ask(self, search: Search) -> None:
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
            self._recorder.taken[self._claimed] += 1

    async def placed(self, seconds: float) -> None:
        """Return once it is known where the turn belongs, or it has taken too long."""
        if self._task is not None and not self._task.done() and seconds:
            await asyncio.wait([self._task], timeout=seconds)

    def settle(self, partition: str, *, is_fresh: bool) -> str:
        """Return the partition that the turn lives in from now on.

        partition: where it would live by itself. is_fresh: nothing is there yet.
        """
        if self._task is not None and not self._task.done():
            # what it finds comes too late; how long it takes is of interest
            self._recorder.note_late()
        self._is_settled = True
        if self._plan is not None:
            if self._plan.conversation:
                self._partition = self._plan.conversation
            else:
                self._partition = partition if is_fresh or self._home else new_partition()
        return self._partition or partition

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
        """Write a finished turn; False if that can't be done here, and nothing was written.

        Raises Conflict, Unavailable, as a commit does.
        """
        plan, search = self._plan, self._search
        if plan is None or not self._partition:
            return False
        groups = turn.brings(plan.new) if search is not None else turn.brings(range(turn.count))
        try:
            recorded = await self._recognition.record(self._record(turn, plan, groups))
            if recorded.result in (RecordResult.MOVED, RecordResult.ASTRAY):
                is_moved = recorded.result is RecordResult.MOVED
                plan = await self._plan_anew(search, plan) if is_moved else _anew(search, plan)
                if search is not None:
                    groups = turn.brings(plan.new)
                recorded = await self._recognition.record(self._record(turn, plan, groups))
        except QuotaExceeded:
            self._recorder.note_unplaced("its owner may not have more conversations")
            return False
        if recorded.result not in (RecordResult.OK, RecordResult.REPEATED):
            self._recorder.memory.forget(self._partition)
            self._recorder.note_unplaced("its conversation is gone")
            return False
        self._branch = recorded.branch
        if search is None:
            self._put_followed(turn, recorded.spots, appended=not recorded.is_fork)
            return True
        placed = place_turn(plan, groups, recorded.spots)
        # not the turn itself: what was written of it need not be kept until then
        ends, is_delivered = [(plan, placed, turn.answer.items)] if self._may_come_back(turn) else [], turn.is_delivered
        for number, other in enumerate(turn.others, start=1):
            if (beside := await self._record_beside(turn, placed, other, number)) is not None:
                ends.append((replace(plan, covered=search.look.count), beside, other.items))

        def make() -> list[DigestNote]:
            leads = [note for end in ends for note in self._leads(search, *end, is_delivered=is_delivered)]
            return [*search.marks(plan), *leads]

        self._recorder.notes.put(self._owner, self._partition, make)
        return True

    def note_followed(self, turn: FinishedTurn, committed: Committed, *, appended: bool) -> None:
        """Note a turn that was committed to its conversation. appended: to the end of what it was opened with."""
        self._put_followed(turn, branch_spots(committed.places), appended=appended)

    def _put_followed(self, turn: FinishedTurn, spots: Sequence[Spot], *, appended: bool) -> None:
        if self._followed is not None and self._may_come_back(turn):
            self._recorder.followed.put(self._followed.ended_by(turn, spots, appended=appended))

    def _may_come_back(self, turn: FinishedTurn) -> bool:
        """Whether an answer can be resent at all: a request may not be of any size."""
        return sum(len(entry.data) for entry in turn.answer.outputs) <= self._recorder.most_resent_bytes

    def release(self) -> None:
        """Let others go on from where this turn wanted to."""
        self._is_settled = True
        if self._claimed is not None:
            taken, self._claimed = self._claimed, None
            self._recorder.taken[taken] -= 1
            if self._recorder.taken[taken] <= 0:
                del self._recorder.taken[taken]

    async def _plan_anew(self, search: Search | None, plan: Plan) -> Plan:
        """Return where the turn belongs in its conversation, now that the line has gone on."""
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

    def _record(self, turn: FinishedTurn, plan: Plan, groups: Sequence[Sequence[Entry]]) -> RecordedTurn:
        act, answer = _ACTS.get(plan.action, RecordAct.GROW), turn.answer
        is_side = plan.action is Action.SIDE_BRANCH
        return RecordedTurn(
            owner=self._owner,
            conversation_id=self._recorder.conversation_id(self._partition),
            act=act,
            response_id=answer.response_id,
            body=answer.body,
            inputs=[self._moved(entry, act, stored=turn.stored) for group in groups for entry in group],
            outputs=answer.outputs,
            spot=spot_of(plan.after),
            name="" if act is RecordAct.NEW else new_branch_name("side" if is_side else "MAIN"),
            description=_DESCRIPTIONS.get(plan.action, ""),
            model=turn.model,
            status=answer.status,
            stored=turn.stored,
            job_token=turn.job_token,
            metadata=self._metadata(plan),
        )

    async def _record_beside(
        self, turn: FinishedTurn, placed: PlacedTurn, other: RecordedAnswer, number: int
    ) -> PlacedTurn | None:
        """Put one more answer to the same question on a branch; return where it was put, None for nowhere."""
        record = RecordedTurn(
            owner=self._owner,
            conversation_id=self._recorder.conversation_id(self._partition),
            act=RecordAct.SIDE,
            response_id=other.response_id,
            body=other.body,
            inputs=(),
            outputs=other.outputs,
            spot=placed.asked,
            name=new_branch_name(f"choice_{number}"),
            model=turn.model,
            status=other.status,
            stored=turn.stored,
        )
        recorded = await self._recognition.record(record)
        if recorded.result not in (RecordResult.OK, RecordResult.REPEATED) or not recorded.spots:
            return None
        return PlacedTurn({}, placed.asked, recorded.spots[-1])

    def _moved(self, entry: Entry, act: RecordAct, *, stored: bool) -> Entry:
        """Return an item as it is stored here: with an id of this partition, unless it has one that stands for it.

        Clients count their items, and count anew.
        """
        if entry.origin is Origin.CLIENT and (is_minted(entry.id) or act is RecordAct.NEW):
            return entry
        return moved_entry(entry, self._partition, stored=stored)

    def _metadata(self, plan: Plan) -> dict[str, str]:
        facts = {"session_id": self._marks.key} if self._marks.key else {}
        if plan.parent:
            facts["parent_conversation_id"] = self._recorder.conversation_id(plan.parent)
        return facts

    def _leads(
        self, search: Search, plan: Plan, placed: PlacedTurn, answer: Sequence[dict[str, Any]], *, is_delivered: bool
    ) -> list[DigestNote]:
        """Return what is to lead to an answer from now on, and to what its request brought. answer: its items."""
        return leads_to(
            search.look,
            plan,
            search.asking,
            self._partition,
            placed,
            answer,
            is_delivered=is_delivered,
        )


def _anew(search: Search | None, plan: Plan) -> Plan:
    """Return the plan for a history whose branch was deleted: all of it on another one."""
    if search is None:
        return plan
    return Plan(Action.REWRITTEN, tuple(range(search.look.count)), plan.conversation, is_main=True)
