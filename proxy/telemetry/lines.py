"""Log lines with fields: the line of a request, of a WebSocket's turn, of a background response's run.

As text they are what `str()` of them is; as JSON `message` and `fields`. None has a body, a header, a query, a key, an
owner or the id of a conversation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxy.telemetry.records import TurnRecord
    from proxy.telemetry.traces import Trace


@dataclass(slots=True)
class RequestLine:
    """The line of one request. ms: from its beginning to the end of its answer. bytes: of the answer."""

    request_id: str
    method: str
    route: str
    status: int
    ms: float
    bytes: int
    upstream_request_id: str
    record: TurnRecord | None
    trace: Trace | None

    def __str__(self) -> str:
        return (
            f"{self.method} {self.route} {self.status} {self.ms:.1f} ms {self.bytes} bytes {self.request_id} "
            f"upstream {self.upstream_request_id}"
        )

    @property
    def message(self) -> str:
        """The line in short, beside its fields."""
        return f"{self.method} {self.route} {self.status}"

    def fields(self) -> dict[str, Any]:
        """Return what is known, by name."""
        known = {
            "request_id": self.request_id,
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "ms": round(self.ms, 1),
            "bytes": self.bytes,
        }
        return known | _of_turn(self.record, self.upstream_request_id) | _of_trace(self.trace)


@dataclass(slots=True)
class TurnLine:
    """The line of a turn that is not a request of its own. text: the whole line. ms: how long the turn took."""

    text: str
    message: str
    request_id: str
    ms: float
    upstream_request_id: str
    record: TurnRecord

    def __str__(self) -> str:
        return self.text

    def fields(self) -> dict[str, Any]:
        """Return what is known, by name."""
        known: dict[str, Any] = {"request_id": self.request_id} if self.request_id else {}
        turn = _of_turn(self.record, self.upstream_request_id)
        return known | {"ms": round(self.ms, 1)} | turn | _of_trace(self.record.trace)


def _of_turn(record: TurnRecord | None, upstream_request_id: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if record is not None:
        tokens = record.tokens
        fields = {
            "mode": record.mode if record.outcome else None,
            "outcome": record.outcome or None,
            "response_id": record.response_id or None,
            "model": record.model or None,
            "upstream": record.upstream if record.attempts else None,
        }
    fields["upstream_request_id"] = upstream_request_id if upstream_request_id != "-" else None
    if record is not None:
        fields |= {
            "attempts": len(record.attempts) or None,
            "first_output_ms": round((record.output - record.began) * 1000, 1) if record.output else None,
            "history_items": record.history if record.history >= 0 else None,
            "input_tokens": tokens.get("input"),
            "output_tokens": tokens.get("output"),
        }
    return {name: value for name, value in fields.items() if value is not None}


def _of_trace(trace: Trace | None) -> dict[str, str]:
    return {"trace_id": trace.trace_id_text, "span_id": trace.span_id_text} if trace is not None else {}
