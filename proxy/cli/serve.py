"""`branchline serve`: from a configuration to a listening server, and from a signal to its end."""

from __future__ import annotations

import asyncio
import errno
import importlib
import importlib.util
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import web

from proxy.app import create_app, create_runner
from proxy.cli.banner import render_banner
from proxy.config.validation import warnings
from proxy.http.keys import STORE
from storage.embedded import EmbeddedUnavailable

if TYPE_CHECKING:
    from proxy.config.settings import Config

logger = logging.getLogger(__name__)

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


def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT, and let the running turns finish; a second signal exits at once.

    Raises StartError.
    """
    set_up_logging(config.log.level)
    for warning in warnings(config):
        logger.warning(warning)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(config))


def set_up_logging(level: str) -> None:
    """Write one line a record to stderr: ours from `level` up, other libraries' from warnings up."""
    logging.basicConfig(
        stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING
    )
    # What no line shows need not be looked up for each (the logging cookbook's own advice).
    logging.logThreads = logging.logMultiprocessing = logging.logProcesses = False
    for package in ("proxy", "storage"):
        logging.getLogger(package).setLevel(level.upper())


async def _serve(config: Config) -> None:
    runner = create_runner(create_app(config))
    starting = asyncio.create_task(_start(runner, config))
    stop = _on_signals(starting)
    try:
        await asyncio.wait({starting})
        if not starting.cancelled():
            starting.result()
            print(_block(runner, config), flush=True)
            await stop.wait()
        logger.info("stopping")
    finally:
        await runner.cleanup()


async def _start(runner: web.AppRunner, config: Config) -> None:
    try:
        await runner.setup()
    except EmbeddedUnavailable as exc:
        raise StartError(str(exc)) from exc
    except ValueError as exc:
        # what only shows when the parts are made: a key file that is none, an algorithm that does not fit
        logger.debug("the configuration does not work", exc_info=True)
        raise StartError(str(exc), status=2) from exc
    host, port = config.server.host, config.server.port
    try:
        await web.TCPSite(runner, host, port).start()
    except socket.gaierror as exc:
        raise StartError(f"can't listen on {host}: there is no such host") from exc
    except OSError as exc:
        reason = _LISTEN_PROBLEMS.get(exc.errno or 0, exc.strerror)
        raise StartError(f"can't listen on {host} port {port}: {reason}") from exc


def _on_signals(starting: asyncio.Task[None]) -> asyncio.Event:
    """Return the event that SIGTERM and SIGINT set; they also end a start that is not finished."""
    stop = asyncio.Event()

    def receive(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        starting.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, receive, number)
    return stop


def _block(runner: web.AppRunner, config: Config) -> str:
    host, port = runner.addresses[0][:2]
    return render_banner(config, (host, port), runner.app[STORE].description)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if importlib.util.find_spec("uvloop") is None:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    return factory
