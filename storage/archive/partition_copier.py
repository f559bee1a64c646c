"""Partition copier: a partition as it was at one moment, read in portions, so that others come in between.

One script tells what is there: all keys but those that hold much, of which it tells how long they are. These are read
behind it: lists of items only grow, and whatever takes something out of them gives the partition another edition, which
each call compares; responses that are over do not change. If something was taken away meanwhile all is copied anew, and
where that happens again and again, by one script.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from storage.client.channel import Argument
from storage.client.keyspace import Keyspace
from storage.client.pieces import Torn, again_if_torn, read_piece
from storage.client.scripts import Call

#: How often a partition is copied in portions, before it is copied by one script.
PORTIONED_ATTEMPTS = 5
#: Responses that are asked for at once.
RESPONSES_AT_ONCE = 100
#: Entries of the index that are asked for at once.
ENTRIES_AT_ONCE = 2000

#: What a field of the index begins with that names a call.
_CALL = b"call:"

#: Of a key: name, kind, when it expires (ms, 0: never), what it holds.
Copy = list[Any]


class PartitionCopier:
    """Copies one partition."""

    def __init__(self, keyspace: Keyspace, partition: str) -> None:
        self._scripts = keyspace.scripts
        self._keys = keyspace.keys_of(partition)
        self._most_bytes = keyspace.portion.bytes

    async def copy(self, response_ids: Sequence[str]) -> list[Copy]:
        """Return its keys, its own last, without logs; none where it is gone. Raises Unavailable.

        response_ids: of responses that are known to be there.
        """
        for _ in range(PORTIONED_ATTEMPTS):
            try:
                return await self._copy(response_ids, is_whole=False)
            except Torn:
                continue
        return await self._copy(response_ids, is_whole=True)

    async def _copy(self, response_ids: Sequence[str], *, is_whole: bool) -> list[Copy]:
        asked = Call("copy_partition", [self._keys.head], [int(is_whole), *sorted(response_ids)])
        found = await self._scripts.run(asked)
        if not found:
            return []
        edition, over, *copies = found
        for copy in copies:
            name, kind, _, held = copy
            if kind == b"list" and isinstance(held, int):
                copy[3] = await self._items(edition, self._keys.named(name.decode()), held)
        lengths = {name: len(held) for name, kind, _, held in copies if kind == b"list"}
        for copy in copies:
            if copy[0] == b"index" and copy[3] == 0:
                copy[3] = await self._index(edition, lengths)
        return await self._responses(over) + copies

    async def _items(self, edition: bytes, key: str, length: int) -> list[bytes]:
        elements: list[bytes] = []
        while len(elements) < length:
            arguments: list[Argument] = [edition, len(elements), length, self._most_bytes]
            (some,) = await self._scripts.run(Call("copy_items", [self._keys.head, key], arguments))
            if some == 0:
                raise Torn
            elements += some
        return elements

    async def _index(self, edition: bytes, lengths: Mapping[bytes, int]) -> list[bytes]:
        """Return what the index said of the items that were there. lengths: of the partition's lists then."""
        found: dict[bytes, bytes] = {}
        cursor: bytes | int = b"0"
        while True:
            arguments: list[Argument] = [edition, cursor, ENTRIES_AT_ONCE]
            reply = await self._scripts.run(Call("copy_index", [self._keys.head, self._keys.index], arguments))
            if len(reply) == 1:
                raise Torn
            cursor, flat = reply
            found.update(zip(flat[::2], flat[1::2], strict=True))
            if int(cursor) == 0:
                break
        items = {one: value for one, value in found.items() if not one.startswith(_CALL)}
        known = {one: kept for one, value in items.items() if (kept := _places_within(value, lengths))}
        calls = {one: item for one, item in found.items() if one.startswith(_CALL) and item in known}
        return [text for pair in (known | calls).items() for text in pair]

    async def _responses(self, ids: Sequence[bytes]) -> list[Copy]:
        copies: list[Copy] = []
        while len(copies) < len(ids):
            some = ids[len(copies) : len(copies) + RESPONSES_AT_ONCE]
            found = await self._scripts.run(Call("copy_responses", [self._keys.head], [self._most_bytes, *some]))
            if found == [0]:
                raise Torn
            copies += found
        return copies

    @again_if_torn
    async def copy_log(self, response_id: str) -> list[Copy]:
        """Return a response's log of events, and what it has in pieces; none where it is gone. Raises Unavailable."""
        entries: list[Any] = []
        owner = generation = b""
        past = 0
        while True:
            last = entries[-1][0] if entries else b"0"
            arguments: list[Argument] = [generation, last, self._most_bytes]
            found = await self._scripts.run(Call("copy_log", [self._keys.events(response_id)], arguments))
            if len(found) == 1:
                if entries:
                    raise Torn
                return []
            owner, generation, expires_at, some, pieces = found
            if not some:
                break
            entries += some
            past = pieces or past
        log: Copy = [f"events:{response_id}".encode(), b"stream", expires_at, entries]
        if not past:
            return [log]
        names = [self._keys.events(response_id), self._keys.event_pieces(response_id)]
        calls = [Call("read_piece_of_log", names, [owner, generation, number]) for number in range(past)]
        held = [await read_piece(self._scripts, call, "an event") for call in calls]
        # the list first: whoever reads the log finds what it names
        return [[f"event_pieces:{response_id}".encode(), b"list", expires_at, held], log]


def _places_within(value: bytes, lengths: Mapping[bytes, int]) -> bytes:
    """Return an entry of the index without the places that its item has got since; b"" if there is none else."""
    places, *mark = value.split(b" ", 1)
    kept = []
    for place in places.split(b","):
        segment, _, offset = place.partition(b":")
        if int(offset) < lengths.get(b"segment:" + segment, 0):
            kept.append(place)
    return b" ".join([b",".join(kept), *mark]) if kept else b""
