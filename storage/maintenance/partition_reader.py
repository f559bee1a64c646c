"""Partition reader: whole partitions for the auditor, every key, in pages, many keys a round trip."""

from __future__ import annotations

import math
import re
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from redis import exceptions as redis_errors

from storage.client.channel import Channel, Command
from storage.client.keys import OwnerKeys, PartitionKeys, QueueKeys, escape_glob, queue_key
from storage.client.keyspace import Keyspace
from storage.client.scripts import Call
from storage.envelope import read_parted
from storage.maintenance.partition import Partition

#: Elements, fields or members read with one command; commands sent in one round trip.
PAGE_SIZE = 500
BATCH = 100

#: How a key of a partition is read, by its name: the command, or nothing for plain strings.
_KINDS = (
    (re.compile(r"partition|conversation|index|branch:\d+|response:.+", re.DOTALL), "HSCAN"),
    (re.compile(r"branches|tombstones|journal|holders:\d+"), "ZSCAN"),
    (re.compile(r"segment:\d+|digests"), "LRANGE"),
    (re.compile(r"pieces:[0-9a-f]+\.\d+|job:.+", re.DOTALL), "LLEN"),
    (re.compile(r"events:.+", re.DOTALL), "XRANGE"),
    (re.compile(r"(lock|stop|commit|staged):.+|watched", re.DOTALL), ""),
)
_ITEM_ID = re.compile(rb'\{"id":"([^"]+)"')


class PartitionReader:
    """Reads keys as they are. Raises what the channel raises."""

    def __init__(self, channel: Channel, keyspace: Keyspace) -> None:
        self._channel = channel
        self._keyspace = keyspace

    async def keys(self, pattern: str) -> AsyncIterator[str]:
        """Yield the keys that match a glob behind the prefix; one may come twice."""
        async for batch in self._channel.scan(f"{escape_glob(self._keyspace.prefix)}:{pattern}"):
            for key in batch:
                yield key

    def split(self, key: str) -> tuple[str, str]:
        """Return the partition of a key and its name there; both '' for a key outside of partitions."""
        match = re.fullmatch(re.escape(self._keyspace.prefix) + r":\{(\w+)\}:(.+)", key, re.DOTALL)
        return (match[1], match[2]) if match else ("", "")

    async def names(self, partition: str) -> set[str]:
        """Return the names of a partition's keys."""
        return {self.split(key)[1] async for key in self.keys(f"{{{partition}}}:*")}

    async def owner(self, partition: str) -> str:
        """Return the owner of a partition; '' if it has none."""
        (owner,) = await self._send([("HGET", PartitionKeys(self._keyspace.prefix, partition).head, "owner")])
        return _text(owner or b"")

    async def expires(self, key: str) -> bool:
        """Tell whether a key has a time to live."""
        (life,) = await self._send([("PTTL", key)])
        return int(life) >= 0

    async def lasts(self, key: str) -> bool:
        """Tell whether a key is there and has no time to live."""
        (life,) = await self._send([("PTTL", key)])
        return int(life) == -1

    async def members(self, key: str) -> AsyncIterator[list[str]]:
        """Yield the members of a sorted set in pages; one may come twice."""
        cursor = b"0"
        while True:
            ((cursor, flat),) = await self._send([("ZSCAN", key, cursor, "COUNT", PAGE_SIZE)])
            yield [_text(member) for member in flat[::2]]
            if int(cursor) == 0:
                return

    async def queued(self) -> set[str]:
        """Return the ids of all responses that have an entry in the queue."""
        found: set[str] = set()
        start = "-"
        while True:
            (page,) = await self._send([("XRANGE", queue_key(self._keyspace.prefix), start, "+", "COUNT", PAGE_SIZE)])
            found.update(_text(fields[1]) for _, fields in page)
            if len(page) < PAGE_SIZE:
                break
            start = "(" + _text(page[-1][0])
        jobs = QueueKeys(self._keyspace.prefix)
        (drawn,) = await self._send([("HVALS", jobs.drawn)])
        found.update(_text(job).partition(" ")[0].partition(":")[2] for job in drawn)
        async for keys in self._channel.scan(f"{escape_glob(jobs.waiting(''))}*"):
            for waiting in await self._send([("LRANGE", key, 0, -1) for key in keys]):
                found.update(_text(job).partition(":")[2] for job in waiting)
        return found

    async def is_unfinished(self, response_id: str) -> bool:
        """Tell whether a response has not come to its end."""
        (status,) = await self._send([("HGET", self._keyspace.keys(response_id).response(response_id), "status")])
        return status in (b"queued", b"in_progress")

    async def count_responses(self, response_ids: Sequence[str]) -> int:
        """Return how many of these responses are there."""
        commands: list[Command] = [("EXISTS", self._keyspace.keys(one).response(one)) for one in response_ids]
        return sum(await self._send(commands))

    async def facts(self, partitions: Sequence[PartitionKeys]) -> list[list[str | None]]:
        """Return of each partition's conversation: id, deleted_at, project_id, referrer; and its owner."""
        commands: list[Command] = []
        for keys in partitions:
            commands.append(("HMGET", keys.conversation, "id", "deleted_at", "project_id", "referrer"))
            commands.append(("HGET", keys.head, "owner"))
        replies = await self._send(commands)
        flat = [[*conversation, owner] for conversation, owner in zip(replies[::2], replies[1::2], strict=True)]
        return [[None if value is None else _text(value) for value in values] for values in flat]

    async def read(self, name: str, keys: Iterable[str]) -> Partition:
        """Return the partition of this name with the keys of these names; those that are gone are left out."""
        partition = Partition(name)
        base = f"{self._keyspace.prefix}:{{{name}}}:"
        (partition.now_ms,) = await self._keyspace.scripts.run(Call("read_clock", [f"{base}partition"], []))
        await self._read_lives(partition, base, sorted(keys))
        pages = []
        for key in partition.lives:
            command = next((command for kind, command in _KINDS if kind.fullmatch(key)), None)
            if command is None:
                partition.faults.append(f"{key} is no key of the store")
            elif command:
                pages.append(_Pages(base + key, key, command))
        while pages:
            replies = await self._send([one.command() for one in pages])
            pages = [one for one, reply in zip(pages, replies, strict=True) if one.take(reply, partition)]
        partition.unlisted = await self._unlisted(partition)
        return partition

    async def _read_lives(self, partition: Partition, base: str, names: Sequence[str]) -> None:
        start = time.monotonic()
        for first in range(0, len(names), BATCH):
            batch = names[first : first + BATCH]
            passed = time.monotonic() - start
            for name, life in zip(batch, await self._send([("PTTL", base + one) for one in batch]), strict=True):
                if life != -2:
                    partition.lives[name] = math.inf if life == -1 else life / 1000 + passed

    async def _unlisted(self, partition: Partition) -> list[str]:
        facts = partition.conversation
        if facts is None:
            return []
        owner = OwnerKeys(self._keyspace.prefix, partition.head.get("owner", ""))
        listings = owner.listings(facts.get("project_id"), facts.get("referrer"))
        scores = await self._send([("ZSCORE", listing, facts["id"]) for listing in listings])
        return [listing for listing, score in zip(listings, scores, strict=True) if score is None]

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        replies: list[Any] = []
        for first in range(0, len(commands), BATCH):
            replies += await self._channel.exchange(commands[first : first + BATCH])
        for reply in replies:
            if isinstance(reply, Exception) and not str(reply).startswith("WRONGTYPE"):
                raise reply
        return replies


