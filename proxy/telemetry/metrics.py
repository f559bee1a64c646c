"""Metrics: the table of all that is counted, and the instruments of this process. docs/telemetry.md explains each.

Labels are bounded: `route` is the pattern; `upstream` the configured name; `model` one that `KnownModels` knows, else
`other`; `script` a file of ours. Never an owner, a key, a conversation, a response or the text of an error.
"""

from __future__ import annotations

import platform

from proxy import __version__
from proxy.telemetry.cells import Cells
from proxy.telemetry.instruments import Counter, Family, Gauge, Histogram

#: Before every name.
NAMESPACE = "branchline_"

#: Upper bounds of what users wait for, in seconds: as OpenTelemetry's conventions for generative AI have them.
DURATIONS = tuple(0.01 * 2**power for power in range(14))
#: The same of what should take no time: 0.25 ms to 1 s.
SHORT_DURATIONS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
#: Numbers of items.
ITEM_COUNTS = (0.0, 10.0, 100.0, 1_000.0, 10_000.0)

MODES = ("plain", "stream", "background", "websocket")
PHASES = ("open", "prepare", "commit")
OUTCOMES = (
    *("completed", "incomplete", "failed", "cancelled", "refused"),
    *("left", "locked", "conflict", "unsaved"),
)

FAMILIES = (
    Family("http_requests_total", "counter", "Requests; 499: the client left.", ("route", "method", "status")),
    Family(
        "http_request_seconds", "histogram", "From a request to the last byte of its answer.", ("route",), DURATIONS
    ),
    Family("http_requests_running", "gauge", "Requests that are being answered."),
    Family("turns_total", "counter", "Turns that have ended.", ("mode", "outcome", "upstream", "model")),
    Family("turn_seconds", "histogram", "Whole turns.", ("mode", "upstream"), DURATIONS),
    Family(
        "turn_first_output_seconds",
        "histogram",
        "From a turn's request to the first of its output.",
        ("upstream", "model"),
        DURATIONS,
    ),
    Family("turn_overhead_seconds", "histogram", "What Branchline adds to a turn.", ("phase",), SHORT_DURATIONS),
    Family("turns_running", "gauge", "Turns that run.", ("mode",)),
    Family("history_items", "histogram", "Items that were put before the input.", (), ITEM_COUNTS),
    Family(
        "tokens_total",
        "counter",
        "Tokens by the model server's own count; cached and reasoning are parts of input and output.",
        ("upstream", "model", "type"),
    ),
    Family(
        "upstream_requests_total",
        "counter",
        "Requests to a model server; connect, timeout, cut, malformed and in_band stand for what went wrong.",
        ("upstream", "status"),
    ),
    Family("upstream_seconds", "histogram", "One attempt at a model server.", ("upstream", "model"), DURATIONS),
    Family(
        "upstream_first_byte_seconds",
        "histogram",
        "From the sending of a request to the head of its answer.",
        ("upstream", "model"),
        DURATIONS,
    ),
    Family("upstream_failovers_total", "counter", "Turns that went on at another model server.", ("from", "to")),
    Family("upstream_available", "gauge", "0 while a model server is passed over.", ("upstream",), merge="min"),
    Family("store_calls_total", "counter", "Scripts called in the store.", ("script", "outcome")),
    Family("store_call_seconds", "histogram", "One round trip to the store.", ("script",), SHORT_DURATIONS),
    Family("store_up", "gauge", "1 if the store's last answer was one.", merge="min"),
    Family("store_memory_bytes", "gauge", "Memory of the store, and what it may use.", ("kind",), merge="max"),
    Family("commit_retries_total", "counter", "Further attempts to write a turn down."),
    Family("background_waiting", "gauge", "Background responses that wait for a worker.", merge="max"),
    Family("background_oldest_seconds", "gauge", "How long the oldest of them has waited.", merge="max"),
    Family("background_runs_total", "counter", "Runs of background responses.", ("outcome",)),
    Family("event_readers", "gauge", "Streams that are told again or followed."),
    Family("websockets", "gauge", "WebSocket connections that are open."),
    Family("repeats_total", "counter", "Requests that came again.", ("kind",)),
    Family("recordings_missed_total", "counter", "What was not recorded in its conversation.", ("kind",)),
    Family("loop_lag_seconds", "histogram", "How late a timer of 100 ms was.", (), SHORT_DURATIONS),
    Family("build_info", "gauge", "What runs.", ("version", "store", "python"), merge="max"),
)


class Metrics:
    """The instruments of this process, by their families' names.

    cells: what they count in. serves: it does the work itself, so that it has what is told before anything happened.
    """

    http_requests_total: Counter
    http_request_seconds: Histogram
    http_requests_running: Gauge
    turns_total: Counter
    turn_seconds: Histogram
    turn_first_output_seconds: Histogram
    turn_overhead_seconds: Histogram
    turns_running: Gauge
    history_items: Histogram
    tokens_total: Counter
    upstream_requests_total: Counter
    upstream_seconds: Histogram
    upstream_first_byte_seconds: Histogram
    upstream_failovers_total: Counter
    upstream_available: Gauge
    store_calls_total: Counter
    store_call_seconds: Histogram
    store_up: Gauge
    store_memory_bytes: Gauge
    commit_retries_total: Counter
    background_waiting: Gauge
    background_oldest_seconds: Gauge
    background_runs_total: Counter
    event_readers: Gauge
    websockets: Gauge
    repeats_total: Counter
    recordings_missed_total: Counter
    loop_lag_seconds: Histogram
    build_info: Gauge

    def __init__(self, cells: Cells, *, serves: bool = True) -> None:
        self.cells = cells
        kinds = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}
        for family in FAMILIES:
            setattr(self, family.name, kinds[family.kind](cells, family))
        if serves:
            self._begin()

    def tell_build(self, store: str) -> None:
        """Tell what runs. store: what kind of server holds the state."""
        self.build_info.set(1.0, __version__, store, platform.python_version())

    def _begin(self) -> None:
        """Forget what a dead process has left, and tell at once what has no labels."""
        gauges = {family.name for family in FAMILIES if family.kind == "gauge"}
        for (name, _), first in self.cells.series.items():
            if name in gauges:
                self.cells.values[first] = 0.0
        for family in FAMILIES:
            if not family.labels:
                getattr(self, family.name).cell()
        for mode in MODES:
            self.turns_running.cell(mode)
        for phase in PHASES:
            self.turn_overhead_seconds.cell(phase)
