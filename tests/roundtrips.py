"""A proxy in front of a Redis server that counts how often its clients have to wait for an answer."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

#: What is shorter came by one write, as a whole.
SHORT_BYTES = 4096
#: Seconds of silence after which a client that sent more is taken to wait for its answer.
SILENCE_SECONDS = 0.01
CHUNK_BYTES = 1 << 20


class RoundTripCounter:
    """Listens on a unix socket of its own, forwards to a server, and counts round trips over all connections.

    A round trip is all that a client sends before it waits, be it one command or a pipeline, and the answers to
    that. Opening a connection takes some of its own: `await store.condition.look()`, then `reset()`.

        async with RoundTripCounter(socket_of_server) as counter:
            store = Store.connect(counter.url, …)

    count: round trips since the last `reset`.
    """

    def __init__(self, server_socket: Path) -> None:
        self.count = 0
        self._server_socket = server_socket
        self._folder = Path(tempfile.mkdtemp(prefix="branchline-test-"))
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """What a client connects to."""
        return f"unix://{self._folder / 'counter.sock'}"

    def reset(self) -> None:
        """Start counting anew."""
        self.count = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self._folder / "counter.sock")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _serve(self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(self._server_socket)
        requests = asyncio.ensure_future(self._forward_requests(client_reader, server_writer))
        replies = asyncio.ensure_future(self._forward_replies(server_reader, client_writer))
        self._tasks |= {requests, replies}
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([requests, replies], return_when=asyncio.FIRST_COMPLETED)
        for writer in (client_writer, server_writer):
            writer.close()
        for writer in (client_writer, server_writer):
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _forward_requests(self, client: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        while request := await _read_request(client):
            self.count += 1
            await self._send_request(server, request)

    async def _send_request(self, server: asyncio.StreamWriter, request: bytes) -> None:
        server.write(request)
        await server.drain()

    async def _forward_replies(self, server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while reply := await server.read(CHUNK_BYTES):
            await self._send_reply(client, reply)

    async def _send_reply(self, client: asyncio.StreamWriter, reply: bytes) -> None:
        client.write(reply)
        await client.drain()


class _Commands:
    """What a client has sent since it last waited. is_whole: its last command has its end."""

    def __init__(self) -> None:
        self._head = b""
        self._arguments_left = 0
        self._bytes_left = 0

    @property
    def is_whole(self) -> bool:
        return not (self._head or self._arguments_left or self._bytes_left)

    def feed(self, data: bytes) -> None:
        """Take in what came next, cut anywhere: arrays (`*2`) of arguments with their lengths (`$3`)."""
        at = 0
        while at < len(data):
            if self._bytes_left:
                step = min(self._bytes_left, len(data) - at)
                self._bytes_left -= step
                at += step
                continue
            end = data.find(b"\n", at) + 1
            self._head += data[at : end or len(data)]
            at = end or len(data)
            if end:
                self._begin(self._head[:1], int(self._head[1:]))
                self._head = b""

    def _begin(self, kind: bytes, length: int) -> None:
        if kind == b"*":
            self._arguments_left = length
        else:
            self._arguments_left -= 1
            self._bytes_left = length + len(b"\r\n")


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    """Read what a client sends until it waits, so that a long pipeline counts once; nothing at its end."""
    commands = _Commands()
    request = bytearray()
    patience: float | None = None
    while True:
        try:
            async with asyncio.timeout(patience):
                data = await reader.read(CHUNK_BYTES)
        except TimeoutError:
            return bytes(request)
        request += data
        commands.feed(data)
        if not data or (commands.is_whole and len(request) < SHORT_BYTES):
            return bytes(request)
        patience = SILENCE_SECONDS if commands.is_whole else None
