"""Memos: the shape of a lane's pieces as bytes, so that the next one of that shape is told without being parsed. Pure.

    came  …"sequence_number":7,"item_id":"msg_up","delta":" world","obfuscation":"x"}    slots for 7, world and x
    told  …"sequence_number":9,"item_id":"msg_1","delta":" world","obfuscation":"x"}     the same slots, our number

Between the slots, both are the same bytes each time. What comes in a slot is checked: a number is digits, a piece is
one JSON string, a list is one JSON list; it is told as the ordinary way would write it. Whatever is not exactly of the
shape takes the ordinary way.

That the slots are the fields that they are taken for is not reasoned out, but tried: a memo is made only if frames with
other values in the slots, parsed, differ from the first ones in these fields and in nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

import orjson

from proxy.protocol import sse
from proxy.relay.frames import Frames
from proxy.relay.lane import Lane

#: Longer frames are not remembered; longer values are not looked for. A search in vain must not take long.
_MAX_FRAME_BYTES = 4096
_MAX_VALUE_BYTES = 64 * 1024
#: Digits of the numbers that a slot takes: exact integers of JSON have no more.
_MAX_DIGITS = 15
#: A list with more brackets than this may nest too deeply to be written again.
_SHALLOW = 200

#: What a slot holds: the piece; a string of no meaning; a list; the upstream's sequence number, which the client does
#: not get; the index of a part, where that counts pieces, for which the client gets another one. Strings are without
#: their quotes.
_PIECE, _PADDING, _LIST, _NUMBER, _COUNT = range(5)
_KINDS = {
    "sequence_number": _NUMBER,
    "content_index": _COUNT,
    "summary_index": _COUNT,
    "delta": _PIECE,
    "obfuscation": _PADDING,
    "logprobs": _LIST,
}
#: A value of each kind, as bytes and as what they say, by which a shape is tried.
_OTHERS = {_NUMBER: b"8191", _COUNT: b"8191", _PIECE: b"other", _PADDING: b"other", _LIST: b"[8191]"}
_SAID = {_NUMBER: 8191, _COUNT: 8191, _PIECE: "other", _PADDING: "other", _LIST: [8191]}

_FIELD = re.compile(rb'"(sequence_number|content_index|summary_index|delta|obfuscation|logprobs)"[ \t]*:[ \t]*')
_DIGITS = re.compile(rb"([1-9][0-9]*)[ \t]*[,}]")
_STRING = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_DECODER = json.JSONDecoder()

_QUOTE = ord('"')
_BACKSLASH = ord("\\")
_ZERO = ord("0")


#: One slot of the upstream's frames: its kind; the bytes that follow on it, the first of them, and how many they are;
#: how far from the slot's start on they may end; which part of the client's frame it is, that of our number for none.
_Slot = tuple[int, bytes, bytes, int, int, int]

#: Where the upstream has its number: nowhere, before the piece, after it.
_NOWHERE, _BEFORE, _AFTER = range(3)


class _Plain(NamedTuple):
    """A shape with no more than a number and a piece.

    start, end: what is around the piece in the upstream's frame, with a place for the number if it is `numbered` there;
    ahead: by how much theirs is more than ours. told: the client's frame, with places for number and piece;
    is_told_before: the number comes first there.
    """

    start: bytes
    end: bytes
    numbered: int
    ahead: int
    told: bytes
    is_told_before: bool


class Memo:
    """The shape of one lane's pieces, of no use from the moment at which it no longer `holds`.

    head: what the upstream's frames begin with. parts: the client's frame, of which every other part is a slot, and
    which of them is our sequence number. plain: the same shape, if it is a plain one.
    """

    __slots__ = ("_add", "_frames", "_head", "_number", "_parts", "_plain", "_slots", "lane")

    def __init__(
        self,
        lane: Lane,
        frames: Frames,
        head: bytes,
        slots: Sequence[_Slot],
        parts: tuple[list[bytes], int],
        plain: _Plain | None,
    ) -> None:
        self.lane = lane
        self._add = lane.add
        self._frames = frames
        self._head = head
        self._slots = slots
        self._parts, self._number = parts
        self._plain = plain

    @property
    def holds(self) -> bool:
        """Whether the next piece goes where the last one went."""
        return self.lane.memo is self

    def tell(self, frame: bytes) -> bytes:
        """Tell the piece that one whole frame brings, and keep it; return the client's frame.

        b'', and nothing is noted, if the frame is not one, or has more to it than a number that counts on and a piece
        that is told as it came. Nearly all are so, and take two thirds of what `splice` takes.
        """
        if self._plain is None:
            return b""
        start, end, numbered, ahead, told, is_told_before = self._plain
        number = self._frames.number
        if numbered == _BEFORE:
            start = start % (number + ahead)
        elif numbered == _AFTER:
            end = end % (number + ahead)
        if not (frame.startswith(start) and frame.endswith(end)):
            return b""
        piece = frame[len(start) : -len(end)]
        try:
            if not piece.isalnum() and (
                not piece or _QUOTE in piece or _BACKSLASH in piece or not piece.decode().isprintable()
            ):
                return b""
        except ValueError:
            return b""
        self._frames.number = number + 1
        self._add(piece)
        return told % ((number, piece) if is_told_before else (piece, number))

    def splice(self, data: bytes, at: int, max_bytes: int, told: list[sse.FrameBytes]) -> int:
        """Tell the pieces whose frames follow each other from `at` on, and keep them; return where the last one ends.

        told: the client's frames are added to it. The first frame that is not of the shape, or has more than
        `max_bytes`, is left, and nothing is noted of it.
        """
        head, parts, frames = self._head, self._parts, self._frames
        while data.startswith(head, at):
            piece, index, start, number = b"", -1, at + len(head), b"%d" % frames.number
            try:
                for kind, after, mark, size, reach, part in self._slots:
                    if kind == _NUMBER and data.startswith(number + after, start):
                        # It mostly counts like ours.
                        start += len(number) + size
                        continue
                    end = data.find(mark, start)
                    is_near = data.startswith(after, end)
                    if not is_near:
                        end = data.index(after, start, start + reach)
                    value = data[start:end]
                    start = end + size
                    is_plain = value.isalnum() or (_BACKSLASH not in value and value.decode().isprintable())
                    if is_plain and is_near and kind <= _PADDING:
                        parts[part] = value
                        piece = piece if kind else value
                    elif kind == _PIECE:
                        parts[part], piece = _rewritten(value)
                    elif kind == _COUNT:
                        index = _index(value)
                    else:
                        parts[part] = _checked(kind, value)
            except ValueError:
                return at
            if start - at > max_bytes or (index >= 0 and not self.lane.admits(index)):
                return at
            at = start
            parts[self._number] = number
            frames.number += 1
            self._add(piece)
            told.append(b"".join(parts))
        return at


def _index(value: bytes) -> int:
    """Return a number that JSON has as `value`. Raises ValueError."""
    if not value.isdigit() or value[0] == _ZERO or len(value) > _MAX_DIGITS:
        raise ValueError
    return int(value)


def _checked(kind: int, value: bytes) -> bytes:
    """Return the value of a slot as the parser's library writes it. Raises ValueError."""
    if kind == _PADDING:
        return _rewritten(value)[0]
    if kind == _NUMBER:
        _index(value)
        return value
    if not value.startswith(b"[") or b"\n" in value or value.count(b"[") + value.count(b"{") > _SHALLOW:
        raise ValueError
    return orjson.dumps(orjson.loads(value))


