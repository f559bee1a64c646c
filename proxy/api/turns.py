"""A turn for an HTTP request: started, watched for its repeats, and answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import unquote_plus

from aiohttp import web

from proxy.auth.caller import CALLER
from proxy.http.body import BODY_BYTES, can_be_given, hand_over_read, leave_queue, read_json
from proxy.http.connection import client_connection
from proxy.http.delivery import HttpDelivery
from proxy.http.handover import HANDOVER, HEAVY_HISTORIES, MOST_HISTORY
from proxy.http.keys import CONFIG, NOTES, UPSTREAM_REQUEST_ID
from proxy.http.middleware import note_left, traced_headers
from proxy.http.queue import LARGE_QUEUE
from proxy.idempotency.keys import HELD_KEY
from proxy.idempotency.turns import deliver_again, find_lost_answer, keep_answer
from proxy.protocol.errors import ServiceUnavailable
from proxy.protocol.request import TurnRequest
from proxy.recording.recorder import RECORDER
from proxy.recording.turn import recording_of
from proxy.services import SERVICES
from proxy.streams.event_log import stream_log
from proxy.telemetry.records import TurnRecord
from proxy.turns.intake import require_short_settings
from proxy.turns.observer import AnsweredBefore, OnceOpen
from proxy.turns.options import TurnOptions
from proxy.turns.running import TURNS
from proxy.turns.turn import Turn
from proxy.upstream.model_call import Inbound, ModelCall
from storage import HeavyHistory, HistoryLimit

Opened = TypeVar("Opened")


def inbound_of(request: web.Request, own_query: Collection[str] = ()) -> Inbound:
    """Return what of a request goes along to the model server. own_query: parameters that are for us."""
    query = request.rel_url.raw_query_string
    if own_query:
        parts = query.split("&")
        query = "&".join(part for part in parts if unquote_plus(part.partition("=")[0]) not in own_query)
    return Inbound(traced_headers(request), query)


def note_request(request: web.Request, record: TurnRecord, *, streamed: bool = False) -> None:
    """Tie what is noted of a turn, or of what only asks the model server, to the request that it is for."""
    record.mode = "stream" if streamed else "plain"
    notes = request[NOTES]
    record.began, record.trace, notes.record = notes.began, notes.trace, record


@contextmanager
def asking(request: web.Request) -> Iterator[ModelCall]:
    """Give what asks the model server for a request that is no turn; what it has asked is counted in the end."""
    services = request.app[SERVICES]
    call = services.model_call(request[CALLER], inbound_of(request))
    note_request(request, call.record)
    leave_queue(request)
    try:
        yield call
    finally:
        request[UPSTREAM_REQUEST_ID] = call.upstream_request_id
        services.telemetry.attempts_ended(call.record)


async def read_turn_body(request: web.Request, *, allow_empty: bool = False) -> dict[str, Any]:
    """Return the JSON object that asks for a turn. Raises as `read_json`, and BadRequest (`settings_too_large`)."""
    body = await read_json(request, allow_empty=allow_empty)
    require_short_settings(request.app[CONFIG], body, request[BODY_BYTES])
    return body


async def take_here(
    request: web.Request, subject: str, attempt: Callable[[HistoryLimit | None], Awaitable[Opened]]
) -> Opened:
    """Do what opens a turn; if its history is large, give the request to another process instead, if one is there.

    subject: the conversation or response that the turn goes on with, '' for none. attempt: does it, and is told how
    much history is read here; nothing is done when it raises HeavyHistory. Raises ServiceUnavailable, and as `attempt`.
    """
    if subject and can_be_given(request):
        heavy = request.app[HEAVY_HISTORIES]
        try:
            if not heavy.know(subject):
                return await attempt(MOST_HISTORY)
        except HeavyHistory:
            heavy.remember(subject)
        await _give_away(request)
    return await attempt(None)


async def _give_away(request: web.Request) -> None:
    """Give a request whose body was read to another process, which takes its key anew; this returns if none is."""
    if (held := request.get(HELD_KEY)) is None:
        await hand_over_read(request)
    elif await request.app[HANDOVER].find(request[CALLER].owner) is not None:
        await held.release()
        await hand_over_read(request)
        message = "The process that answers requests with large histories could not take this one; please retry."
        raise ServiceUnavailable(message, code="server_busy")


async def run_turn(
    request: web.Request,
    turn_request: TurnRequest,
    options: TurnOptions | None = None,
    *,
    own_query: Collection[str] = (),
) -> web.StreamResponse:
    """Carry a turn out and return its answer. own_query: see `inbound_of`. Raises ApiError, StoreError."""
    options = options or TurnOptions()

    def run(most: HistoryLimit | None) -> Awaitable[web.StreamResponse]:
        options.most_history = most
        return _run_turn(request, turn_request, options, own_query)

    return await take_here(request, turn_request.source.subject, run)


async def _run_turn(
    request: web.Request, turn_request: TurnRequest, options: TurnOptions, own_query: Collection[str]
) -> web.StreamResponse:
    app, caller = request.app, request[CALLER]
    if (lost := await find_lost_answer(request, turn_request, options)) is not None:
        return lost
    services = app[SERVICES]
    call = services.model_call(caller, inbound_of(request, own_query))
    note_request(request, call.record, streamed=turn_request.stream)
    delivery = HttpDelivery(request, app[CONFIG].server.unread_seconds)
    log = stream_log(services, caller.owner, turn_request)
    recording = recording_of(app[RECORDER], caller.owner, request.headers, turn_request)
    keeping = keep_answer(request, turn_request, delivery, options)
    options.recording, options.resumable = recording, options.resumable or log is not None
    queued = OnceOpen(lambda: leave_queue(request)) if LARGE_QUEUE in app else None
    turn = Turn(
        services,
        call,
        turn_request,
        delivery,
        options,
        sinks=[sink for sink in (log, keeping.recording) if sink],
        observers=[observer for observer in (keeping.observer, log, queued) if observer],
    )
    if keeping.client_left:
        turn.leave()

    def leave() -> None:
        request[UPSTREAM_REQUEST_ID] = call.upstream_request_id
        turn.leave()
        note_left(request)

    connection = client_connection(request)
    cancel, connection.on_leave = connection.on_leave, leave
    try:
        result = await app[TURNS].run(turn)
    except AnsweredBefore as before:
        return await deliver_again(request, before.answer, before.claim)
    finally:
        request[UPSTREAM_REQUEST_ID] = call.upstream_request_id
        app[HEAVY_HISTORIES].note(turn_request.source.subject, call.record.history, call.record.history_bytes)
        if connection.on_leave is leave and connection.is_reset():
            # its answer would come to nobody
            leave()
        connection.on_leave = cancel if connection.on_leave is leave else None
    return await delivery.finish(result.body)
