"""A TCP fault injector: relays connections between two parts, and breaks them when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

_CHUNK_BYTES = 1 << 18


class Link:
    """A relay on a port of 127.0.0.1 in front of another. Made by `link`.

    port: where it listens. target: the port that new connections go to. connections: those that are open.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._refuses = self._swallows = False
        self._flows = asyncio.Event()
        self._flows.set()

    @property
    def connections(self) -> int:
        return len(self._writers) // 2

    def hold(self) -> None:
        """Pass nothing on, either way; connections stay open and new ones are taken."""
        self._flows.clear()

    def swallow(self) -> None:
        """Pass on what is asked, and drop what is answered: connections are of no use from then on."""
        self._swallows = True

    def refuse(self) -> None:
        """Reset all connections, and new ones at once."""
        self._refuses = True
        self.cut()

    def restore(self) -> None:
        """Relay as at first; connections that lost something on the way are reset."""
        if self._swallows:
            self.cut()
        self._refuses = self._swallows = False
        self._flows.set()

    def cut(self) -> None:
        """Reset all connections, at both ends."""
        for writer in self._writers:
            reset(writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection until either end closes it."""
        if self._refuses:
            reset(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            reset(writer)
            return
        both = {writer, far_writer}
        self._writers |= both
        try:
            await asyncio.gather(
                self._pump(reader, far_writer, answers=False), self._pump(far_reader, writer, answers=True)
            )
        finally:
            self._writers -= both
            for one in both:
                one.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                await self._flows.wait()
                if not (answers and self._swallows):
                    writer.write(data)
                    await writer.drain()
            await self._flows.wait()
            if writer.can_write_eof():
                writer.write_eof()
            return
        reset(writer)


def reset(writer: asyncio.StreamWriter) -> None:
    """Break a connection off so that its other end gets a reset (RST), not an end."""
    raw: socket.socket | None = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def link(target: int) -> AsyncIterator[Link]:
    """Relay a free port to the port `target` of this machine."""
    relay = Link(target)
    async with listening(relay.serve) as relay.port:
        yield relay


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], limit: int = 1 << 16
) -> AsyncIterator[int]:
    """Serve a free port, which is given, each connection in a task that ends with the context. limit: of a read."""
    tasks = set[asyncio.Task[None]]()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=limit)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
