"""Envelope: how an item lies in its segment. Its bytes as they came, and behind them a note, where it has one.

    {"id":"msg_…","type":"message",…}                  most items
    {"id":"rs_…","type":"reasoning",…} US note US      an item with a note
    {"id":"msg_…","type":"mess US note US name:size US the beginning of an item that lies in pieces

US is the unit separator, 0x1f: JSON has no control characters, so the first one ends the item, and an element that ends
with one has a note. A note is text for whoever sends the item on, such as who made its sealed content; the store reads
neither. Elements that were written before there were notes have none.

An item that is too large for one command lies in *pieces*: its beginning here, the rest in a list of its own
(`storage/client/pieces.py`). Whoever opens such an element without having brought it together gets `InPieces`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

#: Ends the item, and the note.
SEPARATOR = b"\x1f"
#: How many an element has whose item lies in pieces.
PARTED_SEPARATORS = 3
#: The last byte of an element that has a note.
NOTE_END = SEPARATOR[0]

#: What every stored item begins with; its id follows, which has no quotes.
_HEAD = b'{"id":"'


class InPieces(ValueError):
    """An element has only the beginning of its item."""


class Parted(NamedTuple):
    """The element of an item in pieces. head: the item's beginning. name: of the pieces. size: of the whole item."""

    head: bytes
    note: str
    name: str
    size: int

    def element(self) -> bytes:
        """Return the element as it lies in its segment."""
        return b"%b\x1f%b\x1f%b:%d\x1f" % (self.head, self.note.encode(), self.name.encode(), self.size)


def read_parted(element: bytes) -> Parted | None:
    """Return what an element has of an item in pieces; None for an element with all of its item."""
    if not element.endswith(SEPARATOR) or element.count(SEPARATOR) != PARTED_SEPARATORS:
        return None
    head, note, rest, _ = element.split(SEPARATOR)
    name, _, size = rest.decode().partition(":")
    return Parted(head, note.decode(), name, int(size))


def wrap(data: bytes, note: str) -> bytes:
    """Return the element for an item. note: text without unit separators, '' for none."""
    return b"%b%b%b%b" % (data, SEPARATOR, note.encode(), SEPARATOR) if note else data


def unwrap(element: bytes) -> bytes:
    """Return the item of an element. Raises InPieces."""
    return open_envelope(element)[0] if element.endswith(SEPARATOR) else element


def unwrap_all(elements: Iterable[bytes]) -> list[bytes]:
    """Return the items of elements. Raises InPieces."""
    return [unwrap(element) for element in elements]


def open_envelope(element: bytes) -> tuple[bytes, str]:
    """Return an element's item and its note, '' for none. Raises InPieces."""
    if not element.endswith(SEPARATOR):
        return element, ""
    data, _, note = element.partition(SEPARATOR)
    if note.count(SEPARATOR) > 1:
        raise InPieces
    return data, note[:-1].decode()


def item_id(data: bytes) -> str:
    """Return the id of an item, which it begins with."""
    return data[len(_HEAD) : data.index(b'"', len(_HEAD))].decode()
