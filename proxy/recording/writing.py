"""Writing: a turn of a recorded conversation given to the store, with what leads to it, and remembered here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from proxy.context.input import moved_entry
from proxy.protocol.ids import is_minted, new_branch_name
from proxy.recognition.decision import Action
from proxy.recording.leads import NumberedTurn, waiting_calls
from proxy.recording.placing import spot_of
from storage import (
    BEFORE_ALL,
    ON_LINE,
    DigestNote,
    Entry,
    Lead,
    Origin,
    RecordAct,
    Recorded,
    RecordedTurn,
    RecordResult,
    Spot,
)

if TYPE_CHECKING:
    from proxy.recognition.decision import Plan
    from proxy.recording.finished import FinishedTurn, RecordedAnswer
    from proxy.recording.leads import Leads
    from proxy.recording.recorder import Recorder

#: What a plan comes to in the store.
_ACTS = {
    Action.NEW: RecordAct.NEW,
    Action.SEPARATE: RecordAct.NEW,
    Action.CONTINUE: RecordAct.TIP,
    Action.SIDE_BRANCH: RecordAct.SIDE,
    Action.RETRY: RecordAct.REPLACE,
}
#: What makes no branch.
_UNNAMED = frozenset({RecordAct.NEW, RecordAct.TIP})
_WRITTEN = frozenset({RecordResult.OK, RecordResult.REPEATED})
_DESCRIPTIONS = {Action.REWRITTEN: "rewritten history", Action.SIDE_BRANCH: "asked beside, without tools"}


@dataclass(slots=True)
class WrittenTurn:
    """A turn that was given to the store. inputs: how many entries are of its request.

    leads: what leads to it, None for nothing. marks: what was noted of what it goes on from.
    """

    plan: Plan
    recorded: Recorded
    inputs: int
    leads: Leads | None = None
    marks: Sequence[DigestNote] = ()

    @property
    def is_done(self) -> bool:
        """Whether it is written."""
        return self.recorded.result in _WRITTEN

    def spots(self) -> list[Spot]:
        """Return where it was put: what it comes after, then its entries."""
        return [spot_of(self.plan.after), *self.recorded.spots]


@dataclass(slots=True)
class TurnWriter:
    """Writes the turns of one request. session: its key, '' for none. partition: of the conversation."""

    _recorder: Recorder
    _owner: str
    _session: str
    _partition: str

    async def write(
        self,
        turn: FinishedTurn,
        plan: Plan,
        inputs: Sequence[Entry],
        leads: Leads | None,
        marks: Sequence[DigestNote],
    ) -> WrittenTurn:
        """Write a turn as a plan says, with what leads to it; marks: of what it goes on from. Raises as a commit."""
        record = self._turn(turn, plan, inputs, leads.given if leads is not None else (), marks)
        recorded = await self._recorder.services.store.recognition.record(record)
        return WrittenTurn(plan, recorded, len(inputs), leads, marks)

    async def write_beside(self, turn: FinishedTurn, first: WrittenTurn, other: RecordedAnswer, number: int) -> None:
        """Put one more answer to the same question on a branch, with what leads to it."""
        leads: Leads | None = None
        asked = first.spots()[first.inputs] if len(first.recorded.spots) >= first.inputs else BEFORE_ALL
        if first.leads is not None:
            look = first.leads.look
            numbered = NumberedTurn({}, 0, len(other.outputs), look.count, is_new=not first.plan.conversation)
            calls = waiting_calls(other.items)
            leads = replace(first.leads, answered=look.answered(other.items), turn=numbered, calls=calls)
        record = RecordedTurn(
            owner=self._owner,
            conversation_id=self._recorder.conversation_id(self._partition),
            act=RecordAct.SIDE,
            response_id=other.response_id,
            body=other.body,
            inputs=(),
            outputs=other.outputs,
            spot=asked,
            name=new_branch_name(f"choice_{number}"),
            model=turn.model,
            status=other.status,
            stored=turn.stored,
            leads=leads.given if leads is not None else (),
        )
        recorded = await self._recorder.services.store.recognition.record(record)
        if recorded.result in _WRITTEN and recorded.spots:
            plan = replace(first.plan, after=":".join(map(str, asked)))
            self.remember(WrittenTurn(plan, recorded, 0, leads))

    def remember(self, written: WrittenTurn) -> None:
        """Remember what the store was told, for who goes on from there in this process."""
        memory, recorded = self._recorder.memory, written.recorded
        if written.marks:
            memory.note(written.marks)
        if written.leads is None:
            return
        spots, now = written.spots(), recorded.milliseconds or time.time_ns() // 1_000_000
        for lead in written.leads.given:
            # who has to ask the store for more than a history is told all of it there
            if lead.entry != ON_LINE and (note := lead.note(self._partition, recorded.line, spots, now)) is not None:
                memory.note([note])

    def _turn(
        self,
        turn: FinishedTurn,
        plan: Plan,
        inputs: Sequence[Entry],
        leads: Sequence[Lead],
        marks: Sequence[DigestNote],
    ) -> RecordedTurn:
        answer, act = turn.answer, _ACTS.get(plan.action, RecordAct.GROW)
        is_side = plan.action is Action.SIDE_BRANCH
        return RecordedTurn(
            owner=self._owner,
            conversation_id=self._recorder.conversation_id(self._partition),
            act=act,
            response_id=answer.response_id,
            body=answer.body,
            inputs=[self._moved(entry, act, stored=turn.stored) for entry in inputs],
            outputs=answer.outputs,
            spot=spot_of(plan.after),
            name="" if act in _UNNAMED else new_branch_name("side" if is_side else "MAIN"),
            description=_DESCRIPTIONS.get(plan.action, ""),
            model=turn.model,
            status=answer.status,
            stored=turn.stored,
            job_token=turn.job_token,
            metadata=self._metadata(plan),
            leads=leads,
            marks=marks,
        )

    def _moved(self, entry: Entry, act: RecordAct, *, stored: bool) -> Entry:
        """Return an item as it is stored here: with an id of this partition, unless it has one that stands for it.

        Clients count their items, and count anew.
        """
        if entry.origin is Origin.CLIENT and (is_minted(entry.id) or act is RecordAct.NEW):
            return entry
        return moved_entry(entry, self._partition, stored=stored)

    def _metadata(self, plan: Plan) -> dict[str, str]:
        facts = {"session_id": self._session} if self._session else {}
        if plan.parent:
            facts["parent_conversation_id"] = self._recorder.conversation_id(plan.parent)
        return facts
