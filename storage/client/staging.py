"""Staging: entries that are too much for one script, brought to the store in portions before the script of the call.

The server answers nobody else while a script runs. So the items of a large call go first, portion by portion, into a
list that nobody reads (`stage_items`); then the call comes without their bytes, and its script makes a segment of the
list by giving it another name. What others see is all or nothing, as ever. If the call never comes, the list expires.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Sequence
from typing import Any

from storage.client.channel import Argument, uncopied
from storage.client.keys import PartitionKeys
from storage.client.keyspace import Keyspace
from storage.client.scripts import Call
from storage.envelope import wrap
from storage.errors import StoreError, Unavailable, Unstaged
from storage.records import Entry, Origin

#: How long a list waits for its call, or for its next portion.
STAGED_SECONDS = 120
#: How often all is brought again of which the server has lost a part, as a failover may, before a call is given up.
BRING_ATTEMPTS = 3
#: How the scripts tell an entry whose bytes are staged.
_STAGED = {Origin.MINTED: "M", Origin.CLIENT: "C"}


class Stage:
    """The entries of one call, which are staged if they are more than a portion.

    token: in the name of the list; a repeat of the call has the same, another call another one, unless this one has
    been answered. arguments: what the call's end with, its lists of entries: their number, then four arguments each.
    keys: what its keys end with. size: bytes of the items that come with it.
    """

    __slots__ = ("_entries", "_key", "_portion", "_scripts", "arguments", "keys", "size")

    def __init__(self, keyspace: Keyspace, keys: PartitionKeys, token: str, *lists: Sequence[Entry]) -> None:
        self._scripts, self._portion = keyspace.scripts, keyspace.portion
        # in one pass, and all else only if it is needed: every turn comes through here
        arguments: list[Argument] = []
        count = size = 0
        for entries in lists:
            count += len(entries)
            arguments.append(len(entries))
            for entry in entries:
                mark, element = entry.mark, wrap(entry.data, entry.note)
                size += len(element)
                arguments += (entry.origin, entry.id, element, mark.sign + mark.key)
        self.arguments, self.size = arguments, size
        self.keys: list[str] = []
        self._key = ""
        self._entries: list[Entry] = []
        if count > self._portion.items or size > self._portion.bytes:
            self._key = keys.staged(token)
            self.keys.append(self._key)
            self.arguments = [part for entries in lists for part in _without_bytes(entries)]
            self._entries = [entry for entries in lists for entry in entries]

    async def run(self, call: Call) -> list[Any]:
        """Run a call; as `Scripts.run`, but what was staged comes back as nothing. Raises what that raises."""
        (reply,) = await self.run_all([call])
        if isinstance(reply, StoreError):
            raise reply
        return reply

    def run_all(self, calls: Sequence[Call]) -> Awaitable[Sequence[list[Any] | StoreError]]:
        """Run the call and others beside it, as `Scripts.run_all`; entries that are staged are brought before.

        A repeat goes on bringing where it was broken off. Raises Unavailable.
        """
        return self._run_staged(calls) if self._key else self._scripts.run_all(calls)

    async def _run_staged(self, calls: Sequence[Call]) -> Sequence[list[Any] | StoreError]:
        place = next(i for i, call in enumerate(calls) if self._key in call.keys)
        for _ in range(BRING_ATTEMPTS):
            if not await self._bring():
                continue
            replies = await self._scripts.run_all(calls)
            reply = replies[place]
            if isinstance(reply, Unstaged):
                continue
            if isinstance(reply, StoreError) or isinstance(reply[0], bytes):
                # it came to something else: a call that follows on this one may bring others
                await self._scripts.run(Call("drop_staged", [self._key], []))
            return replies
        raise Unavailable("what was staged is gone")

    def fill(self, elements: Sequence[bytes]) -> list[bytes]:
        """Return the elements of a reply, and for what was staged the call's own."""
        if not self._key:
            return list(elements)
        own: dict[str, bytes] = {}
        for entry in self._entries:
            # of two with the same id the first counts
            own.setdefault(entry.id, wrap(entry.data, entry.note))
        return [element or own[entry.id] for element, entry in zip(elements, self._entries, strict=True)]

    async def _bring(self) -> bool:
        """Bring what is not there yet; return whether all of it is there."""
        (there,) = await self._scripts.run(self._portion_call(0, []))
        for first, elements in self._portions():
            past = first + len(elements)
            if past > there:
                (there,) = await self._scripts.run(self._portion_call(first, elements))
            if there < past:
                return False
        return True

    def _portion_call(self, first: int, elements: Sequence[bytes]) -> Call:
        return Call("stage_items", [self._key], [first, STAGED_SECONDS, *map(uncopied, elements)])

    def _portions(self) -> Iterator[tuple[int, list[bytes]]]:
        """Yield portions, each with the place of its first element."""
        first = size = 0
        elements: list[bytes] = []
        for entry in self._entries:
            if entry.origin is Origin.REFERENCE:
                continue
            element = wrap(entry.data, entry.note)
            if elements and (len(elements) == self._portion.items or size + len(element) > self._portion.bytes):
                yield first, elements
                first, size, elements = first + len(elements), 0, []
            elements.append(element)
            size += len(element)
        if elements:
            yield first, elements


def _without_bytes(entries: Sequence[Entry]) -> Iterator[Argument]:
    """Yield the arguments of a list of entries whose bytes are staged."""
    yield len(entries)
    for entry in entries:
        yield from (_STAGED.get(entry.origin, entry.origin), entry.id, b"", entry.mark.sign + entry.mark.key)