class _Pages:
    """What is left to read of one key. name: without prefix and partition."""

    def __init__(self, key: str, name: str, kind: str) -> None:
        self._key = key
        self._name = name
        self._kind = kind
        self._cursor = 0
        #: Where to go on in a stream.
        self._after = "-"

    def command(self) -> Command:
        """Return the command for the next page."""
        if self._kind == "LRANGE":
            return (self._kind, self._key, self._cursor, self._cursor + PAGE_SIZE - 1)
        if self._kind == "LLEN":
            return (self._kind, self._key)
        if self._kind == "XRANGE":
            return (self._kind, self._key, self._after, "+", "COUNT", BATCH)
        return (self._kind, self._key, self._cursor, "COUNT", PAGE_SIZE)

    def take(self, reply: Any, partition: Partition) -> bool:
        """Add a page to what was read of the partition; tell whether there is more."""
        if isinstance(reply, redis_errors.ResponseError):
            partition.faults.append(f"{self._name} is of a wrong type")
            return False
        if self._kind == "LRANGE":
            return self._take_elements(reply, partition)
        if self._kind == "LLEN":
            kind, _, name = self._name.partition(":")
            (partition.pieces if kind == "pieces" else partition.job_pieces)[name] = reply
            return False
        if self._kind == "XRANGE":
            return self._take_batches(reply, partition)
        self._cursor, flat = int(reply[0]), reply[1]
        pairs = zip(flat[::2], flat[1::2], strict=True)
        if self._kind == "HSCAN":
            # a response's body and job are of no interest, and may be long
            fields = {_text(name): _text(value) if name not in (b"body", b"job") else "" for name, value in pairs}
            partition.hashes.setdefault(self._name, {}).update(fields)
        else:
            scores = {_text(member): int(float(score)) for member, score in pairs}
            partition.scores.setdefault(self._name, {}).update(scores)
        return self._cursor != 0

    def _take_batches(self, entries: list[tuple[bytes, list[bytes]]], partition: Partition) -> bool:
        for entry_id, flat in entries:
            # the events themselves are of no interest, and may be long
            fields = {_text(name): _text(value) for name, value in zip(flat[::2], flat[1::2], strict=True)}
            entry = _text(entry_id), {**fields, "frames": ""} if "frames" in fields else fields
            partition.logs.setdefault(self._name, []).append(entry)
            self._after = f"({_text(entry_id)}"
        return len(entries) == BATCH

    def _take_elements(self, elements: list[bytes], partition: Partition) -> bool:
        self._cursor += len(elements)
        if self._name == "digests":
            partition.digests += [_text(one) for one in elements]
            return len(elements) == PAGE_SIZE
        segment = int(self._name.partition(":")[2])
        ids = partition.segments.setdefault(segment, [])
        for element in elements:
            if parted := read_parted(element):
                partition.parted[parted.name] = (segment, len(ids))
            match = _ITEM_ID.match(element)
            if element and not match:
                partition.faults.append(f"{self._name} has an element {len(ids)} that is no item")
            ids.append(_text(match[1]) if match else "?" if element else "")
        return len(elements) == PAGE_SIZE


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
