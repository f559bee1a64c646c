"""A proxy in front of a Redis server that counts how often its clients have to wait for an answer."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

#: Seconds of silence after which a client is taken to wait for its answer.
SILENCE_SECONDS = 0.01
CHUNK_BYTES = 1 << 20


class RoundTripCounter:
    """Listens on a unix socket of its own, forwards to a server, and counts round trips over all connections.

    A round trip is all that a client sends before it waits, be it one command or a pipeline, and the answers to
    that. Opening a connection takes some of its own: `await store.ping()`, then `reset()`.

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

    async def _forward_requests(self, client: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        while request := await _read_until_silent(client):
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


async def _read_until_silent(reader: asyncio.StreamReader) -> bytes:
    """Read what a client sends until it pauses, so that a long pipeline counts once; nothing at its end."""
    parts = [await reader.read(CHUNK_BYTES)]
    while parts[-1]:
        try:
            parts.append(await asyncio.wait_for(reader.read(CHUNK_BYTES), SILENCE_SECONDS))
        except TimeoutError:
            break
    return b"".join(parts)
