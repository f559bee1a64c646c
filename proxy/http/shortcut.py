"""Shortcut: the POST of one path, on its way to its handler past the router and the chain of middlewares.

What they do for such a request is done: it gets its id and its line, its errors are answered, it is admitted, signals
are sent. Only a plain one is taken; with a query, `Expect` or an idempotency key it goes the long way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from proxy.http.keys import KEY_HEADER, Handler
from proxy.http.middleware import attend, let_in
from proxy.http.request import ClientRequest


class Shortcut:
    """Handles the requests of a server. route: of the path's POST. application: handles all other requests."""

    def __init__(
        self,
        app: web.Application,
        route: web.AbstractRoute,
        application: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    ) -> None:
        self._path = _path_of(route)
        self._handler: Handler = route.handler
        self._application = application
        #: What the router would find. It has nothing of a request.
        self._found = web.UrlMappingMatchInfo({}, route)
        self._found.add_app(app)
        self._found.freeze()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request."""
        if request.raw_path != self._path or request.method != hdrs.METH_POST or not isinstance(request, ClientRequest):
            return await self._application(request)
        if KEY_HEADER in request.headers or hdrs.EXPECT in request.headers:
            return await self._application(request)
        # as the application does with what the router finds
        request._match_info = self._found  # noqa: SLF001
        return await attend(request, self._enter)

    async def _enter(self, request: web.Request) -> web.StreamResponse:
        await let_in(request)
        return await self._handler(request)


def find_post(app: web.Application, path: str) -> web.AbstractRoute | None:
    """Return the route of a path's POST, None if an application has none."""
    return next((one for one in app.router.routes() if (one.method, _path_of(one)) == (hdrs.METH_POST, path)), None)


def _path_of(route: web.AbstractRoute) -> str:
    return route.resource.canonical if route.resource is not None else ""
