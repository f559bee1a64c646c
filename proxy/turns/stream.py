"""Turn stream: the model server's events told anew, taken down and sent in the very call that brings them.

    bytes (`upstream/wire`) → frames (`relay/splicer`) → sinks → client

The turn's task sleeps meanwhile. It wakes for the stream's head, at the end, when something failed, and when a sink or
the client is behind: what arrives while it waits for them is still taken, and lets the model server wait.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy.protocol import sse
from proxy.protocol.errors import ApiError
from proxy.relay import Splicer
from proxy.telemetry.records import CUT, MALFORMED
from proxy.upstream.body import ending_of

if TYPE_CHECKING:
    from proxy.delivery import TurnOutput
    from proxy.relay import Relay
    from proxy.telemetry.records import TurnRecord
    from proxy.upstream.answer import ModelAnswer

#: What a failure says that ends a stream, unless it has better words.
BROKEN_OFF = "The upstream ended its stream before the response was complete."
_MALFORMED = "The upstream sent an event that can't be read."
_TOO_LARGE = "The upstream sent an event that is too large."


class TurnStream:
    """One stream on its way through.

    record: notes when the first of its output is told. tells: the client wants it as one. ends_on_leave: nobody else
    does.
    """

    def __init__(
        self, relay: Relay, output: TurnOutput, record: TurnRecord, *, tells: bool, ends_on_leave: bool
    ) -> None:
        self._relay = relay
        self._output = output
        self._record = record
        self._tells = tells
        self._ends_on_leave = ends_on_leave
        self._loop = asyncio.get_running_loop()
        self._answer: ModelAnswer
        self._splicer: Splicer
        self._awake = self._loop.create_future()
        #: Frames that `push` can't take, because the stream's head has not been sent.
        self._first: list[sse.FrameBytes] = []
        self._is_behind = self._is_waiting = self._is_over = False
        #: The client has the stream's head, and nobody is waited for: what comes can be sent as it comes.
        self._flows = tells and output.started
        self._crash: Exception | None = None
        self._lingering: asyncio.TimerHandle | None = None
        #: Why there is no more, if the response has not ended: in words, and as what it counts.
        self.failure, self.fault = BROKEN_OFF, CUT

    async def run(self, answer: ModelAnswer) -> bool:
        """Relay an answer until it is over; return False if it was left because its client has gone."""
        self._answer, self._splicer = answer, Splicer(self._relay, answer.max_event_bytes)
        try:
            answer.push(self)
            while True:
                await self._awake
                self._awake = self._loop.create_future()
                await self._catch_up()
                if self._crash is not None:
                    raise self._crash
                if self._is_gone:
                    return False
                if self._is_over and not (self._first or self._is_behind):
                    if self._relay.is_over:
                        answer.expect_end()
                    return True
        finally:
            self._is_over = True
            if self._lingering is not None:
                self._lingering.cancel()

    # How the stream comes (`upstream.wire.Consumer`).

    def data(self, chunk: bytes) -> None:
        """Tell what the bytes say, which may be cut anywhere."""
        if self._is_over:
            return
        try:
            if frames := self._splicer.feed(chunk):
                self._send(frames)
            if self._splicer.has_parsed:
                self._look()
        except Exception as error:
            self._break(error)

    def end(self) -> None:
        """Tell what the stream's end completes."""
        if self._is_over:
            return
        try:
            if frames := self._splicer.flush():
                self._send(frames)
            self._look()
        except Exception as error:
            self._break(error)
        self._end(BROKEN_OFF)

    def failed(self, error: Exception) -> None:
        """Note why nothing more comes."""
        if isinstance(error, ApiError):
            self._end(error.message, ending_of(error))
        else:
            self._end(BROKEN_OFF)

    # ------------------------------------------------------------------------------------------------------------------

    @property
    def _is_gone(self) -> bool:
        return self._tells and self._ends_on_leave and self._output.delivery.gone

    def _send(self, frames: sse.FrameBytes) -> None:
        if self._flows:
            if not self._output.push(frames):
                self._is_behind = True
                self._wake()
            elif self._output.delivery.gone and self._ends_on_leave:
                self._wake()
        elif self._tells:
            self._send_later(frames)

    def _send_later(self, frames: sse.FrameBytes) -> None:
        """Send what comes while something has to be waited for: after the stream's head, or to who is behind."""
        if self._first or not self._output.started:
            self._first.append(frames)
            self._wake()
        elif not self._output.push(frames):
            self._is_behind = True
            self._wake()
        if self._is_waiting:
            self._answer.hold(held=True)

    def _look(self) -> None:
        """Do what follows from events that were more than pieces of a text that goes on."""
        relay, failure = self._relay, self._splicer.failure
        if not self._record.output and not relay.is_untold:
            self._record.first_output()
        if failure is not None:
            self._end(_TOO_LARGE if isinstance(failure, sse.EventTooLarge) else _MALFORMED, MALFORMED)
        elif relay.outcome is not None or relay.is_over or self._lingering is not None:
            self._linger()
        if relay.pings:
            self._wake()

    def _break(self, error: Exception) -> None:
        """End with what is raised where the turn runs."""
        self._crash = error
        self._end(BROKEN_OFF)

    async def _catch_up(self) -> None:
        """Do what can't be done without waiting."""
        self._is_waiting, self._flows = True, False
        while self._first or self._is_behind:
            count, self._is_behind = len(self._first), False
            if count:
                await self._output.send(sse.together(self._first))
                # not before: what comes meanwhile comes after them
                del self._first[:count]
            else:
                await self._output.caught_up()
        if self._relay.pings:
            self._relay.pings = 0
            await self._output.pass_ping()
        self._is_waiting, self._flows = False, self._tells and self._output.started and not self._first
        self._answer.hold(held=False)

    def _linger(self) -> None:
        """Wait for more of a response that has ended only for as long as that is worth it."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        if self._relay.is_over:
            self._end(BROKEN_OFF)
        elif (seconds := self._relay.patience()) is not None:
            self._lingering = self._loop.call_later(seconds, self._end, BROKEN_OFF)

    def _end(self, failure: str, fault: str = CUT) -> None:
        if not self._is_over:
            self._is_over, self.failure, self.fault = True, failure, fault
            self._wake()

    def _wake(self) -> None:
        if not self._awake.done():
            self._awake.set_result(None)
