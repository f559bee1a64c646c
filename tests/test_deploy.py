"""What comes along for those who run it: dashboard, alerts and manifests, held to what there is."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from proxy.telemetry.instruments import Family
from proxy.telemetry.metrics import FAMILIES, NAMESPACE, OUTCOMES

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana.json").read_text("utf-8"))
RULES: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "alerts.yaml").read_text("utf-8"))["groups"][0]["rules"]
PAGE = (ROOT / "docs" / "telemetry.md").read_text("utf-8")

#: The library's own metrics of a process, which Prometheus's `up` is beside.
OTHERS = {
    "up": {"job"},
    "process_cpu_seconds_total": {"process"},
    "process_resident_memory_bytes": {"process"},
    "process_open_fds": {"process"},
}
#: What Prometheus itself adds to every series.
ADDED = {"instance", "job"}
FUNCTIONS = {"sum", "min", "max", "rate", "increase", "topk", "histogram_quantile", "label_values"}
WORDS = {"by", "and", "or", "ignoring"}
_SELECTOR = re.compile(r"([A-Za-z_:][\w:]*)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
_LISTS = re.compile(r"\b(by|ignoring) \(([^)]*)\)")


def known_labels() -> dict[str, set[str]]:
    """The labels of every name that may be asked for."""
    found = dict(OTHERS)
    for family in FAMILIES:
        labels = set(family.labels)
        names = {"": labels}
        if family.kind == "histogram":
            names = {"_bucket": labels | {"le"}, "_sum": labels, "_count": labels}
        found |= {NAMESPACE + family.name + suffix: has for suffix, has in names.items()}
    return found


LABELS = known_labels()


def faults(expression: str) -> list[str]:
    """What is wrong with an expression: names, labels and brackets that are none."""
    found = []
    bare = re.sub(r'"[^"]*"', '""', expression)
    if any(bare.count(left) != bare.count(right) for left, right in ("()", "[]", "{}")):
        found.append("brackets")
    metrics = {name for name, _ in _SELECTOR.findall(expression)}
    names = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", _LISTS.sub(" ", bare))
    for name in re.findall(r"[A-Za-z_:][\w:]*", names):
        if name in LABELS:
            metrics.add(name)
        elif name not in FUNCTIONS | WORDS and not (expression.startswith("label_values") and name in _all_labels()):
            found.append(f"no metric: {name}")
    for name, matchers in _SELECTOR.findall(expression):
        rest = _MATCHER.sub("", matchers).replace(",", "").strip()
        labels = {label for label, _, _ in _MATCHER.findall(matchers)}
        if rest or not labels <= LABELS.get(name, set()) | ADDED:
            found.append(f"labels of {name}: {matchers}")
    having = set().union(*(LABELS.get(name, set()) for name in metrics)) | ADDED
    for _, labels in _LISTS.findall(expression):
        if not {label.strip() for label in labels.split(",")} <= having:
            found.append(f"by {labels}")
    if re.search(r"\b(rate|increase)\((?!branchline_\w+(\{[^}]*\})?\[|process_\w+(\{[^}]*\})?\[)", expression):
        found.append("a rate without a range")
    return found


def _all_labels() -> set[str]:
    return set().union(*LABELS.values()) | ADDED


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression of the dashboard and of the alerts, with where it stands."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["definition"]
    for rule in RULES:
        yield rule["alert"], rule["expr"]


EXPRESSIONS = list(expressions())


@pytest.mark.parametrize("expression", [text for _, text in EXPRESSIONS], ids=[name for name, _ in EXPRESSIONS])
def test_expressions_ask_for_what_there_is(expression: str):
    assert faults(expression) == []


@pytest.mark.parametrize(
    "expression",
    [
        "branchline_turns",
        "sum(rate(branchline_turns_total[5m])",
        'branchline_turns_total{owner="x"}',
        "sum by (owner) (branchline_turns_total)",
        "rate(branchline_turns_total)",
        "summe(branchline_turns_total)",
        "branchline_turn_seconds",
        'branchline_turns_total{outcome=unsaved"}',
    ],
)
def test_what_is_wrong_with_an_expression_is_noticed(expression: str):
    assert faults(expression)


def test_the_dashboard_is_what_the_script_writes():
    spec = importlib.util.spec_from_file_location("dashboard", DEPLOY / "dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.dashboard() == DASHBOARD, "run `python deploy/dashboard.py`"


def test_every_metric_has_its_place_on_the_dashboard():
    text = json.dumps(DASHBOARD)
    assert [family.name for family in FAMILIES if NAMESPACE + family.name not in text] == []
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert len({(place["x"], place["y"]) for place in places}) == len(places)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
    assert all(panel["targets"] for panel in DASHBOARD["panels"] if panel["type"] != "row")


def test_alerts_say_what_is_wrong_and_outcomes_that_they_name_exist():
    assert len({rule["alert"] for rule in RULES}) == len(RULES) == 8
    for rule in RULES:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}
        for named in re.findall(r'outcome=~"([\w|]+)"', rule["expr"]):
            assert set(named.split("|")) <= set(OUTCOMES)


def rows(title: str) -> list[list[str]]:
    """The rows of the first table under a heading of the page."""
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0].partition("\n### ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines[2:]]


def labels_of(family: Family) -> str:
    return ", ".join(family.labels)


def test_the_page_names_every_metric_with_its_type_and_labels():
    told = [(name.strip("`"), kind, labels.replace("`", "")) for name, kind, labels, *_ in rows("Metrics")]
    assert told == [(family.name, family.kind, labels_of(family)) for family in FAMILIES]


def test_the_page_names_every_alert():
    assert [name.strip("`") for name, *_ in rows("Alerts")] == [rule["alert"] for rule in RULES]


#: For each alert: series, a value a minute, that make it fire at this minute, and others that don't.
FIRING: dict[str, tuple[dict[str, str], dict[str, str], int]] = {
    "BranchlineDown": ({'up{job="branchline"}': "0x20"}, {'up{job="branchline"}': "1x20"}, 3),
    "BranchlineErrors": (
        {
            'branchline_http_requests_total{status="200"}': "0+60x30",
            'branchline_http_requests_total{status="503"}': "0+6x30",
        },
        {
            'branchline_http_requests_total{status="200"}': "0+600x30",
            'branchline_http_requests_total{status="503"}': "0+6x30",
        },
        12,
    ),
    "BranchlineStoreUnavailable": ({"branchline_store_up": "0x20"}, {"branchline_store_up": "1x20"}, 2),
    "BranchlineAnswersUnsaved": (
        {'branchline_turns_total{outcome="unsaved"}': "0 0 1x20"},
        {'branchline_turns_total{outcome="completed"}': "0+9x20"},
        4,
    ),
    "BranchlineSlow": (
        {
            'branchline_loop_lag_seconds_bucket{le="0.1"}': "0+90x30",
            'branchline_loop_lag_seconds_bucket{le="0.5"}': "0+100x30",
            'branchline_loop_lag_seconds_bucket{le="+Inf"}': "0+100x30",
        },
        {
            'branchline_loop_lag_seconds_bucket{le="0.05"}': "0+100x30",
            'branchline_loop_lag_seconds_bucket{le="+Inf"}': "0+100x30",
        },
        17,
    ),
    "BranchlineUpstreamFailing": (
        {
            'branchline_upstream_requests_total{upstream="one",status="200"}': "0+60x30",
            'branchline_upstream_requests_total{upstream="one",status="connect"}': "0+30x30",
        },
        {
            'branchline_upstream_requests_total{upstream="one",status="200"}': "0+60x30",
            'branchline_upstream_requests_total{upstream="one",status="404"}': "0+30x30",
        },
        12,
    ),
    "BranchlineBackgroundStuck": (
        {"branchline_background_oldest_seconds": "601x20"},
        {"branchline_background_oldest_seconds": "599x20"},
        7,
    ),
    "BranchlineStoreFilling": (
        {
            'branchline_store_memory_bytes{kind="used"}': "90x30",
            'branchline_store_memory_bytes{kind="limit"}': "100x30",
        },
        {
            'branchline_store_memory_bytes{kind="used"}': "90x30",
            'branchline_store_memory_bytes{kind="limit"}': "0x30",
        },
        12,
    ),
}

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Prometheus")


def promtool(*arguments: object) -> str:
    """Run it; return what it says, which the test fails with."""
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_alert_has_an_example():
    assert FIRING.keys() == {rule["alert"] for rule in RULES}


@needs_promtool
@pytest.mark.parametrize("name", FIRING)
def test_an_alert_fires_when_it_should_and_not_otherwise(name: str, tmp_path: Path):
    bad, good, minute = FIRING[name]
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": _of_one(series), "values": values} for series, values in inputs.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)',
                    "eval_time": f"{minute}m",
                    "exp_samples": [{"labels": "{}", "value": fires}],
                }
            ],
        }
        for inputs, fires in ((bad, 1), (good, 0))
    ]
    (tmp_path / "alerts.yaml").write_text((DEPLOY / "alerts.yaml").read_text("utf-8"), "utf-8")
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": ["alerts.yaml"], "evaluation_interval": "15s", "tests": tests}))
    promtool("test", "rules", file)


def _of_one(series: str) -> str:
    """A series of one instance, as Prometheus has it."""
    name, brace, labels = series.partition("{")
    return f'{name}{{instance="i",{labels}' if brace else f'{name}{{instance="i"}}'


@needs_promtool
def test_prometheus_reads_every_expression_of_the_dashboard(tmp_path: Path):
    found = sorted({one for _, one in expressions() if not one.startswith("label_values")})
    ranged = [re.sub(r"\$__\w+", "5m", one) for one in found]
    rules = [{"record": f"dashboard_{number}", "expr": one} for number, one in enumerate(ranged)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)
