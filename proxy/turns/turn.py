"""One turn: open, ask the model server, relay, commit, and only then the last event.

    open      one round trip: owner, branch or previous response, lock, history, references; refused here, nothing was
              changed
    generate  model server → relay → client; ends in an Outcome, whatever happens
    settle    one round trip: items and response written, lock released; then the terminal event

`leave` may come at any time, when the client goes or the server stops: it only ever ends `generate`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from time import perf_counter
from typing import TYPE_CHECKING, Any

from proxy.compaction.automatic import Compaction
from proxy.context.input import output_entries
from proxy.delivery import TurnOutput
from proxy.protocol.errors import ApiError, GatewayTimeout, ServiceUnavailable
from proxy.recording.turn import CONVERSATION_HEADER
from proxy.relay import Outcome, Ownership, Relay
from proxy.streams.event_log import watched_log
from proxy.telemetry.records import IN_BAND, outcome_of
from proxy.turns.commit import Commit
from proxy.turns.continuation import continuation_of
from proxy.turns.observer import AnsweredBefore, TurnResult
from proxy.turns.opening import open_turn
from proxy.turns.options import TurnOptions
from proxy.turns.stream import TurnStream
from proxy.upstream.failover import AnswerEnd

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

    from proxy.delivery import Delivery, FrameSink
    from proxy.protocol.request import TurnRequest
    from proxy.services import Services
    from proxy.turns.continuation import Continuation
    from proxy.turns.observer import TurnObserver
    from proxy.turns.opening import Opening
    from proxy.upstream.answer import ModelAnswer
    from proxy.upstream.model_call import ModelCall

logger = logging.getLogger(__name__)


class Turn:
    """A single turn, from a checked request to the end of its answer. Its ids repeat if its identity does."""

    def __init__(
        self,
        services: Services,
        call: ModelCall,
        request: TurnRequest,
        delivery: Delivery,
        options: TurnOptions | None = None,
        *,
        sinks: Sequence[FrameSink] = (),
        observers: Sequence[TurnObserver] = (),
    ) -> None:
        self._services = services
        self._call = call
        self._request = request
        self._options = options or TurnOptions()
        self._output = TurnOutput(delivery, sinks)
        self._observers = observers
        self._on_disconnect = services.config.turns.on_disconnect
        self._ends_on_leave = self._on_disconnect != "finish" and not self._options.resumable
        self._opening: Opening | None = None
        self._compaction: Compaction
        self._commit: Commit
        self._relay: Relay
        self._outcome: Outcome | None = None
        #: The model server answered with JSON, not with a stream.
        self._came_whole = False
        #: How it ended what it was saying, if it did not say so itself.
        self._fault = ""
        self._leaving = False
        self._stopping = False
        self._stopped = False
        self._abandoned = False
        self._record = call.record
        self._record.model = request.model
        self._ends_at = time.monotonic() + services.config.turns.max_seconds
        self._late = False
        self._generating: asyncio.Task[Any] | None = None
        self._recording = self._options.recording
        self._is_placed = False
        #: What goes along with the answer of the model server's headers.
        self._headers: MutableMapping[str, str] = {}
        #: The client's side.
        self.delivery = delivery

    def begin(self) -> None:
        """Let the observers know that the turn is in good hands: it will run, and they will hear of its end."""
        for observer in self._observers:
            observer.begun()

    async def run(self) -> TurnResult:
        """Carry the turn out and return how it ended; all of a stream but its end as such has been sent by then.

        Raises ApiError or StoreError when the turn is refused or fails before its first byte; then nothing is kept.
        """
        record, telemetry = self._record, self._services.telemetry
        telemetry.turn_began(record)
        try:
            result = await self._carry_out()
        except BaseException as error:
            if not isinstance(error, AnsweredBefore):
                record.outcome = record.outcome or outcome_of(error)
            await self._tell_end(error)
            raise
        finally:
            telemetry.turn_ended(record)
        await self._tell_end(result)
        return result

    def leave(self, *, stopping: bool = False) -> None:
        """Note that the client has gone, or (stopping) that the server has to end; see `turns.on_disconnect`."""
        if not stopping:
            self.delivery.gone = True
            for observer in self._observers:
                observer.left()
        if self._ends_on_leave or stopping:
            self._stopping = self._stopping or stopping
            self._break_off()

    def stop(self) -> None:
        """End the turn with what it has, because its owner wants that; whoever waits for the answer is told so."""
        self._stopped = True
        self._break_off()

    def watch(self, now: float) -> None:
        """End the turn with what it has if it has taken too long. now: monotonic seconds."""
        if now >= self._ends_at and self._generating is not None and not self._leaving:
            self._late = True
            self._generating.cancel()

    def abandon(self) -> None:
        """End the turn and keep nothing of it: somebody else has decided how it ends, or will run it again."""
        self._abandoned = True
        self._break_off()

    @property
    def owner(self) -> str:
        """Whose it is."""
        return self._call.caller.owner

    @property
    def response_id(self) -> str:
        """The response's id, '' before the turn was opened."""
        return self._opening.response_id if self._opening else ""

    @property
    def status(self) -> str:
        """How the turn ended, from when the client is told; '' if nothing is kept of it."""
        return self._outcome.status if self._outcome else ""

    @property
    def continuation(self) -> Continuation | None:
        """What another turn can go on from, from when the client is told; None if this one came to no good end."""
        opening, outcome = self._opening, self._outcome
        if opening is None or outcome is None:
            return None
        before = self._options.continuation
        maker = self._call.maker(opening.request, outcome.response["model"])
        entries = output_entries(outcome.items, opening.request.exempt_tools, maker)
        return continuation_of(before, opening.opened, [*opening.turn_input.entries, *entries], outcome)

    def _break_off(self) -> None:
        self._leaving = True
        if self._generating is not None:
            self._generating.cancel()

    async def _tell_storing(self, attempt: int) -> None:
        for observer in self._observers:
            await observer.storing(attempt)

    async def _tell_end(self, end: TurnResult | BaseException) -> None:
        for observer in reversed(self._observers):
            try:
                await observer.ended(end)
            except Exception:
                # the others hold keys and logs that only this lets go of
                logger.exception("turn %s: an observer failed at its end", self.response_id)

    # --- open -----------------------------------------------------------------------------------------------------

    async def _carry_out(self) -> TurnResult:
        services, owner, record = self._services, self._call.caller.owner, self._record
        record.opened_from = perf_counter()
        opening = await open_turn(services, owner, self._request, self._options, lambda: self._leaving)
        self._take(opening)
        opening.note(record)
        try:
            if opening.lease.lock:
                self._let_watch(opening)
            self._compaction = Compaction(services, self._call, opening.request)
            self._compaction.open(opening.opened, opening.turn_input)
            await self._identify(opening)
            return await self._settle(await self._generate())
        finally:
            if not self._commit.is_written:
                await self._commit.release()
            if self._recording is not None:
                self._recording.release()

    def _take(self, opening: Opening) -> None:
        self._opening, self._request = opening, opening.request
        self._relay = Relay(_ownership(opening))
        self._commit = Commit(self._services, self._call, opening, self._relay, self._recording)

    async def _identify(self, opening: Opening) -> None:
        """Let the observers know the id; where the turn belongs is found out meanwhile, unless they must know now."""
        if self._recording is not None:
            self._recording.begin(opening.request, opening.opened)
            if self._compaction.may_act or any(observer.needs_id for observer in self._observers):
                await self._place(asked=False)
        for observer in self._observers:
            await observer.identified(self.response_id, opening.may_repeat)

    async def _place(self, *, asked: bool = True) -> None:
        """Move the turn to where it belongs, once, before anything of it is told."""
        recording, opening = self._recording, self._opening
        if recording is None or opening is None or self._is_placed:
            return
        self._is_placed = True
        await recording.found(asked=asked)
        partition = recording.settle(opening.lease.partition, is_fresh=opening.is_fresh)
        if partition != opening.lease.partition:
            self._take(opening.moved_to(partition))
            for observer in self._observers:
                observer.moved(self.response_id)

    def _let_watch(self, opening: Opening) -> None:
        """Let others end the turn, and follow it if somebody watches already."""
        watched = opening.opened.watched
        self._services.leases.on_stop(opening.lease, self.stop, watched=watched)
        if watched and (log := watched_log(self._services, self.owner, opening.request)) is not None:
            self._output.add(log)
            self._observers = (*self._observers, log)

    # --- generate -------------------------------------------------------------------------------------------------

    async def _generate(self) -> Outcome | None:
        """Return how the answer ended; None if nothing of it is to be kept."""
        if self._leaving:
            return self._interrupted()
        if not self._options.generate:
            return self._relay.complete({"object": "response", "output": [], "usage": {}})
        task = self._generating = asyncio.current_task()
        try:
            return await self._ask()
        except asyncio.CancelledError:
            if not (self._leaving or self._late) or task is None:
                raise
            task.uncancel()
            if self._leaving:
                return self._interrupted()
            if not self._output.started:
                raise _too_long() from None
            return self._relay.fail("server_error", _too_long().message)
        except ApiError as failure:
            # not raised anew: the frame that does holds the error, which holds the frame
            if not self._output.started:
                raise
            return self._relay.fail("server_error", failure.message)
        finally:
            self._generating = None

    async def _ask(self) -> Outcome | None:
        compaction = self._compaction
        if (outcome := await compaction.run(self._relay, self._output)) is not None:
            return outcome
        while True:
            try:
                outcome = await self._answer()
            except ApiError as failure:
                if not (self._relay.is_untold and self._call.goes_elsewhere(failure)):
                    raise
            else:
                if outcome is None or self._call.has_answered(outcome.response["error"]):
                    break
                is_told = not self._relay.is_untold
                if not self._call.asks_again(AnswerEnd.of(outcome, self._fault, is_told=is_told)):
                    break
            # nothing that the client knows contradicts another answer
            self._relay.start_over()
        if self._came_whole and self._request.stream and outcome is not None:
            await self._output.send(self._relay.replay(outcome))
        return outcome

    async def _answer(self) -> Outcome | None:
        """Put the question, once, and tell what is answered."""
        compaction, keeps = self._compaction, self._commit.keeps_items or self._options.remembered
        with await self._call.ask(compaction.request, compaction.view, keeps=keeps) as answer:
            self._headers = answer.headers
            if self._recording is not None:
                await self._place()
                self._note_header()
            self._output.begin(self._headers)
            self._relay.origin, self._fault = answer.origin, ""
            self._came_whole = not await answer.is_stream(expected=self._request.stream)
            if self._came_whole:
                outcome: Outcome | None = self._relay.complete(await answer.read_json(), answer.most_levels)
            else:
                outcome = await self._relay_stream(answer)
            if outcome is not None and outcome.status == "failed":
                answer.attempt.spoil(IN_BAND)
            return outcome

    async def _relay_stream(self, answer: ModelAnswer) -> Outcome | None:
        relay = self._relay
        stream = TurnStream(
            relay, self._output, self._record, tells=self._request.stream, ends_on_leave=self._ends_on_leave
        )
        if not await stream.run(answer):
            return self._interrupted()
        if relay.skipped:
            logger.warning("turn %s: %d frames of the upstream's were no events", self.response_id, relay.skipped)
        if relay.outcome is None:
            self._fault = stream.fault
            answer.attempt.spoil(stream.fault)
        return relay.outcome or relay.fail("server_error", stream.failure)

    def _interrupted(self) -> Outcome | None:
        """Return what there is of an answer that was broken off here; None to keep nothing.

        A client that was sent nothing of the answer asks again (the SDKs do so by themselves after a timeout): with
        its input kept, the conversation would have it twice.
        """
        if self._abandoned:
            return None
        if self._stopped:
            return self._relay.interrupt()
        waits = self._stopping and (self._options.resumable or not self.delivery.gone)
        if waits and not self._request.stream:
            raise ServiceUnavailable("The server is stopping.", code="server_stopping")
        if not waits and (self._on_disconnect == "discard" or not self._output.started):
            return None
        outcome = self._relay.interrupt()
        return outcome if outcome.items or waits else None

    def _note_header(self) -> None:
        if self._recording is not None and (header := self._recording.header):
            self._headers[CONVERSATION_HEADER] = header

    def _learn(self, outcome: Outcome) -> Outcome:
        """Remember what the answer shows of the model; return the outcome as the client understands it."""
        error = outcome.response["error"] if outcome.status == "failed" else None
        told = self._call.learn(error, self._request.source)
        return outcome if told is error or told is None else self._relay.reword(outcome, told)

    # --- settle ---------------------------------------------------------------------------------------------------

    async def _settle(self, outcome: Outcome | None) -> TurnResult:
        """Write the outcome down, then tell the client: whoever sees the end can build on it."""
        record, broken_off = self._record, "left" if self._leaving and not self._stopping else ""
        if self._abandoned or self._stopped:
            broken_off = "cancelled"
        if outcome is None:
            record.outcome = record.outcome or broken_off or "cancelled"
            return TurnResult(self.response_id)
        outcome = self._learn(outcome)
        await self._output.secure()
        record.commit_from = record.latest
        outcome = self._outcome = await self._commit.write(
            outcome, self._tell_storing, leaving=self._leaving and not self._stopped
        )
        record.commit_at = perf_counter()
        record.answered(outcome.response, record.outcome or broken_off or outcome.status)
        beside = await self._commit.describe() if self._options.describe is not None else None
        if self._recording is not None:
            self._note_header()
        if not self._request.stream:
            return TurnResult(self.response_id, outcome.status, self._commit.answer(outcome, beside))
        if not self._output.started:
            await self._output.send(self._relay.replay(outcome))
        await self._output.send(self._relay.closing(outcome, beside))
        return TurnResult(self.response_id, outcome.status)


def _too_long() -> GatewayTimeout:
    return GatewayTimeout("The turn took longer than turns.max_seconds.", code="turn_timeout")


def _ownership(opening: Opening) -> Ownership:
    request = opening.request
    return Ownership.of(
        request.body,
        request.source,
        response_id=opening.response_id,
        created_at=opening.created_at,
        store=request.stored,
        new_item_id=opening.new_item_id,
        branch=opening.opened.branch,
    )
