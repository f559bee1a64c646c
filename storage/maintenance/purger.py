"""Purger: deletes everything that belongs to one owner.

No index says which partitions an owner has: each turn would pay for it. So all keys are looked at, in small steps, and
again until nothing is found that was written meanwhile.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from storage.client.channel import Argument, Channel
from storage.client.keys import QueueKeys, escape_glob
from storage.client.keyspace import Keyspace
from storage.client.scripts import Call, translated
from storage.client.values import FIELD_BREAK
from storage.quotas import ledger_keys

#: Times that all keys are looked at, at most: each but the first finds only what was written during the one before.
ROUNDS = 5
#: Keys that one step deletes; those of a partition that need not expire go in one step, whatever their number.
STEP_KEYS = 1000
#: Keys that need not expire.
_LASTING = re.compile(r"partition|conversation|branches|index|tombstones|journal|digests|(branch|segment|holders):\d+")


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge has deleted. conversations: living ones. keys: all, of all kinds."""

    partitions: int = 0
    conversations: int = 0
    responses: int = 0
    keys: int = 0

    def __add__(self, other: Purged) -> Purged:
        return Purged(
            self.partitions + other.partitions,
            self.conversations + other.conversations,
            self.responses + other.responses,
            self.keys + other.keys,
        )


@dataclass(frozen=True, slots=True)
class _Found:
    """What one look found. names: of the keys of known partitions. loose: keys of the owner beside partitions.

    partitions: of the owner, that were not known.
    """

    names: dict[str, list[str]] = field(default_factory=dict)
    loose: list[str] = field(default_factory=list)
    partitions: set[str] = field(default_factory=set)


class Purger:
    """Deletes all that one owner has. One purge at a time: it looks at every key of the store."""

    def __init__(self, channel: Channel, keyspace: Keyspace) -> None:
        self._channel = channel
        self._keyspace = keyspace
        self._turnstile = asyncio.Lock()
        self._name = re.compile(re.escape(keyspace.prefix) + r":\{([^}]*)\}:(.+)", re.DOTALL)

    async def purge(self, owner: str, on_progress: Callable[[Purged], None] = lambda _: None) -> Purged:
        """Delete conversations, responses, chains, event logs, locks, listings and idempotency keys of an owner.

        What is deleted twice, or by somebody else meanwhile, does no harm. A turn that runs meanwhile may store its
        response behind the purge's back: on its own, with nothing that was deleted. on_progress gets the sum so far
        after each partition. Raises Unavailable; then the rest is left, and another purge goes on.
        """
        async with self._turnstile:
            with translated():
                return await self._purge(owner, on_progress)

    async def _purge(self, owner: str, on_progress: Callable[[Purged], None]) -> Purged:
        purged = Purged()
        known = {name async for keys in self._scan("{*}:partition") for name in await self._owned(owner, keys)}
        for _ in range(ROUNDS):
            found = await self._look(owner, known)
            for partition, names in found.names.items():
                purged += await self._purge_partition(owner, partition, names)
                on_progress(purged)
            purged += Purged(keys=await self._unlink(found.loose))
            if not (found.names or found.loose or found.partitions):
                break
            known |= found.partitions
        return purged

    async def _look(self, owner: str, known: set[str]) -> _Found:
        """Look at all keys: what is there of known partitions, and of the owner besides."""
        found = _Found()
        own, prefix = self._keyspace.owner(owner).all, self._keyspace.prefix
        beside = {QueueKeys(prefix).waiting(owner), *ledger_keys(prefix, owner)}
        async for keys in self._scan("*"):
            heads = []
            for key in keys:
                match = self._name.fullmatch(key)
                if match and match[1] in known:
                    found.names.setdefault(match[1], []).append(match[2])
                elif match and match[2] == "partition":
                    heads.append(key)
                elif key.startswith(own) or key in beside:
                    found.loose.append(key)
            found.partitions.update(await self._owned(owner, heads))
        return found

    async def _owned(self, owner: str, heads: Sequence[str]) -> list[str]:
        """Return those partitions that belong to an owner, also those that it imports into. heads: their first keys."""
        owned = []
        replies = await self._channel.exchange([("HMGET", key, "owner", "importing") for key in heads])
        for key, reply in zip(heads, replies, strict=True):
            if isinstance(reply, Exception):
                raise reply
            holder, importing = ((field or b"").decode() for field in reply)
            match = self._name.fullmatch(key)
            if match and (holder or importing.rpartition(FIELD_BREAK)[0]) == owner:
                owned.append(match[1])
        return owned

    def _scan(self, pattern: str) -> AsyncIterator[list[str]]:
        return self._channel.scan(f"{escape_glob(self._keyspace.prefix)}:{pattern}")

    async def _purge_partition(self, owner: str, partition: str, names: Iterable[str]) -> Purged:
        every = sorted(set(names))
        loose = [name for name in every if not _LASTING.fullmatch(name)]
        steps = [loose[i : i + STEP_KEYS] for i in range(0, len(loose), STEP_KEYS)]
        steps.append([name for name in every if _LASTING.fullmatch(name)])
        keys = lived = 0
        for step in steps:
            arguments: list[Argument] = [owner, int(step is steps[-1]), *step]
            call = Call("purge_partition", [self._keyspace.keys_of(partition).head], arguments)
            deleted, found = await self._keyspace.scripts.run(call)
            keys, lived = keys + deleted, lived + found
        responses = sum(name.startswith("response:") for name in loose) if keys else 0
        return Purged(int(keys > 0), lived, responses, keys)

    async def _unlink(self, keys: Sequence[str]) -> int:
        dropped = 0
        for reply in await self._channel.exchange([("UNLINK", key) for key in keys]):
            if isinstance(reply, Exception):
                raise reply
            dropped += int(reply)
        return dropped
