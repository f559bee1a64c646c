"""Turns an upstream's answer, streamed or whole, into exactly what the strictest OpenAI client accepts. No I/O.

    upstream event → parsed → placed (which item) → completed → numbered → frame
                                     ↓
                                   draft → items of the outcome

Every event carries our ids and the required fields; `sequence_number` counts from 0 without gaps. The terminal event
is held back, so that the caller can commit first: whoever has seen it can chain on it at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from proxy.protocol import integers, sse
from proxy.protocol.item_types import item_type_of
from proxy.protocol.json_size import is_deeper
from proxy.protocol.origin import AnswerOrigin
from proxy.protocol.response import (
    Ownership,
    complete_error,
    total_usage,
)
from proxy.relay.account import ResponseAccount
from proxy.relay.frames import LARGE_TEXT, Frames, MalformedEvent
from proxy.relay.item import visible
from proxy.relay.lane import Lane
from proxy.relay.memo import Memo, learn
from proxy.relay.outcome import CLOSING, LINGER_AFTER_CALLS_SECONDS, LINGER_SECONDS, TERMINAL, Outcome, Status
from proxy.relay.output import Output
from proxy.relay.reading import Sign, is_error, is_ping, nests_too_deeply, quick, read_event
from proxy.relay.repeats import put_back, take_out
from proxy.relay.text import DELTAS
from proxy.relay.transcript import ITEM_EVENTS, Transcript

__all__ = ["MalformedEvent", "Outcome", "Ownership", "Relay"]

_LIFECYCLE = ("response.created", "response.queued", "response.in_progress")
#: Levels of a JSON answer that can be written again, some of them as part of what is told: orjson writes 254.
_DEEPEST = 246
#: An event with no more brackets than this can't nest too deeply to be written again, as part of a Response too.
_SHALLOW = 200
_TOO_DEEP = "An event of the upstream's stream is nested too deeply."


class Relay:
    """One turn's answer on its way from the upstream to the client.

    Either `feed` events until `outcome` is set, or `complete` a JSON answer (and `replay` it where a stream was asked
    for); `fail` and `interrupt` end the turn at any point. Commit the outcome, then send `closing`.
    """

    def __init__(self, ownership: Ownership) -> None:
        #: Set once the turn has ended; later events are ignored.
        self.outcome: Outcome | None = None
        self._ownership = ownership
        self._frames = Frames(ownership.response_id)
        self._output = Output(self._frames, ownership.new_item_id, show_encrypted=ownership.show_encrypted)
        #: Begun with the first event: an answer that comes whole has none.
        self._events: Transcript | None = None
        self._account = ResponseAccount(ownership)
        #: Fields of the upstream's terminal event beside its type and response.
        self._extras: dict[str, Any] = {}
        #: The `error` event that the upstream ended with.
        self._failure: dict[str, Any] | None = None
        #: The client was told of an item that is not the upstream's, and so of the response's beginning.
        self._told_own = False
        #: How many events the client was told that hold whatever the model answers.
        self._lasting = 0
        #: Usage of what the model was asked beside the question itself.
        self._spent: dict[str, Any] | None = None
        #: Set before the answer of one of several servers is fed.
        self.origin: AnswerOrigin | None = None
        #: The client was told that there is a response, and that it runs.
        self._created = False
        self._started = False
        self._in_progress = False
        self._is_background = ownership.request.get("background") is True
        #: The upstream has ended a response and begun another in the same stream.
        self._begun_again = False
        #: The end is ours, not the upstream's.
        self._cut = False
        #: The upstream said that nothing follows.
        self.is_over = False
        #: Events by which the upstream only kept the connection open, and data that was no event.
        self.pings = 0
        self.skipped = 0

    def feed(self, event: sse.Event) -> sse.FrameBytes:
        """Return the frames that the client gets for `event`, whole: none, one or several.

        Raises MalformedEvent; the relay can still `fail` or `interrupt` then.
        """
        if self._cut:
            return b""
        transcript = self._events or self._transcript
        transcript.lane = None
        data = event.data
        body = quick(event) if len(data) <= LARGE_TEXT else None
        if body is None:
            self._odd(event)
            return self._frames.take()
        stream = DELTAS.get(body["type"]) if self.outcome is None else None
        if stream is not None and type(body.get("delta")) is str:
            if not self._started:
                self._start()
            transcript.delta(stream, body)
            return self._frames.take()
        if integers.has_long(data):
            body = integers.loads_exact(data)
        if stream is None:
            self._event(body, data)
        else:
            self._whole(body, data)
        return self._frames.take()

    @property
    def _transcript(self) -> Transcript:
        if self._events is None:
            self._events = Transcript(self._output)
        return self._events

    @property
    def lane(self) -> Lane | None:
        """Where the event that was fed last went, if it was a piece and the next one goes there too."""
        return self._events.lane if self._events is not None else None

    def memo_of(self, came: tuple[bytes, bytes], told: bytes) -> Memo | None:
        """Return what tells the next piece like the event that was fed last, if that went into a lane (see `learn`)."""
        return learn(self.lane, self._frames, came, told) if self.lane is not None else None

    def patience(self) -> float | None:
        """Return for how many seconds more events are worth waiting for; None: the response has not ended.

        Gateways that run tools by themselves tell a whole response, call included, and then the next one.
        """
        if self.outcome is None:
            return None
        if self.is_over:
            return 0.0
        has_calls = any(item_type_of(item["type"]).is_call for item in self.outcome.items)
        return LINGER_AFTER_CALLS_SECONDS if has_calls else LINGER_SECONDS

    def compacting(self) -> sse.FrameBytes:
        """Return the frames that tell of a compaction that begins, before any event of the upstream is fed."""
        self._start()
        self._told_own = True
        self._output.begin({"type": "compaction"}, "response.compaction.compacting")
        self._lasting = self._frames.number
        return self._frames.take()

    def compacted(self, encrypted_content: str, usage: dict[str, Any] | None) -> sse.FrameBytes:
        """Return the frames that end the compaction. usage: of making it; it is added to the response's."""
        self._spent = usage
        self._output.end({"encrypted_content": encrypted_content})
        self._lasting = self._frames.number
        return self._frames.take()

    @property
    def is_untold(self) -> bool:
        """Whether the client knows nothing of the model's answer but that there is one."""
        return self._frames.number == self._lasting

    def start_over(self) -> None:
        """Forget an answer of which nothing was told: the model is asked again, and the response that the client knows
        of goes on with what it answers then.
        """
        self.outcome, self.is_over, self._cut = None, False, False
        self._extras, self._failure = {}, None
        self._begun_again = self._in_progress
        self._account.start_over()
        self._output.start_over()
        self._events = None

    def reword(self, outcome: Outcome, error: Mapping[str, Any]) -> Outcome:
        """Let the failure that the turn ended in be told in other words and return the outcome. error: the new one."""
        self.outcome = replace(outcome, response={**outcome.response, "error": dict(error)})
        if self._failure is not None:
            self._failure |= {name: error[name] for name in ("message", "param") if name in error}
        return self.outcome

    def complete(self, response: dict[str, Any], levels: float = _DEEPEST + 1) -> Outcome:
        """End the turn with the upstream's JSON answer, which is taken over and changed, and return the outcome.

        levels: that it has at most, if known. A response that is not finished counts as failed: the upstream was asked
        to answer, not to queue. So does JSON that is not a Response object.
        """
        output = response.get("output")
        told = response.get("status")
        if not isinstance(output, list) and response.get("object") != "response":
            error = response.get("error") or "The upstream's answer is not a Response object."
            return self._conclude("failed", [], complete_error(error), error)
        if levels > _DEEPEST and is_deeper(response, _DEEPEST):
            return self._conclude("failed", [], complete_error("The upstream's answer is nested too deeply."))
        if self.origin is not None:
            self.origin.claim(response)
        self._remember(response)
        status: Status = TERMINAL.get(f"response.{told}", "completed")
        if told in ("queued", "in_progress") or (told is None and response.get("error")):
            status = "failed"
        over = "completed" if status == "completed" else "incomplete"
        items = self._output.take(output if isinstance(output, list) else [], over)
        reason = response.get("error") or ("The upstream did not finish its answer." if told != "failed" else None)
        return self._conclude(status, items, complete_error(reason) if status == "failed" else None, reason)

    def replay(self, outcome: Outcome) -> sse.FrameBytes:
        """Return the frames of a stream that would have ended in `outcome`, all but the terminal one."""
        self._remember({**outcome.response, "service_tier": None})
        self._frames.sets_aside = True
        self._start()
        self._output.replay(outcome.response["output"])
        return self._frames.take()

    def fail(self, code: str, message: str) -> Outcome:
        """End the turn as failed and return that; what had arrived of the output is in it.

        code, message: the Response's `error`, as they are. If there was an outcome already, its output is kept.
        """
        error = {"code": code, "message": message}
        self._cut = True
        self._transcript.close()
        if self.outcome is None:
            return self._conclude("failed", self._output.so_far(), error)
        over = {"status": "failed", "error": error, "completed_at": None, "incomplete_details": None}
        self.outcome = Outcome("failed", {**self.outcome.response, **over}, self.outcome.items)
        return self.outcome

    def interrupt(self) -> Outcome:
        """End the turn because nobody listens any more and return that, or the outcome that was there already.

        Only messages are kept, as far as they came, and finished reasoning that leads to one.
        """
        self._cut = True
        self._transcript.close()
        return self.outcome or self._conclude("incomplete", self._output.usable())

    def closing(self, outcome: Outcome, beside: Mapping[str, Any] | None = None) -> sse.FrameBytes:
        """Return the last events, the terminal one of `outcome` and `[DONE]`. Call it once, after the commit.

        beside: more fields of that event.
        """
        self._start()
        if self._failure is not None:
            self._frames.emit(self._failure)
        extras = self._extras if outcome is self.outcome else {}
        self._frames.emit({**extras, **(beside or {}), "type": CLOSING[outcome.status], "response": outcome.response})
        return sse.together([self._frames.take(), sse.DONE])

    def _odd(self, event: sse.Event) -> None:
        """Take an event that is large, is not quite JSON, has no type of its own, or is none."""
        data = event.data
        repeats = take_out(data, self._output.large_texts()) if isinstance(data, bytearray) else {}
        body = read_event(event)
        if body is Sign.DONE:
            self._done()
        elif body is Sign.PING:
            self.pings += 1
        elif body is Sign.NONSENSE:
            self.skipped += 1
        elif isinstance(data, bytearray):
            if is_deeper(body, _DEEPEST):
                raise MalformedEvent(_TOO_DEEP)
            self._frames.sets_aside = True
            # not kept beside what it says
            data.clear()
            self._whole(put_back(body, repeats) if repeats else body, data)
        else:
            self._whole(body, data)

    def _whole(self, body: dict[str, Any], data: bytes | bytearray) -> None:
        """Take an event that is all read. data: what it was read from."""
        if self.outcome is None and (stream := DELTAS.get(body["type"])) is not None:
            self._start()
            self._transcript.torn_delta(stream, body)
        else:
            self._event(body, data)

    def _done(self) -> None:
        """Take `[DONE]`: where all items have ended, it ends a response whose own end is missing."""
        self.is_over = True
        self._transcript.close()
        if self.outcome is None and self._output.is_over:
            self._conclude("completed", self._output.settle([], "completed"))

    def _event(self, body: dict[str, Any], data: bytes | bytearray) -> None:
        if self.outcome is not None and not self._begins_again(body):
            return
        if data.count(b"{") + data.count(b"[") > _SHALLOW and nests_too_deeply(body):
            raise MalformedEvent(_TOO_DEEP)
        if self.origin is not None:
            self.origin.claim_event(body)
        kind = body["type"]
        if kind in _LIFECYCLE:
            self._lifecycle(kind, body)
        elif kind in TERMINAL:
            self._terminal(TERMINAL[kind], body)
        elif kind in ITEM_EVENTS:
            self._item_event(kind, body)
        elif is_ping(kind):
            self.pings += 1
        elif is_error(kind, body):
            self._error(body)
        else:
            self._item_event(kind, body)

    def _item_event(self, kind: str, body: dict[str, Any]) -> None:
        self._start()
        if isinstance(body.get("response"), dict):
            body["response"] = {**body["response"], "id": self._ownership.response_id}
        if kind.endswith("done") and not self._frames.sets_aside:
            self._frames.sets_aside = self._output.is_large
        self._transcript.event(body)

    def _lifecycle(self, kind: str, body: dict[str, Any]) -> None:
        told, before = body.get("response"), self._frames.number
        response = told if isinstance(told, dict) else {}
        self._remember(response)
        if self._created and (kind == "response.created" or self._told_own or self._begun_again):
            return
        if kind == "response.queued" and self._is_background and self._created:
            return
        if kind != "response.created" and not self._created:
            self._lifecycle("response.created", {"type": "response.created", "response": response})
            before = self._frames.number
        self._created = True
        # A background response was queued here, whatever the upstream knows of that.
        waits = self._is_background and kind == "response.created"
        is_created_queued = kind == "response.created" and response.get("status") == "queued"
        queued = waits or kind == "response.queued" or is_created_queued
        body["response"] = self._account.begin("queued" if queued else "in_progress")
        self._frames.emit(body)
        if waits:
            self._frames.emit({"type": "response.queued", "response": body["response"]})
        self._in_progress = self._in_progress or kind == "response.in_progress"
        self._started = self._in_progress or not self._is_background
        self._lasting += self._frames.number - before

    def _begins_again(self, body: dict[str, Any]) -> bool:
        """Whether the upstream tells another response in the same stream: then that one's end is the end."""
        if body["type"] != "response.created":
            return False
        self.outcome = None
        self.is_over = False
        self._begun_again = True
        self._extras, self._failure = {}, None
        self._output.begin_again()
        return True

    def _terminal(self, status: Status, body: dict[str, Any]) -> None:
        told = body.get("response")
        response = told if isinstance(told, dict) else {}
        self._remember(response)
        self._start()
        self._frames.sets_aside |= self._output.is_large
        output = response.get("output")
        self._transcript.close()
        items = self._output.settle(output if isinstance(output, list) else [], status)
        self._extras = {name: value for name, value in body.items() if name not in ("type", "response")}
        reason = response.get("error")
        self._conclude(status, items, complete_error(reason) if status == "failed" else None, reason)

    def _error(self, body: dict[str, Any]) -> None:
        self._start()
        told = body.get("error") or body
        fields = told if isinstance(told, dict) else {"message": told}
        texts = {name: fields[name] for name in ("code", "message", "param") if isinstance(fields.get(name), str)}
        error = complete_error(texts)
        # Flat: OpenAI's client ends the stream over a nested one before the program sees it.
        self._failure = {"type": "error", "code": None, "message": error["message"], "param": None, **texts}
        self._transcript.close()
        self._conclude("failed", self._output.so_far(), error, told)

    def _start(self) -> None:
        if not self._started:
            self._lifecycle("response.in_progress", {"type": "response.in_progress"})

    def _remember(self, response: dict[str, Any]) -> None:
        self._account.remember(response, keeps_time=self._created)

    def _conclude(
        self, status: Status, items: list[dict[str, Any]], error: dict[str, Any] | None = None, reason: Any = None
    ) -> Outcome:
        output = [visible(item, show_encrypted=self._ownership.show_encrypted) for item in items]
        response = self._account.complete(status, output, error)
        if self._spent is not None:
            response["usage"] = total_usage(self._spent, response["usage"])
        self.outcome = Outcome(status, response, items, reason)
        return self.outcome
