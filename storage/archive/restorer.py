"""Restorer: writes a backup into a store, as it was.

While it does, the store is marked, and nobody opens it (`Layout`): half a restore is no store. A restore that was
broken off is begun anew. Within a partition the key comes last without which nothing is found there.

What time has ended since is left out: instants are those of the backup, so that nothing outlives its retention. What
the backup does not have is made of what it has: the queue of the responses that are not over, and what listings lack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from storage.archive.backup_file import BackupHead, KeyPart
from storage.client.channel import Channel, Command
from storage.client.keys import OwnerKeys, escape_glob, layout_key
from storage.client.keyspace import Keyspace
from storage.client.scripts import Call, translated
from storage.client.values import PARTITION_KEY
from storage.errors import StoreError, StoreNotEmpty
from storage.jobs import Jobs

#: Calls and bytes that go out together.
CALLS_AT_ONCE = 200
BYTES_AT_ONCE = 1 << 20
#: The statuses of a response that is not over.
UNFINISHED_STATUSES = (b"queued", b"in_progress")


class Restorer:
    """Restores a keyspace. Nobody else may work on it meanwhile."""

    def __init__(self, channel: Channel, keyspace: Keyspace, jobs: Jobs) -> None:
        self._channel = channel
        self._jobs = jobs
        self._keyspace = keyspace
        self._scripts = keyspace.scripts
        self._layout = layout_key(keyspace.prefix)

    async def prepare(self, head: BackupHead, *, replace: bool) -> None:
        """Make the store empty and mark it, for a backup of this head.

        replace: whether what is there goes. Raises StoreNotEmpty if it may not, Unavailable. What a restore left that
        was broken off always goes.
        """
        _, _, restoring = await self._scripts.run(Call("read_layout", [self._layout], []))
        if not (replace or restoring) and (key := await self._find_any()):
            raise StoreNotEmpty(key)
        await self._note(head, "1")
        await self._clear()

    async def restore(
        self, head: BackupHead, parts: Iterable[KeyPart], on_progress: Callable[[int], None] = lambda _: None
    ) -> None:
        """Write everything into the prepared store, and take the mark off; on_progress gets how many parts are done.

        Raises Unavailable, and what `parts` raises: then the store stays marked.
        """
        (now_ms,) = await self._scripts.run(Call("read_clock", [self._layout], []))
        batch = _Batch(self._keyspace)
        for i, part in enumerate(parts):
            if not 0 < part.expires_at_ms <= now_ms:
                batch.add(part)
            if batch.is_full:
                await self._send(batch)
                on_progress(i)
        await self._send(batch)
        for _, response_id, owner in sorted(batch.unfinished):
            await self._jobs.enqueue(owner, response_id)
        await self._note(head, "")

    async def _note(self, head: BackupHead, restoring: str) -> None:
        await self._scripts.run(Call("note_restore", [self._layout], [head.layout, head.writer, restoring]))

    async def _send(self, batch: _Batch) -> None:
        for calls in batch.take():
            for reply in await self._scripts.run_all(calls):
                if isinstance(reply, StoreError):
                    raise reply

    async def _find_any(self) -> str:
        """Return a key of a partition or of an owner; '' if there is none."""
        others = tuple(f"{self._keyspace.prefix}:{kind}:" for kind in ("layout", "jobs", "quota", "probe"))
        with translated():
            async for keys in self._channel.scan(f"{escape_glob(self._keyspace.prefix)}:*"):
                for key in keys:
                    if not key.startswith(others):
                        return key
        return ""

    async def _clear(self) -> None:
        """Delete everything but the mark."""
        with translated():
            async for keys in self._channel.scan(f"{escape_glob(self._keyspace.prefix)}:*"):
                commands: list[Command] = [("UNLINK", key) for key in keys if key != self._layout]
                for reply in await self._channel.exchange(commands):
                    if isinstance(reply, Exception):
                        raise reply


class _Batch:
    """Calls that go out together, in an order: parts of one key one after the other, a partition's own key at the end.

    Of a cluster's calls that go out together none waits for another.
    """

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._size = 0
        self._steps: list[list[Call]] = [[]]
        self._parts = 0
        #: When they were accepted (ms), ids, and owners, of the responses so far that are not over.
        self.unfinished: list[tuple[int, str, str]] = []
        #: Those of a partition whose owner, which comes last, has not been read: partition, and as above.
        self._unowned: list[tuple[str, int, str]] = []
        #: Calls that make partitions visible, and those that need visible ones.
        self._heads: list[Call] = []
        self._after: list[Call] = []
        #: The conversation of the partition that is being read.
        self._conversation: dict[bytes, bytes] = {}

    @property
    def is_full(self) -> bool:
        """Whether it should go out."""
        return self._parts >= CALLS_AT_ONCE or self._size >= BYTES_AT_ONCE

    def add(self, part: KeyPart) -> None:
        """Take a part and what follows from it."""
        arguments: list[Any] = [part.kind, part.expires_at_ms, part.offset, *part.elements]
        call = Call("restore_part", [self._keyspace.prefix + part.name], arguments)
        partition, _, name = part.name.removeprefix(":{").partition("}:")
        is_head = part.name.startswith(":{") and name == PARTITION_KEY
        if is_head:
            self._heads.append(call)
        elif part.offset:
            self._steps += [[call], []]
        else:
            self._steps[-1].append(call)
        self._parts += 1
        self._size += sum(map(len, part.elements))
        if part.kind == "hash" and part.name.startswith(":{"):
            self._follow(partition, name, dict(zip(part.elements[::2], part.elements[1::2], strict=True)))

    def _follow(self, partition: str, name: str, fields: dict[bytes, bytes]) -> None:
        if name == "conversation":
            self._conversation = {**fields, b"partition": partition.encode()}
        elif name == PARTITION_KEY and b"owner" in fields:
            owner = fields[b"owner"].decode()
            self.unfinished += [(at, one, owner) for where, at, one in self._unowned if where == partition]
            self._unowned = []
            if self._conversation.get(b"partition") == partition.encode():
                self._after += self._listed(owner, self._conversation)
        elif name.startswith("response:") and fields.get(b"status") in UNFINISHED_STATUSES:
            accepted_at = int(fields.get(b"accepted_at", b"0"))
            self._unowned.append((partition, accepted_at, name.removeprefix("response:")))

    def _listed(self, owner: str, facts: dict[bytes, bytes]) -> list[Call]:
        if b"deleted_at" in facts:
            return []
        project, referrer = (facts.get(name, b"").decode() for name in (b"project_id", b"referrer"))
        listings = OwnerKeys(self._keyspace.prefix, owner).listings(project, referrer)
        arguments = [facts[b"id"], facts[b"updated_at"]]
        return [Call("list_restored", [listing], arguments) for listing in listings]

    def take(self) -> list[list[Call]]:
        """Return the calls, step by step, and begin anew."""
        steps = [*self._steps, self._heads, self._after]
        self._steps, self._heads, self._after, self._parts, self._size = [[]], [], [], 0, 0
        return [step for step in steps if step]
