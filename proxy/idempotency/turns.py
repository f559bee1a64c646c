"""Turns whose answer is kept for whoever asks again: under the client's key, or because nobody took it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from typing import TYPE_CHECKING

import orjson
from aiohttp import hdrs, web

from proxy.auth.caller import CALLER
from proxy.http.keys import CONFIG, REQUEST_ID, STORE
from proxy.idempotency.answers import EVENT_STREAM, answer_lost, replayed, restate
from proxy.idempotency.keys import CLAIMS, HELD
from proxy.idempotency.recording import RecordedDelivery
from storage import KeptAnswer, Unavailable

if TYPE_CHECKING:
    from proxy.delivery import Delivery
    from proxy.idempotency.keys import Held
    from proxy.protocol.request import TurnRequest
    from proxy.turns.running import Running
    from proxy.turns.turn import Turn

logger = logging.getLogger(__name__)

#: OpenAI's clients number their attempts at one request, from 0.
RETRY_COUNT = "x-stainless-retry-count"
_RETRY = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)
#: How a turn ends that has an answer.
_ANSWERED = frozenset({"completed", "incomplete"})


class KeyedTurn:
    """A turn whose request holds an idempotency key."""

    def __init__(self, turn: Turn, held: Held, request: web.Request) -> None:
        self._turn = turn
        # while it runs, the turn may put a log around it
        self._begun_with = turn.delivery
        self._held = held
        self._request_id = request[REQUEST_ID]
        self._error_format = request.app[CONFIG].errors.format
        turn.on_identified = held.note

    @property
    def delivery(self) -> Delivery:
        """The client's side of the turn."""
        return self._turn.delivery

    def leave(self, *, stopping: bool = False) -> None:
        """Note that the client has gone, or that the server has to end."""
        self._turn.leave(stopping=stopping)

    async def run(self) -> web.StreamResponse:
        """Carry the turn out; keep its answer, or leave the key to the next request if it has none."""
        self._held.handed_over = True
        if self._held.left:
            self._turn.leave()
        try:
            response = await self._turn.run()
        except BaseException as error:
            await self._held.fail(error, self._request_id, self._error_format)
            raise
        if self._turn.status in _ANSWERED:
            await self._held.keep(_answer_of(self._turn.response_id, self._begun_with, response))
        else:
            await self._held.release()
        return response


class AbandonedTurn:
    """A turn without a key: if its client does not wait for the end, the answer is kept for the client's retry."""

    def __init__(self, turn: Turn, request: web.Request, turn_request: TurnRequest) -> None:
        self._turn = turn
        self._begun_with = turn.delivery
        self._request = request
        self._turn_request = turn_request
        self._marking: asyncio.Task[Held | None] | None = None

    @property
    def delivery(self) -> Delivery:
        """The client's side of the turn."""
        return self._turn.delivery

    def leave(self, *, stopping: bool = False) -> None:
        """Note that the client has gone, for its retry too, or that the server has to end."""
        self._turn.leave(stopping=stopping)
        if not stopping:
            self._mark_once()

    async def run(self) -> web.StreamResponse:
        """Carry the turn out; if the client has gone by then, keep what was stored."""
        response: web.StreamResponse | None = None
        try:
            response = await self._turn.run()
            return response
        finally:
            if self._is_lost():
                await self._end(response)

    async def _end(self, response: web.StreamResponse | None) -> None:
        held = await self._mark_once()
        if held is None:
            return
        if response is not None and self._turn.status in _ANSWERED and self._turn_request.stored:
            await held.keep(_answer_of(self._turn.response_id, self._begun_with, response))
        else:
            await held.release()

    def _mark_once(self) -> asyncio.Task[Held | None]:
        if self._marking is None:
            self._marking = asyncio.create_task(self._mark())
        return self._marking

    async def _mark(self) -> Held | None:
        """Let a retry know that the first attempt still runs, and forget any earlier answer to the same request."""
        claims = self._request.app[CLAIMS]
        try:
            name = _name_of(self._request, self._turn_request)
            held = await claims.seize(self._request[CALLER].owner, name, claims.config.retry_minutes * 60)
            if self._turn.response_id:
                await held.note(self._turn.response_id)
        except Unavailable:
            logger.warning("a turn whose client has gone is not noted for its retry: the store can't be reached")
            return None
        return held

    def _is_lost(self) -> bool:
        transport = self._request.transport
        return self._turn.delivery.gone or transport is None or transport.is_closing()


def attend(request: web.Request, turn_request: TurnRequest, turn: Turn) -> Running:
    """Return the turn as it is to be run, so that its answer is kept where somebody may ask for it again."""
    config, held = request.app[CONFIG].idempotency, request.get(HELD)
    if held is None and not config.retry_minutes:
        return turn
    if turn_request.stream and (held is not None or turn_request.describe):
        # what an answer says beside its response can't be made anew from the store
        turn.delivery = RecordedDelivery(turn.delivery, config.max_answer_bytes)
    return AbandonedTurn(turn, request, turn_request) if held is None else KeyedTurn(turn, held, request)


async def find_lost_answer(request: web.Request, turn_request: TurnRequest) -> web.Response | None:
    """Deliver, to a client's retry, the answer that its earlier attempt did not wait for; None if there is none.

    Waits while that attempt still runs. Raises InProgress, Unavailable.
    """
    if HELD in request or not _RETRY.fullmatch(request.headers.get(RETRY_COUNT, "")):
        return None
    claims, owner = request.app[CLAIMS], request[CALLER].owner
    if not claims.config.retry_minutes:
        return None

    async def restated(response_id: str) -> KeptAnswer | None:
        answer = await restate(request.app[STORE], owner, response_id, turn_request.body)
        if answer is not None and turn_request.describe is not None:
            raise answer_lost(response_id)
        return answer

    found = await claims.find(owner, _name_of(request, turn_request), restated)
    if found is None:
        return None
    answer, claim = found
    response = replayed(answer)
    await response.prepare(request)
    await response.write_eof()
    if request.transport is not None and not request.transport.is_closing():
        await claims.drop(claim)
    return response


async def note_submission(request: web.Request, response_id: str, *, streamed: bool) -> None:
    """Tie a request's key, if it has one, to the response that it has put into the background.

    A stream's answer is that response's log, from its beginning. Raises InProgress if the key was lost.
    """
    held = request.get(HELD)
    if held is None:
        return
    if streamed:
        held.handed_over = True
        await held.keep(KeptAnswer(200, EVENT_STREAM, None, response_id))
    else:
        await held.note(response_id)


def _answer_of(response_id: str, delivery: Delivery, response: web.StreamResponse) -> KeptAnswer:
    if isinstance(response, web.Response) and isinstance(response.body, bytes):
        return KeptAnswer(response.status, response.headers[hdrs.CONTENT_TYPE], response.body, response_id)
    body = delivery.recorded if isinstance(delivery, RecordedDelivery) else None
    return KeptAnswer(200, EVENT_STREAM, body, response_id)


def _name_of(request: web.Request, turn_request: TurnRequest) -> str:
    body = orjson.dumps(turn_request.body, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(b"retry\0%b\0%b" % (request.rel_url.raw_path_qs.encode(), body)).hexdigest()
