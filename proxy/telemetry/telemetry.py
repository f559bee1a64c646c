"""Telemetry of one process: what all others call, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING

from aiohttp.web import AppKey

from proxy.telemetry.cells import Cells
from proxy.telemetry.instruments import take_down
from proxy.telemetry.metrics import DURATIONS, ITEM_COUNTS, MODES, PHASES, SHORT_DURATIONS, Metrics
from proxy.telemetry.models import OTHER, KnownModels
from proxy.telemetry.records import Attempt
from proxy.telemetry.series import AttemptSeries, TurnSeries
from proxy.telemetry.traces import STORE_CALLS, StoreCall

if TYPE_CHECKING:
    from proxy.config.settings import Config
    from proxy.telemetry.records import TurnRecord
    from proxy.telemetry.tracing import Tracing

#: The telemetry of an application.
TELEMETRY: AppKey[Telemetry] = AppKey("telemetry")

#: Methods that are told; a client may send any word.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: Modes of turns that are no request of their own.
_BY_ITSELF = frozenset({"background", "websocket"})


class Telemetry:
    """Counts, and keeps what spans are made of.

    metrics: where it counts. models: which names of models it tells. tracing: None while nothing is traced.
    """

    def __init__(
        self, metrics: Metrics | None = None, models: KnownModels | None = None, tracing: Tracing | None = None
    ) -> None:
        self.metrics = metrics or Metrics(Cells())
        self.models = models or KnownModels()
        self.tracing = tracing
        self._names = self.models.names
        #: Cells of what comes up with every request or turn.
        self._values = self.metrics.cells.values
        self._requests: dict[tuple[str, str, int], tuple[int, int]] = {}
        self._turns: dict[tuple[str, str, str], TurnSeries] = {}
        self._attempts: dict[tuple[str, str], AttemptSeries] = {}
        self._calls: dict[tuple[str, str], tuple[int, int]] = {}
        self._running = {mode: self.metrics.turns_running.cell(mode) for mode in MODES}
        self._open, self._prepare, self._commit = map(self.metrics.turn_overhead_seconds.cell, PHASES)
        self._history = self.metrics.history_items.cell()
        self._store_up = self.metrics.store_up.cell()

    def locate_upstream(self, name: str, url: str, provider: str = "") -> None:
        """Know a model server that may be asked. provider: its name in traces, '' for what its host tells."""
        self.metrics.upstream_available.set(1.0, name)
        if self.tracing is not None:
            self.tracing.locate_upstream(name, url, provider)

    def note_upstream(self, name: str, is_available: bool) -> None:
        """Know whether a model server is asked in its turn."""
        self.metrics.upstream_available.set(float(is_available), name)

    def request_ended(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request. route: its pattern. seconds: to the last byte of its answer."""
        cells = self._requests.get((route, method, status))
        if cells is None:
            cells = self._find_request(route, method, status)
        self._values[cells[0]] += 1.0
        take_down(self._values, cells[1], DURATIONS, seconds)

    def _find_request(self, route: str, method: str, status: int) -> tuple[int, int]:
        metrics, told = self.metrics, method if method in _METHODS else "other"
        found = metrics.http_requests_total.cell(route, told, str(status)), metrics.http_request_seconds.cell(route)
        if told == method:
            self._requests[route, method, status] = found
        return found

    def turn_began(self, record: TurnRecord) -> None:
        """Count a turn that runs."""
        self._values[self._running[record.mode]] += 1.0

    def turn_ended(self, record: TurnRecord) -> None:
        """Count all that a turn has noted of itself."""
        values, mode, upstream = self._values, record.mode, record.upstream
        model = record.model if record.model in self._names else OTHER
        record.ended = perf_counter()
        values[self._running[mode]] -= 1.0
        series = self._turns.get((mode, upstream, model))
        if series is None:
            series = self._turns[mode, upstream, model] = TurnSeries(self.metrics, mode, upstream, model)
        series.count(record)
        if record.opened_at:
            take_down(values, self._open, SHORT_DURATIONS, record.opened_at - record.opened_from)
            take_down(values, self._history, ITEM_COUNTS, record.history)
        if record.commit_at:
            take_down(values, self._commit, SHORT_DURATIONS, record.commit_at - record.commit_from)
        if record.retries:
            self.metrics.commit_retries_total.add(by=record.retries)
        self.attempts_ended(record)
        if mode in _BY_ITSELF:
            self._end_by_itself(record)

    def _end_by_itself(self, record: TurnRecord) -> None:
        if record.outcome and record.mode == "background":
            self.metrics.background_runs_total.add(record.outcome)
        if self.tracing is not None:
            self.tracing.turn_ended(record)

    def attempts_ended(self, record: TurnRecord) -> None:
        """Count what was asked of model servers."""
        for before, after in pairwise(record.attempts):
            if before.upstream != after.upstream and before.purpose == after.purpose:
                self.metrics.upstream_failovers_total.add(before.upstream, after.upstream)
        for attempt in record.attempts:
            self._count_attempt(attempt)
            if record.outcome and not attempt.purpose:
                take_down(self._values, self._prepare, SHORT_DURATIONS, attempt.sent - attempt.asked)

    def _count_attempt(self, attempt: Attempt) -> None:
        name = attempt.upstream, attempt.model if attempt.model in self._names else OTHER
        series = self._attempts.get(name)
        if series is None:
            series = self._attempts[name] = AttemptSeries(self.metrics, *name)
        series.count(attempt)

    @contextmanager
    def attempting(self, upstream: str, ending_of: Callable[[BaseException], str]) -> Iterator[Attempt]:
        """Count a request that is passed on to a model server. ending_of: says what an exception ended it with."""
        attempt = Attempt(upstream, "", perf_counter())
        try:
            yield attempt
        except BaseException as failure:
            attempt.spoil(ending_of(failure))
            raise
        finally:
            attempt.end()
            self._count_attempt(attempt)

    def store_called(self, script: str, began: float, outcome: str) -> None:
        """Count a call of a script. began: by `perf_counter`. outcome: `ok`, `refused`, `unavailable`."""
        now, values = perf_counter(), self._values
        cells = self._calls.get((script, outcome))
        if cells is None:
            metrics = self.metrics
            cells = metrics.store_calls_total.cell(script, outcome), metrics.store_call_seconds.cell(script)
            self._calls[script, outcome] = cells
        values[cells[0]] += 1.0
        take_down(values, cells[1], SHORT_DURATIONS, now - began)
        values[self._store_up] = outcome != "unavailable"
        if self.tracing is not None and (calls := STORE_CALLS.get()) is not None:
            calls.append(StoreCall(script, began, now, outcome))


def create_telemetry(config: Config, metrics: Metrics | None = None, tracing: Tracing | None = None) -> Telemetry:
    """Return the telemetry of a process that serves with `config`. metrics: None to count in its own memory."""
    named = [model for one in config.upstreams.values() for model in one.models if not model.endswith("*")]
    known = KnownModels([*config.models.windows, config.compaction.model, *named])
    return Telemetry(metrics, known, tracing)
