"""WebSocket mode: `GET /v1/responses` with an upgrade. Many turns on one connection, each asked upstream over HTTP.

    message → lane → turn → SSE frames → messages

A lane's turns run one after the other, lanes beside each other. What an unstored response ended with is known on its
connection alone, for as long as it is the latest of its lane.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from aiohttp import WSCloseCode, WSMsgType, hdrs, web

from proxy.auth.caller import AUTHENTICATOR, CALLER, Caller
from proxy.http.budget import BODY_BUDGET
from proxy.http.handover import HANDOVER, MOST_HISTORY, counted_elsewhere, is_heavy
from proxy.http.json_body import parse_body
from proxy.http.keys import CONFIG, NOTES, REQUEST_ID
from proxy.http.passed import PASSED
from proxy.http.queue import LARGE_QUEUE, large_turn
from proxy.http.quotas import count_request
from proxy.protocol.errors import (
    ApiError,
    InternalError,
    ServiceUnavailable,
    Unauthorized,
    UpgradeRequired,
    method_not_allowed,
)
from proxy.protocol.store_errors import from_store_error
from proxy.recording.recorder import RECORDER
from proxy.recording.turn import recording_of
from proxy.services import SERVICES
from proxy.streams.event_log import stream_log
from proxy.telemetry.lines import TurnLine
from proxy.telemetry.records import GIVEN_BACK
from proxy.telemetry.telemetry import TELEMETRY
from proxy.turns.continuation import Continuation
from proxy.turns.intake import require_short_settings, take_in
from proxy.turns.observer import OnceOpen
from proxy.turns.running import TURNS
from proxy.turns.turn import Turn
from proxy.upstream.model_call import Inbound
from proxy.websocket.cache import ContinuationCache
from proxy.websocket.connections import CONNECTIONS
from proxy.websocket.delivery import WebSocketDelivery
from proxy.websocket.lanes import Lanes
from proxy.websocket.messages import (
    CREATE,
    STEER,
    error_message,
    read_create,
    read_lane,
    steer_failed,
    too_many_lanes,
    too_old,
    unknown_type,
)
from proxy.websocket.passage import Passage
from proxy.websocket.socket import CLOSE_SECONDS, Socket, headers_of_turns
from proxy.websocket.tunnel import COUNTED, lanes_in
from storage import HeavyHistory, HistoryLimit, StoreError

if TYPE_CHECKING:
    from proxy.protocol.request import TurnRequest
    from proxy.upstream.model_call import ModelCall

#: The same while the server stops: aiohttp then reads nothing more, so no answer can be heard.
LAST_CLOSE_SECONDS = 0.1
#: Requests of one connection that wait before no more is read from it.
MAX_WAITING = 64

#: A message asking for a turn, parsed and as it came, the bytes of room for bodies that it has, whether it is counted.
_Asked: TypeAlias = tuple[Mapping[str, Any], bytes, int, bool]

logger = logging.getLogger(__name__)


async def open_websocket(request: web.Request) -> web.StreamResponse:
    """GET /v1/responses: a WebSocket, or 426, on which clients fall back to HTTP; there is no list, so else 405."""
    if request.headers.get(hdrs.UPGRADE, "").lower() != "websocket":
        raise method_not_allowed(request.method, "POST")
    config = request.app[CONFIG]
    if not config.websocket.enabled:
        raise UpgradeRequired("WebSocket mode is not enabled on this server. Use HTTP.")
    socket = Socket(config.server.max_json_bytes, compress=config.websocket.compression)
    await socket.prepare(request)
    connection = Connection(request, socket)
    # one that another process has passed on is open there too
    is_double = request[NOTES].is_told
    with (
        request.app[CONNECTIONS].holding(connection, is_counted=not is_double),
        counted_elsewhere(request, is_so=is_double),
    ):
        await connection.serve()
    return socket


class Connection:
    """One client's connection."""

    def __init__(self, request: web.Request, socket: Socket) -> None:
        self.socket = socket
        self._request = request
        self._config = request.app[CONFIG]
        self._inbound = Inbound(headers_of_turns(request), request.rel_url.raw_query_string)
        self._heard = self._sent = self._pinged = time.monotonic()
        self._opened = self._heard - (time.perf_counter() - request[NOTES].began)
        self._full = self._ending = False
        #: Why the connection has to end, where that is not the server's end.
        self._over: ApiError | None = None
        self._closing: asyncio.Task[None] | None = None
        self._passage = Passage(request, socket, self.send)
        #: Whether the next message is counted already.
        self._is_counted = False
        self._names: set[str] = set()
        self._cache = ContinuationCache(self._config.websocket.max_cache_bytes)
        self._budget = request.app[BODY_BUDGET]
        self._queue = request.app.get(LARGE_QUEUE)
        #: Bytes of it that messages have taken which wait or are being answered.
        self._held = 0
        self._running: dict[str, tuple[Turn, TurnRequest]] = {}
        self._lanes: Lanes[_Asked] = Lanes(
            self._answer,
            self._rest,
            max_running=self._config.websocket.max_in_flight,
            max_waiting=MAX_WAITING,
            max_waiting_bytes=self._config.server.max_json_bytes,
        )

    async def serve(self) -> None:
        """Take messages until the connection ends, then let its turns know that their client has gone."""
        try:
            while (data := await self._receive()) is not None:
                if not await self._pass_on(data):
                    await self._take(data)
        finally:
            await self._lanes.end()
            self._let_go(self._held)
            await self._passage.end()
            if self._closing is not None:
                await asyncio.gather(self._closing, return_exceptions=True)

    async def send(self, messages: Iterable[bytes]) -> bool:
        """Send messages in order; return whether the client is there."""
        self._sent = time.monotonic()
        try:
            for message in messages:
                await self.socket.send_frame(message, WSMsgType.TEXT)
        except ConnectionError:
            return False
        return True

    async def watch(self, now: float) -> None:
        """Ping a silent client; cut off one that is gone or does not read; end a connection that is too old."""
        limits, transport = self._config.websocket, self._request.transport
        if transport is None:
            return
        if self._passage.is_open:
            # its end is looked for there
            pass
        elif now - self._opened >= limits.max_seconds:
            self._expire(too_old(limits.max_seconds))
        elif time.time() >= self._request[CALLER].expires_at:
            self._expire(Unauthorized())
        unread = self._config.server.unread_seconds
        if transport.get_write_buffer_size():
            lost = now - self._sent >= unread
        else:
            lost = not self._full and now - self._heard >= limits.ping_seconds + unread
            if now - max(self._heard, self._pinged) >= limits.ping_seconds:
                self._pinged = now
                with suppress(ConnectionError):
                    await self.socket.ping()
        if lost:
            logger.info("a WebSocket client that does not read is cut off")
            transport.abort()

    def end(self) -> None:
        """Close the connection as soon as its running turns are over; nothing new is begun on it."""
        self._ending = True
        if self._lanes.idle:
            self._rest()

    def _expire(self, reason: ApiError) -> None:
        self._over = self._over or reason
        self.end()

    def _rest(self) -> None:
        if self._ending and self._closing is None and not self._passage.is_open:
            self._closing = asyncio.create_task(self._close())

    async def _close(self) -> None:
        if self._over:
            await self.send([error_message(self._over)])
        code = WSCloseCode.POLICY_VIOLATION if isinstance(self._over, Unauthorized) else WSCloseCode.GOING_AWAY
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS if self._over else LAST_CLOSE_SECONDS):
                await self.socket.close(code=code)

    async def _receive(self) -> bytes | None:
        """Return the next message; None when the connection has ended."""
        while True:
            self._full = True
            await self._lanes.room()
            self._full, self._heard = False, time.monotonic()
            message = await self.socket.receive()
            self._heard = time.monotonic()
            match message.type:
                case WSMsgType.TEXT | WSMsgType.BINARY:
                    data: bytes = message.data
                    return data
                case WSMsgType.PING:
                    with suppress(ConnectionError):
                        await self.socket.pong(message.data)
                case WSMsgType.PONG:
                    self._is_counted = message.data == COUNTED and PASSED in self._request
                case _:
                    return None

    async def _pass_on(self, data: bytes) -> bool:
        """Give a message to another process if it is large, or if one before it was; return whether that is done.

        What continues a response that only this process knows is not given away.
        """
        if not (self._passage.is_open or is_heavy(data)) or self._cache.is_named_in(data):
            return False
        if not (self._passage.is_open or (not self._ending and await self._passage.open())):
            return False
        held, self._full = 0, True
        try:
            held = await self._budget.take(len(data), self._request[CALLER].owner)
            self._held += held
            # what a lane has begun here comes before what it goes on with there
            await self._lanes.until_over(lanes_in(data))
            await self._passage.send(data)
        except ApiError as refusal:
            await self.send([error_message(refusal)])
        finally:
            self._let_go(held)
        return True

    async def _take(self, data: bytes) -> None:
        lane, held, self._full = "", 0, True
        is_counted, self._is_counted = self._is_counted, False
        try:
            held = await self._budget.take(len(data), self._request[CALLER].owner)
            self._held += held
            async with large_turn(self._queue if is_heavy(data) else None, self._request[CALLER].owner):
                message = await parse_body(data, self._config.server, self._budget.repairing)
            if message.get("type") == STEER:
                self._let_go(held)
                await self.send([steer_failed(message)])
                return
            lane = read_lane(message)
            if message.get("type") != CREATE:
                raise unknown_type(message)
            require_short_settings(self._config, message, len(data))
            self._note_lane(lane)
            self._check_ending()
        except ApiError as refusal:
            self._let_go(held)
            await self.send([error_message(refusal, lane)])
        else:
            self._lanes.put(lane, (message, data, held, is_counted), len(data))

    def _let_go(self, held: int) -> None:
        """Give the room for a message back: nothing of it is needed any more."""
        self._held -= held
        self._budget.give_back(held, self._request[CALLER].owner)

    def _note_lane(self, lane: str) -> None:
        limit = self._config.websocket.max_streams
        if lane and lane not in self._names and len(self._names) >= limit:
            raise too_many_lanes(limit)
        if lane:
            self._names.add(lane)

    def _check_ending(self) -> None:
        if self._over:
            raise self._over
        if self._ending:
            raise ServiceUnavailable("The server is stopping.", code="server_stopping")

    async def _identify(self) -> Caller:
        """Return who the next turn is for: what the client showed at the upgrade may have expired. Raises ApiError."""
        try:
            caller = await self._request.app[AUTHENTICATOR].authenticate(self._request.headers)
            if caller.owner != self._request[CALLER].owner:
                raise Unauthorized
        except Unauthorized as refusal:
            self._expire(refusal)
            raise
        return caller

    async def _answer(self, lane: str, asked: _Asked) -> None:
        """Carry a turn out. One that is refused takes what it wanted to continue with it, as OpenAI has it."""
        message, data, held, is_counted = asked
        try:
            await self._run_or_pass_on(lane, message, data, is_counted=is_counted)
        except ApiError as exc:
            error = exc
        except StoreError as exc:
            error = from_store_error(exc)
        except Exception:
            logger.exception("%s a turn failed", self._request[REQUEST_ID])
            error = InternalError("The server had an error while processing your request.")
        else:
            return
        finally:
            self._let_go(held)
        self._cache.forget(lane, str(message.get("previous_response_id")))
        await self.send([error_message(error, lane)])

    async def _run_or_pass_on(self, lane: str, message: Mapping[str, Any], data: bytes, *, is_counted: bool) -> None:
        """Run the turn that a message asks for, or leave it to the other process where its history is large.

        What has waited in its lane since the other process has one is left to that too.
        """
        is_given = HANDOVER in self._request.app and not self._cache.is_named_in(data)
        if is_given and self._passage.is_open:
            await self._passage.send(data)
            return
        async with large_turn(self._queue, self._request[CALLER].owner) as leave:
            try:
                await self._run(lane, message, leave, MOST_HISTORY if is_given else None, is_counted=is_counted)
            except HeavyHistory:
                if not self._ending and await self._passage.open():
                    await self._passage.send(data, is_counted=True)
                else:
                    await self._run(lane, message, leave, None, is_counted=True)

    async def _run(
        self,
        lane: str,
        message: Mapping[str, Any],
        begun: Callable[[], None],
        most_history: HistoryLimit | None,
        *,
        is_counted: bool,
    ) -> None:
        """Run the turn that a message asks for. begun: called when it is open. most_history: see TurnOptions.

        is_counted: it is already, as a request. Raises HeavyHistory, and what refuses it.
        """
        self._check_ending()
        request, options = await take_in(self._config, message, read_create)
        if previous := request.source.previous_response_id:
            options = replace(options, continuation=self._find(previous))
        app, start = self._request.app, time.perf_counter()
        services, tracing, caller = app[SERVICES], app[TELEMETRY].tracing, await self._identify()
        if (limit := self._config.quotas.requests_per_minute) and not is_counted:
            await count_request(self._request, caller.owner, limit)
        log = stream_log(services, caller.owner, request)
        beside = [log] if log else []
        recording = None
        if options.generate:
            recording = recording_of(app[RECORDER], caller.owner, self._inbound.headers, request)
        options = replace(options, resumable=log is not None, recording=recording, most_history=most_history)
        call = services.model_call(caller, self._inbound)
        record = call.record
        record.mode, record.began = "websocket", start
        record.trace = tracing.begin(self._request.headers) if tracing is not None else None
        delivery = WebSocketDelivery(self.send, lane)
        observers = beside if self._queue is None else [*beside, OnceOpen(begun)]
        turn = Turn(services, call, request, delivery, options, sinks=beside, observers=observers)
        self._running[lane] = turn, request
        try:
            with record.collecting():
                await app[TURNS].run_beside(turn)
        finally:
            del self._running[lane]
            if record.outcome != GIVEN_BACK:
                self._tell(turn, call)
        if latest := turn.continuation:
            self._cache.keep(lane, turn.response_id, None if request.stored else latest)

    def _tell(self, turn: Turn, call: ModelCall) -> None:
        """Write the line of a turn."""
        request_id, ms = self._request[REQUEST_ID], (time.perf_counter() - call.record.began) * 1000
        message = f"turn {turn.status or 'refused'}"
        text = f"{request_id} {message} {ms:.1f} ms upstream {call.upstream_request_id}"
        logger.info(TurnLine(text, message, request_id, ms, call.upstream_request_id, call.record))

    def _find(self, response_id: str) -> Continuation | None:
        for turn, request in self._running.values():
            # its last message may have gone out a moment ago
            if turn.response_id == response_id and not request.stored:
                return turn.continuation
        return self._cache.find(response_id)


ROUTES = [web.get("/v1/responses", open_websocket)]
