"""Copier: all that a store holds, read beside running servers, for a backup.

Every partition is copied as it was at one moment (`PartitionCopier`), with its conversation, branches and responses; on
a cluster too. Two partitions may be of different moments between the beginning and the end of the copy:
nothing in one depends on another. What does lie across them is read in the order in which it is written the other way
round, and put right by the `Restorer`: a kept answer comes before the response that it names, listings and digests
come last.

All that was there when it began, and is at its end, is in it. SCAN promises that for one server and its lifetime, so
the servers must be the same ones at the end.

Not copied: locks and markers, which end within seconds, and the queue, which is made anew of what is unfinished.
Needs memory for the ids of all responses, and for one partition at a time.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Container, Iterable, Iterator
from typing import Any

from msgspec import structs

from storage.archive.backup_file import KeyPart, split_key
from storage.archive.partition_copier import PartitionCopier
from storage.client.channel import Channel
from storage.client.keys import escape_glob, probe_key
from storage.client.keyspace import Keyspace
from storage.client.scripts import Call, translated
from storage.errors import ServerReplaced
from storage.partitions import partition_of

_KEY = re.compile(
    r":(?:\{(\w+)\}:(.+)|owner:\{.+?\}:(?:(idempotency:)|conversations$|responses$|project:|referrer:|digest:).*)",
    re.DOTALL,
)
_DIGEST = re.compile(r":owner:\{.+?\}:digest:.*", re.DOTALL)


class _Names:
    """The names that a scan found. partitions: → what their responses and logs are called."""

    def __init__(self) -> None:
        self.partitions: dict[str, set[str]] = {}
        self.answers: set[str] = set()
        self.listings: set[str] = set()

    def add(self, name: str) -> None:
        """Take note of a key. name: behind the prefix."""
        match = _KEY.fullmatch(name)
        if match is None:
            return
        partition, of_partition, is_answer = match.groups()
        if partition is None:
            (self.answers if is_answer else self.listings).add(name)
            return
        names = self.partitions.setdefault(partition, set())
        if of_partition.startswith(("response:", "events:")):
            names.add(of_partition)


class Copier:
    """Copies a keyspace."""

    def __init__(self, channel: Channel, keyspace: Keyspace) -> None:
        self._channel = channel
        self._keyspace = keyspace
        self._scripts = keyspace.scripts

    async def copy(self, on_progress: Callable[[int, int], None] = lambda *_: None) -> AsyncIterator[KeyPart]:
        """Yield everything; on_progress gets how many partitions are done, and how many there are.

        Raises Unavailable, or ServerReplaced at the end: then all of it counts for nothing.
        """
        servers = await self._servers()
        names = await self._find()
        for name in sorted(names.answers):
            async for part in self._copy_key(name, "hash"):
                yield part
        for i, partition in enumerate(sorted(names.partitions)):
            on_progress(i, len(names.partitions))
            async for part in self._copy_partition(partition, names.partitions[partition]):
                yield part
        for name in sorted(names.listings):
            async for part in self._copy_key(name, "zset"):
                yield _without_others(part, names.partitions)
        if await self._servers() != servers:
            raise ServerReplaced

    async def _servers(self) -> list[str]:
        """Return what tells the servers' processes apart."""
        with translated():
            tags = await self._channel.tags()
        calls = [Call("identify_server", [probe_key(self._keyspace.prefix, tag)], []) for tag in tags]
        return sorted([(await self._scripts.run(call))[0].decode() for call in calls])

    async def _find(self) -> _Names:
        names, prefix = _Names(), self._keyspace.prefix
        with translated():
            async for keys in self._channel.scan(f"{escape_glob(prefix)}:*"):
                for key in keys:
                    names.add(key.removeprefix(prefix))
        return names

    async def _copy_partition(self, partition: str, names: Iterable[str]) -> AsyncIterator[KeyPart]:
        copier, base = PartitionCopier(self._keyspace, partition), f":{{{partition}}}:"
        for copy in await copier.copy([one.removeprefix("response:") for one in names if one.startswith("response:")]):
            for part in _parts(base, copy):
                yield part
        for name in sorted(name for name in names if name.startswith("events:")):
            for copy in await copier.copy_log(name.removeprefix("events:")):
                for part in _parts(base, copy):
                    yield part

    async def _copy_key(self, name: str, kind: str) -> AsyncIterator[KeyPart]:
        call = Call("copy_key", [self._keyspace.prefix + name], [name, kind])
        for copy in await self._scripts.run(call):
            for part in _parts("", copy):
                yield part


def _parts(base: str, copy: list[Any]) -> Iterator[KeyPart]:
    name, kind, expires_at, value = copy
    units = _units(kind, value)
    return split_key(base + name.decode(), kind.decode(), int(expires_at), units)


def _without_others(part: KeyPart, partitions: Container[str]) -> KeyPart:
    """Return a part of a listing or a digest without the conversations that came after the partitions were found."""
    pairs = zip(part.elements[::2], part.elements[1::2], strict=True)
    is_digest = _DIGEST.fullmatch(part.name) is not None

    def place(member: str) -> str:
        return member.partition(":")[0] if is_digest else partition_of(member)

    listed = [one for pair in pairs if place(pair[0].decode()) in partitions for one in pair]
    return structs.replace(part, elements=listed)


def _units(kind: bytes, value: list[Any]) -> Iterator[list[bytes]]:
    if kind == b"list":
        for element in value:
            yield [element]
    elif kind == b"stream":
        for entry_id, texts in value:
            yield [entry_id, b"%d" % len(texts), *texts]
    else:
        for i in range(0, len(value), 2):
            yield value[i : i + 2]
