"""`branchline serve` in one process: from a configuration to a listening server, and from a signal to its end."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from aiohttp import web

from proxy.app import create_app, create_runner, stop
from proxy.cli.banner import render_banner
from proxy.cli.bulk import BulkWorkers
from proxy.cli.process import listen_error, loop_factory, on_signals, set_up_logging, start_services, telemetry_needed
from proxy.config.validation import warnings
from proxy.http.keys import STORE
from proxy.telemetry.offering import cells_folder, offering_metrics, start_telemetry, tell_build

if TYPE_CHECKING:
    from proxy.config.settings import Config

logger = logging.getLogger(__name__)


def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT, and let the running turns finish; a second signal exits at once.

    Raises StartError.
    """
    set_up_logging(config.log)
    for warning in warnings(config):
        logger.warning(warning)
    with telemetry_needed(), asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(config))


async def _serve(config: Config) -> None:
    telemetry = start_telemetry(config)
    tell_build(telemetry.metrics, config)
    with cells_folder(config) as folder:
        bulk = BulkWorkers(config, cells=str(folder or ""))
        with offering_metrics(config, telemetry.metrics.cells, folder, lambda: bulk.processes) as metrics_url:
            app = create_app(config, telemetry)
            app.cleanup_ctx.append(bulk.provide)
            await _run(create_runner(app), config, metrics_url, bulk)


async def _run(runner: web.AppRunner, config: Config, metrics_url: str, bulk: BulkWorkers) -> None:
    starting = asyncio.create_task(_start(runner, config))
    stopping = asyncio.Event()

    def begin_stop() -> None:
        stopping.set()
        starting.cancel()
        bulk.stop()

    on_signals(begin_stop)
    try:
        await asyncio.wait({starting})
        if not starting.cancelled():
            starting.result()
            print(_block(runner, config, metrics_url), flush=True)
            await stopping.wait()
        logger.info(
            "stopping; running turns get %g s, a second signal ends at once", config.server.shutdown_timeout_seconds
        )
    finally:
        await stop(runner)
        logger.info("stopped; what was answered is stored")


async def _start(runner: web.AppRunner, config: Config) -> None:
    await start_services(runner)
    host, port = config.server.host, config.server.port
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as exc:
        raise listen_error(host, port, exc) from exc


def _block(runner: web.AppRunner, config: Config, metrics_url: str) -> str:
    host, port = runner.addresses[0][:2]
    return render_banner(config, (host, port), runner.app[STORE].description, metrics=metrics_url)
