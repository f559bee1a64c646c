"""WebSocket: aiohttp's side of a connection."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from aiohttp import WSCloseCode, WSMsgType, web

from proxy.websocket.messages import error_message, too_large

#: Seconds that a client gets to answer a close.
CLOSE_SECONDS = 2.0


class Socket(web.WebSocketResponse[Literal[False]]):
    """A WebSocket that says in words why it is closed. max_bytes: of one message, as sent and after decompression."""

    def __init__(self, max_bytes: int, *, compress: bool) -> None:
        super().__init__(
            timeout=CLOSE_SECONDS, autoping=False, compress=compress, max_msg_size=max_bytes + 1, decode_text=False
        )
        self._max_bytes = max_bytes

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        """Close the connection; say why in words where the protocol's own code comes from within aiohttp."""
        if code == WSCloseCode.MESSAGE_TOO_BIG and not self.closed:
            with suppress(ConnectionError):
                await self.send_frame(error_message(too_large(self._max_bytes)), WSMsgType.TEXT)
        return await super().close(code=code, message=message, drain=drain)
