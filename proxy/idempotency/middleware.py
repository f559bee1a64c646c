"""`Idempotency-Key` on a POST: carried out once, answered as often as it is asked.

    free ──── held by the first request ──┬── answered: every repeat gets this answer
      ↑        repeats wait               │
      └── nothing was done (5xx, 429, …) ─┘

A key's holder that dies loses it with its lease. The next request gets the response that the holder had stored, or
carries the request out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from aiohttp import hdrs, web

from proxy.auth.caller import CALLER
from proxy.http.body import hold_body
from proxy.http.connection import client_connection
from proxy.http.keys import CONFIG, KEY_HEADER, REQUEST_ID, STORE, Handler
from proxy.http.middleware import note_left
from proxy.idempotency.answers import answer_lost, replayed, restate
from proxy.idempotency.keys import HELD_KEY, IDEMPOTENCY_KEYS, HeldKey
from proxy.protocol import lenient_json
from proxy.protocol.errors import BadRequest, KeyReused, too_long
from proxy.streams.follower import follow
from proxy.telemetry.telemetry import TELEMETRY
from storage import KeptAnswer

MAX_KEY_LENGTH = 255
#: Where keys count: what is answered here, statefully.
_PATHS = ("/v1/responses", "/v1/conversations")
#: The one path whose answer is the response that it makes.
_TURN_PATH = "/v1/responses"


@web.middleware
async def answer_once(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give a repeated POST the answer of the first. Raises KeyReused, InProgress, BadRequest, AlreadyExists."""
    if KEY_HEADER not in request.headers or not _counts(request):
        return await handler(request)
    key = key_in(request.headers.getall(KEY_HEADER))
    content = await hold_body(request)

    async def restated(response_id: str) -> KeptAnswer | None:
        return await _restate(request, response_id, content)

    name = hashlib.sha256(b"key\0" + key.encode()).hexdigest()
    fingerprint = _fingerprint(request, content)
    repeats = request.app[TELEMETRY].metrics.repeats_total
    try:
        taken = await request.app[IDEMPOTENCY_KEYS].take(request[CALLER].owner, name, fingerprint, restated)
    except KeyReused:
        repeats.add("mismatch")
        raise
    if isinstance(taken, KeptAnswer):
        repeats.add("key")
        return await _answer_again(request, taken, content)
    request[HELD_KEY] = taken
    return await _outlive_client(request, handler, taken)


def key_in(values: Sequence[str]) -> str:
    """Return the key that a request's headers of that name hold. Raises BadRequest.

    An empty one is refused: whoever sends it relies on being protected, and would not be.
    """
    key, *more = values
    if more:
        raise _invalid_key("send it once")
    if not key:
        raise _invalid_key("it is empty; leave it out, or send a new one with each request")
    if len(key) > MAX_KEY_LENGTH:
        raise too_long(KEY_HEADER, MAX_KEY_LENGTH, len(key))
    if not (key.isascii() and key.isprintable()):
        raise _invalid_key("use printable ASCII")
    return key


def _invalid_key(reason: str) -> BadRequest:
    return BadRequest(f"Invalid '{KEY_HEADER}': {reason}.", param=KEY_HEADER, code="invalid_value")


async def _answer_again(request: web.Request, kept: KeptAnswer, content: bytes) -> web.StreamResponse:
    if kept.body is not None:
        return replayed(kept)
    asked = lenient_json.loads_lenient(content)
    if asked.get("background") is True and asked.get("stream") is True:
        return await follow(request, kept.response_id)
    answer = await _restate(request, kept.response_id, content)
    if answer is None:
        raise answer_lost(kept.response_id)
    return replayed(answer)


async def _outlive_client(request: web.Request, handler: Handler, held: HeldKey) -> web.StreamResponse:
    """Carry the request out even if its client leaves meanwhile; a turn decides for itself what it does then."""
    connection = client_connection(request)
    cancel = connection.on_leave

    def leave() -> None:
        held.left = True
        note_left(request)
        if held.handed_over and cancel is not None:
            cancel()

    if cancel is not None:
        connection.on_leave = leave
    try:
        response = await handler(request)
    except BaseException as error:
        if not held.handed_over:
            await held.fail(error, request[REQUEST_ID], request.app[CONFIG].errors.format)
        raise
    if not held.handed_over:
        await _keep(response, held)
    return response


async def _keep(response: web.StreamResponse, held: HeldKey) -> None:
    """Keep an answer that is here as a whole; a stream that was passed on is not."""
    if isinstance(response, web.Response) and isinstance(response.body, bytes) and response.status < 500:
        await held.keep(KeptAnswer(response.status, response.headers[hdrs.CONTENT_TYPE], response.body))
    else:
        await held.release()


async def _restate(request: web.Request, response_id: str, content: bytes) -> KeptAnswer | None:
    """Return the answer of a first request that is not kept itself, made from its stored response.

    Raises AlreadyExists if the response was stored, and the answer is more than that.
    """
    asked: dict[str, Any] = lenient_json.loads_lenient(content) if content else {}
    answer = await restate(request.app[STORE], request[CALLER].owner, response_id, asked)
    if answer is not None and request.path.rstrip("/") != _TURN_PATH:
        raise answer_lost(response_id)
    return answer


def _counts(request: web.Request) -> bool:
    route = request.match_info.route.resource
    path = route.canonical if route is not None else ""
    return request.method == hdrs.METH_POST and path.startswith(_PATHS) and CALLER in request


def _fingerprint(request: web.Request, content: bytes) -> str:
    head = f"{request.method}\0{request.rel_url.raw_path_qs}\0"
    return hashlib.sha256(head.encode() + content).hexdigest()
