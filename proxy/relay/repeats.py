"""Repeats: a large text that an event says again, taken out of its bytes before they are read. Pure.

    …"text":"as long as all that was told"…  →  …"text":"a mark"…  →  what the JSON says, the text in the mark's place

Read as any other event is, one that says all again would be there twice beside the text itself. Where bytes are taken
out, JSON has one whole string: behind a name, its quote, a colon and another quote a value begins, and the bytes of a
text as JSON has them end no string. So what is left says the same, or is as little JSON as before.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import orjson

from proxy.relay.text import Text

#: Strings of an event that are looked at: one that has more of them says no text again that is as large as all of them.
_MOST_LOOKS = 1000


def take_out(data: bytearray, texts: Iterable[Text]) -> dict[str, Text]:
    """Take some texts out of an event's JSON, wherever that says one of them whole; return what stands for which."""
    by_name: dict[str, list[_Repeated]] = {}
    for text in texts:
        by_name.setdefault(text.stream.text_key, []).append(_Repeated(text))
    marks: dict[str, Text] = {}
    for name, some in by_name.items():
        beginnings = re.compile(rb'"%b"[ \t\r\n]*:[ \t\r\n]*"' % name.encode())
        starts = [match.end() for match in islice(beginnings.finditer(data), _MOST_LOOKS)]
        # the last one first, so that the places of those before it stay
        for start in reversed(starts):
            for one in some:
                if end := one.end_in(data, start):
                    data[start:end] = one.mark.encode()
                    marks[one.mark] = one.text
                    break
    return marks


def put_back(value: Any, marks: dict[str, Text]) -> Any:
    """Return what an event says with the texts in the place of their marks."""
    if type(value) is str:
        text = marks.get(value)
        return value if text is None else text.value()
    if type(value) is dict:
        return {name: put_back(inner, marks) for name, inner in value.items()}
    return [put_back(inner, marks) for inner in value] if type(value) is list else value


class _Repeated:
    """A text that may be said again. mark: what stands for it."""

    def __init__(self, text: Text) -> None:
        self.text = text
        self.mark = secrets.token_hex(16)
        #: Made once: nearly every other string differs here.
        self._first = next(_as_json(text), b'"')

    def end_in(self, data: bytearray, start: int) -> int:
        """Return where the text ends that is all of the string which begins at `start`; 0 if that is another one."""
        if not data.startswith(self._first, start):
            return 0
        at = start
        for piece in _as_json(self.text):
            if not data.startswith(piece, at):
                return 0
            at += len(piece)
        return at if data.startswith(b'"', at) else 0


def _as_json(text: Text) -> Iterator[bytes]:
    """Yield a text as JSON has it, without quotes, piece by piece."""
    for piece in text.pieces():
        try:
            yield orjson.dumps(piece)[1:-1]
        except orjson.JSONEncodeError:
            # half of a surrogate pair, which no event that is JSON has; nor has a text a quote
            yield b'"'
            return
