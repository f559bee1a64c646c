"""Chunks: those of a body in chunks that came whole, taken out of what was read. Pure.

A model server mostly sends an event as one chunk, and a read brings just that. Such a chunk is known by its ends, for a
tenth of what the parser and its reader take. The parser does not miss it, because it stands between two chunks; it gets
whatever is not as plain: a chunk that was cut, or extended, or is the last one.
"""

from __future__ import annotations

import re
from functools import lru_cache

_SIZE = re.compile(rb"([1-9a-fA-F][0-9a-fA-F]{0,7})\r\n")
_LINE_END = b"\r\n"
_HEAD_END = b"\r\n\r\n"
_LOST = -1


class Chunks:
    """How far a body has been read. data: what was read together with its head."""

    __slots__ = ("_left",)

    def __init__(self, data: bytes) -> None:
        #: How much is still to come of the chunk in which the parser stands, 0 between two chunks; `_LOST`: not known.
        self._left = _LOST
        head, end, body = data.partition(_HEAD_END)
        # other heads may end elsewhere, or have begun earlier
        if end and head.startswith(b"HTTP/1.1 ") and head.count(b"\n") == head.count(_LINE_END):
            self._left = 0
            self.follow(body)

    def take(self, data: bytes) -> bytes:
        """Return what is in a chunk, if the next one is all that was read; else b'', and nothing is noted."""
        if self._left:
            return b""
        size = _size_line(len(data))
        if size is None or not (data.startswith(size) and data.endswith(_LINE_END)):
            return b""
        return data[len(size) : -2]

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what is in the whole chunks that come next, and the rest of what was read, for the parser."""
        if not self._left:
            # a size and its content in turn, unless there are line ends in a content: then the sizes are others
            lines = data.split(_LINE_END)
            contents = lines[1::2]
            if not lines.pop() and all(contents) and lines[::2] == [b"%x" % len(content) for content in contents]:
                return b"".join(contents), b""
        return self._split(data)

    def _split(self, data: bytes) -> tuple[bytes, bytes]:
        content: list[bytes] = []
        at = 0
        while not self._left and (size := _SIZE.match(data, at)) is not None:
            end = size.end() + int(size[1], 16)
            if not data.startswith(_LINE_END, end):
                break
            content.append(data[size.end() : end])
            at = end + 2
        rest = data[at:]
        self.follow(rest)
        return b"".join(content), rest

    def follow(self, data: bytes) -> None:
        """Note what the parser is given."""
        if self._left == _LOST:
            return
        at = self._left
        while at < len(data):
            size = _SIZE.match(data, at)
            if size is None:
                self._left = _LOST
                return
            at = size.end() + int(size[1], 16) + 2
        self._left = at - len(data)


@lru_cache(maxsize=1024)
def _size_line(length: int) -> bytes | None:
    """Return the first line of the chunk that is `length` bytes long with all that frames it; None: there is none."""
    for digits in range(1, 9):
        size = length - digits - 4
        if size > 0 and len(line := b"%x\r\n" % size) == digits + 2:
            return line
    return None
