"""Envelope: how an item lies in its segment. Its bytes as they came, and behind them a note, where it has one.

    {"id":"msg_…","type":"message",…}                  most items
    {"id":"rs_…","type":"reasoning",…} US note US      an item with a note

US is the unit separator, 0x1f: JSON has no control characters, so the first one ends the item, and an element that ends
with one has a note. A note is text for whoever sends the item on, such as who made its sealed content; the store reads
neither. Elements that were written before there were notes have none.
"""

from __future__ import annotations

from collections.abc import Iterable

#: Ends the item, and the note.
SEPARATOR = b"\x1f"
#: The last byte of an element that has a note.
NOTE_END = SEPARATOR[0]

#: What every stored item begins with; its id follows, which has no quotes.
_HEAD = b'{"id":"'


def wrap(data: bytes, note: str) -> bytes:
    """Return the element for an item. note: text without unit separators, '' for none."""
    return b"%b%b%b%b" % (data, SEPARATOR, note.encode(), SEPARATOR) if note else data


def unwrap(element: bytes) -> bytes:
    """Return the item of an element."""
    return element.partition(SEPARATOR)[0] if element.endswith(SEPARATOR) else element


def unwrap_all(elements: Iterable[bytes]) -> list[bytes]:
    """Return the items of elements."""
    return [unwrap(element) for element in elements]


def open_envelope(element: bytes) -> tuple[bytes, str]:
    """Return an element's item and its note, '' for none."""
    if not element.endswith(SEPARATOR):
        return element, ""
    data, _, note = element.partition(SEPARATOR)
    return data, note[:-1].decode()


def item_id(data: bytes) -> str:
    """Return the id of an item, which it begins with."""
    return data[len(_HEAD) : data.index(b'"', len(_HEAD))].decode()
