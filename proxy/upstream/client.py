"""Upstream client: what goes upstream, and the model server's answer to it.

Turns go over connections of our own (`upstream.pool`), everything else by aiohttp's client. What either raises is named
in `upstream.body`.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

import aiohttp
from aiohttp import hdrs
from aiohttp.web import AppKey
from yarl import URL

from proxy.protocol.errors import ApiError, BadGateway
from proxy.protocol.header_limits import MAX_HEADER_BYTES, MAX_HEADERS
from proxy.upstream.body import read_body, translate
from proxy.upstream.errors import refusal
from proxy.upstream.headers import turn_headers
from proxy.upstream.pool import IDLE_SECONDS, Pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence

    from proxy.config.settings import UpstreamConfig
    from proxy.upstream.body import Readable
    from proxy.upstream.pool import UpstreamAnswer

#: Where responses are made, below the upstream's URL.
RESPONSES = "/responses"

#: Longest error answer that is read.
MAX_REFUSAL_BYTES = 1024 * 1024

#: The model server's client.
UPSTREAM: AppKey[Upstream] = AppKey("upstream")


class Upstream:
    """The model server at one base URL.

    session: from `create_session`. url: with its `/v1`; a query in it (Azure's `api-version`) goes on every
    request. Left as a context, it closes the connections of turns.
    """

    def __init__(self, config: UpstreamConfig, session: aiohttp.ClientSession, url: str) -> None:
        base = URL(url)
        self._session = session
        self._connect_seconds = config.connect_timeout_seconds
        self._slots = asyncio.Semaphore(config.max_connections) if config.max_connections else None
        self._pool = Pool(
            base,
            self._slots,
            connect_seconds=self._connect_seconds,
            silence_seconds=config.read_timeout_seconds,
        )
        self._base = str(base.with_query(None)).rstrip("/")
        self._path = base.raw_path.rstrip("/")
        #: What it is called where somebody has to know who made something: as it is configured, wherever it listens.
        self.name = _name_of(URL(config.url))
        self._query_string = base.raw_query_string
        self.max_response_bytes = config.max_response_bytes
        self.max_event_bytes = config.max_event_bytes

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._pool.close()

    async def create_response(
        self, body: Sequence[bytes], headers: Mapping[str, str], query_string: str = "", *, path: str = RESPONSES
    ) -> UpstreamAnswer:
        """`POST {url}{path}` with the JSON `body`, in pieces; return the answer, its body unread, if it is a 2xx.

        Whoever gets it releases it: then its connection goes back, or is closed where it was not read to its end, so
        that the upstream notices. headers: from `request_headers`. query_string: raw, without `?`. path: `/responses`,
        or one below it.
        Raises UpstreamRefusal for the upstream's 4xx and 5xx, BadGateway (redirects too), GatewayTimeout.
        """
        target = self._target(self._path, path, query_string)
        try:
            answer = await self._pool.post(target, turn_headers(headers), body)
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise translate(exc) from exc
        try:
            if answer.status >= 400:
                raise refusal(answer.status, answer.headers, await _read_refusal(answer))
            if answer.status >= 300:
                # Following it could carry the caller's key to another host.
                raise BadGateway("The upstream answered with a redirect.")
        except BaseException:
            answer.release()
            raise
        return answer

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
        url = URL(self._target(self._base, path, query_string), encoded=True)
        async with self._slot():
            try:
                request = self._session.request(method, url, headers=headers, data=data, allow_redirects=False)
                response = await request
            except (aiohttp.ClientError, TimeoutError) as exc:
                raise translate(exc) from exc
            try:
                yield response
            finally:
                response.release()

    async def ping(self) -> None:
        """Return if the upstream gives any HTTP answer to `GET {url}/models`. Raises ApiError."""
        async with self.forward(hdrs.METH_GET, "/models", "", {}, None):
            pass

    def _target(self, base: str, path: str, query_string: str) -> str:
        query = "&".join(filter(None, (self._query_string, query_string)))
        return f"{base}{path}?{query}" if query else base + path

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """Count one of the requests that may be under way at once. Raises GatewayTimeout."""
        if self._slots is None:
            yield
            return
        try:
            async with asyncio.timeout(self._connect_seconds):
                await self._slots.acquire()
        except TimeoutError as exc:
            raise translate(exc) from exc
        try:
            yield
        finally:
            self._slots.release()


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


async def _read_refusal(response: Readable) -> bytes:
    try:
        return await read_body(response, MAX_REFUSAL_BYTES)
    except ApiError:
        # The status says more than the fate of its body.
        return b""
