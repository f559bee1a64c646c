"""Request bodies: read within the limits of `server.*`, undone from their coding, parsed as JSON."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web

from proxy.auth.caller import CALLER
from proxy.http.budget import BODY_BUDGET, FREE_BYTES
from proxy.http.connection import client_connection
from proxy.http.handover import HANDOVER, LARGE_BODY_BYTES, UNCOUNTED_BYTES, hand_over, is_heavy
from proxy.http.json_body import check_elements, parse_body
from proxy.http.keys import CONFIG
from proxy.http.queue import LARGE_QUEUE, QueuePlace
from proxy.protocol.content_encoding import SUPPORTED, CodingError, ContentDecoder
from proxy.protocol.errors import BadRequest, PayloadTooLarge, RequestTimeout, UnsupportedMedia, unknown_parameter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.config.settings import ServerConfig

#: Seconds that a caller may be silent in the middle of its body.
SILENCE_SECONDS = 60.0

#: Bytes of a body of unknown length for which room is taken at once.
HELD_AT_ONCE = 1024 * 1024

#: Bytes of `BODY_BUDGET` that a request has taken.
_HELD: web.RequestKey[int] = web.RequestKey("held_bytes", int)

#: A request's turn among those that are large.
_QUEUED: web.RequestKey[QueuePlace] = web.RequestKey("queued", QueuePlace)

#: The whole body as it was sent, where somebody had to see it before the handler.
_BODY: web.RequestKey[bytes] = web.RequestKey("body", bytes)

#: The same in the pieces in which it comes, while it is read.
_RECEIVED: web.RequestKey[list[bytes]] = web.RequestKey("received", list)

#: Bytes of the body that `read_json` has read, undone from its coding.
BODY_BYTES: web.RequestKey[int] = web.RequestKey("body_bytes", int)

#: What OpenAI's client for Azure puts into every query.
_EVERYWHERE = frozenset({"api-version"})

_JSON = "application/json"

#: Content codings that there is nothing to undo of.
_PLAIN = frozenset({"", "identity"})


async def read_json(request: web.Request, *, allow_empty: bool = False) -> dict[str, Any]:
    """Return the request's JSON object.

    allow_empty: answer `{}` for a request without body (SDKs send `Content-Type` with nothing behind it).
    Raises BadRequest (`invalid_json`, `json_too_deep`, `invalid_type`), PayloadTooLarge, RequestTimeout,
    UnsupportedMedia.
    """
    app = request.app
    limits = app[CONFIG].server
    if request.body_exists:
        _require_json(request)
    body = await _read(request, _json_limit(limits))
    request[BODY_BYTES] = len(body)
    if not body and allow_empty:
        return {}
    if (queue := app.get(LARGE_QUEUE)) is not None and _QUEUED not in request:
        request[_QUEUED] = await queue.enter(_owner_of(request))
    budget = app.get(BODY_BUDGET)
    return await parse_body(body, limits, budget.repairing if budget is not None else asyncio.Lock())


def _json_limit(limits: ServerConfig) -> int:
    return min(limits.max_json_bytes, limits.max_body_bytes)


async def refuse_selection(request: web.Request) -> None:
    """Raise BadRequest (`unknown_parameter`) for a request about everything that says which of it.

    A filter that is not there must not delete all.
    """
    body = await read_json(request, allow_empty=True)
    for name in (*body, *request.query):
        if name not in _EVERYWHERE:
            raise unknown_parameter(name[:64], "This deletes everything; a part of it can't be chosen.")


async def iter_body(
    request: web.Request, limit: int, *, silence_seconds: float = SILENCE_SECONDS
) -> AsyncIterator[bytes]:
    """Yield the request's body as it arrives, still in its coding.

    limit: bytes. silence_seconds: longest wait for the next bytes; broken chunked framing shows as silence.
    Raises PayloadTooLarge, before anything is read where Content-Length tells, and RequestTimeout, also for a body that
    takes longer than `server.body_timeout_seconds` as a whole.
    """
    if (held := request.get(_BODY)) is not None:
        yield held
        return
    _require_length(request.content_length or 0, limit)
    received = 0
    clock = asyncio.get_running_loop().time
    end = clock() + request.app[CONFIG].server.body_timeout_seconds
    while chunk := await _next_chunk(request, min(silence_seconds, end - clock())):
        received += len(chunk)
        _require_length(received, limit)
        if (pieces := request.get(_RECEIVED)) is not None:
            pieces.append(chunk)
        yield chunk


async def hold_body(request: web.Request) -> bytes:
    """Read the whole body, undone from its coding, and leave it to be read once more. Raises as `iter_content`."""
    limits = request.app[CONFIG].server
    request[_RECEIVED] = []
    content = await _read_slowly(request, _json_limit(limits))
    received = request.pop(_RECEIVED)
    request.setdefault(_BODY, b"".join(received))
    await check_elements(content, limits.max_json_elements)
    return content


def can_be_given(request: web.Request) -> bool:
    """Tell whether a request whose body was read can be given to another process: that is there, and all of it is."""
    if HANDOVER not in request.app or not (_BODY in request or _RECEIVED in request):
        return False
    is_here = request.transport is not None and not request.transport.is_closing()
    return is_here and not client_connection(request).has_next


async def hand_over_read(request: web.Request) -> None:
    """Give a request whose body was read to another process; see `hand_over`."""
    if can_be_given(request):
        held = request.get(_BODY)
        await hand_over(request, [held] if held is not None else request[_RECEIVED])


async def _hold(request: web.Request, size: int) -> None:
    """Take room for so many bytes until the request is over. Raises ServiceUnavailable."""
    if size >= FREE_BYTES and (budget := request.app.get(BODY_BUDGET)) is not None:
        request[_HELD] = request.get(_HELD, 0) + await budget.take(size, _owner_of(request))


def let_go(request: web.Request) -> None:
    """Give the room for a request's body back: the request is over."""
    if held := request.get(_HELD, 0):
        request[_HELD] = 0
        request.app[BODY_BUDGET].give_back(held, _owner_of(request))
    leave_queue(request)


