"""Signing in and out: a key or a token for a cookie."""

from __future__ import annotations

from aiohttp import hdrs, web

from proxy.http.keys import STORE
from proxy.page.guard import read_form
from proxy.page.layout import ROOT_PATH, see_other, show_screen
from proxy.page.session import DOORKEEPER
from proxy.protocol.errors import BadRequest, TooManyRequests, Unauthorized

#: Tries that an address has a minute.
TRIES_PER_MINUTE = 5

#: What everybody is told who is not let in.
_REFUSED = "This key was not accepted."


async def show_sign_in(request: web.Request) -> web.StreamResponse:
    """GET /ui/sign-in."""
    return _form(request, "")


async def do_sign_in(request: web.Request) -> web.StreamResponse:
    """POST /ui/sign-in: key; 303 to where somebody wanted to go."""
    keeper = request.app[DOORKEEPER]
    form = await read_form(request)
    allowance = await request.app[STORE].quotas.count_request(f"sign-in:{request.remote}"[:80], TRIES_PER_MINUTE)
    if allowance.wait_seconds:
        refusal = TooManyRequests("Too many tries; wait a minute.", retry_after_seconds=allowance.wait_seconds)
        return _form(request, refusal.message, refusal.status)
    try:
        given = await keeper.sign_in(str(form.get("key", "")))
    except (Unauthorized, BadRequest):
        return _form(request, _REFUSED, 401)
    response = see_other(_target(request))
    response.set_cookie(
        keeper.cookie,
        given.text,
        path="/ui",
        max_age=given.seconds,
        httponly=True,
        samesite="Strict",
        secure=keeper.is_secure,
    )
    return response


async def do_sign_out(request: web.Request) -> web.StreamResponse:
    """POST /ui/sign-out."""
    keeper = request.app[DOORKEEPER]
    response = see_other(f"{ROOT_PATH}sign-in" if keeper.asks else ROOT_PATH)
    response.del_cookie(keeper.cookie, path="/ui", secure=keeper.is_secure, httponly=True, samesite="Strict")
    return response


def _form(request: web.Request, problem: str, status: int = 200) -> web.Response:
    keeper = request.app[DOORKEEPER]
    response = show_screen(
        request,
        "sign_in.html",
        status=status,
        problem=problem,
        mode=keeper.mode,
        asks=keeper.asks,
        can_check=keeper.can_check,
        next=_target(request),
    )
    if status == 429:
        response.headers[hdrs.RETRY_AFTER] = "60"
    return response


def _target(request: web.Request) -> str:
    """Return where to go then: a screen of the page, whatever the query says."""
    target = request.query.get("next", "")
    is_own = target.startswith(ROOT_PATH) and not any(char in target for char in "\\\r\n") and "//" not in target
    return target if is_own else ROOT_PATH
