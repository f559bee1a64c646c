"""Upstream client: what goes upstream, and the model server's answer to it.

Turns go over connections of our own (`upstream.pool`), everything else by aiohttp's client. What either raises is named
in `upstream.body`.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

import aiohttp
from aiohttp import hdrs
from yarl import URL

from proxy.protocol.errors import ApiError, BadGateway
from proxy.protocol.header_limits import MAX_HEADER_BYTES, MAX_HEADERS
from proxy.protocol.seals import seal_mark
from proxy.upstream.body import read_body, translate
from proxy.upstream.errors import refusal
from proxy.upstream.headers import turn_headers
from proxy.upstream.pool import IDLE_SECONDS, Pool
from proxy.upstream.standing import PASSED_OVER_SECONDS, Standing

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence

    from proxy.config.upstreams import NamedUpstreamConfig, UpstreamConfig
    from proxy.upstream.body import Readable
    from proxy.upstream.pool import UpstreamAnswer

#: Where responses are made, below the upstream's URL.
RESPONSES = "/responses"

#: Longest error answer that is read.
MAX_REFUSAL_BYTES = 1024 * 1024

#: Providers by their hosts: OpenAI's, the regional ones below it, and the resources of Azure's.
OPENAI, OPENAI_HOST = "openai", "api.openai.com"
AZURE, AZURE_DOMAIN = "azure.ai.openai", ".openai.azure.com"

log = logging.getLogger(__name__)


class Upstream:
    """The model server at one base URL.

    session: from `create_session`. url: with its `/v1`; a query in it (Azure's `api-version`) goes on every
    request. named: what is configured of one that has a name; without, it takes all models and the caller's own key.
    is_one_of: how many there are. Left as a context, it closes the connections of turns.
    """

    def __init__(
        self,
        config: UpstreamConfig,
        session: aiohttp.ClientSession,
        url: str,
        named: NamedUpstreamConfig | None = None,
        *,
        name: str = "",
        is_one_of: int = 1,
    ) -> None:
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
        #: What it is called in answers, logs and metrics.
        self.name = name or _address_of(URL(config.url))
        #: What it is called where somebody has to know who made something: as it is configured, wherever it listens.
        self.address = _address_of(URL(config.url))
        self.is_named = named is not None
        #: What stands before what it sealed, '' if it is the only one.
        self.mark = seal_mark(name) if is_one_of > 1 else ""
        self.models: Sequence[str] = named.models if named else ("*",)
        self.rename: Mapping[str, str] = named.rename if named else {}
        self.provider = (named.provider if named else "") or _provider_of(URL(config.url), self.name)
        self.standing = Standing()
        #: Where it listens, for spans.
        self.url = url
        #: Told whether it is asked in its turn, when that changes.
        self.watch: Callable[[bool], None] | None = None
        self._title = f"The upstream '{name}'" if named else "The upstream"
        self._own_credentials: Mapping[str, str] = (
            {str(hdrs.AUTHORIZATION): f"Bearer {config.api_key}"} if config.api_key else {}
        )
        self.takes_callers_key = named is None or named.caller_key
        self._query_string = base.raw_query_string
        self.max_response_bytes = config.max_response_bytes
        self.max_event_bytes = config.max_event_bytes

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._pool.close()

    def alias(self, model: str) -> str:
        """Return what it calls a model, '' if that is what clients call it."""
        return self.rename.get(model, "") if self.rename else ""

    def credentials(self, callers: Mapping[str, str]) -> Mapping[str, str]:
        """Return the headers that a request for a caller is authorised with. callers: see `Caller.credentials`.

        One server must not see what is meant for another: a caller's own go only where that is configured.
        """
        if self.takes_callers_key:
            return callers
        return self._own_credentials

    def note(self, *, worked: bool) -> None:
        """Note how a request ended."""
        was_bad = self.standing.is_bad
        is_passed_over = self.standing.note(worked=worked)
        if self.watch is not None and self.is_named and (is_passed_over or (was_bad and worked)):
            self.watch(not is_passed_over)
        if is_passed_over and self.is_named:
            log.warning("upstream %s: passed over for %g s: it has failed repeatedly", self.name, PASSED_OVER_SECONDS)

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
            raise translate(exc, self._title) from exc
        try:
            if answer.status >= 400:
                raise refusal(answer.status, answer.headers, await _read_refusal(answer))
            if answer.status >= 300:
                # Following it could carry the caller's key to another host.
                raise BadGateway(f"{self._title} answered with a redirect.")
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
                raise translate(exc, self._title) from exc
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
            raise translate(exc, self._title) from exc
        try:
            yield
        finally:
            self._slots.release()


def _address_of(url: URL) -> str:
    """Return host, port and path: neither the scheme nor what may be a key."""
    port = "" if url.port is None or url.is_default_port() else f":{url.port}"
    return f"{url.host or ''}{port}{url.path.rstrip('/')}"


def _provider_of(url: URL, name: str) -> str:
    """Return who runs the server at a URL, as OpenTelemetry names providers, else its own name."""
    host = url.host or ""
    if host == OPENAI_HOST or host.endswith(f".{OPENAI_HOST}"):
        return OPENAI
    return AZURE if host.endswith(AZURE_DOMAIN) else name


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
