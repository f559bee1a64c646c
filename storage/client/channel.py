"""Channel: commands to Redis and their replies, pipelined, one exchange a round trip.

redis-py's connections do the protocol; its client is left out, because its bookkeeping costs four times as much CPU as
the exchange itself (measured: 50 us a command with the client, 11 us without).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol, TypeAlias

import hiredis
from redis import exceptions as redis_errors
from redis.asyncio import Connection, ConnectionPool
from redis.asyncio.cluster import RedisCluster

Argument: TypeAlias = bytes | str | int | float
Command: TypeAlias = tuple[Argument, ...]

#: Keys that the server looks at in one step of a scan.
SCAN_COUNT = 1000


class Channel(Protocol):
    """Sends commands together and returns their replies in order; an error reply is returned, not raised.

    Raises redis-py's ConnectionError and its kin, OSError, or TimeoutError when no reply came.
    """

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send all, read all."""
        ...

    def scan(self, pattern: str) -> AsyncIterator[list[str]]:
        """Yield the names of the keys that match a glob, a batch a round trip; one may come twice.

        What is written meanwhile may be missing. Raises an error reply too.
        """
        ...

    async def close(self) -> None:
        """Close what is open."""
        ...


class ServerChannel:
    """One server (or the master that Sentinel names), over at most `limit` connections of `pool`'s making."""

    def __init__(self, pool: ConnectionPool, *, limit: int, timeout_seconds: float) -> None:
        self._pool = pool
        self._timeout_seconds = timeout_seconds
        self._idle: list[Connection] = []
        self._free = asyncio.Semaphore(limit)

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send all in one write, read all; once more on a fresh connection if an idle one turns out dead."""
        if not commands:
            # asyncio would try to write nothing again and again, and never close the connection (CPython 3.12, 3.13)
            return []
        async with asyncio.timeout(self._timeout_seconds), self._free:
            if self._idle:
                try:
                    return await self._exchange(self._idle.pop(), commands)
                except (redis_errors.ConnectionError, OSError):
                    # The server was restarted or went away: the others are as dead. Every script can be repeated.
                    await self._drop_idle()
            connection: Connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
            await connection.connect()  # type: ignore[no-untyped-call]
            return await self._exchange(connection, commands)

    async def _exchange(self, connection: Connection, commands: Sequence[Command]) -> list[Any]:
        replies: list[Any] = []
        try:
            await connection.send_packed_command(b"".join([_pack(command) for command in commands]))
            for _ in commands:
                try:
                    replies.append(await connection.read_response())
                except redis_errors.ResponseError as error:
                    replies.append(error)
        except BaseException:
            # replies may still be on their way: this connection can't be used again
            await connection.disconnect(nowait=True)
            raise
        self._idle.append(connection)
        return replies

    async def scan(self, pattern: str) -> AsyncIterator[list[str]]:
        """Yield matching keys, some 1,000 looked at a step."""
        cursor: bytes | int = 0
        while True:
            (reply,) = await self.exchange([("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT)])
            if isinstance(reply, Exception):
                raise reply
            cursor, keys = reply
            if keys:
                yield [key.decode() for key in keys]
            if int(cursor) == 0:
                return

    async def _drop_idle(self) -> None:
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)

    async def close(self) -> None:
        """Close every idle connection."""
        await self._drop_idle()
        await self._pool.aclose()


def _pack(command: Command) -> bytes:
    # hiredis's stub wants a tuple of one element
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
    return packed


class ClusterChannel:
    """A cluster: each command goes to the node of its first key, all at the same time."""

    def __init__(self, client: RedisCluster, *, timeout_seconds: float) -> None:
        self._client = client
        self._timeout_seconds = timeout_seconds
        for name in ("HSCAN", "ZSCAN", "XREAD", "XREADGROUP"):
            # replies as a single server gives them, not as redis-py's clients shape them
            client.set_response_callback(name, _unshaped)

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send all, one exchange a command, concurrently."""
        async with asyncio.timeout(self._timeout_seconds):
            return list(await asyncio.gather(*(self._send(command) for command in commands)))

    async def _send(self, command: Command) -> Any:
        try:
            return await self._client.execute_command(*command)
        except redis_errors.ResponseError as error:
            return error

    async def scan(self, pattern: str) -> AsyncIterator[list[str]]:
        """Yield matching keys, some 1,000 looked at a step, one primary after the other."""
        async with asyncio.timeout(self._timeout_seconds):
            await self._client.initialize()
        for node in self._client.get_primaries():
            # redis-py gives its own form of SCAN's reply: the cursor by the node's name
            cursor = 0
            while True:
                async with asyncio.timeout(self._timeout_seconds):
                    reply: Any = await self._client.scan(cursor, pattern, SCAN_COUNT, target_nodes=node)
                cursors, keys = reply
                if keys:
                    yield [key.decode() for key in keys]
                cursor = cursors[node.name]
                if cursor == 0:
                    break

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()


def _unshaped(response: Any, **_: Any) -> Any:
    return response
