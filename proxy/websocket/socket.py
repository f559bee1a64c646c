"""WebSocket: aiohttp's side of a connection, and what of its upgrade goes along with its turns."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from aiohttp import WSCloseCode, WSMsgType, web
from multidict import CIMultiDict

from proxy.websocket.messages import error_message, too_large

#: Headers of the upgrade that are about the connection; one key for all of its turns would be one answer for all.
_OF_THE_CONNECTION = ("sec-websocket-", "idempotency-key")

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


def headers_of_turns(request: web.Request) -> CIMultiDict[str]:
    """Return the headers that each turn of a connection brings along."""
    kept = CIMultiDict(request.headers)
    for name in [name for name in kept if name.lower().startswith(_OF_THE_CONNECTION)]:
        kept.popall(name, None)
    return kept
