"""Tracing: turned on by the environment, as OpenTelemetry has it; all that others know of what makes spans."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from proxy.telemetry.traces import Trace

if TYPE_CHECKING:
    from proxy.config.settings import Config
    from proxy.telemetry.records import TurnRecord

#: Any of them turns tracing on.
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

#: How they are sent, and what may ask for something else.
SPOKEN = "http/protobuf"
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


class Tracing(Protocol):
    """Begins traces, and makes their spans at their end."""

    def begin(self, headers: Mapping[str, str], *, linked: bool = False) -> Trace:
        """Return a request's place, with the decision whether it is sampled.

        headers: the caller's. linked: what they say is linked to, and not continued; it is sampled if that is.
        """
        ...

    def locate_upstream(self, name: str, url: str, provider: str = "") -> None:
        """Know what the spans of calls of a model server say of it. provider: '' for what its host tells."""
        ...

    def request_ended(self, trace: Trace, method: str, route: str, status: int, record: TurnRecord | None) -> None:
        """Make the spans of a request, if it is sampled."""
        ...

    def turn_ended(self, record: TurnRecord) -> None:
        """Make the spans of a turn that is no request of its own, if it is sampled."""
        ...

    async def close(self) -> None:
        """Send what has not been sent."""
        ...


_NEEDED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")


class TelemetryUnavailable(Exception):
    """Metrics or traces are asked for and can't be had; `str()` says why, and what to do."""


def require_tracing() -> bool:
    """Return whether the environment asks for traces. Raises TelemetryUnavailable if they can't be sent."""
    if not any(os.environ.get(name) for name in ENDPOINTS) or _is_disabled():
        return False
    if (protocol := os.environ.get(PROTOCOLS[0]) or os.environ.get(PROTOCOLS[1]) or SPOKEN) != SPOKEN:
        raise TelemetryUnavailable(f"traces are sent by {SPOKEN} only, and {PROTOCOLS[1]} asks for {protocol}")
    if not all(map(_is_installed, _NEEDED)):
        raise TelemetryUnavailable(
            f"{ENDPOINTS[1]} is set, and nothing can send traces: pip install 'branchline[traces]'"
        )
    return True


def create_tracing(config: Config) -> Tracing | None:
    """Return what makes traces, None if the environment does not ask for any. Raises TelemetryUnavailable."""
    if not require_tracing():
        return None
    from proxy.telemetry.spans import SpanTracing

    return SpanTracing(remote_parent=config.traces.remote_parent, store_url=config.redis.url)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        # what it would be in is not there either
        return False


def _is_disabled() -> bool:
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return disabled or os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
