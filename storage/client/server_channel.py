"""Server channel: exchanges of all that runs in this process, over as few pipelined connections as will do.

One connection carries everything. Another one is opened only while all there are have much to write, or are in the
middle of a long reply, so that a few bytes don't wait for many.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

from redis import exceptions as redis_errors

from storage.client.channel import Channel, Command, Unanswered
from storage.client.dialer import Dialer
from storage.client.pipelined import PipelinedConnection, Refused


class ServerChannel(Channel):
    """One server, or the primary that Sentinel names, over at most `limit` connections.

    timeout_seconds: for one exchange, its connection included. blocking: for commands that the server keeps waiting;
    one that is given up takes its connection with it, so that the server gives it up too. repeats: False: what fails is
    told at once, as who asks finds out himself where to send it then.
    """

    def __init__(
        self, dialer: Dialer, *, limit: int, timeout_seconds: float, blocking: bool = False, repeats: bool = True
    ) -> None:
        self._dialer = dialer
        self._limit = limit
        self._timeout_seconds = timeout_seconds
        self._is_blocking = blocking
        self._repeats = repeats
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def exchange(self, requests: Sequence[Command]) -> list[Any]:
        """Send all, read all; once more on a fresh connection if one that worked before fails, or is refused.

        So the server may do commands twice: every script can be repeated.
        """
        if not requests:
            return []
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._enter(loop)
        deadline = loop.time() + self._timeout_seconds
        connection = self._with_room() or await self._find(deadline)
        if not (connection.is_proven and self._repeats):
            return await self._send_last(connection, requests, deadline)
        try:
            return await self._send(connection, requests, deadline)
        except (redis_errors.ConnectionError, Refused) as error:
            # The server was restarted, went away, or is no primary any more.
            lost = error if isinstance(error, Unanswered) else None
            refused = error if isinstance(error, Refused) else None
        try:
            connection = self._with_room() or await self._find(deadline)
            replies = await self._send_last(connection, requests, deadline)
        except redis_errors.ReadOnlyError:
            # there is still no primary
            if refused is None:
                raise
            return refused.replies
        except (redis_errors.ConnectionError, TimeoutError) as error:
            if lost is None or isinstance(error, Unanswered):
                raise
            raise lost from error
        if lost is not None and (error_reply := _first_error(replies)):
            # refused now, but done then perhaps
            raise lost from error_reply
        return replies

    async def _send_last(
        self, connection: PipelinedConnection, requests: Sequence[Command], deadline: float
    ) -> list[Any]:
        try:
            replies = await self._send(connection, requests, deadline)
        except Refused as refusal:
            return refusal.replies
        connection.is_proven = True
        return replies

    def _send(
        self, connection: PipelinedConnection, requests: Sequence[Command], deadline: float
    ) -> Awaitable[list[Any]]:
        replies = connection.send(requests, deadline)
        return self._wait_or_abort(connection, replies) if self._is_blocking else replies

    async def _wait_or_abort(self, connection: PipelinedConnection, replies: Awaitable[list[Any]]) -> list[Any]:
        try:
            return await replies
        except asyncio.CancelledError:
            connection.abort()
            raise

    async def close(self) -> None:
        """Close every connection; what is under way fails, and what comes later."""
        self._is_closed = True
        if self._loop is asyncio.get_running_loop():
            if self._dialing is not None:
                self._dialing.cancel()
                await asyncio.wait([self._dialing])
            closing = list(self._unclosed)
            for connection in closing:
                connection.abort()
            for connection in closing:
                await connection.wait_closed()
        await self._dialer.close()

    def drop(self) -> None:
        """End every connection at once, those that are being made too; what is under way is sent once more, elsewhere.

        For when the server is not to be believed any more.
        """
        if self._loop is None:
            return
        for connection in list(self._unclosed):
            connection.abort("the server is not the primary any more")

    # --- connections ------------------------------------------------------------------------------------------------

    def _enter(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin without connections: those of another loop, perhaps of another process, are not touched."""
        self._loop = loop
        #: Those that take commands, the first first; and all whose transport is not closed yet.
        self._connections: list[PipelinedConnection] = []
        self._unclosed: set[PipelinedConnection] = set()
        self._dialing: asyncio.Task[PipelinedConnection] | None = None
        #: Wakes whoever waits for a connection with room.
        self._changes = asyncio.Event()

    def _with_room(self) -> PipelinedConnection | None:
        for connection in self._connections:
            if not (connection.is_full or connection.is_receiving):
                return connection
        return None

    async def _find(self, deadline: float) -> PipelinedConnection:
        """Return a connection with room: a new one while there may be more, or one that has room again."""
        async with asyncio.timeout_at(deadline):
            while not self._is_closed:
                if len(self._connections) < self._limit:
                    try:
                        connection = await self._open()
                    except redis_errors.RedisError:
                        if not self._connections:
                            raise
                    else:
                        if connection.is_full:
                            continue
                        return connection
                for connection in self._connections:
                    if not connection.is_full:
                        return connection
                await self._changes.wait()
        raise redis_errors.ConnectionError("the channel is closed")

    async def _open(self) -> PipelinedConnection:
        """Return the next new connection; all that wait for one wait for the same."""
        if self._dialing is None:
            self._dialing = asyncio.create_task(self._dialer.dial(self._changed))
            self._dialing.add_done_callback(self._opened)
        dialing = self._dialing
        await asyncio.wait([dialing])
        if dialing.cancelled():
            raise redis_errors.ConnectionError("the channel is closed")
        return dialing.result()

    def _opened(self, dialing: asyncio.Task[PipelinedConnection]) -> None:
        self._dialing = None
        if not dialing.cancelled() and dialing.exception() is None and dialing.result().is_open:
            self._connections.append(dialing.result())

    def _changed(self, connection: PipelinedConnection) -> None:
        if connection.is_closed:
            self._unclosed.discard(connection)
        else:
            self._unclosed.add(connection)
        if not connection.is_open and connection in self._connections:
            # what one has found out about the server holds for all
            retired, self._connections = self._connections, []
            for other in retired:
                other.retire()
        self._changes.set()
        self._changes.clear()


def _first_error(replies: Sequence[Any]) -> Exception | None:
    """Return the first error among the replies."""
    return next((reply for reply in replies if isinstance(reply, Exception)), None)
