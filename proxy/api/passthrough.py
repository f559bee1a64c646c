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
from proxy.http.urls import API_VERSION, hint_for, split_path
from proxy.protocol.errors import ApiError, NotFound, UpgradeRequired, method_not_allowed
from proxy.upstream.attempts import FAILOVER_STATUSES, is_for_others
from proxy.upstream.body import iter_chunks, iter_raw, read_body
from proxy.upstream.choice import UPSTREAMS, model_not_found
from proxy.upstream.failover import Route
from proxy.upstream.headers import request_headers, response_headers
from proxy.upstream.models import MODEL_LIST
from proxy.upstream.renaming import EventRenamer, model_in, with_model

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator
    from contextlib import AbstractAsyncContextManager

    import aiohttp

    from proxy.upstream.client import Upstream

_PREFIX = f"/{API_VERSION}"

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
    if request.method not in METHODS:
        raise method_not_allowed(request.method[:32], ", ".join(sorted(METHODS)))
    # Others may be ignored (RFC 9110, 7.8): Java's client asks for h2c with every request.
    if request.headers.get(hdrs.UPGRADE, "").lower() == "websocket":
        raise UpgradeRequired("WebSocket is not available on this path.")
    path = upstream_path(request.rel_url.raw_path)
    if (answered := await _answer_by_model(request, path)) is not None:
        return answered
    upload = Upload(request) if request.body_exists else None
    try:
        async with _forward(request, request.app[UPSTREAMS].rest, path, upload) as answer:
            return await _relay(request, answer)
    except ApiError:
        if upload is not None and upload.error is not None:
            # What is wrong with the caller's body shows up as a broken upstream connection.
            raise upload.error from None
        raise


async def _answer_by_model(request: web.Request, path: str) -> web.StreamResponse | None:
    """Return the answer where a model decides who gives it, None where none does. Raises as `pass_through`."""
    if not request.app[UPSTREAMS].looks_at_models:
        return None
    if request.method in (hdrs.METH_GET, hdrs.METH_HEAD):
        return await _tell_models(request, path)
    if not (request.body_exists and is_json(request)):
        return None
    content = await hold_body(request)
    model = model_in(content)
    return await _pass_by_model(request, path, content, model) if model else None


async def _tell_models(request: web.Request, path: str) -> web.Response | None:
    """Return the answer about all models or one, None for a path that is neither. Raises NotFound."""
    if path != _MODELS and not path.startswith(f"{_MODELS}/"):
        return None
    name = unquote(path.removeprefix(_MODELS).strip("/"))
    models = await request.app[MODEL_LIST].read(request[CALLER])
    if not name:
        return web.Response(body=orjson.dumps({"object": "list", "data": models}), content_type="application/json")
    for model in models:
        if model["id"] == name:
            return web.Response(body=orjson.dumps(model), content_type="application/json")
    raise model_not_found(name)


async def _pass_by_model(request: web.Request, path: str, content: bytes, model: str) -> web.StreamResponse:
    """Send the request to the servers of its model, until one has an answer, and relay that. Raises ApiError.

    content: the body, undone from its coding.
    """
    route = Route(model, request.app[UPSTREAMS].choose(model))
    while True:
        server, attempt = route.server, AsyncExitStack()
        alias = server.alias(model)
        async with attempt:
            try:
                upload = _renamed(content, alias) if alias else Upload(request)
                answer = await attempt.enter_async_context(_forward(request, server, path, upload))
            except ApiError as failure:
                server.note(worked=not is_for_others(failure))
                if not (is_for_others(failure) and route.advance()):
                    raise
                continue
            is_elsewhere = answer.status in FAILOVER_STATUSES
            server.note(worked=not is_elsewhere)
            if not (is_elsewhere and route.advance()):
                return await _relay(request, answer, model if alias else "")


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
    """A request's body on its way upstream; `error` tells afterwards whether the caller broke it off."""

    def __init__(self, request: web.Request) -> None:
        self._body = iter_body(request, request.app[CONFIG].server.max_body_bytes)
        self.error: ApiError | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._body:
                yield chunk
        except ApiError as exc:
            self.error = exc
            raise


def _forward(
    request: web.Request, server: Upstream, path: str, data: AsyncIterable[bytes] | None
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    """Return what sends a request to a server and gives its answer. data: its body, an Upload if that is as it came."""
    headers = request_headers(request.headers, server.credentials(request[CALLER].credentials))
    if not (data is None or isinstance(data, Upload)):
        # another body than the caller's, and an answer that will be looked into
        headers.popall(hdrs.CONTENT_ENCODING, None)
        headers[hdrs.ACCEPT_ENCODING] = "identity"
    elif request.body_exists and request.content_length is not None:
        headers[hdrs.CONTENT_LENGTH] = str(request.content_length)
    return server.forward(request.method, path, request.rel_url.raw_query_string, headers, data)


async def _relay(request: web.Request, answer: aiohttp.ClientResponse, model: str = "") -> web.StreamResponse:
    """Give the answer on. model: what the caller calls the model, where it is to be told so."""
    request[UPSTREAM_REQUEST_ID] = answer.headers.get("x-request-id", "-")
    kind = answer.content_type if model else ""
    headers = response_headers(answer.headers, untouched=kind not in _RENAMED)
    if kind == "application/json":
        body = with_model(await read_body(answer, request.app[CONFIG].upstream.max_response_bytes), model)
        return web.Response(body=body, status=answer.status, headers=headers, content_type=kind)
    response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
    if kind == _EVENTS:
        response.headers[hdrs.CONTENT_TYPE] = answer.headers[hdrs.CONTENT_TYPE]
    await response.prepare(request)
    renamer = EventRenamer(model, request.app[CONFIG].upstream.max_event_bytes) if kind == _EVENTS else None
    async for chunk in iter_chunks(answer) if renamer else iter_raw(answer):
        await response.write(renamer.feed(chunk) if renamer else chunk)
    if renamer:
        await response.write(renamer.flush())
    await response.write_eof()
    return response
