"""Client connection: aiohttp's, which tells whoever answers its request that the client has gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable


class ClientConnection(web.RequestHandler):
    """One client's connection. Its requests are answered one after the other."""

    __slots__ = ("on_leave",)

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        #: Called once, when the client goes while its request is answered; None where nobody has to know.
        self.on_leave: Callable[[], object] | None = None

    async def caught_up(self) -> None:
        """Return when the client has read enough of what it was sent. Raises ConnectionError if it has gone."""
        await self._drain_helper()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell whoever answers; nothing is cancelled that does not ask for it."""
        super().connection_lost(exc)
        if (leave := self.on_leave) is not None:
            self.on_leave = None
            leave()


def client_connection(request: web.Request) -> ClientConnection:
    """Return the connection that a request came on."""
    connection = request.protocol
    if not isinstance(connection, ClientConnection):
        raise TypeError("the application is served by another runner")
    return connection
