"""Upstream body: the model server's answer read, pulled as a turn wants it or pushed to it as it arrives.

aiohttp's client exceptions, which connections of turns raise as well, are translated in this module and nowhere else:

    before the answer   no connection, DNS, TLS           BadGateway, code `upstream_unreachable`
                        silence                           GatewayTimeout
                        anything else                     BadGateway, code `upstream_error`
    while it is read    silence                           GatewayTimeout
                        anything else                     UpstreamCut
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
import orjson
from aiohttp import hdrs

from proxy.protocol import lenient_json
from proxy.protocol.content_encoding import SUPPORTED, CodingError, ContentDecoder
from proxy.protocol.errors import ApiError, BadGateway, GatewayTimeout, UpstreamRefusal
from proxy.telemetry.records import CONNECT, CUT, LEFT, MALFORMED, TIMEOUT
from proxy.upstream.errors import certificate_problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from proxy.upstream.pool import UpstreamAnswer
    from proxy.upstream.wire import Consumer

log = logging.getLogger(__name__)


class UpstreamCut(BadGateway):
    """The upstream broke off in the middle of its answer: `response.failed` in a stream, else 502."""

    def __init__(self, message: str = "The upstream broke off its answer.") -> None:
        super().__init__(message)


class Readable(Protocol):
    """An answer whose body is to be read, by whichever client it came."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Of the answer."""
        ...

    @property
    def content(self) -> aiohttp.StreamReader:
        """The body."""
        ...


async def read_body(response: Readable, limit: int) -> bytes:
    """Return the whole body, decompressed.

    limit: bytes. Raises UpstreamCut, GatewayTimeout, and BadGateway with code `upstream_response_too_large`.
    """
    pieces: list[bytes] = []
    size = 0
    async for piece in iter_chunks(response):
        size += len(piece)
        if size > limit:
            raise BadGateway("The upstream's answer is too large.", code="upstream_response_too_large")
        pieces.append(piece)
    return b"".join(pieces)


def parse_json_answer(body: bytes | bytearray) -> dict[str, Any]:
    """Return the JSON object that a whole body is, as far as it can be read as one. Raises BadGateway."""
    try:
        parsed = lenient_json.loads_lenient(body)
    except orjson.JSONDecodeError as exc:
        raise BadGateway("The upstream's answer is not JSON.") from exc
    if not isinstance(parsed, dict):
        raise BadGateway("The upstream's answer is not a Response object.")
    return parsed


async def iter_chunks(response: Readable) -> AsyncIterator[bytes]:
    """Yield the body as it arrives, decompressed where the upstream compressed it unasked.

    Raises UpstreamCut, GatewayTimeout, and BadGateway for a coding that can't be undone.
    """
    decoder = _decoder_for(response)
    if decoder is None:
        async for chunk in iter_raw(response):
            yield chunk
        return
    try:
        async for chunk in iter_raw(response):
            for piece in decoder.decode(chunk):
                yield piece
        decoder.finish()
    except CodingError as exc:
        raise UpstreamCut from exc


async def iter_raw(response: Readable) -> AsyncIterator[bytes]:
    """Yield the body's bytes as they arrive, still in their coding. Raises UpstreamCut, GatewayTimeout."""
    while True:
        try:
            chunk = await response.content.readany()
        except (TimeoutError, aiohttp.ClientError, OSError) as exc:
            raise _failure_of(exc) from exc
        if not chunk:
            return
        yield chunk


def push_chunks(answer: UpstreamAnswer, consumer: Consumer) -> None:
    """Give the body to a consumer as it arrives, decompressed: what is there, at once. It fails with an ApiError.

    `answer.hold` makes the model server wait, `answer.release` ends it early. Raises BadGateway for a coding that can't
    be undone.
    """
    decoder = _decoder_for(answer)
    answer.consume(_Plain(consumer) if decoder is None else _Coded(consumer, decoder))


class _Plain:
    """Hands a body on as it is, and its failure by our name."""

    __slots__ = ("_consumer", "data", "end")

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self.data = consumer.data
        self.end = consumer.end

    def failed(self, error: Exception) -> None:
        self._consumer.failed(_failure_of(error))


class _Coded:
    """Hands a body on decompressed."""

    __slots__ = ("_consumer", "_decoder", "_is_over")

    def __init__(self, consumer: Consumer, decoder: ContentDecoder) -> None:
        self._consumer = consumer
        self._decoder = decoder
        self._is_over = False

    def data(self, chunk: bytes) -> None:
        if self._is_over:
            return
        try:
            for piece in self._decoder.decode(chunk):
                self._consumer.data(piece)
        except CodingError:
            self._fail(UpstreamCut())

    def end(self) -> None:
        if self._is_over:
            return
        try:
            self._decoder.finish()
        except CodingError:
            self._fail(UpstreamCut())
        else:
            self._consumer.end()

    def failed(self, error: Exception) -> None:
        if not self._is_over:
            self._fail(_failure_of(error))

    def _fail(self, failure: ApiError) -> None:
        self._is_over = True
        self._consumer.failed(failure)


def _decoder_for(response: Readable) -> ContentDecoder | None:
    """Return what undoes the coding of a body, None if it has none. Raises BadGateway."""
    coding = response.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
    if coding in ("", "identity"):
        return None
    if coding not in SUPPORTED:
        raise BadGateway("The upstream's answer has a Content-Encoding that was not asked for.")
    return ContentDecoder(coding)


def _failure_of(exc: Exception) -> ApiError:
    """Return our name for what ended a body early."""
    if isinstance(exc, TimeoutError):
        return translate(exc)
    log.warning("upstream broke off: %s", type(exc).__name__)
    return UpstreamCut()


def ending_of(error: BaseException) -> str:
    """Return what ended an attempt at the upstream: an HTTP status, or one of the words of `telemetry.records`."""
    if isinstance(error, UpstreamRefusal):
        return str(error.status)
    if isinstance(error, asyncio.CancelledError):
        return LEFT
    if isinstance(error, GatewayTimeout):
        return TIMEOUT
    if isinstance(error, BadGateway) and error.code == "upstream_unreachable":
        return CONNECT
    if isinstance(error, BadGateway) and not isinstance(error, UpstreamCut):
        return MALFORMED
    return CUT


def translate(exc: Exception, subject: str = "The upstream") -> ApiError:
    """Return our name for an exception that aiohttp's client raised before there was an answer. subject: who failed."""
    log.warning("%s failed: %s", subject.removeprefix("The "), _describe(exc))
    if isinstance(exc, TimeoutError):
        return GatewayTimeout(f"{subject} did not answer in time.")
    if problem := certificate_problem(exc):
        return BadGateway(f"{subject}'s certificate is not trusted: {problem}.", code="upstream_unreachable")
    if isinstance(exc, aiohttp.ClientConnectorError):
        return BadGateway(f"{subject} can't be reached.", code="upstream_unreachable")
    broke_off = f"{subject} broke off the connection or answered nonsense."
    if isinstance(exc, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | aiohttp.ClientPayloadError):
        return UpstreamCut(broke_off)
    return BadGateway(broke_off)


def _describe(exc: Exception) -> str:
    # Not str(exc): some carry the URL, whose query may hold a key. Nor asyncio's texts, which quote the address.
    reason = exc.strerror if isinstance(exc, OSError) else None
    if isinstance(exc, OSError) and exc.errno and exc.errno > 0:
        reason = os.strerror(exc.errno)
    return f"{type(exc).__name__}: {reason}" if reason else type(exc).__name__
