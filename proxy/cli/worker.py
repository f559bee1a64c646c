"""Worker: one of several processes that serve on one port; takes the connections that the supervisor passes on.

It ends in one of two ways. Told to stop, by a signal too, or when its supervisor has died, it does what a single
process does. Told to leave, because others take its place, it does what is left on its connections, however long that
takes, and asks the clients to open new ones; those that stay silent are closed in the end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Any

from aiohttp import hdrs, web

from proxy.app import create_app, create_runner, stop
from proxy.background.worker import WORKER
from proxy.cli.bulk import BulkWorkers
from proxy.cli.intake import Intake
from proxy.cli.messages import CHANNEL_VARIABLE, Assignment, BulkProcesses, Failed, Ready, read_assignment
from proxy.cli.process import StartError, loop_factory, on_signals, set_up_logging, start_services
from proxy.http.connection import client_connection
from proxy.http.middleware import RUNNING
from proxy.http.queue import LARGE_QUEUE, LargeQueue
from proxy.http.runner import ClientServer
from proxy.runtime.tasks import TASKS
from proxy.telemetry.cells import Cells
from proxy.telemetry.offering import start_telemetry
from proxy.turns.running import TURNS
from proxy.websocket.connections import CONNECTIONS

#: Seconds that a connection may be silent before a worker that leaves closes it: longer than clients and reverse
#: proxies keep one that they do not use (nginx 60 s, Go 90 s), so that it is not closed under a request on its way.
SILENT_SECONDS = 100.0
#: How much lower the priority of a bulk worker is.
BULK_NICENESS = 10
#: Seconds between two looks at what is left.
LEAVING_PAUSE = 0.1

logger = logging.getLogger(__name__)


def work() -> int:
    """Be a worker until told otherwise; return the exit status."""
    # meant for the supervisor: one that is sent to all processes must not end its workers
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if not (assignment := sys.stdin.buffer.read()):
        # the supervisor has died already
        return 1
    assigned = read_assignment(assignment)
    set_up_logging(assigned.config.log, shared=True)
    with (
        socket.socket(fileno=int(os.environ.pop(CHANNEL_VARIABLE))) as channel,
        asyncio.Runner(loop_factory=loop_factory()) as runner,
    ):
        channel.set_inheritable(False)
        channel.settimeout(0)
        return runner.run(_work(assigned, channel))


async def _work(assigned: Assignment, channel: socket.socket) -> int:
    leaving, stopping = asyncio.Event(), asyncio.Event()
    cells = Cells.mapped(Path(assigned.cells), assigned.index) if assigned.cells else Cells()
    app = create_app(assigned.config, start_telemetry(assigned.config, cells))
    bulk = BulkWorkers(
        assigned.config, assigned.index, assigned.cells, lambda found: intake.tell(BulkProcesses(dict(found)))
    )
    app.cleanup_ctx.append(bulk.provide)
    app.on_response_prepare.append(_ask_to_reconnect(lambda: assigned.is_bulk or leaving.is_set()))
    if assigned.is_bulk:
        app.on_response_prepare.append(_note_answer)
        app[LARGE_QUEUE] = LargeQueue()
    runner = create_runner(app)
    starting = asyncio.create_task(start_services(runner))

    def begin_stop() -> None:
        leaving.set()
        stopping.set()
        starting.cancel()
        bulk.stop()

    def begin_leaving() -> None:
        leaving.set()
        bulk.leave()

    on_signals(begin_stop)
    intake = Intake(channel, leave=begin_leaving, stop=begin_stop)
    try:
        await asyncio.wait({starting})
        if not starting.cancelled():
            starting.result()
            if assigned.is_bulk:
                # those in the background are others' to take from the queue; whoever else has work goes first
                await app[WORKER].drain(None)
                app[WORKER].queue = app[LARGE_QUEUE]
                os.nice(BULK_NICENESS)
            async with intake.taking(_server(runner), app[WORKER].take_over, app[TASKS]):
                intake.tell(Ready())
                await leaving.wait()
                if not stopping.is_set():
                    await _until(stopping, _leave(runner, bulk))
    except StartError as exc:
        intake.tell(Failed(str(exc), exc.status))
        return exc.status
    finally:
        await stop(runner)
    return 0


def _server(runner: web.AppRunner) -> ClientServer:
    if not isinstance(runner.server, ClientServer):
        raise RuntimeError("the application was not set up")
    return runner.server


async def _until(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do `work` to its end, or until the event is set."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        waiting.cancel()
        await asyncio.wait({working, waiting})
    if not working.cancelled():
        working.result()


async def _leave(runner: web.AppRunner, bulk: BulkWorkers) -> None:
    """Wait for the end of everything that this process has begun or that is still asked of it."""
    logger.info("others take new connections; leaving when what is open here has ended")
    app = runner.app
    await asyncio.gather(app[WORKER].drain(None), _finish_requests(app, _server(runner)))
    await asyncio.gather(app[TURNS].drain(None), bulk.wait())
    logger.info("left")


async def _finish_requests(app: web.Application, server: web.Server) -> None:
    silent_until = time.monotonic() + SILENT_SECONDS
    while app[RUNNING] or (server.connections and time.monotonic() < silent_until):
        # also those that were upgraded just now, on a connection that was open
        app[CONNECTIONS].stop()
        await asyncio.sleep(LEAVING_PAUSE)


async def _note_answer(request: web.Request, _: web.StreamResponse) -> None:
    """Tell who has given a request away that its answer begins."""
    client_connection(request).note_answer()


def _ask_to_reconnect(is_due: Callable[[], bool]) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Return what has every answer, while that is due, tell its client that its connection ends with it."""

    async def ask(_: web.Request, response: web.StreamResponse) -> None:
        if is_due() and response.status != HTTPStatus.SWITCHING_PROTOCOLS:
            response.headers[hdrs.CONNECTION] = "close"
            response.force_close()

    return ask
