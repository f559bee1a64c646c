"""The application: `create_app` puts configuration, services, middlewares and routes together.

Services start in the order of `CONTEXTS` and stop in the reverse. `create_runner` serves the application with
the settings that it relies on; serve it with nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from proxy.api import (
    archive,
    branches,
    compact,
    conversations,
    edits,
    health,
    input_tokens,
    items,
    openapi,
    responses,
)
from proxy.api.passthrough import pass_through
from proxy.auth.authenticators import create_authenticator
from proxy.auth.caller import AUTHENTICATOR
from proxy.background.worker import WORKER, Worker
from proxy.config.settings import Config, upstream_settings
from proxy.config.upstreams import ECHO
from proxy.context.budget import TokenBudget
from proxy.echo import create_echo_app
from proxy.http.budget import BODY_BUDGET, BodyBudget
from proxy.http.connection import ConnectionLimits, most_connections
from proxy.http.handover import COUNTED_ELSEWHERE, HEAVY_HISTORIES, HeavyHistories
from proxy.http.hosts import KNOWN_HOSTS, KnownHosts
from proxy.http.keys import CONFIG, STORE
from proxy.http.middleware import OPEN_PATHS, RUNNING, STOPPING, middlewares, signals
from proxy.http.runner import ClientRunner
from proxy.idempotency.keys import IDEMPOTENCY_KEYS, HeldKeys
from proxy.idempotency.middleware import answer_once
from proxy.page import hosting
from proxy.page.hub import HUB, Hub
from proxy.protocol.errors import method_not_allowed
from proxy.protocol.header_limits import MAX_HEADER_BYTES, MAX_HEADERS
from proxy.recording.chat import CHAT_RECORDER, ChatRecorder
from proxy.recording.recorder import RECORDER, Recorder
from proxy.runtime.leases import Leases
from proxy.runtime.reclaimer import RECLAIMER, Reclaimer
from proxy.runtime.store_watch import watching
from proxy.runtime.tasks import TASKS, Tasks
from proxy.sealing import SEALER, create_sealer
from proxy.services import SERVICES, Services
from proxy.stores import open_store
from proxy.streams.follower import FOLLOWERS, Followers
from proxy.telemetry.surveyor import SURVEYOR, Surveyor
from proxy.telemetry.telemetry import TELEMETRY, Telemetry, create_telemetry
from proxy.turns.running import TURNS, RunningTurns
from proxy.turns.slots import TurnSlots
from proxy.upstream.choice import UPSTREAMS, open_upstreams
from proxy.upstream.client import create_session
from proxy.upstream.models import MODEL_LIST, ModelList
from proxy.websocket import connection
from proxy.websocket.connections import CONNECTIONS, Connections

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable


#: Seconds that aiohttp waits for handlers, once before and once after it tells them that it stops; then it cuts.
CLEANUP_SECONDS = 0.5

log = logging.getLogger(__name__)


def create_app(config: Config, telemetry: Telemetry | None = None) -> web.Application:
    """Return the application for `config`; nothing is started or connected before it is served.

    telemetry: of this process, None for what counts in memory and traces nothing.
    """
    app = web.Application(middlewares=[*middlewares(config), answer_once])
    app[CONFIG] = config
    app[RUNNING] = set()
    app[COUNTED_ELSEWHERE] = set()
    app[STOPPING] = asyncio.Event()
    app[TASKS] = Tasks()
    app[TELEMETRY] = telemetry or create_telemetry(config)
    app[BODY_BUDGET] = BodyBudget(config.server.max_held_bytes)
    app[HEAVY_HISTORIES] = HeavyHistories()
    app[KNOWN_HOSTS] = KnownHosts.of(config)
    app[health.READINESS] = health.Readiness()
    app[openapi.OPENAPI] = openapi.read_document()
    open_paths = frozenset(route.path for route in (*health.ROUTES, *openapi.ROUTES))
    if hosting.is_served(config):
        open_paths |= hosting.add_page(app)
    app[OPEN_PATHS] = open_paths
    app.add_routes(ROUTES)
    app.on_response_prepare.extend(signals(config))
    app.on_shutdown.append(stop_turns)
    app.cleanup_ctx.extend(CONTEXTS)
    if hosting.is_served(config):
        app.cleanup_ctx.append(hosting.provide_page)
    return app


def create_runner(app: web.Application) -> web.AppRunner:
    """Return a runner for `app`.

    Bodies keep their coding (`proxy.http.body` undoes it within limits, passthrough leaves it), `proxy.http.connection`
    tells when a client leaves, and `stop_turns` has done the waiting before connections are closed.
    """
    config = app.get(CONFIG) or Config()
    server = config.server
    # It warns of the subprotocols that a client offers, and browsers' clients offer their key as one.
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
    return ClientRunner(
        app,
        shorten=responses.TURN_PATH,
        access_log=None,
        auto_decompress=False,
        logger=logging.getLogger("proxy.server"),
        keepalive_timeout=server.idle_timeout_seconds,
        limits=ConnectionLimits(
            most=min(server.max_connections, most_connections(server.max_connections)),
            head_seconds=server.header_timeout_seconds,
            unread_seconds=server.unread_seconds,
            error_format=config.errors.format,
        ),
        max_field_size=MAX_HEADER_BYTES,
        max_line_size=MAX_HEADER_BYTES,
        max_headers=MAX_HEADERS,
        shutdown_timeout=CLEANUP_SECONDS,
    )


async def provide_store(app: web.Application) -> AsyncIterator[None]:
    """Connect to Redis; without a URL start a Valkey of our own first and stop it last."""
    async with open_store(app[CONFIG], alone=True) as store, watching(store, app[TASKS]):
        app[STORE] = store
        yield


async def provide_telemetry(app: web.Application) -> AsyncIterator[None]:
    """Watch the store's calls and the event loop, and look from time to time at what nobody counts."""
    telemetry, store, elsewhere = app[TELEMETRY], app[STORE], app[COUNTED_ELSEWHERE]
    store.watch(telemetry.store_called)
    app[SURVEYOR] = surveyor = Surveyor(
        telemetry,
        store,
        {
            "http_requests_running": lambda: len(app[RUNNING] - elsewhere),
            "event_readers": lambda: len(app[FOLLOWERS]),
            "websockets": lambda: len(app[CONNECTIONS]),
        },
    )
    async with surveyor.running(app[TASKS]):
        yield
    if telemetry.tracing is not None:
        await telemetry.tracing.close()


