"""Metrics of a server: made at its start, and offered on an address of their own by the process that users start.

Where there are several workers that is the supervisor, so that there is one target and one set: every worker counts in
files of its own, in a folder that the supervisor makes, and whoever is asked adds them up. So what a worker counted
outlives it, and asking takes none of its time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.telemetry.cells import Cells
from proxy.telemetry.exposition import ProcessesCollector, registry_of
from proxy.telemetry.listener import METRICS_PATH, MetricsListener
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.telemetry import Telemetry, create_telemetry
from proxy.telemetry.tracing import TelemetryUnavailable, create_tracing

if TYPE_CHECKING:
    from proxy.config.settings import Config

_STORES = {"redis+sentinel": "sentinel", "rediss+sentinel": "sentinel", "redis+cluster": "cluster"}


def start_telemetry(config: Config, cells: Cells | None = None) -> Telemetry:
    """Return the telemetry of a process that serves. cells: where it counts. Raises TelemetryUnavailable."""
    return create_telemetry(config, Metrics(cells or Cells()), create_tracing(config))


def tell_build(metrics: Metrics, config: Config) -> None:
    """Tell what serves."""
    scheme = config.redis.url.partition("://")[0]
    kind = _STORES.get(scheme.replace("rediss+cluster", "redis+cluster"), "single") if scheme else "embedded"
    metrics.tell_build(kind)


@contextmanager
def offering_metrics(
    config: Config,
    own: Cells,
    folder: Path | None = None,
    living: Callable[[], Mapping[int, int]] = dict,
    *,
    name: str = "",
) -> Iterator[str]:
    """Offer the metrics for as long as the context lasts; gives their URL, '' where they are not offered.

    own, folder, living, name: see `ProcessesCollector`. Raises TelemetryUnavailable.
    """
    host, port = config.metrics.host, config.metrics.port
    if not port:
        yield ""
        return
    try:
        listener = MetricsListener(host, port, registry_of(ProcessesCollector(own, folder, living, name)))
    except OSError as exc:
        raise TelemetryUnavailable(
            f"metrics can't be offered on {host} port {port}: {exc.strerror}; choose another metrics.port"
        ) from exc
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}{METRICS_PATH}"
    finally:
        listener.close()


@contextmanager
def cells_folder(config: Config) -> Iterator[Path | None]:
    """Give the folder in which workers count, None where metrics are not offered. Raises TelemetryUnavailable."""
    if not config.metrics.port:
        yield None
        return
    try:
        folder = tempfile.TemporaryDirectory(prefix="branchline-metrics-", ignore_cleanup_errors=True)
    except OSError as exc:
        raise TelemetryUnavailable(
            f"the metrics of several workers need a temporary folder: {exc.strerror}; set TMPDIR"
        ) from exc
    with folder as path:
        yield Path(path)
