"""Traces: what a request carries while one is made of it. Spans are made at its end, by `proxy.telemetry.spans`.

A span that is recorded takes 68 µs of a processor, one that is not takes 18. So whether a request is sampled is decided
once, at its beginning; meanwhile times are only noted; and what is not sampled has no spans.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

#: The headers of a trace (W3C Trace Context).
TRACEPARENT, TRACESTATE = "traceparent", "tracestate"


class StoreCall(NamedTuple):
    """A call of a script in the store. outcome: as in `branchline_store_calls_total`."""

    script: str
    began: float
    ended: float
    outcome: str


#: Where the store's calls of a sampled request are noted; None for any other one.
STORE_CALLS: ContextVar[list[StoreCall] | None] = ContextVar("store_calls", default=None)


@dataclass(slots=True)
class Trace:
    """One request's, or turn's, place in a trace.

    parent: the caller's span, None for a root. state: of the caller, sent on. links: what else it belongs to.
    """

    trace_id: int
    span_id: int
    sampled: bool
    parent: Any = None
    state: str = ""
    links: tuple[Any, ...] = ()
    began: float = field(default_factory=perf_counter)
    calls: list[StoreCall] = field(default_factory=list)

    @property
    def trace_id_text(self) -> str:
        """32 hex digits."""
        return f"{self.trace_id:032x}"

    @property
    def span_id_text(self) -> str:
        """16 hex digits, of the request's own span."""
        return f"{self.span_id:016x}"

    def new_span_id(self) -> int:
        """Return the number of a span that is told before it is made."""
        return random.getrandbits(64) or 1

    def headers(self, span_id: int) -> dict[str, str]:
        """Return what tells the next server that one of our spans is its parent."""
        told = {TRACEPARENT: f"00-{self.trace_id_text}-{span_id:016x}-{int(self.sampled):02x}"}
        return told | ({TRACESTATE: self.state} if self.state else {})

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Note the calls of the store that are made meanwhile, if the request is sampled."""
        if not self.sampled:
            yield
            return
        token = STORE_CALLS.set(self.calls)
        try:
            yield
        finally:
            STORE_CALLS.reset(token)
