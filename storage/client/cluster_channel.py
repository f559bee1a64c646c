"""Cluster channel: commands to the nodes of a Redis cluster, over redis-py's client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio.cluster import RedisCluster

from storage.client.channel import SCAN_COUNT, Channel, ChannelRequest, Transaction


class ClusterChannel(Channel):
    """A cluster: each command goes to the node of its first key, all at the same time.

    There are no transactions: redis-py sends each command over whichever connection to the node is free. It refuses a
    command for which there is none, so no more than `limit` are under way.
    """

    is_cluster = True

    def __init__(self, client: RedisCluster, *, limit: int, timeout_seconds: float) -> None:
        self._client = client
        self._room = asyncio.Semaphore(limit)
        self._timeout_seconds = timeout_seconds
        for name in ("HSCAN", "ZSCAN", "XRANGE", "XREAD", "XREADGROUP"):
            # replies as a single server gives them, not as redis-py's clients shape them
            client.set_response_callback(name, _unshaped)

    async def exchange(self, requests: Sequence[ChannelRequest]) -> list[Any]:
        """Send all, one exchange a command, concurrently."""
        async with asyncio.timeout(self._timeout_seconds):
            return list(await asyncio.gather(*(self._send(request) for request in requests)))

    async def _send(self, request: ChannelRequest) -> Any:
        if isinstance(request, Transaction):
            raise TypeError("a cluster channel takes no transactions")
        try:
            async with self._room:
                return await self._client.execute_command(*request)
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
