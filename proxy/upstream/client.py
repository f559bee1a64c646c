"""Upstream client: what goes upstream, what comes back, and what its failures are called here.

aiohttp's client exceptions are translated in this module and nowhere else:

    before the answer   no connection, DNS, TLS           BadGateway, code `upstream_unreachable`
                        silence                           GatewayTimeout
                        anything else                     BadGateway, code `upstream_error`
    while it is read    silence                           GatewayTimeout
                        anything else                     UpstreamCut
"""

from __future__ import annotations

import io
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
from aiohttp import hdrs
from aiohttp.web import AppKey
from yarl import URL

from proxy.protocol import lenient_json
from proxy.protocol.content_encoding import SUPPORTED, CodingError, ContentDecoder
from proxy.protocol.errors import ApiError, BadGateway, GatewayTimeout
from proxy.protocol.header_limits import MAX_HEADER_BYTES, MAX_HEADERS
from proxy.upstream.errors import refusal
from proxy.upstream.headers import turn_headers

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Mapping

    from proxy.config.settings import UpstreamConfig

#: Where responses are made, below the upstream's URL.
RESPONSES = "/responses"

#: Seconds that an idle connection is kept. Many servers (uvicorn, Node) close theirs after 5 s, and a request
#: that is sent just then is lost; a POST can't be repeated.
IDLE_SECONDS = 4.0

#: Largest body that is sent in one piece.
MAX_BYTES_AT_ONCE = 256 * 1024

#: Longest error answer that is read.
MAX_REFUSAL_BYTES = 1024 * 1024

log = logging.getLogger(__name__)

#: The model server's client.
UPSTREAM: AppKey[Upstream] = AppKey("upstream")


class UpstreamCut(BadGateway):
    """The upstream broke off in the middle of its answer: `response.failed` in a stream, else 502."""

    def __init__(self) -> None:
        super().__init__("The upstream broke off its answer.")


