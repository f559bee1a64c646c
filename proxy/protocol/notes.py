"""Item notes: what the store keeps beside an item, so that one knows unparsed how it goes back to a model. Pure.

    maker    the model server and the model that made it: its names as it was asked for, and as it calls itself
    broken   its arguments are no JSON: it can't go out as a call any more
    chat     what a message of Chat Completions said that no item can say (`proxy.chat`)

Only items that need one have a note: those that no other model understands, and broken calls. No note, no known maker:
so it is with all that clients bring along, and with what was stored before there were notes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
import orjson

from proxy.protocol.item_types import item_type_of

#: Notes that are held read: there are as many as models.
_NOTES_READ = 1024


def _plain(value: Any) -> msgspec.Raw:
    # integers beyond 64 bits are fragments of their digits
    return msgspec.Raw(orjson.dumps(value))


_ENCODER = msgspec.json.Encoder(enc_hook=_plain)


class Maker(msgspec.Struct, frozen=True, array_like=True):
    """Who made an item. upstream: name of the model server. asked: the model's name in the request; model: its own."""

    upstream: str
    asked: str
    model: str = ""


class ItemNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """A note; see the module's text."""

    maker: Maker | None = None
    broken: bool = False
    chat: dict[str, Any] | None = None


def note_of(item: dict[str, Any], maker: Maker | None = None, chat: dict[str, Any] | None = None) -> str:
    """Return the note of an item in its stored form, '' if it needs none. maker: of what a model has made just now."""
    row = item_type_of(item["type"])
    keeps_maker = maker is not None and (row.is_sealed or isinstance(item.get("encrypted_content"), str))
    broken = row.is_call and is_broken(item)
    if not (keeps_maker or broken or chat):
        return ""
    return _ENCODER.encode(ItemNote(maker if keeps_maker else None, broken, chat)).decode()


@lru_cache(_NOTES_READ)
def read_note(text: str) -> ItemNote:
    """Return what a note says; one that can't be read says nothing."""
    try:
        return msgspec.json.decode(text, type=ItemNote) if text else ItemNote()
    except msgspec.MsgspecError:
        return ItemNote()


def is_broken(item: dict[str, Any]) -> bool:
    """Whether an item has arguments that are no JSON. None at all are fine: some servers leave an empty object out."""
    arguments = item.get("arguments")
    if not isinstance(arguments, str) or not arguments:
        return False
    try:
        orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return True
    return False
