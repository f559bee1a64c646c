"""Every path under `/v1/` that is not ours: streamed both ways as it is, nothing parsed, nothing held back.

With several upstreams a JSON body is looked at for its `model`, which decides where it goes; another server of that
model is asked where one fails before its answer. The list of models is that of all (`upstream.models`). Anything else
goes to the one with `*`, else to the first.

Paths under `/v1/responses` and `/v1/conversations` that have no route end here too, and are 404, however they
are spelled (`%72esponses`, `//`, `responses%2F…`, `responses%00`): where callers share the upstream's key, its own
records of them would be anybody's. The methods are those of the API: a model server's TRACE would show the key.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from urllib.parse import unquote

import orjson
from aiohttp import hdrs, web

from proxy.auth.caller import CALLER
from proxy.http.body import hold_body, is_json, iter_body
from proxy.http.keys import CONFIG, UPSTREAM_REQUEST_ID
from proxy.http.middleware import traced_headers
from proxy.http.urls import API_VERSION, hint_for, split_path
from proxy.protocol.errors import ApiError, NotFound, UpgradeRequired, method_not_allowed
from proxy.recording.chat import CHAT_RECORDER
from proxy.telemetry.telemetry import TELEMETRY
from proxy.upstream.attempts import FAILOVER_STATUSES, is_for_others
from proxy.upstream.body import ending_of, iter_chunks, iter_raw, read_body
from proxy.upstream.choice import UPSTREAMS, model_not_found
from proxy.upstream.failover import Route
from proxy.upstream.headers import request_headers, response_headers
from proxy.upstream.models import MODEL_LIST
from proxy.upstream.renaming import EventRenamer, model_in, with_model

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator
    from contextlib import AbstractAsyncContextManager

    import aiohttp

    from proxy.config.upstreams import UpstreamConfig
    from proxy.recording.chat import ChatTap
    from proxy.upstream.client import Upstream

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

_MODELS = "/models"
_EVENTS = "text/event-stream"
#: Types of answers in which a model is told by the caller's name.
_RENAMED = frozenset({"application/json", _EVENTS})

#: First segments that belong to the stateful endpoints, and the one that a wrong base URL makes.
_NOT_THEIRS = frozenset({"responses", "conversations", API_VERSION})


async def pass_through(request: web.Request) -> web.StreamResponse:
    """Send the request upstream and relay the answer, whatever it is. Raises ApiError before the answer began.

    After that an exception means that the answer is not complete, and the connection is cut.
    """
    _refuse_unusual(request)
    path = upstream_path(request.rel_url.raw_path)
    tap = _tap(request, path)
    try:
        if (answered := await _answer_by_model(request, path, tap)) is not None:
            return answered
        return await _pass_to(request, path, tap)
    finally:
        if tap is not None:
            request.app[CHAT_RECORDER].put(tap)


async def _pass_to(request: web.Request, path: str, tap: ChatTap | None) -> web.StreamResponse:
    """Pass a request to the server that takes what names no model. Raises as `pass_through`."""
    server, upload = request.app[UPSTREAMS].rest, Upload(request, tap) if request.body_exists else None
    try:
        with request.app[TELEMETRY].attempting(server.name, ending_of) as attempt:
            async with _forward(request, server, path, upload) as answer:
                attempt.begin(str(answer.status))
                return await _relay(request, answer, _noted(tap, server))
    except ApiError:
        if upload is not None and upload.error is not None:
            # What is wrong with the caller's body shows up as a broken upstream connection.
            raise upload.error from None
        raise


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


async def _answer_by_model(request: web.Request, path: str, tap: ChatTap | None) -> web.StreamResponse | None:
    """Return the answer where a model decides who gives it, None where none does. Raises as `pass_through`."""
    if not request.app[UPSTREAMS].looks_at_models:
        return None
    if request.method in (hdrs.METH_GET, hdrs.METH_HEAD):
        return await _tell_models(request, path)
    if not (request.body_exists and is_json(request)):
        return None
    content = await hold_body(request)
    model = model_in(content)
    if not model:
        return None
    if tap is not None:
        async for chunk in iter_body(request, len(content) + 1 + (request.content_length or 0)):
            tap.ask(chunk)
    return await _pass_by_model(request, path, content, model, tap)


async def _tell_models(request: web.Request, path: str) -> web.Response | None:
    """Return the answer about all models or one, None for a path that is neither. Raises NotFound."""
    if path != _MODELS and not path.startswith(f"{_MODELS}/"):
        return None
    name = unquote(path.removeprefix(_MODELS).strip("/"))
    models = await request.app[MODEL_LIST].read(request[CALLER])
    request.app[TELEMETRY].models.vouch_list({"object": "list", "data": models})
    if not name:
        return web.Response(body=orjson.dumps({"object": "list", "data": models}), content_type="application/json")
    for model in models:
        if model["id"] == name:
            return web.Response(body=orjson.dumps(model), content_type="application/json")
    raise model_not_found(name)


async def _pass_by_model(
    request: web.Request, path: str, content: bytes, model: str, tap: ChatTap | None
) -> web.StreamResponse:
    """Send the request to the servers of its model, until one has an answer, and relay that. Raises ApiError.

    content: the body, undone from its coding.
    """
    route = Route(model, request.app[UPSTREAMS].choose(model))
    while True:
        server, alias = route.server, route.server.alias(model)
        async with AsyncExitStack() as stack:
            attempt = stack.enter_context(request.app[TELEMETRY].attempting(server.name, ending_of))
            try:
                upload = _renamed(content, alias) if alias else Upload(request)
                answer = await stack.enter_async_context(_forward(request, server, path, upload))
            except ApiError as failure:
                server.note(worked=not is_for_others(failure))
                if not (is_for_others(failure) and route.advance()):
                    raise
                attempt.spoil(ending_of(failure))
                continue
            attempt.begin(str(answer.status))
            is_elsewhere = answer.status in FAILOVER_STATUSES
            server.note(worked=not is_elsewhere)
            if not (is_elsewhere and route.advance()):
                return await _relay(request, answer, _noted(tap, server), model if alias else "")


def _noted(tap: ChatTap | None, server: Upstream) -> ChatTap | None:
    if tap is not None:
        tap.upstream = server.address
    return tap


async def _renamed(content: bytes, alias: str) -> AsyncIterator[bytes]:
    yield with_model(content, alias)


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


def _forward(
    request: web.Request, server: Upstream, path: str, data: AsyncIterable[bytes] | None
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    """Return what sends a request to a server and gives its answer. data: its body, an Upload if that is as it came."""
    headers = request_headers(traced_headers(request), server.credentials(request[CALLER].credentials))
    if not (data is None or isinstance(data, Upload)):
        # another body than the caller's, and an answer that will be looked into
        headers.popall(hdrs.CONTENT_ENCODING, None)
        headers[hdrs.ACCEPT_ENCODING] = "identity"
    elif request.body_exists and request.content_length is not None:
        headers[hdrs.CONTENT_LENGTH] = str(request.content_length)
    return server.forward(request.method, path, request.rel_url.raw_query_string, headers, data)


async def _relay(
    request: web.Request, answer: aiohttp.ClientResponse, tap: ChatTap | None, model: str = ""
) -> web.StreamResponse:
    """Give the answer on. tap: what takes it down. model: what the caller calls the model, if it is to be told so."""
    request[UPSTREAM_REQUEST_ID] = answer.headers.get("x-request-id", "-")
    is_renamed = bool(model) and answer.content_type in _RENAMED
    headers = response_headers(answer.headers, untouched=not is_renamed)
    if is_renamed:
        headers[hdrs.CONTENT_TYPE] = answer.headers[hdrs.CONTENT_TYPE]
    response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
    await response.prepare(request)
    listed = _ModelList() if request.path == MODELS_PATH and answer.status == 200 else None
    if tap is not None:
        tap.begin(answer.status, headers if is_renamed else answer.headers)
    async for chunk in _with_name(answer, model, request.app[CONFIG].upstream) if is_renamed else iter_raw(answer):
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


async def _with_name(answer: aiohttp.ClientResponse, model: str, limits: UpstreamConfig) -> AsyncIterator[bytes]:
    """Yield an answer's body, decompressed, with the model under the caller's name."""
    if answer.content_type != _EVENTS:
        yield with_model(await read_body(answer, limits.max_response_bytes), model)
        return
    renamer = EventRenamer(model, limits.max_event_bytes)
    async for chunk in iter_chunks(answer):
        yield renamer.feed(chunk)
    yield renamer.flush()


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
