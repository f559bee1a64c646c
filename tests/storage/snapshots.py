"""What takes long to make on a server is made once, and restored whenever it is needed again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio import Redis

Made = TypeVar("Made")


class Snapshots:
    """What was made on an empty server, by name: what its maker returned, and every key with its expiry and value."""

    def __init__(self) -> None:
        self._taken: dict[str, tuple[Any, list[tuple[bytes, int, bytes]]]] = {}

    async def make(self, redis: Redis, name: str, make: Callable[[], Awaitable[Made]]) -> Made:
        """Return what `make` returns, with the keys that it writes on the empty server."""
        if name not in self._taken:
            made = await make()
            self._taken[name] = made, [await _entry(redis, key) async for key in redis.scan_iter(count=1000)]
            return made
        kept: Made
        kept, entries = self._taken[name]
        pipeline = redis.pipeline(transaction=False)
        for key, expires_at_ms, value in entries:
            pipeline.restore(key, max(expires_at_ms, 0), value, absttl=True)
        await pipeline.execute()
        return kept


async def _entry(redis: Redis, key: bytes) -> tuple[bytes, int, bytes]:
    value = await redis.dump(key)
    assert value is not None
    # an instant, for the store notes some inside its values
    return key, await redis.pexpiretime(key.decode()), value
