"""Metrics as Prometheus reads them: each metric once, whatever the number of processes."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics

from proxy.telemetry.cells import Cells
from proxy.telemetry.exposition import ProcessesCollector, registry_of
from proxy.telemetry.listener import MetricsListener
from proxy.telemetry.metrics import FAMILIES, NAMESPACE, Metrics
from tests.proxy.cli.scraping import Samples, samples

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
TEXT = "text/plain; version=0.0.4"

Scrape = Callable[..., tuple[str, str]]


@pytest.fixture
def scrape() -> Iterator[Scrape]:
    """Offer metrics and fetch them once; returns the content type and the text."""
    listeners: list[MetricsListener] = []

    def fetch(collector: ProcessesCollector, accept: str = TEXT, path: str = "/metrics") -> tuple[str, str]:
        listener = MetricsListener("127.0.0.1", 0, registry_of(collector))
        listeners.append(listener)
        request = urllib.request.Request(f"http://127.0.0.1:{listener.port}{path}", headers={"Accept": accept})
        with urllib.request.urlopen(request) as answer:
            return answer.headers["Content-Type"], answer.read().decode()

    yield fetch
    for listener in listeners:
        listener.close()


def value(found: Samples, name: str, **labels: str) -> float:
    return found[NAMESPACE + name, frozenset(labels.items())]


def counted(cells: Cells, number: int) -> Metrics:
    metrics = Metrics(cells)
    for _ in range(number):
        metrics.http_requests_total.add("/v1/responses", "POST", "200")
        metrics.http_request_seconds.observe(0.015, "/v1/responses")
    metrics.http_requests_running.set(float(number))
    metrics.store_up.set(float(number > 1))
    metrics.background_waiting.set(float(number))
    return metrics


def test_one_process_tells_what_it_counted(scrape: Scrape):
    metrics = counted(Cells(), 3)
    metrics.tell_build("embedded")
    kind, text = scrape(ProcessesCollector(metrics.cells))
    assert kind.startswith("text/plain; version=0.0.4")
    found = samples(text)
    assert value(found, "http_requests_total", route="/v1/responses", method="POST", status="200") == 3
    assert value(found, "http_request_seconds_bucket", route="/v1/responses", le="0.01") == 0
    assert value(found, "http_request_seconds_bucket", route="/v1/responses", le="0.02") == 3
    assert value(found, "http_request_seconds_bucket", route="/v1/responses", le="81.92") == 3
    assert value(found, "http_request_seconds_bucket", route="/v1/responses", le="+Inf") == 3
    assert value(found, "http_request_seconds_count", route="/v1/responses") == 3
    assert value(found, "http_request_seconds_sum", route="/v1/responses") == pytest.approx(0.045)
    assert [labels for name, labels in found if name == f"{NAMESPACE}build_info"]
    assert found["process_resident_memory_bytes", frozenset()] > 1e6
    assert 'branchline_turns_running{mode="stream"} 0.0' in text


def test_openmetrics_is_told_to_who_asks_for_it(scrape: Scrape):
    metrics = counted(Cells(), 2)
    kind, text = scrape(ProcessesCollector(metrics.cells), OPENMETRICS)
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")
    named = {family.name: family for family in read_openmetrics(text)}
    assert [one.value for one in named["branchline_http_requests"].samples if one.name.endswith("_total")] == [2.0]


def test_every_metric_is_told_with_its_type(scrape: Scrape):
    _, text = scrape(ProcessesCollector(Cells()))
    told = dict(line.split(" ")[2:4] for line in text.splitlines() if line.startswith("# TYPE branchline_"))
    assert told == {NAMESPACE + family.name: family.kind for family in FAMILIES}
    assert len(told) == 29
    assert set(Metrics.__annotations__) == {family.name for family in FAMILIES}


def test_only_that_path_and_only_reading(scrape: Scrape):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        scrape(ProcessesCollector(Cells()), path="/")
    listener = MetricsListener("127.0.0.1", 0, registry_of(ProcessesCollector(Cells())))
    try:
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urllib.request.urlopen(f"http://127.0.0.1:{listener.port}/metrics", data=b"x")
    finally:
        listener.close()


def of_workers(folder: Path, living: Mapping[int, int], *numbers: int) -> ProcessesCollector:
    for index, number in enumerate(numbers, 1):
        counted(Cells.mapped(folder, index), number)
    own = Metrics(Cells(), serves=False)
    own.tell_build("single")
    return ProcessesCollector(own.cells, folder, lambda: living, "supervisor")


def test_several_processes_are_one_set(scrape: Scrape, tmp_path: Path):
    living = {1: os.getpid(), 2: os.getpid()}
    _, text = scrape(of_workers(tmp_path, living, 3, 4))
    found = samples(text)
    assert value(found, "http_requests_total", route="/v1/responses", method="POST", status="200") == 7
    assert value(found, "http_request_seconds_count", route="/v1/responses") == 7
    assert value(found, "http_requests_running") == 7
    assert value(found, "background_waiting") == 4
    processes = {dict(labels)["process"] for name, labels in found if name == "process_cpu_seconds_total"}
    assert processes == {"supervisor", "1", "2"}


def test_the_dead_are_still_counted_but_do_nothing_any_more(scrape: Scrape, tmp_path: Path):
    _, text = scrape(of_workers(tmp_path, {2: os.getpid()}, 3, 4))
    found = samples(text)
    assert value(found, "http_requests_total", route="/v1/responses", method="POST", status="200") == 7
    assert value(found, "http_requests_running") == 4


def test_the_worst_of_several_processes_counts(scrape: Scrape, tmp_path: Path):
    living = {1: os.getpid(), 2: os.getpid()}
    found = samples(scrape(of_workers(tmp_path, living, 1, 4))[1])
    assert value(found, "store_up") == 0
