"""Serving process: what the single server, the supervisor and its workers have in common.

Errors of the start, the log, the event loop, signals. Imports no server: a supervisor is there in no time.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import importlib
import importlib.util
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from proxy.cli.log import JsonFormatter, LineHandler, LineRecord, TextFormatter
from proxy.stores import UnusableStore
from proxy.telemetry.tracing import TelemetryUnavailable
from storage.embedded import EmbeddedUnavailable

if TYPE_CHECKING:
    from aiohttp import web

    from proxy.config.settings import LogConfig

logger = logging.getLogger(__name__)

#: New objects after which the collector looks for circles among them. Python's own 700 are what two turns make; 5,000
#: are what 50 streams make that begin at once, which would wait for it.
COLLECT_AFTER = 10_000

_LISTEN_PROBLEMS = {
    errno.EADDRINUSE: "another program listens there; choose another --port",
    errno.EADDRNOTAVAIL: "this machine does not have that address",
    errno.EACCES: "ports below 1024 need more rights; choose another --port",
}


class StartError(Exception):
    """The server can't start; `str()` is one line for the terminal. status: what the process exits with."""

    def __init__(self, message: str, *, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def set_up_logging(config: LogConfig, *, shared: bool = False) -> None:
    """Write one line a record to stderr: ours from `log.level` up, other libraries' from warnings up.

    shared: other processes write there too, so each line has the process id behind the logger's name. A second call
    changes level and format.
    """
    process = f"[{os.getpid()}]" if shared else ""
    logging.basicConfig(handlers=[LineHandler(sys.stderr)], level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LineHandler):
            handler.setFormatter(JsonFormatter(process) if config.format == "json" else TextFormatter(process))
    # What no line shows need not be looked up for each (the logging cookbook's own advice).
    logging.logThreads = logging.logMultiprocessing = logging.logProcesses = False
    logging._srcfile = None  # noqa: SLF001 (documented there)
    logging.setLogRecordFactory(LineRecord)
    for package in ("proxy", "storage"):
        logging.getLogger(package).setLevel(config.level.upper())


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes uvloop's event loop; None where there is no uvloop, for the standard one."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    return factory


def on_signals(stop: Callable[[], None], end: Callable[[], None] = lambda: None) -> None:
    """Call `stop` at the first SIGTERM or SIGINT; at the second call `end` and exit at once, with 128 + its number."""
    stopping = False

    def receive(number: int) -> None:
        nonlocal stopping
        if stopping:
            end()
            logging.shutdown()
            os._exit(128 + number)
        stopping = True
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, receive, number)


@contextmanager
def telemetry_needed() -> Iterator[None]:
    """Raise StartError where the metrics or traces can't be had that the settings ask for."""
    try:
        yield
    except TelemetryUnavailable as exc:
        raise StartError(str(exc), status=2) from exc


async def start_services(runner: web.AppRunner) -> None:
    """Start the application's services. Raises StartError.

    What is there by then stays; what turns leave behind is freed by itself, with hardly a circle in it. So the
    collector looks for circles more seldom, and not in what stays: it takes a tenth of a turn's time otherwise.
    """
    try:
        await runner.setup()
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER)
    except (EmbeddedUnavailable, UnusableStore) as exc:
        raise StartError(str(exc)) from exc
    except ValueError as exc:
        # what only shows when the parts are made: a key file that is none, an algorithm that does not fit
        logger.debug("the configuration does not work", exc_info=True)
        raise StartError(str(exc), status=2) from exc


def listen_error(host: str, port: int, exc: OSError) -> StartError:
    """Return in plain words why it was not possible to listen on `host` and `port`."""
    if isinstance(exc, socket.gaierror):
        return StartError(f"can't listen on {host}: there is no such host")
    reason = _LISTEN_PROBLEMS.get(exc.errno or 0, exc.strerror)
    return StartError(f"can't listen on {host} port {port}: {reason}")


def ending(code: int) -> str:
    """Say how a process ended, by its exit code as asyncio has it (negative: a signal)."""
    return f"ended with status {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
