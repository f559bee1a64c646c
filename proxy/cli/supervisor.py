"""Supervisor: `branchline serve` in several processes. It listens and holds the embedded Valkey; workers do the rest.

    supervisor ── Listener        accepts, passes each connection on
               ├─ EmbeddedValkey  unless there is a `redis.url`; outlives every worker
               ├─ Crew            the workers of the configuration, replaced when they die
               └─ Crews           of earlier configurations, until what they have open has ended

SIGHUP: a new crew is started with the settings as they are now and takes the new connections once it is ready; then the
old one leaves. If the settings are wrong, or the new crew can't start, nothing changes. SIGTERM and SIGINT: as in one
process. If the supervisor is killed its workers notice that and stop.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from proxy.cli.banner import render_banner
from proxy.cli.crew import Crew, Indexes
from proxy.cli.listener import Listener
from proxy.cli.orphans import OrphanReaper
from proxy.cli.process import StartError, listen_error, loop_factory, on_signals, set_up_logging, telemetry_needed
from proxy.cli.processors import worker_count
from proxy.cli.reload import keep_fixed
from proxy.config.loading import ConfigError
from proxy.config.settings import Secret
from proxy.config.validation import warnings
from proxy.config.values import describe_redis
from proxy.runtime.tasks import Tasks
from proxy.telemetry.cells import Cells
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.offering import cells_folder, offering_metrics, tell_build
from proxy.telemetry.tracing import require_tracing
from storage.embedded import EmbeddedUnavailable, EmbeddedValkey

if TYPE_CHECKING:
    import socket

    from proxy.config.settings import Config

#: Seconds beyond `server.shutdown_timeout_seconds` that workers get to stop before they are killed.
STOP_GRACE_SECONDS = 10.0
#: Seconds between two looks for orphans.
ORPHANS_SECONDS = 2.0

logger = logging.getLogger(__name__)


def supervise(config: Config, load: Callable[[], Config]) -> None:
    """Serve with several workers until SIGTERM or SIGINT, and let the running turns finish; a second one ends at once.

    load: reads the settings anew, or raises ConfigError. Raises StartError.
    """
    set_up_logging(config.log, shared=True)
    with telemetry_needed(), cells_folder(config) as folder, asyncio.Runner(loop_factory=loop_factory()) as runner:
        # said here, once, and not by every worker
        require_tracing()
        runner.run(Supervisor(config, load, folder).run())


class Supervisor:
    """One supervisor. config: what it begins with. load: reads the settings anew, or raises ConfigError.

    cells: the folder in which workers count, None if nobody asks.
    """

    def __init__(self, config: Config, load: Callable[[], Config], cells: Path | None = None) -> None:
        self._config = config
        self._load = load
        self._cells = cells
        self._metrics = Metrics(Cells(), serves=False)
        self._metrics_url = ""
        self._indexes = Indexes()
        self._embedded: EmbeddedValkey | None = None
        self._listener: Listener | None = None
        #: The crews that may have a living worker; `_crew` takes the new connections.
        self._crews: set[Crew] = set()
        self._crew: Crew | None = None
        self._orphans = OrphanReaper()
        self._reload_asked = asyncio.Event()
        self._over = asyncio.Event()
        self._failure: StartError | None = None

    async def run(self) -> None:
        """Serve until a signal says stop. Raises StartError: it can't be begun, or went wrong for good."""
        tell_build(self._metrics, self._config)
        metrics = self._metrics.cells, self._cells, self._living
        with offering_metrics(self._config, *metrics, name="supervisor") as self._metrics_url:
            await self._run()

    async def _run(self) -> None:
        starting = asyncio.create_task(self._start())

        def stop() -> None:
            self._over.set()
            starting.cancel()

        on_signals(stop, self._kill)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload_asked.set)
        try:
            await asyncio.wait({starting})
            if not starting.cancelled():
                starting.result()
                await self._stay()
            logger.info("stopping")
        finally:
            await self._stop()
        if self._failure is not None:
            raise self._failure

    async def _start(self) -> None:
        host, port = self._config.server.host, self._config.server.port
        if not self._config.redis.url:
            try:
                data = self._config.data
                self._embedded = await EmbeddedValkey.start(Path(data.dir), max_memory_bytes=data.max_memory_bytes)
            except EmbeddedUnavailable as exc:
                raise StartError(str(exc)) from exc
        self._crew = await self._start_crew(self._config)
        try:
            self._listener = await Listener.open(host, port, self._pass_on)
        except OSError as exc:
            raise listen_error(host, port, exc) from exc
        store = self._embedded.description if self._embedded else describe_redis(self._config.redis.url)
        block = render_banner(self._config, self._listener.address, store, self._crew.size, metrics=self._metrics_url)
        print(block, flush=True)

    async def _start_crew(self, config: Config) -> Crew:
        for warning in warnings(config):
            logger.warning(warning)
        size = worker_count(config.server.workers)
        cells = str(self._cells) if self._cells else ""
        crew = Crew(self._for_workers(config), size, self._indexes, self._give_up, cells)
        self._crews.add(crew)
        await crew.start()
        return crew

    def _for_workers(self, config: Config) -> Config:
        """Return the settings with the embedded Valkey as the server that all workers use."""
        if self._embedded is None:
            return config
        redis = msgspec.structs.replace(config.redis, url=Secret(self._embedded.url))
        return msgspec.structs.replace(config, redis=redis)

    def _living(self) -> dict[int, int]:
        return {index: process for crew in tuple(self._crews) for index, process in crew.processes.items()}

    def _pass_on(self, connection: socket.socket) -> bool:
        return self._crew is not None and self._crew.give(connection)

    async def _stay(self) -> None:
        tasks = Tasks()
        async with (
            tasks.steady("reloading of the configuration", self._reload_when_asked, logger),
            tasks.periodic("reaping of orphans", ORPHANS_SECONDS, self._reap_orphans, logger),
        ):
            await self._over.wait()

    async def _reap_orphans(self) -> None:
        self._orphans.reap()

    def _give_up(self, failure: StartError) -> None:
        logger.critical("giving up: %s", failure)
        self._failure = failure
        self._over.set()

    # --- reloading ------------------------------------------------------------------------------------------------

    async def _reload_when_asked(self) -> None:
        await self._reload_asked.wait()
        self._reload_asked.clear()
        if refusal := await self._reload():
            logger.error("the configuration was not reloaded, nothing has changed: %s", refusal)

    async def _reload(self) -> str | None:
        """Return why nothing was changed; None if everything was."""
        logger.info("reloading the configuration")
        try:
            config, fixed = keep_fixed(self._config, self._load())
            crew = await self._start_crew(config)
        except (ConfigError, StartError) as exc:
            return str(exc)
        for name in fixed:
            logger.warning("%s changes only with a restart", name)
        set_up_logging(config.log, shared=True)
        self._config, self._crew, former = config, crew, self._crew
        if former is not None:
            former.leave()
        self._crews = {each for each in self._crews if each is crew or each.has_members}
        logger.info("the configuration was reloaded; workers: %d", crew.size)
        return None

    # --- stopping -------------------------------------------------------------------------------------------------

    async def _stop(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for crew in self._crews:
            crew.stop()
        seconds = max((crew.config.server.shutdown_timeout_seconds for crew in self._crews), default=0.0)
        try:
            async with asyncio.timeout(seconds + STOP_GRACE_SECONDS):
                await self._wait_for_crews()
        except TimeoutError:
            logger.warning("stopping: workers that have not ended are killed")
            self._kill()
            await self._wait_for_crews()
        if self._embedded is not None:
            await self._embedded.stop()

    def _kill(self) -> None:
        for crew in self._crews:
            crew.kill()

    async def _wait_for_crews(self) -> None:
        for crew in self._crews:
            await crew.wait()
