"""Recounter: what owners have stored, weighed anew, and the ledgers that say something else put right.

Beside running servers: what changes while it is weighed is left to the next time. Needs memory for the names of all
keys.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from storage.client.channel import Argument, Channel
from storage.client.keys import PartitionKeys, escape_glob
from storage.client.keyspace import Keyspace
from storage.client.scripts import Call, translated
from storage.errors import StoreError
from storage.quotas import ledger_keys

#: Items that are weighed with one script, and scripts of one round trip.
WEIGHED_ITEMS = 500
WEIGHED_AT_ONCE = 50
_LEDGER = re.compile(r":quota:\{(.+)\}:stored", re.DOTALL)
_KEY = re.compile(r":\{(\w+)\}:((partition|conversation|segment|response)(?::.+)?)", re.DOTALL)


@dataclass(slots=True)
class _Weight:
    """A partition. life_ms: that it has left, 0: for ever."""

    owner: str = ""
    life_ms: int = 0
    bytes: int = 0
    is_deleted: bool = False


@dataclass(frozen=True, slots=True)
class Miscount:
    """What a ledger says of a partition, and what is there."""

    owner: str
    partition: str
    counted: int
    stored: int
    life_ms: int


class Recounter:
    """Weighs what is stored."""

    def __init__(self, channel: Channel, keyspace: Keyspace) -> None:
        self._channel = channel
        self._keyspace = keyspace
        self._scripts = keyspace.scripts

    async def recount(self) -> int:
        """Put all ledgers right; return how many partitions were counted wrong. Raises Unavailable."""
        found = await self.find_wrong()
        for one in found:
            arguments: list[Argument] = [one.partition, one.stored, one.life_ms, one.counted]
            await self._scripts.run(Call("set_bytes", ledger_keys(self._keyspace.prefix, one.owner), arguments))
        return len(found)

    async def find_wrong(self, owner: str = "") -> list[Miscount]:
        """Return what is counted wrong, of one owner or of all; nothing where bytes are not counted.

        Raises Unavailable.
        """
        if not self._keyspace.counts_bytes:
            return []
        with translated():
            counted = await self._counted()
            weights = await self._weigh()
        stored = {(one.owner, name): one for name, one in weights.items() if one.owner and not one.is_deleted}
        wrong = []
        for whose, name in sorted(counted.keys() | stored.keys()):
            weight = stored.get((whose, name), _Weight())
            before = counted.get((whose, name), 0)
            if before != weight.bytes and owner in ("", whose):
                wrong.append(Miscount(whose, name, before, weight.bytes, weight.life_ms))
        return wrong

    async def _counted(self) -> dict[tuple[str, str], int]:
        """Return owner and partition → bytes, as the ledgers have them."""
        counted = {}
        async for keys in self._scan("quota:*:stored"):
            for key in keys:
                if match := _LEDGER.fullmatch(key.removeprefix(self._keyspace.prefix)):
                    (flat,) = await self._ask([("HGETALL", key)])
                    for name, value in _pairs(flat):
                        if name != "total":
                            counted[match[1], name] = int(value)
        return counted

    async def _weigh(self) -> dict[str, _Weight]:
        weights: dict[str, _Weight] = {}
        seen: set[str] = set()
        async for keys in self._scan("{*}:*"):
            # a scan may tell of a key twice
            new = set(keys) - seen
            seen |= new
            names = [match for key in new if (match := _KEY.fullmatch(key.removeprefix(self._keyspace.prefix)))]
            for partition, _, kind in (match.groups() for match in names):
                if kind == "partition":
                    await self._take_head(weights.setdefault(partition, _Weight()), partition)
            steps = [(match[1], match[2], match[3], 0) for match in names if match[3] != "partition"]
            while steps:
                steps = await self._step(steps[:WEIGHED_AT_ONCE], weights) + steps[WEIGHED_AT_ONCE:]
        return weights

    async def _take_head(self, weight: _Weight, partition: str) -> None:
        head = PartitionKeys(self._keyspace.prefix, partition).head
        owner, left = await self._ask([("HGET", head, "owner"), ("PTTL", head)])
        weight.owner, weight.life_ms = (owner or b"").decode(), max(left, 0)

    async def _step(
        self, steps: Sequence[tuple[str, str, str, int]], weights: dict[str, _Weight]
    ) -> list[tuple[str, str, str, int]]:
        """Weigh a part of some keys: partition, name, kind and first item of each. Returns what is left of them."""
        calls = []
        for partition, name, kind, first in steps:
            head = PartitionKeys(self._keyspace.prefix, partition).head
            names = [head, head.removesuffix("partition") + name]
            calls.append(Call("weigh_key", names, [kind, first, WEIGHED_ITEMS]))
        left = []
        for step, reply in zip(steps, await self._scripts.run_all(calls), strict=True):
            if isinstance(reply, StoreError):
                raise reply
            partition, name, kind, first = step
            weight = weights.setdefault(partition, _Weight())
            if kind == "conversation":
                weight.is_deleted = bool(reply[0])
                continue
            weight.bytes += reply[0]
            if reply[1] == WEIGHED_ITEMS:
                left.append((partition, name, kind, first + WEIGHED_ITEMS))
        return left

    def _scan(self, pattern: str) -> AsyncIterator[list[str]]:
        return self._channel.scan(f"{escape_glob(self._keyspace.prefix)}:{pattern}")

    async def _ask(self, commands: Sequence[tuple[str, ...]]) -> list[Any]:
        replies = await self._channel.exchange(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies


def _pairs(flat: Any) -> list[tuple[str, str]]:
    """Return fields and values of a hash: a map, or (RESP2) a flat list."""
    pairs = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
    return [(name.decode(), value.decode()) for name, value in pairs]
