"""Spans: made of what a request has noted, once it is over, and sent by OpenTelemetry's SDK (the extra `traces`).

All `OTEL_*` variables mean what they always mean. Where `OTEL_TRACES_SAMPLER` is not set, one in a hundred of the
requests whose callers have not decided is sampled.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, ParentBasedTraceIdRatio, Sampler
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from proxy import __version__
from proxy.telemetry.records import Attempt, TurnRecord
from proxy.telemetry.traces import StoreCall, Trace

#: Share of the requests that are sampled where nobody else has decided.
DEFAULT_RATIO = 0.01
#: Seconds that sending what is left may take at the end.
FLUSH_SECONDS = 5.0

_OUTCOMES_OF_ERROR = frozenset({"failed", "conflict", "unsaved"})


class _GivenIds(RandomIdGenerator):
    """Gives the numbers that requests have told others already."""

    def __init__(self) -> None:
        self.trace_id = self.span_id = 0

    def generate_trace_id(self) -> int:
        """Return the trace that a root is made for."""
        return self.trace_id

    def new_trace_id(self) -> int:
        """Return a number that no trace has."""
        return super().generate_trace_id()

    def generate_span_id(self) -> int:
        """Return the number that was given for the next span, once; else a new one."""
        given, self.span_id = self.span_id, 0
        return given or super().generate_span_id()


class SpanTracing:
    """Decides what is sampled and makes spans. remote_parent: `traces.remote_parent`. store_url: '' if embedded."""

    def __init__(self, *, remote_parent: Literal["parent", "link"], store_url: str) -> None:
        self._links_callers = remote_parent == "link"
        self._ids = _GivenIds()
        self._sampler = _sampler()
        resource = Resource.create({SERVICE_VERSION: __version__, **_own_name()})
        # what is made is sampled: that was decided when the request came
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("branchline", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._upstreams: dict[str, dict[str, Any]] = {}
        host = urlsplit(store_url).hostname if "://" in store_url else None
        self._store = {"db.system.name": "redis" if store_url else "valkey"} | (
            {"server.address": host} if host else {}
        )

    def begin(self, headers: Mapping[str, str], *, linked: bool = False) -> Trace:
        """Return a request's place, with the decision whether it is sampled; see `Tracing`."""
        carrier = {name: value for name in ("traceparent", "tracestate") if (value := headers.get(name))}
        caller = otel.get_current_span(self._propagator.extract(carrier)).get_span_context() if carrier else None
        if caller is not None and not caller.is_valid:
            caller = None
        parent = None if linked or self._links_callers else caller
        links = (Link(caller),) if caller and not parent else ()
        trace_id = parent.trace_id if parent else self._ids.new_trace_id()
        if linked and caller:
            # what a sampled request has queued is part of its story
            sampled = caller.trace_flags.sampled
        else:
            context = otel.set_span_in_context(NonRecordingSpan(parent)) if parent else None
            result = self._sampler.should_sample(context, trace_id, "request", SpanKind.SERVER, {}, links)
            sampled = result.decision is Decision.RECORD_AND_SAMPLE
        state = parent.trace_state.to_header() if parent else ""
        return Trace(trace_id, self._ids.generate_span_id(), sampled, parent, state, links)

    def locate_upstream(self, name: str, url: str, provider: str = "") -> None:
        """Know what the spans of calls of a model server say of it; see `Tracing`."""
        host = urlsplit(url).hostname or ""
        self._upstreams[name] = {
            "gen_ai.provider.name": provider or _provider_of(host) or name,
            "branchline.upstream": name,
        } | ({"server.address": host} if host else {})

    def request_ended(self, trace: Trace, method: str, route: str, status: int, record: TurnRecord | None) -> None:
        """Make the spans of a request, if it is sampled."""
        if not trace.sampled:
            return
        attributes: dict[str, Any] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
        }
        error = str(status) if status >= 500 else ""
        self._make(trace, f"{method} {route}", SpanKind.SERVER, attributes, error, record)

    def turn_ended(self, record: TurnRecord) -> None:
        """Make the spans of a turn that is no request of its own, if it is sampled."""
        trace = record.trace
        if trace is None or not trace.sampled:
            return
        kind = SpanKind.CONSUMER if record.mode == "background" else SpanKind.SERVER
        error = record.outcome if record.outcome in _OUTCOMES_OF_ERROR else ""
        attributes = {"http.route": "/v1/responses", "branchline.outcome": record.outcome}
        self._make(trace, f"{record.mode} turn", kind, attributes, error, record)

    async def close(self) -> None:
        """Send what has not been sent, within a few seconds."""
        await asyncio.to_thread(self._provider.force_flush, int(FLUSH_SECONDS * 1000))
        await asyncio.to_thread(self._provider.shutdown)

    # --- spans ----------------------------------------------------------------------------------------------------

    def _make(
        self,
        trace: Trace,
        name: str,
        kind: SpanKind,
        attributes: dict[str, Any],
        error: str,
        record: TurnRecord | None,
    ) -> None:
        clock = time.time() - time.perf_counter()
        self._ids.trace_id, self._ids.span_id = trace.trace_id, trace.span_id
        root = self._tracer.start_span(
            name,
            context=otel.set_span_in_context(NonRecordingSpan(trace.parent)) if trace.parent else Context(),
            kind=kind,
            attributes=attributes | ({"error.type": error} if error else {}),
            links=list(trace.links),
            start_time=_ns(trace.began, clock),
        )
        if error:
            root.set_status(Status(StatusCode.ERROR))
        _Children(self._tracer, self._ids, root, clock).make(trace, record, self._store, self._upstreams)
        root.end(_ns(time.perf_counter(), clock))