def leave_queue(request: web.Request) -> None:
    """Let the next large request begin: what is left of this one is to wait for the model server, or it is over."""
    if (place := request.get(_QUEUED)) is not None:
        place.leave()


def _owner_of(request: web.Request) -> str:
    caller = request.get(CALLER)
    return caller.owner if caller is not None else ""


async def _next_chunk(request: web.Request, silence_seconds: float) -> bytes:
    try:
        async with asyncio.timeout(silence_seconds):
            return await request.content.readany()
    except TimeoutError:
        raise RequestTimeout("The request body did not arrive in time.") from None


async def iter_content(request: web.Request, limit: int) -> AsyncIterator[bytes]:
    """Yield the request's body as it arrives, undone from its coding. limit: bytes, as sent and decompressed.

    Raises BadRequest (`invalid_body`), PayloadTooLarge, RequestTimeout, UnsupportedMedia.
    """
    coding = request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
    if coding in _PLAIN:
        async for chunk in iter_body(request, limit):
            yield chunk
        return
    if coding not in SUPPORTED:
        raise UnsupportedMedia(
            "Unsupported Content-Encoding; use one of gzip, deflate, zstd.",
            code="unsupported_content_encoding",
        )
    try:
        async for piece in _iter_decoded(request, ContentDecoder(coding), limit):
            yield piece
    except CodingError:
        raise BadRequest("The request body is not what its Content-Encoding says.", code="invalid_body") from None


async def _read(request: web.Request, limit: int) -> bytes:
    coding = request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
    arrived = _BODY not in request and request.content.is_eof()
    if coding in _PLAIN and arrived and (request.content_length or 0) <= min(limit, LARGE_BODY_BYTES):
        # The usual small body has arrived with its head: no clock is needed to wait for it.
        body = request.content.read_nowait()
        _require_length(len(body), limit)
        if HANDOVER in request.app:
            request[_RECEIVED] = [body]
        if len(body) > UNCOUNTED_BYTES and is_heavy(body):
            await hand_over(request, [body])
        return body
    return await _read_slowly(request, limit)


async def _read_slowly(request: web.Request, limit: int) -> bytes:
    """Read a body that has not arrived yet, or is coded. One that turns out to be large goes to another process."""
    length = request.content_length
    _require_length(length or 0, limit)
    watched = HANDOVER in request.app and _BODY not in request
    if watched and (length or 0) >= LARGE_BODY_BYTES:
        await hand_over(request)
    await _hold(request, length or 0)
    is_counted = length is not None and request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower() in _PLAIN
    received = request.setdefault(_RECEIVED, [])
    pieces, size, unheld = [], 0, 0
    async for piece in iter_content(request, limit):
        pieces.append(piece)
        size += len(piece)
        unheld += 0 if is_counted else len(piece)
        if unheld >= HELD_AT_ONCE:
            await _hold(request, unheld)
            unheld = 0
        if watched and not is_counted and size >= LARGE_BODY_BYTES:
            async for _ in iter_body(request, limit):
                pass
            await hand_over(request, received)
            # nobody has taken it
            request[_BODY] = b"".join(received)
            return await _read_slowly(request, limit)
    body = b"".join(pieces)
    if watched and size < LARGE_BODY_BYTES and is_heavy(body):
        await hand_over(request, received)
    return body


async def _iter_decoded(request: web.Request, decoder: ContentDecoder, limit: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in iter_body(request, limit):
        for piece in decoder.decode(chunk):
            size += len(piece)
            _require_length(size, limit)
            yield piece
    decoder.finish()


def _require_length(size: int, limit: int) -> None:
    if size > limit:
        raise PayloadTooLarge(f"The request body is too large: at most {limit} bytes.")


def is_json(request: web.Request) -> bool:
    """Tell whether the head of a request says that its body is JSON; without a type it is taken for that."""
    if request.headers.get(hdrs.CONTENT_TYPE, _JSON) == _JSON:
        return True
    media_type = request.content_type.lower()
    return media_type == _JSON or media_type.endswith("+json")


def _require_json(request: web.Request) -> None:
    if not is_json(request):
        raise UnsupportedMedia("Unsupported Content-Type; send application/json.")
