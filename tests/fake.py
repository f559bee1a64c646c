"""The fake server: fakeredis, one a test process, with its two slow places left out."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis, FakeRedis, FakeServer
from fakeredis.aioredis import FakeAsyncRedisConnection
from fakeredis.commands_mixins.scripting_mixin import LUA_MODULE

PIECE_BYTES = 4096

LuaRuntime: Any = LUA_MODULE.LuaRuntime


def connect_fake() -> FakeAsyncRedis:
    """Return a client of this process's fake server, which may hold what the last one wrote."""
    return FakeAsyncRedis(server=_fake_server(), connection_class=InPieces)


class InPieces(FakeAsyncRedisConnection):
    """Sends long pipelines in pieces: the fake's parser copies the rest of what it was given for each argument."""

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        whole = _joined(command)
        pieces = [whole[i : i + PIECE_BYTES] for i in range(0, len(whole), PIECE_BYTES)]
        await super().send_packed_command(pieces, check_health)


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
