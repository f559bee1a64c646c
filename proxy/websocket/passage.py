"""Passage: what a connection leaves to another process since one of its messages was too much for this one."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import WSCloseCode

from proxy.protocol.errors import ServiceUnavailable
from proxy.websocket.messages import error_message
from proxy.websocket.socket import CLOSE_SECONDS
from proxy.websocket.tunnel import Tunnel

if TYPE_CHECKING:
    from aiohttp import web

    from proxy.websocket.delivery import Send
    from proxy.websocket.socket import Socket


class Passage:
    """A connection's way to the process for large requests, once it is open. tell: sends messages to the client."""

    def __init__(self, request: web.Request, socket: Socket, tell: Send) -> None:
        self._request = request
        self._socket = socket
        self._tell = tell
        self._opening = asyncio.Lock()
        self._tunnel: Tunnel | None = None
        self._answering: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether what comes goes there."""
        return self._tunnel is not None

    async def open(self) -> bool:
        """Open it, once; return whether it is open: else nobody is there."""
        async with self._opening:
            if self._tunnel is None and (opened := await Tunnel.open(self._request)) is not None:
                self._tunnel, self._answering = opened, asyncio.create_task(self._pass_back(opened))
        return self.is_open

    async def send(self, data: bytes, *, is_counted: bool = False) -> None:
        """Send a message there. is_counted: it is already, as a request."""
        if self._tunnel is not None:
            await self._tunnel.send(data, is_counted=is_counted)

    async def end(self) -> None:
        """Close it: the client has gone."""
        if self._tunnel is not None and self._answering is not None:
            self._tunnel.end()
            await asyncio.gather(self._answering, return_exceptions=True)

    async def _pass_back(self, tunnel: Tunnel) -> None:
        """Send the client what comes from the other process, until that closes the connection or has ended."""
        while (message := await tunnel.receive()) is not None:
            await self._tell([message])
        if tunnel.close_code == WSCloseCode.INTERNAL_ERROR:
            lost = "The process that answers large messages has ended; please connect again."
            await self._tell([error_message(ServiceUnavailable(lost, code="server_busy"))])
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._socket.close(code=tunnel.close_code)
