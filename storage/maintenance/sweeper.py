"""Sweeper, the garbage collection: frees what no branch and no response reaches, in steps, beside running turns."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from storage.client.keys import escape_glob
from storage.client.scripts import Call, translated
from storage.errors import StoreError
from storage.maintenance.recounter import Recounter
from storage.partitions import new_edition, partition_of

if TYPE_CHECKING:
    from storage.client.channel import Channel
    from storage.client.keyspace import Keyspace

#: Segments that one survey looks at.
SURVEY_SIZE = 100
#: Items, or index entries, that one step looks at: a few hundred commands, well under a millisecond.
STEP_ITEMS = 200
#: Branches that one step asks whether they read an item; where more might, the items are left alone.
MAX_ASKED = 2000
#: Segments that are swept at the same time: one step each goes out in one round trip.
SEGMENTS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Swept:
    """What sweeping has freed. segments: whole ones; items: theirs too; entries: of the index; notes: of the rest.

    miscounts: partitions whose bytes were counted wrong for their owners.
    """

    partitions: int = 0
    segments: int = 0
    items: int = 0
    entries: int = 0
    notes: int = 0
    miscounts: int = 0

    def __add__(self, other: Swept) -> Swept:
        return Swept(
            self.partitions + other.partitions,
            self.segments + other.segments,
            self.items + other.items,
            self.entries + other.entries,
            self.notes + other.notes,
            self.miscounts + other.miscounts,
        )


class Sweeper:
    """Frees what is left over in partitions with a living conversation; all else expires by itself.

    Any number of sweeps may run at the same time, beside everything else.
    """

    def __init__(self, channel: Channel, keyspace: Keyspace) -> None:
        self._channel = channel
        self._keyspace = keyspace
        self._recounter = Recounter(channel, keyspace)

    async def partitions(self) -> AsyncIterator[str]:
        """Yield the names of all partitions of all owners; one may come twice. Raises Unavailable."""
        name = re.compile(re.escape(self._keyspace.prefix) + r":\{(\w+)\}:partition")
        with translated():
            async for keys in self._channel.scan(f"{escape_glob(self._keyspace.prefix)}:{{*}}:partition"):
                for key in keys:
                    if match := name.fullmatch(key):
                        yield match[1]

    async def sweep(self, some_id: str) -> Swept:
        """Sweep the partition that an id leads to. Raises Unavailable; then the rest is left for the next sweep."""
        return await self.sweep_partition(partition_of(some_id))

    async def sweep_partition(self, partition: str) -> Swept:
        """Sweep one partition in steps of one script each. Raises Unavailable."""
        swept = Swept(partitions=1)
        first = 0
        while first >= 0:
            first, notes, *segments = await self._run("sweep_survey", partition, [first, SURVEY_SIZE])
            swept += Swept(notes=notes) + await self._sweep_segments(partition, segments)
        swept += Swept(notes=(await self._run("sweep_pieces", partition, []))[0])
        for kind in ("items", "calls"):
            swept += Swept(entries=await self._sweep_index(partition, kind))
        return swept

    async def sweep_all(self, on_progress: Callable[[Swept], None] = lambda _: None) -> Swept:
        """Sweep all partitions, one after the other; on_progress gets the sum so far after each. Raises Unavailable."""
        swept = Swept()
        async for partition in self.partitions():
            swept += await self.sweep_partition(partition)
            on_progress(swept)
        return swept + Swept(miscounts=await self._recounter.recount())

    async def _sweep_segments(self, partition: str, segments: Sequence[int]) -> Swept:
        swept = Swept()
        waiting, under_way = list(reversed(segments)), dict[int, int]()
        while waiting or under_way:
            while waiting and len(under_way) < SEGMENTS_AT_ONCE:
                under_way[waiting.pop()] = 0
            calls = [
                self._call("sweep_segment", partition, [segment, offset, STEP_ITEMS, MAX_ASKED, new_edition()])
                for segment, offset in under_way.items()
            ]
            replies = await self._keyspace.scripts.run_all(calls)
            for segment, reply in zip(list(under_way), replies, strict=True):
                if isinstance(reply, StoreError):
                    raise reply
                offset, items, freed = reply
                swept += Swept(segments=freed, items=items)
                if offset >= 0:
                    under_way[segment] = offset
                else:
                    del under_way[segment]
        return swept

    async def _sweep_index(self, partition: str, kind: str) -> int:
        cursor, dropped = "0", 0
        while True:
            reply = await self._run("sweep_index", partition, [cursor, STEP_ITEMS, kind])
            cursor = reply[0].decode()
            dropped += int(reply[1])
            if cursor == "0":
                return dropped

    async def _run(self, script: str, partition: str, arguments: Sequence[Any]) -> list[Any]:
        return await self._keyspace.scripts.run(self._call(script, partition, arguments))

    def _call(self, script: str, partition: str, arguments: Sequence[Any]) -> Call:
        keys = self._keyspace.keys_of(partition)
        return Call(script, [keys.head, keys.index], arguments)
