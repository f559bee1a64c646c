"""Turn records: what a turn notes of itself while it runs, for metrics, log line and spans that are made at its end.

Times are `time.perf_counter`'s; 0.0 stands for what has not come about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from proxy.protocol.errors import ApiError
from storage import HeavyHistory, Locked, StoreError, Unavailable

if TYPE_CHECKING:
    from proxy.telemetry.traces import Trace

#: How an attempt ended that got no HTTP status, or whose 200 was none; see `branchline_upstream_requests_total`.
CONNECT, TIMEOUT, CUT, MALFORMED, IN_BAND = "connect", "timeout", "cut", "malformed", "in_band"
#: The same of one whose client left before there was an answer.
LEFT = "499"

#: How a run ended that another replica or process begins anew; such a turn has not ended.
GIVEN_BACK = "given_back"
#: How a response ended, or why it is not complete → why the model stopped, in the words of OpenTelemetry.
_FINISHES = {"completed": "stop", "max_output_tokens": "length", "content_filter": "content_filter"}


class Attempt:
    """One request to a model server.

    upstream: its configured name. model: as the client calls it. asked: when its body was begun to be made. sent: when
    it was sent. status: HTTP's, or one of the words above; '' while there is none. head: when the answer began.
    output: when the first of its output was told. purpose: '' for the turn's own question, `compaction`.
    span: its number in traces.
    """

    # what most never set costs nothing here
    status = ""
    head = 0.0
    output = 0.0
    ended = 0.0
    span = 0

    def __init__(self, upstream: str, model: str, asked: float, purpose: str = "") -> None:
        self.upstream = upstream
        self.model = model
        self.asked = asked
        self.purpose = purpose
        self.sent = perf_counter()

    def begin(self, status: str) -> None:
        """Note that its answer begins."""
        self.head, self.status = perf_counter(), status

    def spoil(self, status: str) -> None:
        """Note what was wrong with an answer that was a success by its HTTP status, or none; the first word counts."""
        if not self.status or self.status.startswith("2"):
            self.status = status

    def end(self, status: str = "") -> None:
        """Note that it is over. status: how, where that is not known yet."""
        if not self.ended:
            self.ended = perf_counter()
        self.status = status or self.status


class TurnRecord:
    """What is noted of a turn, or of a request that only asks a model server.

    mode, outcome: see `branchline_turns_total`. began: when the request came. opened_from, opened_at, commit_from,
    commit_at: when it was opened and written down. history: items before its input, -1 before that is known.
    history_bytes: of them. lock_seconds: how long it waited for its branch. output: when the first of its output was
    told. retries: further attempts to write it down. omitted: items that the model was not shown. usage: of the answer,
    complete. answer_model, finish: what the answer says of itself. trace: what it belongs to, None where nothing is
    traced; what only spans tell is noted only where it is sampled.
    """

    # what most never set costs nothing here
    mode = "plain"
    outcome = ""
    model = ""
    response_id = ""
    conversation_id = ""
    previous_response_id = ""
    branch = ""
    opened_from = 0.0
    opened_at = 0.0
    lock_seconds = 0.0
    history = -1
    history_bytes = 0
    output = 0.0
    commit_from = 0.0
    commit_at = 0.0
    retries = 0
    ended = 0.0
    omitted = 0
    usage: Mapping[str, Any] | None = None
    answer_model = ""
    finish = ""
    trace: Trace | None = None

    def __init__(self, mode: str = "plain", began: float = 0.0) -> None:
        self.mode = mode
        self.began = began
        self.attempts: list[Attempt] = []

    @property
    def latest(self) -> float:
        """When the latest of what is noted was over: the opening, or an attempt."""
        return self.attempts[-1].ended if self.attempts else self.opened_at

    def collecting(self) -> AbstractContextManager[None]:
        """Note what is asked of the store meanwhile, if that is traced."""
        return self.trace.collecting() if self.trace is not None else nullcontext()

    @property
    def upstream(self) -> str:
        """The name of the model server that was asked last; `none` if none was."""
        return self.attempts[-1].upstream if self.attempts else "none"

    def first_output(self) -> None:
        """Note that the first of the output is told now."""
        self.output = perf_counter()
        if self.attempts:
            self.attempts[-1].output = self.output

    def answered(self, response: Mapping[str, Any], outcome: str) -> None:
        """Take what a finished Response object says of itself; nothing of what was said in it."""
        # told last: until then a turn may move to where it belongs
        self.outcome, self.usage, self.response_id = outcome, response.get("usage"), response["id"]
        if not self.output and response.get("output"):
            self.output = self.commit_at
        if self.trace is not None and self.trace.sampled:
            model, details = response.get("model"), response.get("incomplete_details")
            self.answer_model = model if isinstance(model, str) else ""
            reason = details.get("reason") if isinstance(details, Mapping) else None
            self.finish = _FINISHES.get(str(reason or response.get("status")), "error")

    @property
    def tokens(self) -> dict[str, int]:
        """How many tokens of each type the answer says that it took; none where it says nothing."""
        usage = self.usage
        if usage is None:
            return {}
        return {
            "input": usage["input_tokens"],
            "cached": usage["input_tokens_details"]["cached_tokens"],
            "output": usage["output_tokens"],
            "reasoning": usage["output_tokens_details"]["reasoning_tokens"],
        }


@dataclass(slots=True)
class RequestNotes:
    """What is noted of one request.

    began: when it came. is_told: its line is written and it is counted. record: of the turn that it is for, or of what
    only asks the model server. trace: its place in a trace, None where nothing is traced.
    """

    began: float
    is_told: bool = False
    record: TurnRecord | None = None
    trace: Trace | None = None


def outcome_of(error: BaseException) -> str:
    """Return how a turn has ended that was not answered; see `branchline_turns_total`."""
    if isinstance(error, asyncio.CancelledError):
        return "left"
    if isinstance(error, HeavyHistory):
        return GIVEN_BACK
    if isinstance(error, Locked):
        return "locked"
    if isinstance(error, ApiError):
        return "refused" if error.status < 500 else "failed"
    is_refusal = isinstance(error, StoreError) and not isinstance(error, Unavailable)
    return "refused" if is_refusal else "failed"
