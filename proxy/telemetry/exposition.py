"""Metrics exposition: what all processes have counted, added up, as Prometheus text or OpenMetrics.

Counters and histograms of dead workers count on, their gauges do not. What the system knows of each process is told by
`prometheus_client`'s own collector, with the label `process` where there are several.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

from proxy.telemetry.cells import Cells, ReadCells, Series, indexes_in
from proxy.telemetry.instruments import Family
from proxy.telemetry.metrics import FAMILIES, NAMESPACE

_MERGES: dict[str, Callable[[Sequence[float]], float]] = {"sum": sum, "min": min, "max": max}


class _Counted(Protocol):
    @property
    def values(self) -> Sequence[float] | memoryview: ...

    @property
    def series(self) -> Mapping[Series, int]: ...


class ProcessesCollector(Collector):
    """Tells what was counted.

    own: the cells of this process. folder: where workers count, None if there are none. living: gives the processes of
    the workers that live, by index. name: what this process is called among them, '' for nothing.
    """

    def __init__(
        self,
        own: Cells,
        folder: Path | None = None,
        living: Callable[[], Mapping[int, int]] = dict,
        name: str = "",
    ) -> None:
        self._own = own
        self._folder = folder
        self._living = living
        self._name = name

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, each once."""
        living = self._living()
        sources: list[tuple[_Counted, bool]] = [(self._own, True)]
        if self._folder is not None:
            sources += [(ReadCells(self._folder, index), index in living) for index in indexes_in(self._folder)]
        for family in FAMILIES:
            yield _tell(family, sources)
        yield from _of_the_system({self._name: os.getpid(), **{str(index): one for index, one in living.items()}})


def registry_of(collector: Collector) -> CollectorRegistry:
    """Return a registry of this alone: none of the library's is used."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


def _tell(family: Family, sources: Iterable[tuple[_Counted, bool]]) -> Metric:
    rows: dict[tuple[str, ...], list[Sequence[float]]] = {}
    for counted, is_living in sources:
        if family.kind == "gauge" and not is_living:
            continue
        for (name, labels), first in list(counted.series.items()):
            if name == family.name:
                rows.setdefault(labels, []).append(list(counted.values[first : first + family.size]))
    name = NAMESPACE + family.name
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(name, family.help, labels=family.labels)
        bounds = [*map(floatToGoString, family.bounds), "+Inf"]
        for labels, several in rows.items():
            total, *buckets = map(sum, zip(*several, strict=True))
            histogram.add_metric(labels, list(zip(bounds, accumulate(buckets), strict=True)), total)
        return histogram
    if family.kind == "counter":
        counter = CounterMetricFamily(name, family.help, labels=family.labels)
        for labels, several in rows.items():
            counter.add_metric(labels, sum(value for (value,) in several))
        return counter
    gauge = GaugeMetricFamily(name, family.help, labels=family.labels)
    for labels, several in rows.items():
        gauge.add_metric(labels, _MERGES[family.merge]([value for (value,) in several]))
    return gauge


def _of_the_system(processes: Mapping[str, int]) -> Iterator[Metric]:
    """Yield `process_*`. processes: process ids by name; the name is told where there is one."""
    found: dict[str, Metric] = {}
    for name, process in processes.items():
        for metric in _process_metrics(process):
            told = found.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            for sample in metric.samples:
                told.add_sample(sample.name, {"process": name} if name else {}, sample.value)
    yield from found.values()


def _process_metrics(process: int) -> Iterable[Metric]:
    return ProcessCollector(pid=lambda: process, registry=None).collect()
