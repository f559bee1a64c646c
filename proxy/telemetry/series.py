"""Series of turns: the cells in which turns of one kind are counted, found once for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.telemetry.instruments import take_down
from proxy.telemetry.metrics import DURATIONS, Metrics
from proxy.telemetry.records import GIVEN_BACK, Attempt, TurnRecord

#: Told as 0 from the first turn on: the first of them is one too many, and shows only as a rise.
_ALARMING = ("unsaved", "conflict")


class TurnSeries:
    """Counts turns of one mode that one model server answered with one model. model: as metrics name it."""

    def __init__(self, metrics: Metrics, mode: str, upstream: str, model: str) -> None:
        self._metrics = metrics
        self._values = metrics.cells.values
        self._labels = mode, upstream, model
        self._outcomes: dict[str, int] = {}
        self._seconds = metrics.turn_seconds.cell(mode, upstream)
        self._first_output: int | None = None
        self._tokens: tuple[int, int, int, int] | None = None
        for outcome in _ALARMING:
            self._add_outcome(outcome)

    def count(self, record: TurnRecord) -> None:
        """Count a turn that has ended: how, how long it took, its tokens."""
        values, outcome, began = self._values, record.outcome, record.began
        if outcome and outcome != GIVEN_BACK:
            cell = self._outcomes.get(outcome)
            values[self._add_outcome(outcome) if cell is None else cell] += 1.0
        take_down(values, self._seconds, DURATIONS, record.ended - began)
        if record.output:
            if self._first_output is None:
                self._first_output = self._metrics.turn_first_output_seconds.cell(*self._labels[1:])
            take_down(values, self._first_output, DURATIONS, record.output - began)
        if record.usage is not None:
            self._count_tokens(record.usage)

    def _add_outcome(self, outcome: str) -> int:
        mode, upstream, model = self._labels
        cell = self._outcomes[outcome] = self._metrics.turns_total.cell(mode, outcome, upstream, model)
        return cell

    def _count_tokens(self, usage: Mapping[str, Any]) -> None:
        if self._tokens is None:
            tokens, labels = self._metrics.tokens_total, self._labels[1:]
            self._tokens = (
                tokens.cell(*labels, "input"),
                tokens.cell(*labels, "cached"),
                tokens.cell(*labels, "output"),
                tokens.cell(*labels, "reasoning"),
            )
        given, cached, made, reasoning = self._tokens
        # complete, as the answer's usage always is
        values = self._values
        values[given] += usage["input_tokens"]
        values[cached] += usage["input_tokens_details"]["cached_tokens"]
        values[made] += usage["output_tokens"]
        values[reasoning] += usage["output_tokens_details"]["reasoning_tokens"]


class AttemptSeries:
    """Counts requests for one model to one model server. model: as metrics name it."""

    def __init__(self, metrics: Metrics, upstream: str, model: str) -> None:
        self._metrics = metrics
        self._values = metrics.cells.values
        self._upstream = upstream
        self._statuses: dict[str, int] = {}
        self._seconds = metrics.upstream_seconds.cell(upstream, model)
        self._first_byte = metrics.upstream_first_byte_seconds.cell(upstream, model)

    def count(self, attempt: Attempt) -> None:
        """Count a request that is over."""
        values, status = self._values, attempt.status
        cell = self._statuses.get(status)
        if cell is None:
            cell = self._statuses[status] = self._metrics.upstream_requests_total.cell(self._upstream, status)
        values[cell] += 1.0
        take_down(values, self._seconds, DURATIONS, attempt.ended - attempt.sent)
        if attempt.head:
            take_down(values, self._first_byte, DURATIONS, attempt.head - attempt.sent)
