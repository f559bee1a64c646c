"""Middlewares: what happens around every handler, outermost first; `middlewares` gives them in that order.

attend     gives the request its id, checks the name it came under, makes answers of exceptions, writes one line
preflight  answers CORS preflights
admit      refuses requests while the server stops, finds out who is calling
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from aiohttp import hdrs, web
from aiohttp.http import SERVER_SOFTWARE
from multidict import CIMultiDict

from proxy.auth.caller import AUTHENTICATOR, CALLER, UNPROVEN
from proxy.http.body import let_go
from proxy.http.connection import client_connection, new_request_id
from proxy.http.cors import allow_origin, preflight, require_own_origin
from proxy.http.hosts import KNOWN_HOSTS, require_known_host
from proxy.http.keys import CONFIG, NOTES, REQUEST_ID, UPSTREAM_REQUEST_ID, Handler
from proxy.http.passed import PASSED
from proxy.http.quotas import ALLOWANCE, count_request, rate_limit_headers
from proxy.http.urls import hint_for
from proxy.protocol.errors import (
    ApiError,
    BadRequest,
    InternalError,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    ServiceUnavailable,
    UnsupportedMedia,
    error_body,
)
from proxy.protocol.store_errors import from_store_error
from proxy.telemetry.lines import RequestLine
from proxy.telemetry.records import RequestNotes
from proxy.telemetry.telemetry import TELEMETRY
from proxy.telemetry.traces import STORE_CALLS, TRACESTATE
from storage import StoreError

if TYPE_CHECKING:
    from aiohttp.typedefs import Middleware

    from proxy.config.settings import Config
    from proxy.telemetry.telemetry import Telemetry
    from proxy.telemetry.tracing import Tracing

#: Called before the head of an answer is sent.
Signal: TypeAlias = Callable[[web.Request, web.StreamResponse], Awaitable[None]]

#: Written to the log for a request whose client left before the answer (nginx's number; never sent).
CLIENT_LEFT = 499

#: The status of a request that became a WebSocket.
SWITCHED = 101
#: What the route of a request that nothing answers is called in metrics and traces.
UNKNOWN_ROUTE = "unknown"

#: `SO_LINGER` on, for 0 seconds: closing the socket resets the connection.
RESET = struct.pack("ii", 1, 0)

#: Handlers' tasks, so that the server can wait for them when it stops.
RUNNING: web.AppKey[set[asyncio.Task[object]]] = web.AppKey("running")

#: Set once the server is stopping.
STOPPING: web.AppKey[asyncio.Event] = web.AppKey("stopping", asyncio.Event)

#: The answer whose head has been sent.
_STARTED: web.RequestKey[web.StreamResponse] = web.RequestKey("started")

#: Paths whose requests are told only with `log.level = "debug"`: probes ask them every few seconds.
PROBES = frozenset({"/healthz", "/readyz"})

#: Paths that need no credentials, set by `proxy.app`.
OPEN_PATHS: web.AppKey[frozenset[str]] = web.AppKey("open_paths", frozenset)

_BY_STATUS: dict[int, type[ApiError]] = {
    error.status: error for error in (NotFound, MethodNotAllowed, PayloadTooLarge, UnsupportedMedia)
}

log = logging.getLogger(__name__)


@web.middleware
async def attend(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its id, turn what goes wrong into the answer that it means, write one line when it is over.

    The line has no bodies, no headers, no query. An answer that has begun is cut instead. The handler's task is
    cancelled when the client leaves, unless the handler says what is to be done then (`ClientConnection.on_leave`).
    """
    connection, task = client_connection(request), asyncio.current_task()
    if task is None or request.transport is None:
        # the client has left before anything was done
        raise asyncio.CancelledError
    passed = connection.take_passed()
    request[REQUEST_ID] = passed.request_id if passed is not None else new_request_id()
    app = request.app
    running = app[RUNNING]
    running.add(task)
    task.add_done_callback(running.discard)
    connection.on_leave = task.cancel
    notes = request[NOTES] = RequestNotes(passed.began if passed is not None else time.perf_counter())
    if passed is not None:
        request[PASSED], notes.is_told = passed, passed.is_told
        if passed.allowance is not None:
            request[ALLOWANCE] = passed.allowance
    response: web.StreamResponse | None = None
    telemetry = app[TELEMETRY]
    tracing = telemetry.tracing
    try:
        try:
            if tracing is not None:
                _begin_trace(request, tracing)
            require_known_host(request, app.get(KNOWN_HOSTS))
            response = await handler(request)
        except Exception as exc:
            response = _answer_to(request, exc)
        return response
    finally:
        connection.on_leave = None
        let_go(request)
        if not notes.is_told:
            _write_line(request, notes, telemetry, response)
        if tracing is not None:
            _end_trace(request, response, tracing)