class _Children:
    """The spans below one request's. clock: what is added to `perf_counter` to get Unix time."""

    def __init__(self, tracer: otel.Tracer, ids: _GivenIds, root: Span, clock: float) -> None:
        self._tracer = tracer
        self._ids = ids
        self._root = root
        self._clock = clock

    def make(
        self,
        trace: Trace,
        record: TurnRecord | None,
        store: Mapping[str, Any],
        upstreams: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Make them, in the order of time."""
        parts: list[tuple[float, float, Span]] = []
        if record is not None:
            if record.opened_at:
                opened = self._span(self._root, "turn.open", record.opened_from, record.opened_at, _open(record))
                parts.append((record.opened_from, record.opened_at, opened))
            for number, attempt in enumerate(record.attempts, 1):
                self._attempt(record, attempt, number, upstreams.get(attempt.upstream, {}))
            if record.commit_at:
                attributes = {"branchline.commit.retries": record.retries}
                commit = self._span(self._root, "turn.commit", record.commit_from, record.commit_at, attributes)
                parts.append((record.commit_from, record.commit_at, commit))
        for call in trace.calls:
            above = next((span for start, end, span in parts if start <= call.began <= end), self._root)
            self._store_call(above, call, store)

    def _attempt(self, record: TurnRecord, attempt: Attempt, number: int, upstream: Mapping[str, Any]) -> None:
        if not attempt.purpose:
            omitted = {"branchline.history.omitted": record.omitted}
            self._span(self._root, "turn.prepare", attempt.asked, attempt.sent, omitted)
        self._ids.span_id = attempt.span
        attributes = _chat(record, attempt) | {"branchline.attempt": number} | dict(upstream)
        span = self._tracer.start_span(
            f"chat {attempt.model}".rstrip(),
            context=otel.set_span_in_context(self._root),
            kind=SpanKind.CLIENT,
            attributes=attributes,
            start_time=_ns(attempt.sent, self._clock),
        )
        if attempt.output:
            span.add_event("first output", timestamp=_ns(attempt.output, self._clock))
        if attempt.status and not attempt.status.startswith("2"):
            span.set_attribute("error.type", attempt.status)
            span.set_status(Status(StatusCode.ERROR))
        span.end(_ns(attempt.ended or attempt.sent, self._clock))

    def _store_call(self, above: Span, call: StoreCall, store: Mapping[str, Any]) -> None:
        attributes = {**store, "db.operation.name": call.script}
        if call.outcome != "ok":
            attributes["error.type"] = call.outcome
        self._span(above, f"EVALSHA {call.script}", call.began, call.ended, attributes, SpanKind.CLIENT)

    def _span(
        self,
        above: Span,
        name: str,
        began: float,
        ended: float,
        attributes: Mapping[str, Any],
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> Span:
        span = self._tracer.start_span(
            name,
            context=otel.set_span_in_context(above),
            kind=kind,
            attributes=attributes,
            start_time=_ns(began, self._clock),
        )
        span.end(_ns(ended, self._clock))
        return span


def _open(record: TurnRecord) -> dict[str, Any]:
    return {
        "branchline.history.items": max(record.history, 0),
        "branchline.history.bytes": record.history_bytes,
        "branchline.lock.waited": round(record.lock_seconds, 6),
    }


def _chat(record: TurnRecord, attempt: Attempt) -> dict[str, Any]:
    """Return what a model call's span says; of the answer only on the attempt that it came from."""
    compacted = any(one.purpose == "compaction" for one in record.attempts)
    found: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": attempt.model,
        "gen_ai.request.stream": record.mode != "plain",
        "gen_ai.conversation.id": record.conversation_id,
        "gen_ai.conversation.compacted": True if compacted else None,
        "gen_ai.request.previous_response.id": record.previous_response_id,
        "branchline.branch": record.branch,
        "branchline.purpose": attempt.purpose,
    }
    if attempt.head:
        found["gen_ai.response.time_to_first_chunk"] = round((attempt.output or attempt.head) - attempt.sent, 6)
    if attempt is record.attempts[-1] and not attempt.purpose:
        tokens = record.tokens
        found |= {
            "gen_ai.response.id": record.response_id,
            "gen_ai.response.model": record.answer_model,
            "gen_ai.response.finish_reasons": [record.finish] if record.finish else None,
            "gen_ai.usage.input_tokens": tokens.get("input"),
            "gen_ai.usage.output_tokens": tokens.get("output"),
            "gen_ai.usage.cache_read.input_tokens": tokens.get("cached"),
            "gen_ai.usage.reasoning.output_tokens": tokens.get("reasoning"),
        }
    return {name: value for name, value in found.items() if value is not None and value != ""}


def _sampler() -> Sampler:
    """Return what `OTEL_TRACES_SAMPLER` names, as the SDK reads it; else our own default."""
    if os.environ.get("OTEL_TRACES_SAMPLER"):
        return TracerProvider(shutdown_on_exit=False).sampler
    ratio = os.environ.get("OTEL_TRACES_SAMPLER_ARG", "")
    try:
        return ParentBasedTraceIdRatio(float(ratio) if ratio else DEFAULT_RATIO)
    except ValueError:
        return ParentBasedTraceIdRatio(DEFAULT_RATIO)


def _own_name() -> dict[str, str]:
    """Return the name that this service has where the environment gives it none."""
    named = "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "") or os.environ.get("OTEL_SERVICE_NAME")
    return {} if named else {SERVICE_NAME: "branchline"}


def _provider_of(host: str) -> str:
    """Return the name that OpenTelemetry has for who runs a host, '' for others."""
    if host == "api.openai.com" or host.endswith(".api.openai.com"):
        return "openai"
    return "azure.ai.openai" if host.endswith(".openai.azure.com") else ""


def _ns(at: float, clock: float) -> int:
    return int((at + clock) * 1_000_000_000)
