"""The client's stream as it is written: events numbered without gaps, whole frames, nothing lost in between."""

from __future__ import annotations

import secrets
from typing import Any

import orjson

from proxy.protocol import sse

#: Characters from which on a text is large.
LARGE_TEXT = 1024 * 1024


class MalformedEvent(ValueError):
    """An event is not a JSON object, has no usable type, or nests too deeply. The message quotes no content."""


class Frames:
    """Collects the frames of events until they are taken.

    response_id: replaces the upstream's in every event that has a field of that name. sequence_number: of the first.
    """

    def __init__(self, response_id: str, sequence_number: int = 0) -> None:
        self._response_id = response_id
        #: The `sequence_number` of the next event: how many there were, if the first had 0.
        self.number = sequence_number
        self._frames: list[bytes] = []
        #: Events may say large texts from now on: those are written once, and stand between the pieces of frames.
        self.sets_aside = False
        #: Each of them as JSON, by its identity, and what stands for it while the rest is written.
        self._aside: dict[int, tuple[str, bytes]] = {}
        self._mark = ""

    def emit(self, body: dict[str, Any]) -> None:
        """Number `body`, in place, and add its frame. Raises MalformedEvent; the number is not used up then."""
        if "response_id" in body:
            body["response_id"] = self._response_id
        body["sequence_number"] = self.number
        try:
            frame = self._in_pieces(body) if self.sets_aside else [sse.encode(body["type"], orjson.dumps(body))]
        except orjson.JSONEncodeError:
            raise MalformedEvent("An event of the upstream's stream can't be written again.") from None
        self.number += 1
        self._frames += frame

    def take(self) -> sse.FrameBytes:
        """Return the frames since the last call."""
        frames: sse.FrameBytes
        if self._aside:
            frames = sse.Pieces(self._frames)
            self._aside.clear()
        else:
            frames = self._frames[0] if len(self._frames) == 1 else b"".join(self._frames)
        self._frames.clear()
        return frames

    def _in_pieces(self, body: dict[str, Any]) -> list[bytes]:
        """Return the frame of an event, each large text a piece of its own."""
        self._mark = self._mark or secrets.token_hex(16)
        rest = sse.encode(body["type"], orjson.dumps(self._without_large(body)))
        begin = b'"%b' % self._mark.encode()
        pieces = []
        while (at := rest.find(begin)) >= 0:
            key, _, after = rest[at + len(begin) :].partition(b'"')
            pieces += [rest[:at], self._aside[int(key)][1]]
            rest = after
        return [*pieces, rest]

    def _without_large(self, value: Any) -> Any:
        """Return a value with marks in the place of large texts."""
        if type(value) is dict:
            return {name: self._without_large(inner) for name, inner in value.items()}
        if type(value) is list:
            return [self._without_large(inner) for inner in value]
        if type(value) is not str or len(value) <= LARGE_TEXT:
            return value
        key = id(value)
        if key not in self._aside:
            # with the text, so that no other one gets its identity
            self._aside[key] = value, orjson.dumps(value)
        return f"{self._mark}{key}"