def _rewritten(value: bytes) -> tuple[bytes, bytes]:
    """Return the inside of a JSON string as the parser's library writes it, and what it says. Raises ValueError."""
    said = orjson.loads(b'"%b"' % value)
    return orjson.dumps(said)[1:-1], said.encode()


def learn(lane: Lane, frames: Frames, came: tuple[bytes, bytes], told: bytes) -> Memo | None:
    """Return the memo of a lane, made from one of its pieces; None if the shape of that can't be relied on.

    came: the upstream's whole frame, and the data in it. told: the client's frame.
    """
    lane.looks += 1
    (frame, data), at = came, told.find(b"{")
    if len(frame) > _MAX_FRAME_BYTES or len(told) > _MAX_FRAME_BYTES or frame.count(data) != 1:
        return None
    if [event.data for event in sse.SseDecoder(len(frame)).feed(frame)] != [data]:
        return None
    try:
        names, theirs = _shape(data, counts=lane.is_counted)
        told_names, ours = _shape(told[at:-2], counts=False)
    except ValueError:
        return None
    passed = {name for name in names if _KINDS[name] <= _LIST}
    if "delta" not in passed or {*told_names} != {*passed, "sequence_number"}:
        return None
    before, _, after = frame.partition(data)
    theirs[0], theirs[-1] = before + theirs[0], theirs[-1] + after
    ours[0], ours[-1] = told[:at] + ours[0], ours[-1] + told[-2:]
    places = {name: 2 * rank + 1 for rank, name in enumerate(told_names)}
    number = places["sequence_number"]
    slots = [
        _slot(_KINDS[name], after, places.get(name, number)) for name, after in zip(names, theirs[1:], strict=True)
    ]
    ahead = _number_in(data) - _number_in(told[at:-2])
    plain = _plain(names, theirs, told_names, ours, ahead)
    memo = lane.memo = Memo(lane, frames, theirs[0], slots, (_filled(ours, [b""] * len(told_names)), number), plain)
    return memo


