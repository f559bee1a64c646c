"""What a running proxy has counted, read as Prometheus would."""

from __future__ import annotations

import asyncio

from aiohttp import web
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from proxy.telemetry.exposition import ProcessesCollector, registry_of
from proxy.telemetry.metrics import NAMESPACE
from proxy.telemetry.telemetry import TELEMETRY


def text_of(app: web.Application) -> str:
    """The exposition of an application that counts in its own memory."""
    return generate_latest(registry_of(ProcessesCollector(app[TELEMETRY].metrics.cells))).decode()


def number(app: web.Application, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels, among others."""
    total = 0.0
    for family in text_string_to_metric_families(text_of(app)):
        for sample in family.samples:
            if sample.name == NAMESPACE + name and labels.items() <= sample.labels.items():
                total += sample.value
    return total


def series(app: web.Application, name: str) -> list[dict[str, str]]:
    """The labels of each series of a metric that was counted."""
    return [
        dict(sample.labels)
        for family in text_string_to_metric_families(text_of(app))
        for sample in family.samples
        if sample.name == NAMESPACE + name and sample.value
    ]


async def until_number(app: web.Application, wanted: float, name: str, **labels: str) -> None:
    """Wait until a number is that: gauges of sizes are set ten times a second."""
    async with asyncio.timeout(10):
        while number(app, name, **labels) != wanted:  # noqa: ASYNC110 (a timer of the server's)
            await asyncio.sleep(0.02)
