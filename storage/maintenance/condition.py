"""Condition of the store: whether it takes writes and has room; looked at in the background, asked by turns."""

from __future__ import annotations

from storage.client.channel import Channel
from storage.client.keys import probe_key
from storage.client.keyspace import Keyspace
from storage.client.scripts import Call, translated
from storage.errors import Reason, StoreError, Unavailable
from storage.room import Disk, Shortage, memory_left

#: What is left of a memory when it counts as full: the less there is, the less is tried, so that it would never
#: come to nothing.
FULL_BELOW_BYTES = 1024 * 1024


class Condition:
    """What is known of all servers of the store. disk: what they write to, where that is on this machine."""

    def __init__(self, channel: Channel, keyspace: Keyspace, disk: Disk | None = None) -> None:
        self._channel = channel
        self._scripts = keyspace.scripts
        self._prefix = keyspace.prefix
        self._disk = disk
        self._refusal: Unavailable | None = None
        #: Whether the last look came to nothing without a refusal.
        self._is_in_doubt = False
        #: Bytes that the fullest server uses and may use (0: no limit), as the last look found.
        self.memory = (0, 0)

    async def clock(self) -> float:
        """Return the server's time in Unix seconds. Raises Unavailable."""
        (milliseconds,) = await self._scripts.run(Call("read_clock", [probe_key(self._prefix, "0")], []))
        return float(milliseconds) / 1000

    async def look(self) -> None:
        """Find out, in one round trip, whether every server takes writes. Raises Unavailable: what `require` raises.

        No server writes anything for it.
        """
        try:
            await self._look()
        except Unavailable as error:
            self.note(error)
            raise
        self._refusal, self._is_in_doubt = None, False

    def require(self) -> None:
        """Raise Unavailable if writing was not possible when that was looked at last; costs nothing."""
        if self._refusal is not None:
            refusal = self._refusal
            raise Unavailable(refusal.subject, refusal.reason)

    def note(self, refusal: Unavailable) -> None:
        """Take note of what a write met, until the next look; of no answer only if it is the second time in a row.

        The first may be due to a moment in which this process was busy.
        """
        if refusal.reason is not Reason.AWAY or self._is_in_doubt:
            self._refusal = refusal
        self._is_in_doubt = True

    async def _look(self) -> None:
        with translated():
            tags = await self._channel.tags()
        calls = [Call("probe_writes", [probe_key(self._prefix, tag)], []) for tag in tags]
        found: list[tuple[int, int]] = []
        for reply in await self._scripts.run_all(calls):
            if isinstance(reply, StoreError):
                raise reply
            used, limit = reply
            found.append((used, limit))
        self.memory = min(found, key=lambda one: memory_left(*one))
        left = memory_left(*self.memory)
        disk = self._disk_shortage()
        room = self._scripts.room
        room.left_bytes = left
        memory = Shortage.NOTHING_NEW if left < FULL_BELOW_BYTES else Shortage.NONE
        room.shortage, room.of = max(memory, disk), "disk space" if disk else "memory"
        if room.shortage:
            raise room.refusal()

    def _disk_shortage(self) -> Shortage:
        try:
            return self._disk.shortage() if self._disk else Shortage.NONE
        except OSError:
            # a folder that can't be looked at says nothing; its server says what is wrong
            return Shortage.NONE
