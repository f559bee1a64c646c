"""Turn recording: one turn of an app that keeps no ids, from the look at its history to the line that it is put on.

begin    what the history says, while the model server is being asked: from memory, else a round trip to the store
settle   before the first event: where the turn lives; if that is not known by then, somewhere by itself
record   in the place of its commit, then what leads to it from now on, behind the answer
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from proxy.context.input import moved_entry
from proxy.protocol.ids import is_minted, new_branch_name
from proxy.recognition.decision import Action, Plan
from proxy.recognition.hints import Hint, short, short_call, short_key
from proxy.recognition.look import look_at
from proxy.recognition.tools import hashed_key, tools_digest
from proxy.recording.leads import Leads
from proxy.recording.search import Asking, Search
from storage import (
    DigestNotes,
    Entry,
    KnownItem,
    Origin,
    QuotaExceeded,
    RecordAct,
    Recorded,
    RecordResult,
    Spot,
    StoreError,
    TurnRecord,
    Unavailable,
    new_partition,
    partition_of,
)

if TYPE_CHECKING:
    from proxy.protocol.request import TurnRequest
    from proxy.recognition.keys import RequestMarks
    from proxy.recognition.look import Look
    from proxy.recording.recorder import Recorder

logger = logging.getLogger(__name__)

#: The header that says where a turn is recorded.
CONVERSATION_HEADER = "x-branchline-conversation"
#: Seconds that a turn waits to know where it belongs, where its id has to be known before the model is asked.
PATIENCE_SECONDS = 0.25
#: What a plan comes to in the store.
_ACTS = {
    Action.NEW: RecordAct.NEW,
    Action.SEPARATE: RecordAct.NEW,
    Action.CONTINUE: RecordAct.TIP,
    Action.SIDE_BRANCH: RecordAct.SIDE,
    Action.RETRY: RecordAct.REPLACE,
}
_DESCRIPTIONS = {Action.REWRITTEN: "rewritten history", Action.SIDE_BRANCH: "asked beside, without tools"}


@dataclass(slots=True)
class FinishedTurn:
    """What a turn ended with. items: of its answer. entries: of its input, as they were when it was opened.

    body: the Response object without its output. job_token: of a response that was accepted before.
    """

    response_id: str
    status: str
    body: bytes
    items: Sequence[dict[str, Any]]
    entries: Sequence[Entry]
    outputs: Sequence[Entry]
    model: str = ""
    stored: bool = True
    job_token: str = ""
    is_delivered: bool = True


class TurnRecording:
    """One turn's. home: the partition that it has to be in, '' for any."""

    def __init__(self, recorder: Recorder, owner: str, marks: RequestMarks, home: str = "") -> None:
        self._recorder = recorder
        self._owner = owner
        self._marks = marks
        self._home = home
        self._key = b""
        self._look: Look | None = None
        self._search: Search
        self._asking: Asking
        self._task: asyncio.Task[None] | None = None
        self._waiting: tuple[TurnRequest, Mapping[str, KnownItem]] | None = None
        self._plan: Plan | None = None
        self._partition = ""
        self._branch = ""
        self._claimed: tuple[str, str] | None = None

    # --- where it belongs ---------------------------------------------------------------------------------------------

    def begin(self, request: TurnRequest, known: Mapping[str, KnownItem]) -> None:
        """Find out where the turn belongs, once whoever begins it waits for something else. known: stored items."""
        self._waiting = request, known
        asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        if self._waiting is None:
            return
        begun, self._waiting = self._waiting, None
        try:
            self._look_at(*begun)
        except Exception:
            # it must not be noticed
            logger.exception("a turn's history can't be looked at")

    def _look_at(self, request: TurnRequest, known: Mapping[str, KnownItem]) -> None:
        recorder, marks = self._recorder, self._marks
        self._key = recorder.stream_key(self._owner, marks.end_user)
        self._look = self._see(request, known)
        if self._look is None:
            return
        self._asking = Asking(
            self._owner,
            hashed_key(self._key, marks.key),
            tuple(hashed_key(self._key, other) for other in marks.other_keys[:3]),
            tools_digest(request.body.get("tools")),
            marks.retries,
            trusts_content=recorder.config.mode != "keys",
            places=frozenset(partition_of(one) for one in known),
            home=self._home,
        )
        self._search = Search(
            self._asking, self._look, recorder.memory, recorder.services.store.recognition, recorder.taken
        )
        if (plan := self._search.at_once()) is not None:
            self._decide(plan)
        else:
            self._task = asyncio.create_task(self._ask())

    def _see(self, request: TurnRequest, known: Mapping[str, KnownItem]) -> Look | None:
        elements = request.body.get("input")
        if not isinstance(elements, list | str):
            return None
        if isinstance(elements, list):
            elements = [
                orjson.loads(known[item.id].data) if item.body is None and item.id and item.id in known else element
                for element, item in zip(elements, request.items, strict=True)
            ]
        try:
            return self._recorder.looker.look(self._key, orjson.dumps(elements))
        except orjson.JSONEncodeError:
            # integers that have more than 64 bits
            return look_at(self._key, elements if isinstance(elements, list) else [elements])

    async def _ask(self) -> None:
        try:
            self._decide(await self._search.through())
        except StoreError as error:
            self._recorder.note_unplaced(f"{type(error).__name__} {error}")

    def _decide(self, plan: Plan) -> None:
        self._plan = plan
        if plan.action is Action.CONTINUE:
            self._claimed = (plan.conversation, plan.after)
            self._recorder.taken[self._claimed] += 1

    async def placed(self, *, asked: bool = True) -> None:
        """Return once it is known where the turn belongs, or it has taken too long.

        asked: the model server has been asked, and has begun to answer.
        """
        self._start()
        seconds = self._recorder.grace_seconds if asked else PATIENCE_SECONDS
        if self._task is not None and not self._task.done() and seconds:
            await asyncio.wait([self._task], timeout=seconds)

    def settle(self, partition: str, *, is_fresh: bool) -> str:
        """Return the partition that the turn lives in from now on.

        partition: where it would live by itself. is_fresh: nothing is there yet.
        """
        self._start()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            self._recorder.note_late()
        if self._plan is not None:
            if self._plan.conversation:
                self._partition = self._plan.conversation
            else:
                self._partition = partition if is_fresh or self._home else new_partition()
        return self._partition or partition

    @property
    def header(self) -> str:
        """Where the turn is recorded, as far as it is known now; '' if it is not known, or is not."""
        if self._plan is None or not self._partition:
            return ""
        branch = self._branch
        if not branch and self._plan.action not in (Action.CONTINUE, Action.SIDE_BRANCH, Action.RETRY):
            branch = "MAIN"
        conversation_id = self._recorder.conversation_id(self._partition)
        return f"{conversation_id}/{branch}" if branch else conversation_id

    @property
    def is_placed(self) -> bool:
        """Whether it is known where the turn belongs."""
        return bool(self._partition)

    # --- what is written ----------------------------------------------------------------------------------------------

    async def record(self, turn: FinishedTurn) -> bool:
        """Write a finished turn; False if that can't be done here, and nothing was written.

        Raises Conflict, Unavailable, as a commit does.
        """
        plan = self._plan
        if plan is None or self._look is None or not self._partition:
            return False
        try:
            recorded = await self._recorder.services.store.recognition.record(self._record(turn, plan))
            if recorded.result is RecordResult.MOVED:
                plan = await self._plan_anew(plan)
                recorded = await self._recorder.services.store.recognition.record(self._record(turn, plan))
        except QuotaExceeded:
            self._recorder.note_unplaced("its owner may not have more conversations")
            return False
        if recorded.result not in (RecordResult.OK, RecordResult.REPEATED):
            self._recorder.memory.forget(self._partition, self._search.names(self._partition))
            self._recorder.note_unplaced("its conversation is gone")
            return False
        self._branch = recorded.branch
        self._note(turn, plan, recorded)
        return True

    def release(self) -> None:
        """Let others go on from where this turn wanted to."""
        if self._task is not None:
            self._task.cancel()
        self._waiting = None
        if self._claimed is not None:
            taken, self._claimed = self._claimed, None
            self._recorder.taken[taken] -= 1
            if self._recorder.taken[taken] <= 0:
                del self._recorder.taken[taken]

    async def _plan_anew(self, plan: Plan) -> Plan:
        """Return where the turn belongs in its conversation, now that the line has gone on."""
        recorder = self._recorder
        asking = replace(self._asking, home=self._partition)
        search = Search(asking, self._search.look, recorder.memory, recorder.services.store.recognition, ())
        try:
            found = await search.through()
        except Unavailable:
            found = plan
        if found.conversation == plan.conversation:
            plan = found
        return replace(plan, action=Action.FORK) if plan.action is Action.CONTINUE else plan

    def _record(self, turn: FinishedTurn, plan: Plan) -> TurnRecord:
        act = _ACTS.get(plan.action, RecordAct.GROW)
        side = plan.action is Action.SIDE_BRANCH
        return TurnRecord(
            owner=self._owner,
            conversation_id=self._recorder.conversation_id(self._partition),
            act=act,
            response_id=turn.response_id,
            body=turn.body,
            inputs=[self._moved(entry, act, turn) for entry in self._new(turn, plan)],
            outputs=turn.outputs,
            spot=_spot(plan.after),
            name=new_branch_name("side" if side else "MAIN"),
            description=_DESCRIPTIONS.get(plan.action, ""),
            model=turn.model,
            status=turn.status,
            stored=turn.stored,
            job_token=turn.job_token,
            metadata=self._metadata(plan),
        )

    def _new(self, turn: FinishedTurn, plan: Plan) -> list[Entry]:
        return [turn.entries[index] for index in plan.new if index < len(turn.entries)]

    def _moved(self, entry: Entry, act: RecordAct, turn: FinishedTurn) -> Entry:
        """Return an item as it is stored here: with an id of this partition, unless it has one that stands for it.

        Clients count their items, and count anew.
        """
        if entry.origin is Origin.CLIENT and (is_minted(entry.id) or act is RecordAct.NEW):
            return entry
        return moved_entry(entry, self._partition, stored=turn.stored)

    def _metadata(self, plan: Plan) -> dict[str, str]:
        facts = {"session_id": self._marks.key} if self._marks.key else {}
        if plan.parent:
            facts["parent_conversation_id"] = self._recorder.conversation_id(plan.parent)
        return facts

    def _note(self, turn: FinishedTurn, plan: Plan, recorded: Recorded) -> None:
        """Have noted what leads to the turn from now on."""
        look = self._search.look
        hint = Hint(
            self._partition,
            Spot(),
            key=short_key(self._asking.session),
            tools=short(self._asking.tools),
            is_delivered=turn.is_delivered,
        )
        leads = Leads(look, plan, self._asking, hint, recorded.spots)
        calls = [str(item["call_id"]) for item in turn.items if item.get("call_id") and "output" not in item]
        notes = [
            *leads.of_history(),
            *leads.of_turn(look.ended(turn.items), tuple(short_call(one) for one in calls)),
            *self._search.marks(plan),
        ]
        if notes:
            self._recorder.memory.note(notes)
            self._recorder.notes.put(DigestNotes(self._owner, self._partition, notes))


def _spot(place: str) -> Spot:
    """Return what a plan names as the item that new ones come after."""
    return Spot(*map(int, place.split(":"))) if place else Spot()


def recording_of(
    recorder: Recorder, owner: str, headers: Mapping[str, str], request: TurnRequest
) -> TurnRecording | None:
    """Return what records a turn; None where it goes on from an id, or is not to be recorded."""
    if request.source.subject or not recorder.is_on or not (request.stored or recorder.config.store_false):
        return None
    marks = recorder.marks(headers, request.body)
    return TurnRecording(recorder, owner, marks) if marks is not None else None
