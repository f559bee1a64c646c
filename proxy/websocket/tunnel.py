"""Tunnel: a WebSocket's large messages, and all that follow on it, taken by another process; its answers passed on.

A connection that sends what would hold everybody up here (see `proxy.http.handover`) is opened once more, with the same
head, at a process that is there for such. What comes of the client goes there as it is, neither parsed nor looked at;
what comes from there goes to the client. Lanes, limits and what was not stored are looked after there.
"""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import WSCloseCode, WSMsgType

from proxy.auth.caller import CALLER
from proxy.http.handover import HANDOVER
from proxy.http.keys import NOTES, REQUEST_ID
from proxy.http.passed import Passed
from proxy.http.quotas import ALLOWANCE

if TYPE_CHECKING:
    from aiohttp import web

#: Longest head of an answer to the upgrade, in bytes.
MAX_HEAD_BYTES = 64 * 1024
#: Bytes that are read ahead, or wait to be written, before the other side has to wait.
BUFFER_BYTES = 256 * 1024

#: What a pong says ahead of a message that is counted already, as a request. A client's own never come that far.
COUNTED = b"counted"

#: A lane's name in a message. One in the middle of it is taken for that too: then more is waited for than had to be.
_LANE = re.compile(rb'"stream_id"\s*:\s*"([^"\\]{1,256})"')
#: Nothing is compressed on the way from one process to the other.
_NOT_PASSED = frozenset({b"sec-websocket-extensions"})
_FINAL, _MASKED, _LENGTH_2, _LENGTH_8 = 0x80, 0x80, 126, 127


def lanes_in(data: bytes) -> set[str]:
    """Return the lanes that a message may be for, without parsing it; '' is the default lane."""
    return {name.decode("utf-8", "replace") for name in _LANE.findall(data)} or {""}


class Tunnel:
    """The connection to the other process. Made by `open`. close_code: why that has closed it, once it has."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.close_code: int = WSCloseCode.INTERNAL_ERROR

    @classmethod
    async def open(cls, request: web.Request) -> Tunnel | None:
        """Open a client's connection once more at the process for large requests; None if nothing is given there."""
        handover = request.app.get(HANDOVER)
        take = await handover.find(request[CALLER].owner) if handover is not None else None
        if take is None:
            return None
        began, allowance = request[NOTES].began, request.get(ALLOWANCE)
        passed = Passed(request[REQUEST_ID], began, allowance, is_told=True)
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        with theirs:
            try:
                if not await take(theirs.fileno(), passed, [_head_of(request)]):
                    ours.close()
                    return None
            except BaseException:
                ours.close()
                raise
        reader, writer = await asyncio.open_connection(sock=ours, limit=BUFFER_BYTES)
        writer.transport.set_write_buffer_limits(high=BUFFER_BYTES)
        tunnel = cls(reader, writer)
        with suppress(OSError, EOFError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 101 "):
                return tunnel
        tunnel.end()
        return None

    async def send(self, data: bytes, *, is_counted: bool = False) -> None:
        """Send a message; wait until most of it is taken. One that is taken by nobody any more is dropped.

        is_counted: see COUNTED.
        """
        await self._write(*([(WSMsgType.PONG, COUNTED)] if is_counted else []), (WSMsgType.BINARY, data))

    async def receive(self) -> bytes | None:
        """Return the next message; None when there will be none."""
        try:
            while True:
                kind, data = await self._read()
                if kind in (WSMsgType.TEXT, WSMsgType.BINARY):
                    return data
                if kind == WSMsgType.PING:
                    await self._write((WSMsgType.PONG, data))
                elif kind == WSMsgType.CLOSE:
                    if len(data) >= 2:
                        self.close_code = int.from_bytes(data[:2], "big")
                    return None
        except (OSError, EOFError):
            return None

    def end(self) -> None:
        """Close the connection: the client has gone."""
        self._writer.close()

    async def _read(self) -> tuple[int, bytes]:
        """Return a whole frame: its kind and what is in it. What the other process writes is never parted or masked."""
        first, length = await self._reader.readexactly(2)
        if length >= _LENGTH_2:
            length = int.from_bytes(await self._reader.readexactly(2 if length == _LENGTH_2 else 8), "big")
        return first & ~_FINAL, await self._reader.readexactly(length)

    async def _write(self, *messages: tuple[int, bytes]) -> None:
        """Write messages, kind and data of each, one behind the other."""
        for kind, data in messages:
            self._writer.writelines([_frame_head(kind, len(data)), data])
        with suppress(OSError):
            await self._writer.drain()


def _frame_head(kind: int, length: int) -> bytes:
    # masked, as a client's have to be, by a key that changes nothing; a control frame has its length in one byte
    told = bytes([_MASKED | length]) if length < _LENGTH_2 else bytes([_MASKED | _LENGTH_8]) + length.to_bytes(8, "big")
    return bytes([_FINAL | kind]) + told + bytes(4)


def _head_of(request: web.Request) -> bytes:
    """Return the head of an upgrade as it came."""
    lines = [f"{request.method} {request.raw_path} HTTP/1.1".encode("utf-8", "surrogateescape")]
    lines += [b"%b: %b" % field for field in request.raw_headers if field[0].lower() not in _NOT_PASSED]
    return b"\r\n".join([*lines, b"\r\n"])