async def provide_reclaimer(app: web.Application) -> AsyncIterator[None]:
    """Free in the background what deleted branches leave behind."""
    async with Reclaimer(app[STORE]).running(app[TASKS]) as reclaimer:
        app[RECLAIMER] = reclaimer
        yield


async def provide_idempotency_keys(app: web.Application) -> AsyncIterator[None]:
    """Keep the idempotency keys that requests hold."""
    config = app[CONFIG]
    async with HeldKeys(app[STORE], config.idempotency, config.turns.lock_lease_seconds).renewing(app[TASKS]) as keys:
        app[IDEMPOTENCY_KEYS] = keys
        yield


async def provide_upstream(app: web.Application) -> AsyncIterator[None]:
    """Open the clients of the model servers, and the session by which the authenticator fetches key sets."""
    config = app[CONFIG]
    app[SEALER] = create_sealer(config)
    async with _echo_url(config) as url, create_session(config.upstream) as session:
        app[AUTHENTICATOR] = create_authenticator(config, session)
        async with open_upstreams(config, url) as upstreams:
            app[UPSTREAMS], app[MODEL_LIST] = upstreams, ModelList(upstreams)
            for one in upstreams:
                app[TELEMETRY].locate_upstream(one.name, one.url, one.provider if one.is_named else "")
                one.watch = partial(app[TELEMETRY].note_upstream, one.name)
            yield


async def provide_turns(app: web.Application) -> AsyncIterator[None]:
    """Keep the registry of running turns."""
    config = app[CONFIG]
    leases = Leases(app[STORE], config.turns.lock_lease_seconds)
    tasks = app[TASKS]
    slots = TurnSlots.of(app[STORE].quotas, config.quotas)
    running = RunningTurns(config.server.keepalive_seconds, slots)
    async with leases.renewing(tasks), running.serving(tasks) as turns:
        app[TURNS] = turns
        app[SERVICES] = Services(
            app[STORE],
            app[UPSTREAMS],
            config,
            leases,
            app[SEALER],
            TokenBudget(config.models.windows),
            app[TELEMETRY],
        )
        yield


async def provide_recorder(app: web.Application) -> AsyncIterator[None]:
    """Record what apps send that keep their history themselves."""
    async with Recorder(app[SERVICES]).serving(app[TASKS]) as recorder:
        app[RECORDER] = recorder
        async with ChatRecorder(recorder).serving(app[TASKS]) as app[CHAT_RECORDER]:
            yield


