"""Dialer: opens pipelined connections to the server that a pool of redis-py's is for, and says hello.

redis-py reads the URL and asks Sentinel; of its connections only what they were told is used: address, TLS, login.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from redis import exceptions as redis_errors
from redis.asyncio import ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.credentials import UsernamePasswordCredentialProvider

from storage.client.channel import Command
from storage.client.followed import Followed
from storage.client.pipelined import PipelinedConnection, Refused


class Dialer:
    """Opens connections to one primary; which one, it finds out each time: from `followed`, or by DNS.

    any_role: to a replica too.
    """

    def __init__(self, pool: ConnectionPool, followed: Followed | None = None, *, any_role: bool = False) -> None:
        self._pool = pool
        self._followed = followed
        self._any_role = any_role
        #: What redis-py knows about the server. It is never connected.
        self._options: Any = pool.make_connection()  # type: ignore[no-untyped-call]

    async def dial(self, changed: Callable[[PipelinedConnection], None]) -> PipelinedConnection:
        """Return a new connection that is logged in; tried again as `retry` of redis-py's options says.

        changed: see `PipelinedConnection`. Raises redis-py's ConnectionError or TimeoutError, TimeoutError, an error
        reply to the login, or ReadOnlyError: the server is a replica.
        """
        connection: PipelinedConnection = await self._options.retry.call_with_retry(
            partial(self._dial_once, changed), _try_again
        )
        return connection

    async def close(self) -> None:
        """Close what redis-py has open: its pool, and connections to Sentinel."""
        await self._pool.aclose()
        if isinstance(self._pool, SentinelConnectionPool):
            await self._pool.sentinel_manager.aclose()

    async def _dial_once(self, changed: Callable[[PipelinedConnection], None]) -> PipelinedConnection:
        timeout_seconds: float = self._options.socket_connect_timeout
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        changes = self._followed.changes if self._followed else 0
        async with asyncio.timeout_at(deadline):
            try:
                transport, connection = await self._connect(partial(PipelinedConnection, changed))
            except TimeoutError:
                raise
            except (OSError, UnicodeError) as error:
                raise redis_errors.ConnectionError(f"the server can't be reached: {error}") from error
            try:
                self._keep_alive(transport)
                await self._greet(connection, deadline)
                if self._followed and self._followed.changes != changes:
                    raise redis_errors.ConnectionError("another server became the primary meanwhile")
                if self._followed:
                    self._followed.reached(transport.get_extra_info("peername")[0])
            except BaseException:
                connection.abort()
                raise
            return connection

    async def _connect(
        self, protocol: Callable[[], PipelinedConnection]
    ) -> tuple[asyncio.BaseTransport, PipelinedConnection]:
        loop, options = asyncio.get_running_loop(), self._options
        if isinstance(options, UnixDomainSocketConnection):
            return await loop.create_unix_connection(protocol, options.path)
        host, port = options.host, options.port
        if self._followed is not None:
            host, port = await self._followed.address()
        context = options.ssl_context.get() if isinstance(options, SSLConnection) else None
        return await loop.create_connection(protocol, host, port, ssl=context)

    def _keep_alive(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(self._options, UnixDomainSocketConnection) or not self._options.socket_keepalive:
            return
        its_socket: socket.socket = transport.get_extra_info("socket")
        its_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in self._options.socket_keepalive_options.items():
            its_socket.setsockopt(socket.IPPROTO_TCP, option, value)

    async def _greet(self, connection: PipelinedConnection, deadline: float) -> None:
        """Log in, choose protocol, name and database, and see that it is a primary, in one round trip."""
        login, options = await self._login(), self._options
        commands: list[Command] = []
        if options.protocol == 3:
            commands.append(("HELLO", 3, "AUTH", *login) if login else ("HELLO", 3))
        else:
            commands += [("AUTH", *login)] if login else []
            commands.append(("ROLE",))
        if options.client_name:
            commands.append(("CLIENT", "SETNAME", options.client_name))
        if options.db:
            commands.append(("SELECT", options.db))
        try:
            replies = await connection.send(commands, deadline)
        except Refused as refusal:
            replies = refusal.replies
        for command, reply in zip(commands, replies, strict=True):
            if command[0] == "ROLE" and isinstance(reply, redis_errors.NoPermissionError):
                continue
            if isinstance(reply, Exception):
                raise reply
            if self._any_role or command[0] not in ("HELLO", "ROLE"):
                continue
            if _role(reply) in (b"slave", b"replica"):
                raise redis_errors.ReadOnlyError("the server is a replica")

    async def _login(self) -> tuple[str, ...]:
        """Return user and password, or nothing."""
        options = self._options
        provider = options.credential_provider
        if provider is None and (options.username or options.password):
            provider = UsernamePasswordCredentialProvider(options.username, options.password)
        if provider is None:
            return ()
        login = cast(tuple[str, ...], await provider.get_credentials_async())
        return login if len(login) > 1 else ("default", *login)


def _role(reply: Any) -> Any:
    """Return the role that a server tells in its answer to HELLO or ROLE; None if it tells none."""
    if isinstance(reply, dict):
        return reply.get(b"role")
    return reply[0] if isinstance(reply, list) and reply else None


async def _try_again(_: Exception) -> None:
    """Do nothing between two attempts: one that failed has left nothing behind."""