def _number_in(data: bytes) -> int:
    """Return the sequence number of an event, 0 if it has none that is a number."""
    number = orjson.loads(data).get("sequence_number")
    return number if type(number) is int else 0


def _plain(
    names: list[str], theirs: list[bytes], told_names: list[str], ours: list[bytes], ahead: int
) -> _Plain | None:
    """Return a shape if it is a plain one. names, theirs: as from `_shape`, of the upstream's frame; others: ours.

    ahead: by how much theirs is more than our number.
    """
    if not {*names} <= {"delta", "sequence_number"}:
        return None
    at = names.index("delta") + 1
    numbered = _NOWHERE if len(names) == 1 else (_BEFORE if at == 2 else _AFTER)
    start = _template(theirs[:at], names[: at - 1]) if numbered == _BEFORE else theirs[0]
    end = _template(theirs[at:], names[at:]) if numbered == _AFTER else theirs[-1]
    return _Plain(start, end, numbered, ahead, _template(ours, told_names), told_names[0] != "delta")


def _template(around: list[bytes], names: list[str]) -> bytes:
    """Return what fills to a frame, or to a part of one, by `%`."""
    places = [b"%b" if name == "delta" else b"%d" for name in names]
    return b"".join(_filled([constant.replace(b"%", b"%%") for constant in around], places))


def _slot(kind: int, after: bytes, place: int) -> _Slot:
    reach = _MAX_VALUE_BYTES if kind <= _LIST else _MAX_DIGITS
    return kind, after, after[:1], len(after), len(after) + reach, place


def _shape(data: bytes, *, counts: bool) -> tuple[list[str], list[bytes]]:
    """Return the fields of a JSON object for which there are slots, as they follow, and what is around their values.

    counts: the index of a part counts. Raises ValueError if other values in these places are not those of the fields.
    """
    names: list[str] = []
    around: list[bytes] = []
    end = 0
    for field in _FIELD.finditer(data):
        name, start = field[1].decode(), field.end()
        kind = _KINDS[name]
        if name not in names and start > end and (kind != _COUNT or counts) and (span := _span(kind, data, start)):
            names.append(name)
            around.append(data[end : span[0]])
            end = span[1]
    around.append(data[end:])
    body = orjson.loads(data)
    other = orjson.loads(b"".join(_filled(around, [_OTHERS[_KINDS[name]] for name in names])))
    if type(body) is not dict or other != {**body, **{name: _SAID[_KINDS[name]] for name in names}}:
        raise ValueError
    return names, around


def _span(kind: int, data: bytes, start: int) -> tuple[int, int] | None:
    """Return where a value begins and ends that stands at `start`; None if it is none for a slot."""
    if kind != _LIST:
        found = (_STRING if kind <= _PADDING else _DIGITS).match(data, start)
        return found.span(1) if found is not None else None
    if not data.startswith(b"[{", start):
        return None
    text = data[start:].decode()
    return start, start + len(text[: _DECODER.raw_decode(text)[1]].encode())


def _filled(around: list[bytes], values: list[bytes]) -> list[bytes]:
    parts = [around[0]]
    for value, constant in zip(values, around[1:], strict=True):
        parts += value, constant
    return parts
