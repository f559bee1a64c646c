"""Runner: serves an application on `ClientConnection`s, with a shortcut to its busiest route."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web

from proxy.http.connection import ClientConnection, ConnectionLimits
from proxy.http.request import ClientRequest
from proxy.http.shortcut import Shortcut, find_post
from proxy.protocol.errors import ServiceUnavailable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from proxy.http.passed import Passed


class ClientRunner(web.AppRunner):
    """Sets up and ends an application.

    shorten: the path that gets a `Shortcut`, if it has a route for POST. limits: of connections; all other settings are
    aiohttp's.
    """

    def __init__(self, app: web.Application, *, shorten: str, limits: ConnectionLimits, **settings: Any) -> None:
        super().__init__(app, **settings)
        self._shorten = shorten
        self._limits = limits

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        handler = made.request_handler
        if (route := find_post(self.app, self._shorten)) is not None:
            handler = Shortcut(self.app, route, handler).handle
        make, app = partial(made.request_factory, _cls=ClientRequest), self.app  # type: ignore[call-arg]

        def make_request(*parts: Any) -> web.BaseRequest:
            request = cast(ClientRequest, make(*parts))
            request.app = app
            return request

        return ClientServer(handler, limits=self._limits, request_factory=make_request, **self._kwargs)


class ClientServer(web.Server):
    """Makes the connections of clients, and has no more than there may be."""

    def __init__(self, handler: Any, *, limits: ConnectionLimits, **settings: Any) -> None:
        super().__init__(handler, limits=limits, **settings)
        self._most = limits.most

    def __call__(self) -> ClientConnection:
        """Return a connection for a client that has just come."""
        return ClientConnection(self, loop=self._loop, **self._kwargs)

    def resuming(self, sent: bytes, passed: Passed, on_answer: Callable[[], object]) -> ClientConnection:
        """Return a connection on which another process has received something, but answered nothing."""
        return ClientConnection(self, loop=self._loop, sent=sent, passed=passed, on_answer=on_answer, **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Refuse a connection that there is no room for."""
        super().connection_made(handler, transport)
        if isinstance(handler, ClientConnection) and not self._makes_room(handler):
            message = "This server has too many connections; please retry."
            handler.refuse(ServiceUnavailable(message, code="too_many_connections"))

    def _makes_room(self, newest: ClientConnection) -> bool:
        """Tell whether there is room for one more connection; of those that wait for a request the oldest makes it."""
        if len(self._connections) <= self._most:
            return True
        for one in self._connections:
            if isinstance(one, ClientConnection) and one.is_waiting and one is not newest:
                one.force_close()
                return True
        return False
