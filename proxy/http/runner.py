"""Runner: serves an application on `ClientConnection`s, with a shortcut to its busiest route."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from proxy.http.connection import ClientConnection
from proxy.http.shortcut import Shortcut, find_post


class ClientRunner(web.AppRunner):
    """Sets up and ends an application.

    shorten: the path that gets a `Shortcut`, if it has a route for POST; all other settings are aiohttp's.
    """

    def __init__(self, app: web.Application, *, shorten: str, **settings: Any) -> None:
        super().__init__(app, **settings)
        self._shorten = shorten

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        handler = made.request_handler
        if (route := find_post(self.app, self._shorten)) is not None:
            handler = Shortcut(self.app, route, handler).handle
        return _ClientServer(handler, request_factory=made.request_factory, **self._kwargs)


class _ClientServer(web.Server):
    def __call__(self) -> ClientConnection:
        return ClientConnection(self, loop=self._loop, **self._kwargs)
