"""A look at every key of the store: which of them leak, and which live longer than what they need.

`redis` is a client whose answers are bytes: redis-py's types allow for text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from proxy.ids import partition_of

_PARTITION_KEY = re.compile(r"[^:]+:\{(\w+)\}:(.+)")
_OWNER_KEY = re.compile(r"[^:]+:owner:\{(.+?)\}:(conversations|project:.*|referrer:.*)", re.DOTALL)
_ALWAYS_EXPIRING = ("response:", "lock:", "commit:")
_LASTING = ("partition", "conversation", "branches", "index")
#: fakeredis reads the clock anew for each command of a script.
_TOLERANCE_SECONDS = 1.0


@dataclass
class Partition:
    """One partition. lives: name → seconds to live, infinite without a TTL; hashes: name → content."""

    lives: dict[str, float] = field(default_factory=dict)
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def conversation(self) -> dict[str, str] | None:
        """The facts of its living conversation."""
        facts = self.hashes.get("conversation", {})
        return facts if "id" in facts and "deleted_at" not in facts else None

    @property
    def branch_segments(self) -> set[str]:
        """Names of the segments that its conversation's branches point into."""
        chains = [value for name, value in self.hashes.get("branches", {}).items() if name.endswith(":chain")]
        return {name for chain in chains for name in _segments(chain)}


async def find_leaks(redis: Any) -> list[str]:
    """Return what is wrong with the lifetimes of all keys on the server, one sentence each."""
    partitions, listings, complaints = await _read(redis)
    for name, partition in partitions.items():
        complaints += [f"{name}: {text}" for text in _complain(partition)]
    return complaints + list(_complain_of_listings(partitions, listings))


def _complain(partition: Partition) -> Iterator[str]:
    living = partition.conversation is not None
    for name, seconds in partition.lives.items():
        lasting = living and (name in _LASTING or name in partition.branch_segments)
        if lasting and seconds < math.inf:
            yield f"{name} expires although the conversation lives"
        if not lasting and seconds == math.inf:
            yield f"{name} never expires"
        if name.startswith("response:"):
            yield from _complain_of_response(partition, name, seconds)


def _complain_of_response(partition: Partition, name: str, seconds: float) -> Iterator[str]:
    response = partition.hashes[name]
    reached = {one for part in ("snapshot", "context", "output") for one in _segments(response[part])}
    needed = {"partition", *reached, *({"index"} if reached else ())}
    for other in sorted(needed):
        if partition.lives.get(other, -1.0) + _TOLERANCE_SECONDS < seconds:
            yield f"{name} lives longer than {other}"


def _complain_of_listings(partitions: dict[str, Partition], listings: dict[tuple[str, str], set[str]]) -> Iterator[str]:
    expected: dict[tuple[str, str], set[str]] = {}
    for partition in partitions.values():
        facts = partition.conversation
        if facts:
            owner = partition.hashes["partition"]["owner"]
            names = ["conversations"]
            names += [f"{kind}:{facts[key]}" for kind, key in _FILTERS if facts.get(key)]
            for name in names:
                expected.setdefault((owner, name), set()).add(facts["id"])
    for listing in sorted(expected.keys() | listings.keys()):
        there, wanted = listings.get(listing, set()), expected.get(listing, set())
        if there - wanted:
            yield f"listing {listing} names {sorted(there - wanted)}, which do not belong there"
        if wanted - there:
            yield f"listing {listing} lacks {sorted(wanted - there)}"


_FILTERS = (("project", "project_id"), ("referrer", "referrer"))


async def _read(redis: Any) -> tuple[dict[str, Partition], dict[tuple[str, str], set[str]], list[str]]:
    partitions: dict[str, Partition] = {}
    listings: dict[tuple[str, str], set[str]] = {}
    complaints: list[str] = []
    for key in [raw.decode() async for raw in redis.scan_iter(count=1000)]:
        milliseconds = await redis.pttl(key)
        if milliseconds == -2:
            continue
        seconds = math.inf if milliseconds == -1 else milliseconds / 1000
        if owner_key := _OWNER_KEY.fullmatch(key):
            members = await redis.zrange(key, 0, -1)
            listings[owner_key[1], owner_key[2]] = {member.decode() for member in members}
        elif partition_key := _PARTITION_KEY.fullmatch(key):
            partition, name = partitions.setdefault(partition_key[1], Partition()), partition_key[2]
            partition.lives[name] = seconds
            if name.startswith(("partition", "conversation", "branches", "response:")):
                content = await redis.hgetall(key)
                partition.hashes[name] = {k.decode(): v.decode() for k, v in content.items()}
        else:
            complaints.append(f"{key} is no key of the store")
    return partitions, listings, complaints


def _segments(chain: str) -> list[str]:
    return [f"segment:{span.split(':')[0]}" for span in chain.split(",") if span]


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
    assert kind == "hash", f"{key!r} is a {kind}"
    return b"\n".join(part for pair in (await redis.hgetall(key)).items() for part in pair)
