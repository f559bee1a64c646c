"""Logs of events under test, and the responses that they are of."""

from __future__ import annotations

from typing import Any

from storage import EventBatch, EventLog, EventPage, EventQuery, Store, partition_of
from tests.storage.builders import OWNER, take_turn

LIMIT = 1024 * 1024
TTL = 100.0
LEASE = 10.0


def batch(first: int, *events: str) -> EventBatch:
    return EventBatch(first, len(events), "".join(events).encode())


async def append(store: Store, log: EventLog, first: int, *events: str, last: bool = False) -> bool:
    return await store.events.append(log, batch(first, *events), ttl_seconds=TTL, lease_seconds=LEASE, last=last)


async def claim(store: Store, log: EventLog, *, empty: bool = False) -> bool:
    return await store.events.claim(log, ttl_seconds=TTL, lease_seconds=LEASE, empty=empty)


async def read(store: Store, log: EventLog, first: int = 0, *, limit: int = LIMIT) -> EventPage:
    return await store.events.read(EventQuery(log.owner, log.response_id, first), limit)


async def accept(
    redis: Any, store: Store, token: str, *, status: str = "in_progress", streamed: bool = True
) -> EventLog:
    """Write down a response whose turn has not ended, as its submission does."""
    response_id = await take_turn(store)
    key = f"test:{{{partition_of(response_id)}}}:response:{response_id}"
    await redis.hset(key, mapping={"status": status, "token": token, "streamed": str(int(streamed))})
    return EventLog(OWNER, response_id, token)


async def finish(redis: Any, log: EventLog, status: str = "completed") -> None:
    key = f"test:{{{partition_of(log.response_id)}}}:response:{log.response_id}"
    await redis.hset(key, "status", status)
    await redis.hdel(key, "token", "streamed")