def note_left(request: web.Request) -> None:
    """Write the line of a request now: its client has gone, though what it asked for goes on."""
    if not (notes := request[NOTES]).is_told:
        _write_line(request, notes, request.app[TELEMETRY], None)


def traced_headers(request: web.Request) -> Mapping[str, str]:
    """Return a request's headers as they go on: with our own span as the parent, where traces are made."""
    trace = request[NOTES].trace
    if trace is None:
        return request.headers
    headers = CIMultiDict(request.headers)
    headers.popall(TRACESTATE, None)
    headers.update(trace.headers(trace.span_id))
    return headers


@web.middleware
async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Set `CALLER`, and refuse what comes in on open connections while the server stops.

    A path is open, also then, only if it is listed as such; one that does not exist needs no credentials.
    """
    if not _is_open(request):
        await let_in(request)
    return await handler(request)


async def let_in(request: web.Request) -> None:
    """Do what `admit` does for a path that is not open. Raises ApiError."""
    app = request.app
    if app[STOPPING].is_set():
        raise ServiceUnavailable("The server is stopping; please retry.")
    if request.match_info.http_exception is None:
        caller = request[CALLER] = await app[AUTHENTICATOR].authenticate(request.headers)
        if caller.owner in UNPROVEN and hdrs.ORIGIN in request.headers:
            require_own_origin(request)
        if (limit := app[CONFIG].quotas.requests_per_minute) and ALLOWANCE not in request:
            await count_request(request, caller.owner, limit)


async def mark_started(request: web.Request, response: web.StreamResponse) -> None:
    """Put the request id on every answer and remember that it has begun."""
    headers = response.headers
    headers["x-request-id"] = request.get(REQUEST_ID) or new_request_id()
    if headers.get(hdrs.SERVER) == SERVER_SOFTWARE:
        headers[hdrs.SERVER] = "branchline"
    request[_STARTED] = response
    if (allowance := request.get(ALLOWANCE)) is not None:
        headers.update(rate_limit_headers(allowance))


def middlewares(config: Config) -> list[Middleware]:
    """Return what surrounds every handler, outermost first."""
    return [attend, preflight, admit] if config.server.cors_origins else [attend, admit]


def signals(config: Config) -> list[Signal]:
    """Return what is called before the head of any answer is sent."""
    return [mark_started, allow_origin] if config.server.cors_origins else [mark_started]


def _answer_to(request: web.Request, exc: Exception) -> web.StreamResponse:
    """Return the answer that an exception means; cut one that has begun."""
    started: web.StreamResponse | None = request.get(_STARTED)
    if request[NOTES].is_told:
        # its client left long ago
        return started or web.Response(status=CLIENT_LEFT)
    if isinstance(exc, ConnectionError) and _client_left(request):
        log.debug("%s client left", request[REQUEST_ID])
        return started or web.Response(status=CLIENT_LEFT)
    error = _to_api_error(request, exc)
    if started is None:
        return _error_response(request, error)
    log.warning("%s answer cut: %s", request[REQUEST_ID], error.message)
    _cut(request, started)
    return started


def _to_api_error(request: web.Request, exc: Exception) -> ApiError:
    if isinstance(exc, ApiError):
        return exc
    if isinstance(exc, StoreError):
        return from_store_error(exc)
    if isinstance(exc, web.HTTPException):
        return _from_http(request, exc)
    log.error("%s failed", request[REQUEST_ID], exc_info=exc)
    return InternalError("The server had an error while processing your request.")


def _from_http(request: web.Request, exc: web.HTTPException) -> ApiError:
    message, path = f"{exc.reason}.", request.rel_url.raw_path
    if exc.status in (404, 405):
        hint = hint_for(path) if exc.status == 404 else ""
        message = f"Invalid URL or method ({request.method} {path}).{hint}"
    headers = {"Allow": exc.headers[hdrs.ALLOW]} if hdrs.ALLOW in exc.headers else {}
    error = _BY_STATUS.get(exc.status, BadRequest)(message, headers=headers)
    error.status = exc.status
    return error


def _error_response(request: web.Request, error: ApiError) -> web.Response:
    body = error_body(error, request[REQUEST_ID], request.app[CONFIG].errors.format)
    return web.Response(body=body, status=error.status, headers=error.headers, content_type="application/json")


def _cut(request: web.Request, response: web.StreamResponse) -> None:
    """End the connection so that the client sees that the answer is not complete."""
    if request.transport is None:
        return
    if response.headers.keys() & {hdrs.CONTENT_LENGTH, hdrs.TRANSFER_ENCODING}:
        # The framing shows that something is missing; what was received still arrives.
        request.transport.close()
        return
    # An HTTP/1.0 client (nginx by default) takes the end of the connection for the end of the answer.
    if (sock := request.transport.get_extra_info("socket")) is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    request.transport.abort()


def _write_line(
    request: web.Request, notes: RequestNotes, telemetry: Telemetry, response: web.StreamResponse | None
) -> None:
    response = response or _sent_whole(request)
    status = response.status if response is not None else CLIENT_LEFT
    seconds = time.perf_counter() - notes.began
    notes.is_told = True
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else UNKNOWN_ROUTE
    telemetry.request_ended(route, request.method, status, seconds)
    line = RequestLine(
        request[REQUEST_ID],
        request.method,
        request.rel_url.raw_path[:200] if resource is None or "{tail}" in route else route,
        status,
        seconds * 1000,
        _sent_bytes(response),
        request.get(UPSTREAM_REQUEST_ID, "-"),
        notes.record,
        notes.trace,
    )
    if route in PROBES:
        log.debug(line)
    else:
        log.info(line)


def _begin_trace(request: web.Request, tracing: Tracing) -> None:
    """Give the request its place in a trace, and note there what is asked of the store."""
    trace = request[NOTES].trace = tracing.begin(request.headers)
    STORE_CALLS.set(trace.calls if trace.sampled else None)


def _end_trace(request: web.Request, response: web.StreamResponse | None, tracing: Tracing) -> None:
    """Make the request's spans; of a WebSocket each turn has its own."""
    # the next request of the connection comes in the same context
    STORE_CALLS.set(None)
    status = response.status if response is not None else CLIENT_LEFT
    notes = request[NOTES]
    if status != SWITCHED and notes.trace is not None:
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else UNKNOWN_ROUTE
        tracing.request_ended(notes.trace, request.method, route, status, notes.record)


def _client_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _is_open(request: web.Request) -> bool:
    resource = request.match_info.route.resource
    return resource is not None and resource.canonical in request.app[OPEN_PATHS]


def _sent_whole(request: web.Request) -> web.StreamResponse | None:
    """Return the answer if all of it was sent, though its client left before the handler was done."""
    started: web.StreamResponse | None = request.get(_STARTED)
    # aiohttp counts when the end is written, and the head as well
    return started if started is not None and started.body_length else None


def _sent_bytes(response: web.StreamResponse | None) -> int:
    """Return the body's length; for a stream without one, all bytes that were sent."""
    if response is None:
        return 0
    length = response.content_length
    return response.body_length if length is None else length
