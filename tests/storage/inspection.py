"""A look at every key of the store, after every test: nothing leaks, and every invariant holds.

`redis` is a client whose answers are bytes: redis-py's types allow for text.
"""

from __future__ import annotations

import re
from typing import Any

from storage import Report, Store, partition_of
from tests.storage.builders import store_on

_KEY = re.compile(r"([^:]+):(?:(?:owner:|quota:)?\{.+?\}:.+|jobs:\{jobs\}(?::.+)?|layout:\{layout\})", re.DOTALL)


async def audit(redis: Any) -> dict[str, Report]:
    """Return what the checker finds, for each prefix on the server; '' has what is under none."""
    keys = [key.decode() async for key in redis.scan_iter(count=1000)]
    prefixes = {match[1] for key in keys if (match := _KEY.fullmatch(key))}
    reports = {"": Report(complaints=[f"{key} is no key of the store" for key in keys if not _KEY.fullmatch(key)])}
    for prefix in prefixes:
        async with store_on(redis, prefix=prefix) as store:
            reports[prefix] = await store.auditor.audit()
    return reports


async def find_leaks(redis: Any) -> list[str]:
    """Return what is wrong with what is on the server, one sentence each."""
    complaints = []
    for prefix, report in (await audit(redis)).items():
        complaints += report.complaints
        if wrong := report.garbage["listing entries"]:
            complaints.append(f"the listings of {prefix} have {wrong} entries that do not belong there")
    return complaints


async def keys_of(redis: Any, some_id: str) -> list[str]:
    """Return the names of all keys in the partition of an id."""
    tag = "{" + partition_of(some_id) + "}"
    return sorted([key.decode() async for key in redis.scan_iter(count=1000) if tag in key.decode()])


async def keys_that_hold(redis: Any, needle: bytes) -> list[str]:
    """Return the keys that have `needle` in their name or value, whatever their type."""
    return [key.decode() async for key in redis.scan_iter(count=1000) if needle in key + await _dump(redis, key)]


async def _dump(redis: Any, key: bytes) -> bytes:
    kind = (await redis.type(key)).decode()
    if kind == "string":
        return (await redis.get(key)) or b""
    if kind == "list":
        return b"\n".join(await redis.lrange(key, 0, -1))
    if kind == "zset":
        return b"\n".join(await redis.zrange(key, 0, -1))
    if kind == "stream":
        return b"\n".join(part for _, fields in await redis.xrange(key) for pair in fields.items() for part in pair)
    assert kind == "hash", f"{key!r} is a {kind}"
    return b"\n".join(part for pair in (await redis.hgetall(key)).items() for part in pair)


async def faults_of(store: Store) -> tuple[list[str], int]:
    """Return what an audit complains of, and how many items a sweep would free."""
    report = await store.auditor.audit()
    return report.complaints, report.garbage["items"]