async def provide_followers(app: web.Application) -> AsyncIterator[None]:
    """Look into the logs of events that clients follow."""
    config = app[CONFIG]
    readers = Followers(app[STORE], config.server.keepalive_seconds, ordinary_logs=config.streams.keep == "all")
    async with readers.serving(app[TASKS]) as followers:
        app[FOLLOWERS] = followers
        yield


async def provide_hub(app: web.Application) -> AsyncIterator[None]:
    """Look at what somebody watches."""
    async with Hub(app[STORE]).serving(app[TASKS]) as hub:
        app[HUB] = hub
        yield


async def provide_connections(app: web.Application) -> AsyncIterator[None]:
    """Look after WebSocket connections."""
    server, limits = app[CONFIG].server, app[CONFIG].websocket
    shortest = min(server.unread_seconds, limits.ping_seconds, limits.max_seconds)
    async with Connections(shortest).serving(app[TASKS]) as connections:
        app[CONNECTIONS] = connections
        yield


async def provide_worker(app: web.Application) -> AsyncIterator[None]:
    """Run background responses."""
    async with Worker(app[SERVICES], app[RECORDER], app[BODY_BUDGET]).serving(app[TASKS]) as worker:
        app[WORKER] = worker
        yield


async def stop(runner: web.AppRunner) -> None:
    """Stop listening, let turns and other requests finish (`stop_turns`), and end the services.

    aiohttp's own `cleanup` would begin with the connections that are idle: it reads nothing more from them and leaves
    them open, so that a client's next request would get no answer before the last turn has ended.
    """
    for site in list(runner.sites):
        await site.stop()
    if runner.server is not None:
        await stop_turns(runner.app)
    await runner.cleanup()


async def stop_turns(app: web.Application) -> None:
    """Refuse new requests; let turns and other requests finish within the configured time. What is left is cut.

    A second call does nothing.
    """
    if app[STOPPING].is_set():
        return
    app[STOPPING].set()
    seconds = app[CONFIG].server.shutdown_timeout_seconds
    start = time.monotonic()
    app[CONNECTIONS].stop()
    await asyncio.gather(app[TURNS].drain(seconds), app[WORKER].drain(seconds))
    app[FOLLOWERS].stop()
    app[HUB].stop()
    left = seconds - (time.monotonic() - start)
    # Requests of turns that have just ended are still about to return.
    await _finish(app[RUNNING], max(left, CLEANUP_SECONDS))


async def _finish(running: set[asyncio.Task[object]], seconds: float) -> None:
    if not running:
        return
    _, late = await asyncio.wait(running, timeout=seconds)
    if late:
        log.warning("stopping: %d requests are cut", len(late))


@asynccontextmanager
async def _echo_url(config: Config) -> AsyncIterator[str]:
    """Serve the built-in model on a loopback port, if it is an upstream, and give its base URL, else ''."""
    if all(one.url != ECHO for one in upstream_settings(config).values()):
        yield ""
        return
    runner = web.AppRunner(create_echo_app(), access_log=None, shutdown_timeout=CLEANUP_SECONDS)
    try:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}/v1"
    finally:
        await runner.cleanup()


def _refusals(routes: Iterable[web.RouteDef]) -> list[web.RouteDef]:
    """Return, for each path of `routes`, a route that answers every other method with 405."""
    methods: dict[str, set[str]] = {}
    for route in routes:
        methods.setdefault(route.path, set()).add(route.method)
        if route.method == hdrs.METH_GET:
            methods[route.path].add(hdrs.METH_HEAD)
    return [web.route("*", path, _refuse_method(", ".join(sorted(names)))) for path, names in methods.items()]


def _refuse_method(allowed: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def refuse(request: web.Request) -> web.StreamResponse:
        raise method_not_allowed(request.method, allowed)

    return refuse


#: What this server answers itself; what is written out before what a pattern would take it for.
_OWN = [
    *compact.ROUTES,
    *input_tokens.ROUTES,
    *responses.ROUTES,
    *connection.ROUTES,
    *conversations.ROUTES,
    *items.ROUTES,
    *branches.ROUTES,
    *edits.ROUTES,
    *archive.ROUTES,
]

#: Routes in the order of precedence.
ROUTES = [
    *health.ROUTES,
    *openapi.ROUTES,
    *_OWN,
    *_refusals(_OWN),
    web.route("*", "/v1/{tail:.*}", pass_through),
]

#: Services in the order of their start.
CONTEXTS = [
    provide_store,
    provide_reclaimer,
    provide_idempotency_keys,
    provide_upstream,
    provide_turns,
    provide_recorder,
    provide_followers,
    provide_hub,
    provide_worker,
    provide_connections,
    provide_telemetry,
]
