"""A turn's answer in one step is what aiohttp would have sent in several, byte for byte."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from proxy.http.answers import TurnAnswer
from proxy.http.connection import ConnectionLimits
from proxy.http.request import ClientRequest
from proxy.http.runner import ClientRunner
from tests.proxy.conftest import Exchange

BODY = b'{"object":"response","text":"\xc3\xa4"}'
NOTED: web.RequestKey[str] = web.RequestKey("noted", str)
OF_THE_APP: web.AppKey[str] = web.AppKey("of_the_app", str)
DATE = re.compile(rb"Date: [^\r]*")

#: What the model server said that goes along.
HEADERS = [
    {},
    {"x-ratelimit-remaining": "7", "Server": "uvicorn"},
    {"Date": "Sun, 29 Nov 2026 20:00:00 GMT", "x-name": "\xe4\u20ac"},
    {"Connection": "close"},
]

CLOSE, KEEP = "Connection: close\r\n", "Connection: keep-alive\r\n"
#: Whether a connection is kept, by the version and what the request says of it.
KEEPS = {
    (version, last): last == KEEP or (version, last) == ("1.1", "")
    for version in ("1.0", "1.1")
    for last in ("", CLOSE, KEEP)
}


@pytest.fixture
async def origin() -> AsyncIterator[URL]:
    """A server that answers `/turn/N` and `/plain/N` with the same; a signal puts a header on both."""

    async def turn(request: web.Request) -> web.StreamResponse:
        return TurnAnswer(BODY, HEADERS[int(request.match_info["which"])])

    async def plain(request: web.Request) -> web.StreamResponse:
        which = HEADERS[int(request.match_info["which"])]
        return web.Response(body=BODY, headers=which, content_type="application/json")

    async def sign(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["x-signed"] = request.method

    app = web.Application()
    app.router.add_route("*", "/turn/{which}", turn)
    app.router.add_route("*", "/plain/{which}", plain)
    app.on_response_prepare.append(sign)
    limits = ConnectionLimits(most=10, head_seconds=10, unread_seconds=10, error_format="openai")
    runner = ClientRunner(app, shorten="", limits=limits)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield URL(f"http://127.0.0.1:{runner.addresses[0][1]}")
    await runner.cleanup()


@pytest.mark.parametrize("which", range(len(HEADERS)))
@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("last", ["", CLOSE, KEEP])
async def test_it_is_what_aiohttp_sends(
    origin: URL, exchange: Exchange, which: int, method: str, version: str, last: str
):
    answers = []
    for path in ("turn", "plain"):
        asked = f"{method} /{path}/{which} HTTP/{version}\r\nHost: h\r\n"
        # where the connection is kept, a second request ends it
        end = f"{asked}Connection: close\r\n\r\n" if KEEPS[version, last] else ""
        answers.append(DATE.sub(b"Date", await exchange(origin, f"{asked}{last}\r\n{end}".encode())))
    assert answers[0] == answers[1]
    assert b"x-signed" in answers[0]


async def test_a_request_tells_what_is_noted_of_it_and_its_application():
    seen: dict[str, object] = {}

    async def look(request: web.Request) -> web.StreamResponse:
        seen["class"], seen["app"] = type(request), request.app[OF_THE_APP]
        seen["before"] = (NOTED in request, request.get(NOTED), request.get(NOTED, "else"))
        request[NOTED] = "this"
        seen["after"] = (NOTED in request, request.get(NOTED), request[NOTED])
        return web.Response()

    app = web.Application()
    app[OF_THE_APP] = "its own"
    app.router.add_get("/", look)
    limits = ConnectionLimits(most=10, head_seconds=10, unread_seconds=10, error_format="openai")
    runner = ClientRunner(app, shorten="", limits=limits)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{runner.addresses[0][1]}/"):
        pass
    await runner.cleanup()
    assert seen == {
        "class": ClientRequest,
        "app": "its own",
        "before": (False, None, "else"),
        "after": (True, "this", "this"),
    }
