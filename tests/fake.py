"""The fake server: fakeredis, one a test process, with its two slow places left out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis, FakeRedis, FakeServer
from fakeredis.aioredis import FakeAsyncRedisConnection
from fakeredis.commands_mixins.scripting_mixin import LUA_MODULE
from redis import exceptions as redis_errors
from redis.asyncio import Redis

from storage.client.channel import Channel, Command, Uncopied
from storage.client.connection import open_blocking_channel, open_channel

PIECE_BYTES = 4096

#: A test of the store that is tried on the fake too even if the run is not deep.
on_both_servers = pytest.mark.parametrize("redis", ["fake", "valkey"], indirect=True)

LuaRuntime: Any = LUA_MODULE.LuaRuntime


def connect_fake(database: int = 0) -> FakeAsyncRedis:
    """Return a client of this process's fake server, which may hold what the last one wrote."""
    return FakeAsyncRedis(server=_fake_server(), connection_class=InPieces, db=database)


class InPieces(FakeAsyncRedisConnection):
    """Sends long pipelines in pieces: the fake's parser copies the rest of what it was given for each argument."""

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        whole = _joined(command)
        pieces = [whole[i : i + PIECE_BYTES] for i in range(0, len(whole), PIECE_BYTES)]
        await super().send_packed_command(pieces, check_health)


class FakeChannel(Channel):
    """Exchanges with the fake server, each alone on a connection: it has no transport that they could share."""

    def __init__(self, client: FakeAsyncRedis) -> None:
        self._pool = client.connection_pool
        self._idle: list[InPieces] = []

    async def exchange(self, requests: Sequence[Command]) -> list[Any]:
        connection = self._idle.pop() if self._idle else self._pool.make_connection()
        await connection.connect()
        try:
            await connection.send_packed_command(connection.pack_commands([plain(request) for request in requests]))
            replies = [await self._read(connection) for _ in requests]
        except BaseException:
            # replies may still be on their way
            await connection.disconnect()
            raise
        self._idle.append(connection)
        return replies

    async def _read(self, connection: InPieces) -> Any:
        try:
            return await connection.read_response()
        except redis_errors.ResponseError as error:
            return error

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().disconnect()


def plain(command: Command) -> list[bytes | str | int | float]:
    """Return the arguments of a command, for a client that copies all of them."""
    return [one.data if isinstance(one, Uncopied) else one for one in command]


def contents_of_fake(client: FakeAsyncRedis) -> dict[bytes, tuple[float, Any]]:
    """Return all that a client's database holds: key → milliseconds to live (-1: for ever), and value."""
    keywords = client.connection_pool.connection_kwargs
    contents = {}
    now = time.time()
    for key, item in keywords["server"].dbs[keywords["db"]].items():
        life = -1 if item.expireat is None else (item.expireat - now) * 1000
        value = item.value
        contents[key] = (
            life,
            value.copy() if isinstance(value, list) else value if isinstance(value, bytes) else dict(value.items()),
        )
    return contents


def channels_to(client: Redis) -> tuple[Channel, Channel]:
    """Return the two channels of a store on a server of the tests, be it a fake."""
    if isinstance(client, FakeAsyncRedis):
        return FakeChannel(client), FakeChannel(client)
    channel = open_channel(client, timeout_seconds=5.0, max_connections=256)
    return channel, open_blocking_channel(client, timeout_seconds=5.0)


def _joined(command: bytes | str | Iterable[bytes]) -> bytes:
    match command:
        case bytes():
            return command
        case str():
            return command.encode()
        case _:
            return b"".join(command)


class CompilesOnce(LuaRuntime):  # type: ignore[misc]
    """Keeps what it compiled, as a real server does: fakeredis gives it the text of a script for each call."""

    def __init__(self, **_: Any) -> None:
        self._compiled: dict[bytes | str, Any] = {}

    def execute(self, code: bytes | str, *arguments: Any) -> Any:
        if code == "collectgarbage()":
            # Lua does that by itself; after each call it takes as long as the call
            return None
        if code not in self._compiled:
            self._compiled[code] = self.compile(code)
        return self._compiled[code](*arguments)


@cache
def _fake_server() -> FakeServer:
    server = FakeServer(version=(7,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LUA_MODULE, "LuaRuntime", CompilesOnce)
        # the first script makes the server's runtime
        FakeRedis(server=server).eval("return 1", 0)
    return server
