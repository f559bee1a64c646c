"""Writes `deploy/grafana.json`, a dashboard for Grafana over the metrics of Prometheus: python deploy/dashboard.py.

Rows follow docs/telemetry.md: what is asked, what users wait for, model servers, tokens, the store, what runs beside
requests, the process. Each panel is a title, a unit and expressions with their legends.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

PATH = Path(__file__).with_name("grafana.json")
#: Columns of a row, and the height of a panel.
COLUMNS, WIDTH, HEIGHT = 24, 8, 8

#: What every expression is narrowed to.
ALL = 'instance=~"$instance"'
UP = f'{ALL},upstream=~"$upstream"'
MODEL = f'{UP},model=~"$model"'


class Panel(NamedTuple):
    """A graph. unit: Grafana's. targets: pairs of expression and legend."""

    title: str
    unit: str
    targets: list[tuple[str, str]]


def rate(metric: str, by: str, narrowed: str = ALL) -> str:
    """Return how often something happens in a second, by labels."""
    return f"sum by ({by}) (rate(branchline_{metric}{{{narrowed}}}[$__rate_interval]))"


def quantiles(metric: str, by: str = "", narrowed: str = ALL) -> list[tuple[str, str]]:
    """Return the median, and what 5 % and 1 % are over, of a histogram."""
    labels = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    inner = f"sum by ({labels}) (rate(branchline_{metric}_bucket{{{narrowed}}}[$__rate_interval]))"
    return [(f"histogram_quantile({share}, {inner})", f"{name}{legend}") for share, name in QUANTILES]


QUANTILES = ((0.5, "50 %"), (0.95, "95 %"), (0.99, "99 %"))

CACHED = " / ".join(rate("tokens_total", "model", f'{MODEL},type="{kind}"') for kind in ("cached", "input"))

ROWS: dict[str, list[Panel]] = {
    "Traffic and errors": [
        Panel("Requests", "reqps", [(rate("http_requests_total", "route"), "{{route}}")]),
        Panel(
            "Errors",
            "reqps",
            [(rate("http_requests_total", "status", f'{ALL},status=~"[45].."'), "{{status}}")],
        ),
        Panel("Turns", "ops", [(rate("turns_total", "mode, outcome", MODEL), "{{mode}} {{outcome}}")]),
        Panel("Requests, time", "s", quantiles("http_request_seconds")),
        Panel("Requests that are answered", "short", [(f"sum(branchline_http_requests_running{{{ALL}}})", "requests")]),
        Panel("Turns that run", "short", [(f"sum by (mode) (branchline_turns_running{{{ALL}}})", "{{mode}}")]),
    ],
    "What users wait for": [
        Panel("First output", "s", quantiles("turn_first_output_seconds", "", MODEL)),
        Panel("Whole turns", "s", quantiles("turn_seconds", "", UP)),
        Panel("What Branchline adds", "s", quantiles("turn_overhead_seconds", "phase")),
    ],
    "Model servers": [
        Panel(
            "Requests", "reqps", [(rate("upstream_requests_total", "upstream, status", UP), "{{upstream}} {{status}}")]
        ),
        Panel("First byte", "s", quantiles("upstream_first_byte_seconds", "upstream", MODEL)),
        Panel("Whole attempts", "s", quantiles("upstream_seconds", "upstream", MODEL)),
        Panel("Failovers", "ops", [(rate("upstream_failovers_total", "from, to"), "{{from}} → {{to}}")]),
        Panel("Available", "short", [(f"min by (upstream) (branchline_upstream_available{{{UP}}})", "{{upstream}}")]),
    ],
    "Tokens and history": [
        Panel("Tokens", "short", [(rate("tokens_total", "type", MODEL), "{{type}} a second")]),
        Panel("Share of the input that was cached", "percentunit", [(CACHED, "{{model}}")]),
        Panel("Items before the input", "short", quantiles("history_items")),
    ],
    "Store": [
        Panel("Calls", "ops", [(rate("store_calls_total", "outcome"), "{{outcome}}")]),
        Panel("Calls by script", "ops", [(f"topk(10, {rate('store_calls_total', 'script')})", "{{script}}")]),
        Panel("Round trip", "s", quantiles("store_call_seconds")),
        Panel("Up", "short", [(f"min(branchline_store_up{{{ALL}}})", "store")]),
        Panel("Memory", "bytes", [(f"max by (kind) (branchline_store_memory_bytes{{{ALL}}})", "{{kind}}")]),
        Panel(
            "Commits tried again",
            "ops",
            [(f"sum(rate(branchline_commit_retries_total{{{ALL}}}[$__rate_interval]))", "retries")],
        ),
    ],
    "Background, events, WebSockets, repeats": [
        Panel("Waiting", "short", [(f"max(branchline_background_waiting{{{ALL}}})", "responses")]),
        Panel("Oldest", "s", [(f"max(branchline_background_oldest_seconds{{{ALL}}})", "waits for")]),
        Panel("Runs", "ops", [(rate("background_runs_total", "outcome"), "{{outcome}}")]),
        Panel(
            "Readers and WebSockets",
            "short",
            [
                (f"sum(branchline_event_readers{{{ALL}}})", "event readers"),
                (f"sum(branchline_websockets{{{ALL}}})", "WebSockets"),
            ],
        ),
        Panel("Requests that came again", "ops", [(rate("repeats_total", "kind"), "{{kind}}")]),
        Panel("Not recorded in their conversation", "ops", [(rate("recordings_missed_total", "kind"), "{{kind}}")]),
    ],
    "Process": [
        Panel("Event loop, how late", "s", quantiles("loop_lag_seconds")),
        Panel(
            "CPU",
            "short",
            [(f"sum by (instance) (rate(process_cpu_seconds_total{{{ALL}}}[$__rate_interval]))", "{{instance}}")],
        ),
        Panel("Memory", "bytes", [(f"sum by (instance) (process_resident_memory_bytes{{{ALL}}})", "{{instance}}")]),
        Panel("Open files", "short", [(f"sum by (instance) (process_open_fds{{{ALL}}})", "{{instance}}")]),
        Panel(
            "Versions",
            "short",
            [(f"sum by (version, store, python) (branchline_build_info{{{ALL}}})", "{{version}} {{store}} {{python}}")],
        ),
    ],
}

VARIABLES = (
    ("instance", "label_values(branchline_build_info, instance)"),
    ("upstream", 'label_values(branchline_upstream_available{instance=~"$instance"}, upstream)'),
    ("model", 'label_values(branchline_turns_total{instance=~"$instance"}, model)'),
)


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": _place(0, top, COLUMNS, 1),
            }
        )
        top += 1
        for place, panel in enumerate(row):
            column, line = place * WIDTH % COLUMNS, place * WIDTH // COLUMNS
            panels.append(_panel(len(panels) + 1, panel, _place(column, top + line * HEIGHT, WIDTH, HEIGHT)))
        top += -(-len(row) * WIDTH // COLUMNS) * HEIGHT
    return {
        "title": "Branchline",
        "uid": "branchline",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_DATASOURCE, *(_variable(name, query) for name, query in VARIABLES)]},
        "panels": panels,
    }


_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_DATASOURCE = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
            for place, (expression, legend) in enumerate(panel.targets)
        ],
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n", "utf-8")
