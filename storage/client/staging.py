"""Staging: entries that are too much for one script, brought to the store in portions before the script of the call.

The server answers nobody else while a script runs. So the items of a large call go first, portion by portion, into a
list that nobody reads (`stage_items`); then the call comes without their bytes, and its script makes a segment of the
list by giving it another name. What others see is all or nothing, as ever. If the call never comes, the list expires.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from storage.client.channel import Argument, uncopied
from storage.client.keyspace import Keyspace, flatten
from storage.client.scripts import Call
from storage.envelope import wrap
from storage.errors import StoreError, Unavailable, Unstaged
from storage.records import Entry, Origin

#: How long a list waits for its call, or for its next portion.
STAGED_SECONDS = 120
#: How often all is brought again of which the server has lost a part, as a failover may, before a call is given up.
BRING_ATTEMPTS = 3


class Stage:
    """The entries of one call, which are staged if they are more than a portion.

    key: of the list; a repeat of the call has the same, another call another one, unless this one has been answered.
    """

    def __init__(self, keyspace: Keyspace, key: str, *lists: Sequence[Entry]) -> None:
        self._scripts, self._key, self._lists = keyspace.scripts, key, lists
        self._portion = portion = keyspace.portion
        count = size = 0
        for entries in lists:
            count += len(entries)
            for entry in entries:
                size += len(entry.data)
                if entry.note:
                    size += len(wrap(b"", entry.note))
        self._is_used = count > portion.items or size > portion.bytes
        #: Bytes of the items that come with the call.
        self.size = size

    @property
    def keys(self) -> list[str]:
        """What the call's keys end with."""
        return [self._key] if self._is_used else []

    @property
    def arguments(self) -> list[Argument]:
        """What the call's arguments end with: its lists of entries."""
        return [part for entries in self._lists for part in flatten(entries, staged=self._is_used)]

    async def run(self, call: Call) -> list[Any]:
        """Run a call; as `Scripts.run`, but what was staged comes back as nothing. Raises what that raises."""
        (reply,) = await self.run_all([call])
        if isinstance(reply, StoreError):
            raise reply
        return reply

    async def run_all(self, calls: Sequence[Call]) -> Sequence[list[Any] | StoreError]:
        """Run the call and others beside it, as `Scripts.run_all`; entries that are staged are brought before.

        A repeat goes on bringing where it was broken off. Raises Unavailable.
        """
        if not self._is_used:
            return await self._scripts.run_all(calls)
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
        if not self._is_used:
            return list(elements)
        own: dict[str, bytes] = {}
        for entry in self._entries():
            # of two with the same id the first counts
            own.setdefault(entry.id, wrap(entry.data, entry.note))
        return [element or own[entry.id] for element, entry in zip(elements, self._entries(), strict=True)]

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
        for entry in self._entries():
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

    def _entries(self) -> Iterator[Entry]:
        for entries in self._lists:
            yield from entries
