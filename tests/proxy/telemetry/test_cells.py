"""Metric cells: counted in by one process, read by another, and gone on with by the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.telemetry import cells as module
from proxy.telemetry.cells import CELLS, Cells, ReadCells, indexes_in
from proxy.telemetry.instruments import Counter, Family, Gauge, Histogram
from proxy.telemetry.metrics import Metrics

REQUESTS = Family("requests_total", "counter", "", ("route",))
SECONDS = Family("seconds", "histogram", "", (), (1.0, 2.0))


def test_a_histogram_counts_in_buckets_with_their_upper_bound_and_sums_up():
    cells = Cells()
    histogram = Histogram(cells, SECONDS)
    for value in (0.5, 1.0, 1.5, 2.0, 7.0):
        histogram.observe(value)
    assert list(cells.values[: SECONDS.size]) == [12.0, 2.0, 2.0, 1.0]


def test_each_set_of_labels_is_a_series_of_its_own():
    cells = Cells()
    counter = Counter(cells, REQUESTS)
    counter.add("a")
    counter.add("b", by=2.0)
    counter.add("a")
    assert {labels: cells.values[first] for (_, labels), first in cells.series.items()} == {("a",): 2.0, ("b",): 2.0}
    with pytest.raises(ValueError, match="route"):
        counter.add("a", "b")


def test_a_cell_that_is_asked_for_is_told_as_nothing():
    cells = Cells()
    gauge = Gauge(cells, Family("running", "gauge", ""))
    gauge.cell()
    assert cells.series == {("running", ()): 0}
    gauge.set(3.0)
    gauge.cell()
    assert cells.values[0] == 3.0


def test_another_process_reads_what_is_counted_while_it_is(tmp_path: Path):
    counter = Counter(Cells.mapped(tmp_path, 3), REQUESTS)
    assert list(indexes_in(tmp_path)) == [3]
    counter.add("a")
    read = ReadCells(tmp_path, 3)
    first = read.series["requests_total", ("a",)]
    assert read.values[first] == 1.0
    counter.add("a")
    assert read.values[first] == 2.0


def test_the_next_process_goes_on_with_the_counters_of_the_last_but_not_with_its_gauges(tmp_path: Path):
    last = Metrics(Cells.mapped(tmp_path, 1))
    last.turns_total.add("plain", "completed", "echo", "other")
    last.turns_running.add("plain")
    last.loop_lag_seconds.observe(0.3)
    next_one = Metrics(Cells.mapped(tmp_path, 1))
    next_one.turns_total.add("plain", "completed", "echo", "other")
    next_one.turns_total.add("plain", "failed", "echo", "other")
    values, series = next_one.cells.values, next_one.cells.series
    assert values[series["turns_total", ("plain", "completed", "echo", "other")]] == 2.0
    assert values[series["turns_total", ("plain", "failed", "echo", "other")]] == 1.0
    assert values[series["turns_running", ("plain",)]] == 0.0
    lag = series["loop_lag_seconds", ()]
    assert sum(values[lag + 1 : lag + next_one.loop_lag_seconds.family.size]) == 1.0
    assert ReadCells(tmp_path, 1).series == series


def test_a_line_that_a_killed_process_has_not_finished_harms_nobody(tmp_path: Path):
    Counter(Cells.mapped(tmp_path, 1), REQUESTS).add("a")
    names = tmp_path / "1.series"
    names.write_bytes(names.read_bytes() + b'["requests_total",["b"')
    assert list(ReadCells(tmp_path, 1).series) == [("requests_total", ("a",))]
    Counter(Cells.mapped(tmp_path, 1), REQUESTS).add("c")
    assert sorted(ReadCells(tmp_path, 1).series) == [("requests_total", ("a",)), ("requests_total", ("c",))]


def test_when_all_cells_are_taken_counting_goes_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "CELLS", 4)
    cells = Cells()
    counter, histogram = Counter(cells, REQUESTS), Histogram(cells, SECONDS)
    counter.add("a")
    histogram.observe(1.0)
    counter.add("b")
    assert len(cells.values) < CELLS
    assert cells.values[0] == 2.0
