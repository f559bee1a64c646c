"""Staging: entries that are too much for one script, brought to the store in portions before the script of the call.

The server answers nobody else while a script runs. So the items of a large call go first, portion by portion, into a
list that nobody reads (`stage_items`); then the call comes without their bytes, and its script makes a segment of the
list by giving it another name. What others see is all or nothing, as ever. If the call never comes, the list expires.
An item that is more than a portion by itself is brought in pieces, into a list of its own (`storage/client/pieces.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Iterator, Sequence
from typing import Any

from storage.client.channel import Argument, uncopied
from storage.client.keys import PartitionKeys
from storage.client.keyspace import Keyspace
from storage.client.pieces import ItemPieces, Torn, cut, part
from storage.client.scripts import Call
from storage.envelope import Parted, read_parted, wrap
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

    __slots__ = ("_entries", "_key", "_keys", "_keyspace", "_listed", "_parted", "arguments", "keys", "size")

    def __init__(self, keyspace: Keyspace, keys: PartitionKeys, token: str, *lists: Sequence[Entry]) -> None:
        self._keyspace, self._keys = keyspace, keys
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
        if count > keyspace.portion.items or size > keyspace.portion.bytes:
            self._key = keys.staged(token)
            self.keys.append(self._key)
            self._stage(lists)

    def _stage(self, lists: Sequence[Sequence[Entry]]) -> None:
        portion = self._keyspace.portion
        self._entries = [entry for entries in lists for entry in entries]
        #: What lies in the segment of those that are brought in pieces.
        self._parted = [part(entry, portion) for entry in self._entries]
        #: What is staged in the list: nothing where only single items are too much.
        self._listed = self._elements()
        if len(self._entries) <= portion.items and sum(map(len, self._listed)) <= portion.bytes:
            self._listed = []
        parted = iter(self._parted)
        self.arguments = []
        for entries in lists:
            self.arguments.append(len(entries))
            for entry, one in zip(entries, parted, strict=False):
                self.arguments += self._argument(entry, one)

    def _argument(self, entry: Entry, parted: Parted | None) -> tuple[Argument, ...]:
        """Return the arguments of an entry; of one in pieces it says what it is, also where that is staged."""
        origin, element = entry.origin, b"" if self._listed else wrap(entry.data, entry.note)
        if parted is not None:
            # as if it came with its id: such an entry is looked at by itself
            origin, element = Origin.CLIENT, parted.element()
        kind = _STAGED.get(origin, origin) if self._listed else origin
        return kind, entry.id, element, entry.mark.sign + entry.mark.key

    def _elements(self) -> list[bytes]:
        return [
            one.element() if one else wrap(entry.data, entry.note)
            for entry, one in zip(self._entries, self._parted, strict=True)
            if entry.origin is not Origin.REFERENCE
        ]

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
        return self._run_staged(calls) if self._key else self._keyspace.scripts.run_all(calls)

    async def _run_staged(self, calls: Sequence[Call]) -> Sequence[list[Any] | StoreError]:
        place = next(i for i, call in enumerate(calls) if self._key in call.keys)
        for _ in range(BRING_ATTEMPTS):
            if not await self._bring():
                continue
            replies = await self._keyspace.scripts.run_all(calls)
            reply = replies[place]
            if isinstance(reply, Unstaged):
                continue
            if any(self._parted) or isinstance(reply, StoreError) or isinstance(reply[0], bytes):
                # it came to something else, or had an item already: a call that follows on this one may bring others
                await self._drop()
            return replies
        raise Unavailable("what was staged is gone")

    async def fill(self, owner: str, elements: Sequence[bytes]) -> list[bytes]:
        """Return the items of the elements of a reply; what was staged, and so is not in it, is the call's own.

        What was stored already, and is deleted by now, is left out.
        """
        pieces = ItemPieces(self._keyspace)
        if not self._key:
            return await self._others(pieces, owner, elements)
        own: dict[str, bytes] = {}
        for entry, one in zip(self._entries, self._parted, strict=True):
            # of two with the same id the first counts
            own.setdefault(entry.id, entry.data)
            if one is not None:
                own[one.name] = entry.data
        items: list[bytes] = []
        for element, entry in zip(elements, self._entries, strict=True):
            parted = read_parted(element)
            known = own.get(parted.name if parted else "" if element else entry.id)
            items += await self._others(pieces, owner, [element]) if known is None else [known]
        return items

    async def _others(self, pieces: ItemPieces, owner: str, elements: Sequence[bytes]) -> list[bytes]:
        try:
            return await pieces.items(owner, self._keys.partition, elements)
        except Torn:
            pass
        items: list[bytes] = []
        for element in elements:
            try:
                items += await pieces.items(owner, self._keys.partition, [element])
            except Torn:
                continue
        return items

    async def _bring(self) -> bool:
        """Bring what is not there yet; return whether all of it is there."""
        keyspace, keys = self._keyspace, self._keys
        for entry, one in zip(self._entries, self._parted, strict=True):
            if one and not await bring_pieces(keyspace, keys.pieces(one.name), entry.data, keyspace.portion.head):
                return False
        return not self._listed or await bring(self._keyspace, self._key, self._portions())

    async def _drop(self) -> None:
        pieces = [self._keys.pieces(one.name) for one in self._parted if one is not None]
        await self._keyspace.scripts.run(Call("drop_staged", [self._keys.head, self._key, *pieces], []))

    def _portions(self) -> Iterator[tuple[int, list[bytes]]]:
        """Yield portions of the list, each with the place of its first element."""
        first = size = 0
        elements: list[bytes] = []
        portion = self._keyspace.portion
        for element in self._listed:
            if elements and (len(elements) == portion.items or size + len(element) > portion.bytes):
                yield first, elements
                first, size, elements = first + len(elements), 0, []
            elements.append(element)
            size += len(element)
        if elements:
            yield first, elements


async def bring(keyspace: Keyspace, key: str, portions: Iterable[tuple[int, list[bytes]]]) -> bool:
    """Bring what a call is about to store into a list, a portion at a time; return whether all of it is there.

    portions: each with the place of its first element; what is there already is not brought again. Raises Unavailable.
    """
    (there,) = await _stage_portion(keyspace, key, 0, [])
    for first, elements in portions:
        past = first + len(elements)
        if past > there:
            (there,) = await _stage_portion(keyspace, key, first, elements)
        if there < past:
            return False
    return True


async def bring_pieces(keyspace: Keyspace, key: str, data: bytes, first: int) -> bool:
    """Bring what lies behind the first bytes of something, as `bring` does, in pieces. Raises Unavailable."""
    pieces = enumerate(cut(data, keyspace.portion, first))
    return await bring(keyspace, key, ((number, [piece]) for number, piece in pieces))


async def _stage_portion(keyspace: Keyspace, key: str, first: int, elements: Sequence[bytes]) -> list[Any]:
    arguments: list[Argument] = [first, STAGED_SECONDS, *map(uncopied, elements)]
    return await keyspace.scripts.run(Call("stage_items", [key], arguments))
