"""Turn commit: an outcome written down, tried again for as long as its client may be kept waiting."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from itertools import count
from operator import is_
from typing import TYPE_CHECKING, Any

import orjson

from proxy.context.input import output_entries
from proxy.protocol.store_errors import from_unavailable
from proxy.recording.finished import FinishedTurn, RecordedAnswer
from proxy.runtime.tasks import Backoff
from proxy.turns.opening import FIRST_PAUSE, LONGEST_PAUSE, release
from proxy.turns.options import Revised
from storage import CommitMode, CommitResult, Committed, Conflict, StoreError, TurnCommit, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from proxy.recording.turn import TurnRecording
    from proxy.relay import Outcome, Relay
    from proxy.services import Services
    from proxy.turns.opening import Opening
    from proxy.upstream.model_call import ModelCall

logger = logging.getLogger(__name__)

#: Bytes of an answer's items that are held for the client; more are written anew, so that they are not there thrice.
MAX_HELD_BYTES = 1024 * 1024
#: What a commit has done to branches before there was one.
_UNCHANGED = Committed(CommitResult.OK)
#: Where a turn goes that names its conversation.
_ON_A_BRANCH = frozenset({CommitMode.APPEND, CommitMode.FORK, CommitMode.PROMOTE})


class Commit:
    """What one turn writes. call: knows who makes it. relay: makes the failure that is told if it can't be written."""

    def __init__(
        self,
        services: Services,
        call: ModelCall,
        opening: Opening,
        relay: Relay,
        recording: TurnRecording | None = None,
    ) -> None:
        self._services = services
        self._call = call
        self._owner = call.caller.owner
        self._opening = opening
        self._relay = relay
        #: None where the turn is written as it came, or where recording it has turned out to be impossible.
        self._recording = recording
        self._committed = _UNCHANGED
        #: Whether the turn's items are stored.
        self.keeps_items = opening.request.keeps_items(append_unstored=services.config.conversations.append_unstored)
        #: Whether it needs its lock no more.
        self.is_written = False
        #: What was last made ready for the store, and of which outcome.
        self._made: tuple[Outcome, TurnCommit] | None = None

    async def write(self, outcome: Outcome, storing: Callable[[int], Awaitable[None]], *, leaving: bool) -> Outcome:
        """Write until it is written or `turns.commit_retry_seconds` are over; return what the client is told.

        storing: is asked before each attempt, see `TurnObserver`. leaving: the turn was broken off. The lock is
        released by what is written, not here.
        """
        # made with the first failure, which hardly any turn sees; its time counts from here
        backoff, began = None, time.monotonic()
        response_id, unsure, attempts = self._opening.response_id, False, count()
        while (mode := self._mode(outcome, leaving=leaving)) is not None:
            try:
                await storing(next(attempts))
                commit = self._to_commit(outcome, mode)
                if not (mode is CommitMode.CHAIN and await self._record(outcome, commit, leaving=leaving)):
                    self._committed = await self._services.store.turns.commit(commit)
                    if self._recording is not None and mode in _ON_A_BRANCH:
                        turn = _finished(outcome, commit, leaving=leaving)
                        await self._recording.note_followed(turn, self._committed, appended=mode is CommitMode.APPEND)
            except Conflict:
                logger.warning("turn %s lost its lock and the branch moved on", response_id)
                outcome = self._relay.fail(
                    "conversation_conflict", "The conversation was changed by another turn; this one was not added."
                )
                self._call.record.outcome = "conflict"
                if mode is CommitMode.RECORD:
                    # the partition itself is somebody else's: no other commit can succeed either
                    return outcome
            except Unavailable as error:
                # turns that begin now need not ask the model in vain
                self._services.store.condition.note(error)
                # an attempt that was not answered may have been carried out, whatever those after it meet
                unsure = error.unsure = error.unsure or unsure
                backoff = backoff or Backoff(FIRST_PAUSE, LONGEST_PAUSE, self._seconds_left(began))
                if not await backoff.pause():
                    return self._give_up(error)
                self._call.record.retries += 1
            else:
                if self._opening.lease.lock:
                    self._services.leases.forget(self._opening.lease)
                self.is_written = True
                break
        return outcome

    def _seconds_left(self, began: float) -> float:
        """Return how long it may still be tried."""
        return self._services.config.turns.commit_retry_seconds - (time.monotonic() - began)

    async def _record(self, outcome: Outcome, commit: TurnCommit, *, leaving: bool) -> bool:
        """Write the turn where its history goes on; return whether nothing is left to write. Raises as a commit."""
        recording, self._recording = self._recording, None
        if recording is None:
            return not self.keeps_items
        try:
            return await recording.record(_finished(outcome, commit, leaving=leaving)) or not self.keeps_items
        except Unavailable:
            self._recording = recording
            raise

    def answer(self, outcome: Outcome, beside: Mapping[str, Any] | None = None) -> bytes:
        """Return an outcome's Response object as JSON, in the bytes in which it is stored, where it is.

        beside: from `describe`; then the object is its `response`.
        """
        made = self._made
        if made is None or made[0] is not outcome or not _shows_all(outcome):
            answer = orjson.dumps(outcome.response)
        else:
            # as a stored response is told again: its output comes last
            items = b",".join([entry.data for entry in made[1].outputs])
            answer = b"".join((made[1].body[:-1], b',"output":[', items, b"]}"))
        return answer if beside is None else orjson.dumps({**beside, "response": orjson.Fragment(answer)})

    async def release(self) -> None:
        """Give the lock back if the turn ended without a commit."""
        if not self.is_written:
            await release(self._services, self._opening.lease)

    async def describe(self) -> dict[str, Any] | None:
        """Return what the answer says beside the response; None if it is the response."""
        opening, done = self._opening, self._committed
        describe, source = opening.options.describe, opening.request.source
        if describe is None:
            return None
        if done.result is CommitResult.REPEATED and source.conversation_id and source.fork:
            # the answer to the commit was lost, and with it what it had done
            try:
                branch = await self._services.store.branches.read(
                    self._owner, source.conversation_id, opening.opened.branch
                )
                done = replace(done, branch=branch, backup=source.fork.backup)
            except StoreError:
                logger.warning("turn %s: what it did to the branches can't be read", opening.response_id)
        item = opening.turn_input.entries[0].data if opening.turn_input.entries else None
        return describe(Revised(done.branch, done.backup, opening.opened.anchor, item))

    def _give_up(self, error: Unavailable) -> Outcome:
        self._call.record.outcome = "unsaved"
        logger.warning("turn %s: not saved: the store %s", self._opening.response_id, error.reason.value)
        told = from_unavailable(error)
        code = "server_error" if told.code == "store_unavailable" else told.code or "server_error"
        if error.unsure:
            return self._relay.fail(code, f"Whether the answer was saved is not known: the store {error.reason.value}.")
        return self._relay.fail(code, f"The answer could not be saved: the store {error.reason.value}.")

    def _mode(self, outcome: Outcome, *, leaving: bool) -> CommitMode | None:
        """Where the outcome goes; None: nowhere."""
        request = self._opening.request
        if not self.keeps_items and self._recording is None:
            return None
        if outcome.status not in {"completed", "incomplete"} or (leaving and not outcome.items):
            return CommitMode.RECORD if request.stored else None
        if not request.source.conversation_id:
            return CommitMode.CHAIN
        fork = request.source.fork
        if fork is None:
            return CommitMode.APPEND
        return CommitMode.FORK if fork.name else CommitMode.PROMOTE

    def _to_commit(self, outcome: Outcome, mode: CommitMode) -> TurnCommit:
        opening = self._opening
        request, lease, before = opening.request, opening.lease, opening.options.continuation
        body = dict(outcome.response)
        body.pop("output", None)
        commit = TurnCommit(
            owner=self._owner,
            response_id=opening.response_id,
            partition=lease.partition,
            mode=mode,
            opened=opening.opened,
            conversation_id=request.source.conversation_id,
            token=lease.token if lease.lock else "",
            stored=request.stored,
            status=outcome.status,
            body=orjson.dumps(body),
            inputs=[*(before.tail if before else ()), *opening.turn_input.entries],
            outputs=output_entries(
                outcome.items, request.exempt_tools, self._call.maker(request, outcome.response["model"])
            ),
            model=request.model,
            fork=request.source.fork,
            job_token=opening.identity.job_token,
        )
        small = sum([len(entry.data) for entry in commit.outputs]) <= MAX_HELD_BYTES
        self._made = (outcome, commit) if small else None
        return commit


def _shows_all(outcome: Outcome) -> bool:
    """Whether the client is shown each item as it is stored."""
    shown = outcome.response["output"]
    return len(shown) == len(outcome.items) and all(map(is_, shown, outcome.items))


def _finished(outcome: Outcome, commit: TurnCommit, *, leaving: bool) -> FinishedTurn:
    """Return a turn as recording takes it. leaving: it was broken off."""
    entries = commit.inputs
    return FinishedTurn(
        RecordedAnswer(commit.response_id, commit.status, commit.body, outcome.items, commit.outputs),
        lambda new: [[entries[index]] for index in new if index < len(entries)],
        commit.model,
        commit.stored,
        commit.job_token,
        is_delivered=not leaving,
        count=len(entries),
    )
