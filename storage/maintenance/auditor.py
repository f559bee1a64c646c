"""Auditor, the checker of the store's invariants: reads every key, changes nothing, may run beside a server.

What it reads of a partition is not of one moment. So a partition that looks wrong is read again, and only what is wrong
every time is reported. Needs memory for the names of all keys, and for one partition at a time.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field

from storage.client.channel import Channel
from storage.client.keys import OwnerKeys, QueueKeys, layout_key, queue_key
from storage.client.keyspace import Keyspace
from storage.client.scripts import translated
from storage.maintenance.invariants import complaints, garbage
from storage.maintenance.partition_reader import PartitionReader
from storage.maintenance.recounter import Recounter

#: How often a partition is read before a complaint about it counts, and the pause before each further time.
READINGS = 3
PAUSE_SECONDS = 0.1


@dataclass(slots=True)
class Report:
    """What an audit found. complaints: one sentence each. garbage: what a sweep or a reader would clean up, by kind."""

    partitions: int = 0
    conversations: int = 0
    items: int = 0
    complaints: list[str] = field(default_factory=list)
    garbage: Counter[str] = field(default_factory=Counter)


class Auditor:
    """Checks all partitions and listings of a keyspace, or of one owner."""

    def __init__(self, channel: Channel, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._reader = PartitionReader(channel, keyspace)
        self._recounter = Recounter(channel, keyspace)
        #: What keys begin with that stand beside partitions.
        jobs = QueueKeys(keyspace.prefix)
        self._beside = tuple(f"{keyspace.prefix}:{name}:" for name in ("owner", "quota", "probe"))
        self._beside += (jobs.owners, jobs.drawn, jobs.waiting(""))

    async def audit(self, owner: str = "", on_progress: Callable[[Report], None] = lambda _: None) -> Report:
        """Check everything, or what belongs to `owner`; on_progress gets the report so far after each partition.

        Raises Unavailable.
        """
        report = Report()
        unfinished: set[str] = set()
        with translated():
            async for name, keys in self._partitions(owner, report):
                unfinished.update(await self._check(name, keys, report))
                on_progress(report)
            await self._check_queue(unfinished, report)
            await self._check_listings(owner, report)
            report.garbage["byte counts"] = len(await self._recounter.find_wrong(owner))
        return report

    async def _partitions(self, owner: str, report: Report) -> AsyncIterator[tuple[str, set[str]]]:
        found: dict[str, set[str]] = {}
        others = (queue_key(self._keyspace.prefix), layout_key(self._keyspace.prefix))
        async for key in self._reader.keys("*"):
            partition, name = self._reader.split(key)
            if partition:
                found.setdefault(partition, set()).add(name)
            elif not (owner or key.startswith(self._beside) or key in others):
                report.complaints.append(f"{key} is no key of the store")
        for partition, names in found.items():
            if not owner or await self._reader.owner(partition) == owner:
                yield partition, names

    async def _check(self, name: str, keys: set[str], report: Report) -> Iterable[str]:
        """Check one partition; return the ids of its unfinished responses."""
        partition = await self._reader.read(name, keys)
        wrong = list(complaints(partition))
        for reading in range(1, READINGS):
            if not wrong:
                break
            await asyncio.sleep(PAUSE_SECONDS * reading)
            partition = await self._reader.read(name, await self._reader.names(name))
            again = set(complaints(partition))
            wrong = [text for text in wrong if text in again]
        report.partitions += 1
        report.conversations += partition.conversation is not None
        report.items += sum(item != "" for ids in partition.segments.values() for item in ids)
        report.complaints += [f"{name}: {text}" for text in wrong]
        report.garbage += garbage(partition)
        return partition.unfinished

    async def _check_queue(self, unfinished: set[str], report: Report) -> None:
        """An unfinished response has an entry in the queue, which goes after the response has ended."""
        if unfinished:
            for one in sorted(unfinished - await self._reader.queued()):
                if await self._reader.is_unfinished(one):
                    report.complaints.append(f"response {one} is unfinished, and nobody will run it")

    async def _check_listings(self, owner: str, report: Report) -> None:
        """Count the entries that don't belong where they are: they are put right by whoever reads the listing."""
        listing = re.compile(
            re.escape(self._keyspace.prefix)
            + r":owner:\{(.+?)\}:((?:conversations|responses|project:|referrer:|idempotency:|digest:).*)",
            re.DOTALL,
        )
        async for key in self._reader.keys("owner:*"):
            match = listing.fullmatch(key)
            if match is None:
                report.complaints += [] if owner else [f"{key} is no key of the store"]
            elif owner in ("", match[1]):
                await self._check_listing(match[1], match[2], key, report)

    async def _check_listing(self, owner: str, name: str, key: str, report: Report) -> None:
        if name.startswith("idempotency:") or name == "responses":
            if await self._reader.lasts(key):
                report.complaints.append(f"{key} never expires")
            if name == "responses":
                await self._count_gone(key, report)
        elif name.startswith("digest:"):
            async for batch in self._reader.members(key):
                report.garbage["digests"] += await self._count_stray(owner, batch)
        else:
            if await self._reader.expires(key):
                report.complaints.append(f"{key} expires")
            async for batch in self._reader.members(key):
                report.garbage["listing entries"] += await self._count_wrong(owner, key, batch)

    async def _count_stray(self, owner: str, members: list[str]) -> int:
        """Count the members of a digest that lead to no living conversation of its owner."""
        partitions = [self._keyspace.keys_of(member.partition(":")[0]) for member in members]
        facts = await self._reader.facts(partitions)
        return sum(not one_id or deleted_at is not None or there != owner for one_id, deleted_at, _, _, there in facts)

    async def _count_gone(self, listing: str, report: Report) -> None:
        """Count the responses that have expired: they leave the list when it is read."""
        async for batch in self._reader.members(listing):
            report.garbage["response entries"] += len(batch) - await self._reader.count_responses(batch)

    async def _count_wrong(self, owner: str, listing: str, conversation_ids: list[str]) -> int:
        facts = await self._reader.facts([self._keyspace.keys(one) for one in conversation_ids])
        right = 0
        for one, (id_there, deleted_at, project_id, referrer, owner_there) in zip(conversation_ids, facts, strict=True):
            if id_there == one and not deleted_at and owner_there == owner:
                right += listing in OwnerKeys(self._keyspace.prefix, owner).listings(project_id, referrer)
        return len(conversation_ids) - right
