"""The client's stream as it is written: events numbered without gaps, whole frames, nothing lost in between."""

from __future__ import annotations

from typing import Any

import orjson

from proxy.protocol import sse


class MalformedEvent(ValueError):
    """An event is not a JSON object, has no usable type, or nests too deeply. The message quotes no content."""


class Frames:
    """Collects the frames of events until they are taken.

    response_id: replaces the upstream's in every event that has a field of that name. sequence_number: of the first.
    """

    def __init__(self, response_id: str, sequence_number: int = 0) -> None:
        self._response_id = response_id
        #: The `sequence_number` of the next event.
        self.number = sequence_number
        self._frames: list[bytes] = []

    @property
    def count(self) -> int:
        """How many events there were so far."""
        return self.number

    def emit(self, body: dict[str, Any]) -> None:
        """Number `body`, in place, and add its frame. Raises MalformedEvent; the number is not used up then."""
        if "response_id" in body:
            body["response_id"] = self._response_id
        body["sequence_number"] = self.number
        try:
            data = orjson.dumps(body)
        except orjson.JSONEncodeError:
            raise MalformedEvent("An event of the upstream's stream can't be written again.") from None
        self.number += 1
        self._frames.append(sse.encode(body["type"], data))

    def take(self) -> bytes:
        """Return the frames since the last call."""
        frames = self._frames[0] if len(self._frames) == 1 else b"".join(self._frames)
        self._frames.clear()
        return frames
