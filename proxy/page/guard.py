"""Guard: what stands before every handler of the page: who asks, from where, and errors as a screen.

A POST must come from the page itself: `Sec-Fetch-Site: same-origin`, or, of browsers that do not send it (over plain
HTTP, to another machine), our own `Origin`. So no form needs a token.
"""

from __future__ import annotations

import asyncio
import logging
from functools import wraps
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from aiohttp import hdrs, web

from proxy.auth.caller import CALLER
from proxy.http.keys import CONFIG, REQUEST_ID, Handler
from proxy.http.middleware import STOPPING
from proxy.http.quotas import count_request
from proxy.page.layout import ROOT_PATH, see_other, show_screen
from proxy.page.session import DOORKEEPER
from proxy.protocol.errors import (
    ApiError,
    BadRequest,
    Forbidden,
    InternalError,
    PayloadTooLarge,
    RequestTimeout,
    ServiceUnavailable,
    Unauthorized,
)
from proxy.protocol.store_errors import from_store_error
from storage import StoreError

if TYPE_CHECKING:
    from multidict import MultiMapping

#: Seconds after which a browser tries a screen again that the store could not give.
REFRESH_SECONDS = 5

log = logging.getLogger(__name__)


def for_callers(handler: Handler, *, plain: bool = False) -> Handler:
    """Return a handler of the page for those who may look, with `CALLER` set. plain: errors as JSON, for scripts."""

    async def enter(request: web.Request) -> web.StreamResponse:
        keeper = request.app[DOORKEEPER]
        try:
            caller = await keeper.caller(request.headers, request.cookies.get(keeper.cookie))
        except Unauthorized:
            # what a header says is nothing that a form could put right
            if hdrs.AUTHORIZATION in request.headers:
                raise
            caller = None
        if caller is None:
            return see_other(f"{ROOT_PATH}sign-in?next={quote(request.rel_url.raw_path_qs)}")
        request[CALLER] = caller
        if request.method == hdrs.METH_POST and (limit := request.app[CONFIG].quotas.requests_per_minute):
            await count_request(request, caller.owner, limit)
        return await handler(request)

    return for_anybody(wraps(handler)(enter), plain=plain)


def for_anybody(handler: Handler, *, plain: bool = False) -> Handler:
    """Return a handler of the page for anybody. plain: errors as JSON, for scripts."""

    @wraps(handler)
    async def attended(request: web.Request) -> web.StreamResponse:
        try:
            if request.app[STOPPING].is_set():
                raise ServiceUnavailable("The server is stopping; please retry.")
            if request.method == hdrs.METH_POST:
                require_own_page(request)
            return await handler(request)
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            if plain:
                raise
            return error_screen(request, as_api_error(request, exc))

    return attended


def require_own_page(request: web.Request) -> None:
    """Refuse a POST that another site's page sends. Raises Forbidden."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        if site == "same-origin":
            return
    elif (origin := request.headers.get(hdrs.ORIGIN)) is not None and _is_own(request, origin):
        return
    raise Forbidden("This form was sent by a page of another site.", code="cross_site_request")


async def read_form(request: web.Request) -> MultiMapping[Any]:
    """Return the form that was sent; a second time the same. Raises BadRequest, PayloadTooLarge, RequestTimeout."""
    try:
        async with asyncio.timeout(request.app[CONFIG].server.body_timeout_seconds):
            return await request.post()
    except TimeoutError:
        raise RequestTimeout("The form did not arrive in time.") from None
    except web.HTTPRequestEntityTooLarge as exc:
        raise PayloadTooLarge("The form is too large: at most a megabyte.") from exc
    except (ValueError, LookupError) as exc:
        raise BadRequest("The form can't be read.", code="invalid_body") from exc


def as_api_error(request: web.Request, exc: Exception) -> ApiError:
    """Return what an exception means to whoever asked; one that nobody expected is logged."""
    if isinstance(exc, ApiError):
        return exc
    if isinstance(exc, StoreError):
        return from_store_error(exc)
    log.error("%s failed", request[REQUEST_ID], exc_info=exc)
    return InternalError("The server had an error while making this page.")


def error_screen(request: web.Request, error: ApiError) -> web.Response:
    """Return a screen with what went wrong, in the words and with the code of the API."""
    retries = error.status == 503 and request.method == hdrs.METH_GET
    response = show_screen(
        request,
        "error.html",
        status=error.status,
        error=error,
        request_id=request[REQUEST_ID],
        retries=REFRESH_SECONDS if retries else 0,
        conversation_id=request.match_info.get("conversation_id", ""),
    )
    response.headers.update({name: value for name, value in error.headers.items() if name != hdrs.WWW_AUTHENTICATE})
    if retries:
        response.headers["Refresh"] = str(REFRESH_SECONDS)
    return response


def _is_own(request: web.Request, origin: str) -> bool:
    url = request.app[CONFIG].ui.url
    scheme, _, host = origin.partition("://")
    if url:
        public = urlsplit(url)
        if (scheme, host) == (public.scheme, public.netloc):
            return True
    return scheme in {"http", "https"} and host == request.host