class Upstream:
    """The model server at one base URL.

    session: from `create_session`. url: with its `/v1`; a query in it (Azure's `api-version`) goes on every
    request.
    """

    def __init__(self, config: UpstreamConfig, session: aiohttp.ClientSession, url: str) -> None:
        base = URL(url)
        self._session = session
        self._base = str(base.with_query(None)).rstrip("/")
        #: What it is called where somebody has to know who made something: as it is configured, wherever it listens.
        self.name = _name_of(URL(config.url))
        self._query_string = base.raw_query_string
        self.max_response_bytes = config.max_response_bytes
        self.max_event_bytes = config.max_event_bytes

    async def create_response(
        self, body: bytes, headers: Mapping[str, str], query_string: str = "", *, path: str = RESPONSES
    ) -> aiohttp.ClientResponse:
        """`POST {url}{path}` with the JSON `body`; return the answer, its body unread, if it is a 2xx.

        Whoever gets it releases it: then its connection goes back, or is closed where it was not read to its end, so
        that the upstream notices. headers: from `request_headers`. query_string: raw, without `?`. path: `/responses`,
        or one below it.
        Raises UpstreamRefusal for the upstream's 4xx and 5xx, BadGateway (redirects too), GatewayTimeout.
        """
        sent = turn_headers(headers)
        # aiohttp writes a buffer in pieces, so that a large body does not hold up the event loop
        data = io.BytesIO(body) if len(body) > MAX_BYTES_AT_ONCE else body
        response = await self._send(hdrs.METH_POST, path, query_string, sent, data)
        try:
            if response.status >= 400:
                raise refusal(response.status, response.headers, await _read_refusal(response))
            if response.status >= 300:
                # Following it could carry the caller's key to another host.
                raise BadGateway("The upstream answered with a redirect.")
        except BaseException:
            response.release()
            raise
        return response

    @asynccontextmanager
    async def forward(
        self,
        method: str,
        path: str,
        query_string: str,
        headers: Mapping[str, str],
        data: AsyncIterable[bytes] | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send any request to `{url}{path}` and give the answer as it is: any status, its body unread.

        path, query_string: raw, percent-encoding kept. data: the body, streamed; chunked unless `headers` has
        Content-Length. Raises BadGateway, GatewayTimeout.
        """
        response = await self._send(method, path, query_string, headers, data)
        try:
            yield response
        finally:
            response.release()

    async def ping(self) -> None:
        """Return if the upstream gives any HTTP answer to `GET {url}/models`. Raises ApiError."""
        (await self._send(hdrs.METH_GET, "/models", "", {}, None)).release()

    async def _send(
        self,
        method: str,
        path: str,
        query_string: str,
        headers: Mapping[str, str],
        data: bytes | io.BytesIO | AsyncIterable[bytes] | None,
    ) -> aiohttp.ClientResponse:
        query = "&".join(filter(None, (self._query_string, query_string)))
        url = URL(f"{self._base}{path}?{query}" if query else f"{self._base}{path}", encoded=True)
        try:
            return await self._session.request(method, url, headers=headers, data=data, allow_redirects=False)
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise translate(exc) from exc


def _name_of(url: URL) -> str:
    """Return host, port and path: neither the scheme nor what may be a key."""
    port = "" if url.port is None or url.is_default_port() else f":{url.port}"
    return f"{url.host or ''}{port}{url.path.rstrip('/')}"


def create_session(config: UpstreamConfig) -> aiohttp.ClientSession:
    """Return a session that adds nothing of its own: no cookies, user agent, decompression or proxies."""
    connect = config.connect_timeout_seconds
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=config.max_connections, keepalive_timeout=IDLE_SECONDS),
        timeout=aiohttp.ClientTimeout(
            total=None, connect=connect, sock_connect=connect, sock_read=config.read_timeout_seconds
        ),
        # Cookies of one caller must never be sent for another.
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=(hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE),
        auto_decompress=False,
        # Gateways answer with more than aiohttp takes by itself, and the model has been paid by then.
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
        max_headers=MAX_HEADERS,
    )


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
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


async def read_json_answer(response: aiohttp.ClientResponse, limit: int) -> dict[str, Any]:
    """Return the JSON object that a whole body is.

    limit: bytes. Raises as `read_body` does, and BadGateway for any other body.
    """
    return parse_json_answer(await read_body(response, limit))


def parse_json_answer(body: bytes) -> dict[str, Any]:
    """Return the JSON object that a whole body is, as far as it can be read as one. Raises BadGateway."""
    try:
        parsed = lenient_json.loads_lenient(body)
    except orjson.JSONDecodeError as exc:
        raise BadGateway("The upstream's answer is not JSON.") from exc
    if not isinstance(parsed, dict):
        raise BadGateway("The upstream's answer is not a Response object.")
    return parsed


async def iter_chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the body as it arrives, decompressed where the upstream compressed it unasked.

    Raises UpstreamCut, GatewayTimeout, and BadGateway for a coding that can't be undone.
    """
    coding = response.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
    if coding in ("", "identity"):
        async for chunk in iter_raw(response):
            yield chunk
        return
    if coding not in SUPPORTED:
        raise BadGateway("The upstream's answer has a Content-Encoding that was not asked for.")
    decoder = ContentDecoder(coding)
    try:
        async for chunk in iter_raw(response):
            for piece in decoder.decode(chunk):
                yield piece
        decoder.finish()
    except CodingError as exc:
        raise UpstreamCut from exc


async def iter_raw(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the body's bytes as they arrive, still in their coding. Raises UpstreamCut, GatewayTimeout."""
    while True:
        try:
            chunk = await response.content.readany()
        except TimeoutError as exc:
            raise translate(exc) from exc
        except (aiohttp.ClientError, OSError) as exc:
            log.warning("upstream broke off: %s", type(exc).__name__)
            raise UpstreamCut from exc
        if not chunk:
            return
        yield chunk


def translate(exc: Exception) -> ApiError:
    """Return our name for an exception that aiohttp's client raised before there was an answer."""
    log.warning("upstream failed: %s", _describe(exc))
    if isinstance(exc, TimeoutError):
        return GatewayTimeout("The upstream did not answer in time.")
    if isinstance(exc, aiohttp.ClientConnectorError):
        return BadGateway("The upstream can't be reached.", code="upstream_unreachable")
    return BadGateway("The upstream broke off the connection or answered nonsense.")


def _describe(exc: Exception) -> str:
    # Not str(exc): some carry the URL, whose query may hold a key.
    reason = exc.strerror if isinstance(exc, OSError) else None
    return f"{type(exc).__name__}: {reason}" if reason else type(exc).__name__


async def _read_refusal(response: aiohttp.ClientResponse) -> bytes:
    try:
        return await read_body(response, MAX_REFUSAL_BYTES)
    except ApiError:
        # The status says more than the fate of its body.
        return b""
