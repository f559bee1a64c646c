"""Every path under `/v1/` that is not ours: streamed both ways as it is, nothing parsed, nothing held back.

Paths under `/v1/responses` and `/v1/conversations` that have no route end here too, and are 404, however they
are spelled (`%72esponses`, `//`, `responses%2F…`, `responses%00`): where callers share the upstream's key, its own
records of them would be anybody's. The methods are those of the API: a model server's TRACE would show the key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from aiohttp import hdrs, web

from proxy.auth.caller import CALLER
from proxy.http.body import iter_body
from proxy.http.keys import CONFIG, UPSTREAM_REQUEST_ID
from proxy.http.middleware import traced_headers
from proxy.http.urls import API_VERSION, hint_for, split_path
from proxy.protocol.errors import ApiError, NotFound, UpgradeRequired, method_not_allowed
from proxy.recording.chat import CHAT_RECORDER
from proxy.telemetry.telemetry import TELEMETRY
from proxy.upstream.body import ending_of, iter_raw
from proxy.upstream.client import UPSTREAM
from proxy.upstream.headers import request_headers, response_headers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiohttp
    from multidict import CIMultiDict

    from proxy.recording.chat import ChatTap

_PREFIX = f"/{API_VERSION}"
#: What is recorded of what passes through.
CHAT_PATH = "/chat/completions"
#: Where model servers list their models, and how much of that is read.
MODELS_PATH = f"{_PREFIX}/models"
MAX_LIST_BYTES = 256 * 1024

#: The methods that model servers have, and OPTIONS, with which browsers and clients ask for them.
METHODS = frozenset(
    {
        hdrs.METH_GET,
        hdrs.METH_HEAD,
        hdrs.METH_POST,
        hdrs.METH_PUT,
        hdrs.METH_PATCH,
        hdrs.METH_DELETE,
        hdrs.METH_OPTIONS,
    }
)

#: First segments that belong to the stateful endpoints, and the one that a wrong base URL makes.
_NOT_THEIRS = frozenset({"responses", "conversations", API_VERSION})


async def pass_through(request: web.Request) -> web.StreamResponse:
    """Send the request upstream and relay the answer, whatever it is. Raises ApiError before the answer began.

    After that an exception means that the answer is not complete, and the connection is cut.
    """
    _refuse_unusual(request)
    path = upstream_path(request.rel_url.raw_path)
    tap = _tap(request, path)
    upload = Upload(request, tap) if request.body_exists else None
    upstream, telemetry = request.app[UPSTREAM], request.app[TELEMETRY]
    forwarding = upstream.forward(request.method, path, request.rel_url.raw_query_string, _headers(request), upload)
    try:
        with telemetry.attempting(upstream.name, ending_of) as attempt:
            async with forwarding as answer:
                attempt.begin(str(answer.status))
                return await _relay(request, answer, tap)
    except ApiError:
        if upload is not None and upload.error is not None:
            # What is wrong with the caller's body shows up as a broken upstream connection.
            raise upload.error from None
        raise
    finally:
        if tap is not None:
            request.app[CHAT_RECORDER].put(tap)


def _refuse_unusual(request: web.Request) -> None:
    if request.method not in METHODS:
        raise method_not_allowed(request.method[:32], ", ".join(sorted(METHODS)))
    # Others may be ignored (RFC 9110, 7.8): Java's client asks for h2c with every request.
    if request.headers.get(hdrs.UPGRADE, "").lower() == "websocket":
        raise UpgradeRequired("WebSocket is not available on this path.")


def _tap(request: web.Request, path: str) -> ChatTap | None:
    """Return what takes a request and its answer down, None if it is none of those that may be recorded."""
    if path != CHAT_PATH or request.method != hdrs.METH_POST or not request.body_exists:
        return None
    return request.app[CHAT_RECORDER].tap(request[CALLER].owner, request.headers)


def upstream_path(raw_path: str) -> str:
    """Return what follows `/v1` in a path, as it came. Raises NotFound for one that leads elsewhere.

    Elsewhere is out of the upstream's base path, or to the stateful endpoints by another spelling, or `/v1/v1/…`.
    """
    segments = split_path(raw_path)
    ours = len(segments) > 1 and segments[1].casefold() in _NOT_THEIRS
    if ours or segments[:1] != [API_VERSION] or not raw_path.startswith(f"{_PREFIX}/") or ".." in segments:
        raise NotFound(f"Invalid URL ({raw_path}).{hint_for(raw_path)}")
    return raw_path.removeprefix(_PREFIX)


class Upload:
    """A request's body on its way upstream; `error` tells afterwards whether the caller broke it off.

    tap: what takes it down.
    """

    def __init__(self, request: web.Request, tap: ChatTap | None = None) -> None:
        self._tap = tap
        self._body = iter_body(request, request.app[CONFIG].server.max_body_bytes)
        self.error: ApiError | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._body:
                if self._tap is not None:
                    self._tap.ask(chunk)
                yield chunk
        except ApiError as exc:
            self.error = exc
            raise


def _headers(request: web.Request) -> CIMultiDict[str]:
    headers = request_headers(traced_headers(request), request[CALLER].credentials)
    if request.body_exists and request.content_length is not None:
        headers[hdrs.CONTENT_LENGTH] = str(request.content_length)
    return headers


async def _relay(request: web.Request, answer: aiohttp.ClientResponse, tap: ChatTap | None) -> web.StreamResponse:
    request[UPSTREAM_REQUEST_ID] = answer.headers.get("x-request-id", "-")
    response = web.StreamResponse(
        status=answer.status, reason=answer.reason, headers=response_headers(answer.headers, untouched=True)
    )
    await response.prepare(request)
    listed = _ModelList() if request.path == MODELS_PATH and answer.status == 200 else None
    if tap is not None:
        tap.begin(answer.status, answer.headers)
    async for chunk in iter_raw(answer):
        if tap is not None:
            tap.answer(chunk)
        if listed is not None:
            listed.take(chunk)
        await response.write(chunk)
    if listed is not None:
        request.app[TELEMETRY].models.vouch_list(listed.read())
    await response.write_eof()
    if tap is not None:
        tap.is_delivered = True
    return response


class _ModelList:
    """A list of models that goes by: what is in it may be told in metrics."""

    def __init__(self) -> None:
        self._body = b""

    def take(self, chunk: bytes) -> None:
        """Keep a piece, up to the size of any list there is."""
        if len(self._body) <= MAX_LIST_BYTES:
            self._body += chunk

    def read(self) -> object:
        """Return the list; None for what is too large, compressed, or none."""
        try:
            return orjson.loads(self._body) if len(self._body) <= MAX_LIST_BYTES else None
        except orjson.JSONDecodeError:
            return None
