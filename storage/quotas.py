"""Quotas: what an owner may do and have, counted in the store, over all replicas."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from storage.client.keys import quota_key
from storage.client.keyspace import Keyspace
from storage.client.scripts import Call
from storage.errors import StoreError, Unavailable

#: Whose slots the turns of all owners take; no owner is called so.
ALL_OWNERS = "all"
#: Seconds after which the slot of a turn is free that nobody renews.
SLOT_SECONDS = 60
#: Seconds that a repeat of the same charge is recognised.
CHARGE_MARKER_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Allowance:
    """How an owner's requests stand. limit: a minute; left: that may follow at once; reset_seconds: until all are back.

    wait_seconds: until the next one passes, 0 for one that has passed.
    """

    limit: int
    left: int
    reset_seconds: float
    wait_seconds: float


@dataclass(frozen=True, slots=True)
class TurnSlot:
    """A slot that a running turn has, of its owner and of all turns. limits: most of each, 0 for any number."""

    owner: str
    token: str
    owner_limit: int
    total_limit: int


class Quotas:
    """Quotas of any owner."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._prefix = keyspace.prefix
        self._scripts = keyspace.scripts

    async def count_request(self, owner: str, limit: int) -> Allowance:
        """Count one request of an owner, which may make `limit` a minute. One round trip. Raises Unavailable."""
        call = Call("count_request", [quota_key(self._prefix, owner, "requests")], [limit])
        _, left, reset, wait = await self._scripts.run(call)
        return Allowance(limit, left, reset / 1000, wait / 1000)

    async def enter(self, slot: TurnSlot) -> str | None:
        """Take a slot; return None, or whose are all taken: the owner, or `ALL_OWNERS`. Raises Unavailable.

        One round trip; another one where it was refused half of it.
        """
        pools = self._pools(slot)
        calls = [Call("enter_turn", [key], [slot.token, most, SLOT_SECONDS * 1000]) for _, key, most in pools]
        replies = await self._scripts.run_all(calls)
        full = [whose for (whose, _, _), reply in zip(pools, replies, strict=True) if not _granted(reply)]
        if not full:
            return None
        if len(full) < len(pools):
            await self.leave(slot)
        return full[0]

    async def keep(self, slots: Sequence[TurnSlot]) -> None:
        """Renew the slots of turns that run. One round trip. Raises Unavailable."""
        tokens: dict[str, list[str]] = {}
        for slot in slots:
            for _, key, _ in self._pools(slot):
                tokens.setdefault(key, []).append(slot.token)
        await self._scripts.run_all(
            [Call("keep_turns", [key], [SLOT_SECONDS * 1000, *held]) for key, held in tokens.items()]
        )

    async def leave(self, slot: TurnSlot) -> None:
        """Give a slot back. One round trip. Raises Unavailable."""
        await self._scripts.run_all([Call("leave_turn", [key], [slot.token]) for _, key, _ in self._pools(slot)])

    def _pools(self, slot: TurnSlot) -> list[tuple[str, str, int]]:
        """Return whose slots a turn takes, their key and how many there are."""
        pools = [(slot.owner, slot.owner_limit), (ALL_OWNERS, slot.total_limit)]
        return [(whose, quota_key(self._prefix, whose, "turns"), most) for whose, most in pools if most]


def _granted(reply: Sequence[object] | StoreError) -> bool:
    if isinstance(reply, StoreError):
        raise reply
    return bool(reply[0])


def ledger_keys(prefix: str, owner: str) -> list[str]:
    """Return the keys of what an owner has: bytes by partition, with their total, and when partitions end."""
    return [quota_key(prefix, owner, name) for name in ("stored", "ends")]


class Ledger:
    """How many bytes owners have stored, by partition. Nothing is counted unless that is limited.

    Counted are items and bodies of responses: in the owner's slot, those of a turn in the same write as the script that
    stores them, all others right after it. A process that is killed in between leaves those uncounted, and what expires
    is counted until somebody needs its room; the `Recounter` puts both right.
    """

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._scripts = keyspace.scripts

    async def require(self, owner: str) -> None:
        """Raise BytesExceeded if the owner has as much as it may have; one round trip. Raises Unavailable."""
        if self._keyspace.most_bytes:
            await self._scripts.run(Call("check_bytes", self._keys(owner), [self._keyspace.most_bytes], owner))

    async def charge(self, owner: str, partition: str, token: str, size: int, *, in_conversation: bool) -> None:
        """Count bytes that were stored, or (less than 0) that are there no more; a repeat counts nothing.

        token: of the change. in_conversation: whether they live as long as a conversation, or as responses do. What
        can't be counted now is left to a recount: it is stored.
        """
        call = self.charging(owner, partition, token, size, in_conversation=in_conversation)
        if call is not None:
            with suppress(Unavailable):
                await self._scripts.run(call)

    def charging(self, owner: str, partition: str, token: str, size: int, *, in_conversation: bool) -> Call | None:
        """Return what counts bytes as `charge` does, to be run beside what stores them; None where none are counted.

        What refuses to store them has them given back.
        """
        if not self._keyspace.counts_bytes:
            return None
        keys = [*self._keys(owner), quota_key(self._keyspace.prefix, owner, f"charged:{token}")]
        life = self._keyspace.conversation_seconds if in_conversation else self._keyspace.retention_seconds
        return Call("charge_bytes", keys, [partition, size, life * 1000, CHARGE_MARKER_SECONDS], owner)

    async def forget(self, owner: str, partition: str) -> None:
        """Count nothing of a partition any more, where that can be noted."""
        if self._keyspace.counts_bytes:
            with suppress(Unavailable):
                await self._scripts.run(Call("set_bytes", self._keys(owner), [partition, 0, 0, ""], owner))

    def _keys(self, owner: str) -> list[str]:
        return ledger_keys(self._keyspace.prefix, owner)
