"""Telemetry of one process: what all others call, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

from aiohttp.web import AppKey

from proxy.telemetry.cells import Cells
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.models import KnownModels
from proxy.telemetry.records import GIVEN_BACK, Attempt
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

    def locate_upstream(self, name: str, url: str, provider: str = "") -> None:
        """Know a model server that may be asked. provider: its name in traces, '' for what its host tells."""
        self.metrics.upstream_available.set(1.0, name)
        if self.tracing is not None:
            self.tracing.locate_upstream(name, url, provider)

    def request_ended(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request. route: its pattern. seconds: to the last byte of its answer."""
        metrics = self.metrics
        metrics.http_requests_total.add(route, method if method in _METHODS else "other", str(status))
        metrics.http_request_seconds.observe(seconds, route)

    def turn_began(self, record: TurnRecord) -> None:
        """Count a turn that runs."""
        self.metrics.turns_running.add(record.mode)

    def turn_ended(self, record: TurnRecord) -> None:
        """Count all that a turn has noted of itself."""
        metrics, mode, upstream = self.metrics, record.mode, record.upstream
        model = self.models.label(record.model)
        now = record.ended = perf_counter()
        metrics.turns_running.add(mode, by=-1.0)
        if record.outcome and record.outcome != GIVEN_BACK:
            metrics.turns_total.add(mode, record.outcome, upstream, model)
        if record.outcome and mode == "background":
            metrics.background_runs_total.add(record.outcome)
        metrics.turn_seconds.observe(now - record.began, mode, upstream)
        if record.output:
            metrics.turn_first_output_seconds.observe(record.output - record.began, upstream, model)
        overhead = metrics.turn_overhead_seconds
        if record.opened_at:
            overhead.observe(record.opened_at - record.opened_from, "open")
            metrics.history_items.observe(record.history)
        if record.commit_at:
            overhead.observe(record.commit_at - record.commit_from, "commit")
        if record.retries:
            metrics.commit_retries_total.add(by=record.retries)
        for kind, count in record.tokens.items():
            metrics.tokens_total.add(upstream, model, kind, by=count)
        self.attempts_ended(record)
        if self.tracing is not None and mode in _BY_ITSELF:
            self.tracing.turn_ended(record)

    def attempts_ended(self, record: TurnRecord) -> None:
        """Count what was asked of model servers."""
        for attempt in record.attempts:
            self._count_attempt(attempt, is_turn=bool(record.outcome))

    def _count_attempt(self, attempt: Attempt, *, is_turn: bool) -> None:
        metrics, upstream, model = self.metrics, attempt.upstream, self.models.label(attempt.model)
        metrics.upstream_requests_total.add(upstream, attempt.status)
        metrics.upstream_seconds.observe(attempt.ended - attempt.sent, upstream, model)
        if attempt.head:
            metrics.upstream_first_byte_seconds.observe(attempt.head - attempt.sent, upstream, model)
        if is_turn and not attempt.purpose:
            metrics.turn_overhead_seconds.observe(attempt.sent - attempt.asked, "prepare")

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
            self._count_attempt(attempt, is_turn=False)

    def store_called(self, script: str, began: float, outcome: str) -> None:
        """Count a call of a script. began: by `perf_counter`. outcome: `ok`, `refused`, `unavailable`."""
        now, metrics = perf_counter(), self.metrics
        metrics.store_calls_total.add(script, outcome)
        metrics.store_call_seconds.observe(now - began, script)
        metrics.store_up.set(0.0 if outcome == "unavailable" else 1.0)
        if self.tracing is not None and (calls := STORE_CALLS.get()) is not None:
            calls.append(StoreCall(script, began, now, outcome))


def create_telemetry(config: Config, metrics: Metrics | None = None, tracing: Tracing | None = None) -> Telemetry:
    """Return the telemetry of a process that serves with `config`. metrics: None to count in its own memory."""
    return Telemetry(metrics, KnownModels([*config.models.windows, config.compaction.model]), tracing)
