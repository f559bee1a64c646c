"""Pieces: items that are too large for one command, brought to the store and read from it a part at a time.

The server answers nobody else while it takes a command, writes it to its file or puts a reply together, and an item of
33 MB is 0.2 s of that, more to read than to write. So the segment has only the item's beginning, which is what scripts
look at, with the name of a list that has the rest (`storage/envelope.py`). The list is brought before the script that
stores the item, like anything that is staged, and expires unless that makes it lasting; then it lives as long as the
segment, and is freed with its item.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from storage.client.keyspace import Keyspace, Portion
from storage.client.scripts import Call, Scripts
from storage.envelope import SEPARATOR, InPieces, Parted, read_parted, unwrap_all, wrap
from storage.errors import Unavailable
from storage.partitions import random_hex
from storage.records import Entry, Origin

ReadParameters = ParamSpec("ReadParameters")
WhatIsRead = TypeVar("WhatIsRead")

#: Digits of a name, by which no two items ever get the same.
NAME_DIGITS = 16


class Torn(Exception):
    """An item was taken away while it was read: what told of it has to be read again, and tells of it no more."""


def again_if_torn(
    read: Callable[ReadParameters, Awaitable[WhatIsRead]],
) -> Callable[ReadParameters, Coroutine[Any, Any, WhatIsRead]]:
    """Return a reader that begins anew for as long as items are taken away while it reads them."""

    @wraps(read)
    async def reader(*args: ReadParameters.args, **kwargs: ReadParameters.kwargs) -> WhatIsRead:
        while True:
            with suppress(Torn):
                return await read(*args, **kwargs)

    return reader


def part(entry: Entry, portion: Portion) -> Parted | None:
    """Return what will lie in the segment of an item that is brought in pieces; None for one that is not."""
    size = len(entry.data)
    if entry.origin is Origin.REFERENCE or size <= max(portion.bytes, portion.head):
        return None
    name = f"{random_hex(NAME_DIGITS)}.{-(-(size - portion.head) // portion.bytes)}"
    return Parted(entry.data[: portion.head], entry.note, name, size)


def cut(data: bytes, portion: Portion, first: int) -> Iterator[bytes]:
    """Yield what lies behind the first bytes, in pieces."""
    for at in range(first, len(data), portion.bytes):
        yield data[at : at + portion.bytes]


async def read_piece(scripts: Scripts, call: Call, whole: str) -> bytes:
    """Return one piece of something; one a call, so that others come between two of them.

    whole: what it is a part of, in words. Raises Torn when that is gone, Unavailable when only the piece is.
    """
    (piece,) = await scripts.run(call)
    if isinstance(piece, bytes):
        return piece
    if piece == 0:
        raise Torn
    raise Unavailable(f"a part of {whole} is gone")


class ItemPieces:
    """Items in pieces, of any owner."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace

    async def items(self, owner: str, partition: str, elements: Sequence[bytes]) -> list[bytes]:
        """Return the items of elements of a partition. Raises Torn, Unavailable."""
        try:
            return unwrap_all(elements)
        except InPieces:
            return unwrap_all(await self.whole(owner, partition, elements))

    async def whole(self, owner: str, partition: str, elements: Sequence[bytes]) -> list[bytes]:
        """Return elements of a partition with all of their items. Raises Torn, Unavailable."""
        whole = list(elements)
        for place, element in enumerate(elements):
            if element.endswith(SEPARATOR) and (parted := read_parted(element)):
                whole[place] = wrap(await self._read(owner, partition, parted), parted.note)
        return whole

    async def _read(self, owner: str, partition: str, parted: Parted) -> bytes:
        keys = self._keyspace.keys_of(partition)
        names = [keys.head, keys.pieces(parted.name)]
        pieces = [parted.head]
        left = parted.size - len(parted.head)
        while left > 0:
            call = Call("read_piece", names, [owner, len(pieces) - 1])
            pieces.append(await read_piece(self._keyspace.scripts, call, "an item"))
            left -= len(pieces[-1])
        return b"".join(pieces)
