"""Server-sent events, both ways, without I/O.

    bytes → one kind of line end → frames at blank lines → lines → Event

The rules are those of the WHATWG HTML standard (9.2.6, "Interpreting an event stream"), with one difference:
an event whose blank line is missing at the end of the stream is delivered, because some servers leave it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

#: Ends a stream; Open Responses demands it.
DONE = b"data: [DONE]\n\n"

_BOM = b"\xef\xbb\xbf"

#: What a stream can begin with: a field that clients know, or a comment.
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")

#: Bytes from which on a frame that has not ended grows in one place, and is taken apart there: in pieces, joined and
#: split it would be there three times.
_LARGE = 1024 * 1024

# As numbers: `10 in data` is several times faster than `b"\n" in data`, which first fails as a number.
_LF = 10
_CR = 13


class Event(NamedTuple):
    """One event: `name` is its `event` field, None when there was none; `data` its lines joined with LF.

    The data of a large one is a bytearray, which its reader may clear.
    """

    name: str | None
    data: bytes | bytearray


class Pieces(tuple[bytes, ...]):
    """Frames that say a large text, in pieces: it is there once, however often they say it."""

    __slots__ = ()


#: Whole frames.
FrameBytes: TypeAlias = bytes | Pieces


def together(told: Sequence[FrameBytes]) -> FrameBytes:
    """Return frames behind each other."""
    try:
        return b"".join(told)  # type: ignore[arg-type]
    except TypeError:
        # there are pieces among them
        return Pieces(piece for each in told for piece in ([each] if isinstance(each, bytes) else each))


def joined(told: FrameBytes) -> bytes:
    """Return frames as bytes, for whom it has to be that."""
    return told if isinstance(told, bytes) else b"".join(told)


class EventTooLarge(ValueError):
    """One event has more bytes than the decoder allows; the decoder can't be used any more.

    events: those before it that its bytes were fed with.
    """

    def __init__(self, max_event_bytes: int) -> None:
        super().__init__(f"An event of the stream is larger than {max_event_bytes} bytes.")
        self.events: list[Event] = []


class SseDecoder:
    """Turns the bytes of one stream into events.

    max_event_bytes: most bytes from one blank line to the next, comments and field names included.
    """

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        # The pieces of the frame that has not ended yet, joined only when it does: a long event stays linear.
        self._pieces: list[bytes | bytearray] = []
        self._size = 0
        self._after_cr = False
        self._start: bytes | None = b""

    @property
    def is_idle(self) -> bool:
        """Whether nothing of an event has come that is not over: the next byte begins one."""
        return not self._pieces and not self._after_cr and self._start is None

    def feed(self, chunk: bytes) -> list[Event]:
        """Return the events that `chunk` completes; it may be cut anywhere. Raises EventTooLarge."""
        if self._start is not None:
            chunk = self._without_bom(chunk)
        if self._after_cr or _CR in chunk:
            chunk = self._with_line_feeds(chunk)
        return self._take(chunk)

    def _take(self, chunk: bytes) -> list[Event]:
        if not chunk:
            return []
        blank = chunk.find(b"\n\n")
        if 0 <= blank == len(chunk) - 2 and not self._pieces and blank <= self._max_event_bytes:
            # one whole event
            event = _parse(chunk[:blank])
            return [event] if event is not None else []
        if blank < 0 and not (chunk[0] == _LF and self._pieces and self._pieces[-1][-1] == _LF):
            self._keep(chunk)
            return []
        return self._complete(chunk)

    def flush(self) -> list[Event]:
        """Return the event that the end of the stream completes, if any. Raises EventTooLarge."""
        frame = b"".join(self._pieces).removesuffix(b"\n")
        self._pieces, self._size = [], 0
        return self._events([frame])

    def _without_bom(self, chunk: bytes) -> bytes:
        start = (self._start or b"") + chunk
        if len(start) < len(_BOM) and _BOM.startswith(start):
            self._start = start
            return b""
        self._start = None
        return start.removeprefix(_BOM)

    def _with_line_feeds(self, chunk: bytes) -> bytes:
        # A CR ends its line at once, even as the last byte; an LF that follows belongs to the same line end.
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if chunk.endswith(b"\r"):
            self._after_cr = True
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _complete(self, chunk: bytes) -> list[Event]:
        if self._pieces and type(large := self._pieces[0]) is bytearray:
            return self._complete_large(large, chunk)
        self._pieces.append(chunk)
        frames = b"".join(self._pieces).split(b"\n\n")
        rest = frames.pop()
        self._pieces, self._size = [], 0
        events = self._events(frames)
        if rest:
            try:
                self._keep(rest)
            except EventTooLarge as refusal:
                refusal.events = events
                raise
        return events

    def _complete_large(self, frame: bytearray, chunk: bytes) -> list[Event]:
        self._pieces, self._size = [], 0
        if frame[-1] == _LF == chunk[0]:
            del frame[-1]
            rest = chunk[1:]
        else:
            end = chunk.index(b"\n\n")
            frame += chunk[:end]
            rest = chunk[end + 2 :]
        if len(frame) > self._max_event_bytes:
            raise EventTooLarge(self._max_event_bytes)
        event = _parse_large(frame)
        events = [event] if event is not None else []
        try:
            return events + self._take(rest)
        except EventTooLarge as refusal:
            refusal.events = events + refusal.events
            raise

    def _keep(self, piece: bytes) -> None:
        if self._pieces and type(large := self._pieces[0]) is bytearray:
            large += piece
        else:
            self._pieces.append(piece)
        self._size += len(piece)
        if self._size > _LARGE and type(self._pieces[0]) is bytes:
            self._pieces = [bytearray(b"".join(self._pieces))]
        # One more, because the first LF of the blank line may have come already.
        if self._size > self._max_event_bytes + 1:
            raise EventTooLarge(self._max_event_bytes)

    def _events(self, frames: list[bytes]) -> list[Event]:
        events: list[Event] = []
        for frame in frames:
            if len(frame) > self._max_event_bytes:
                refusal = EventTooLarge(self._max_event_bytes)
                refusal.events = events
                raise refusal
            event = _parse(frame)
            if event is not None:
                events.append(event)
        return events


def is_stream(start: bytes) -> bool | None:
    """Tell from its first bytes whether a body is a stream of events; None: it could still be, or says nothing.

    JSON is none, nor is a page. Bytes that are neither are left to what the head says of the body.
    """
    start = start.removeprefix(_BOM).lstrip(b" \t\r\n")
    if not start or (len(start) < len(_BOM) and _BOM.startswith(start)):
        return None
    if start[0] in b"{[<":
        return False
    return True if start.startswith(_FIELDS) else None


def encode(name: str, data: bytes) -> bytes:
    """Return the frame of an event; `data` is one line (JSON as orjson writes it).

    Line ends in `name` are dropped: it comes from the upstream and must not start a field of its own.
    """
    if not name.isprintable():
        name = "".join(name.splitlines())
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def comment(text: str) -> bytes:
    """Return a frame that clients ignore, which keeps a silent connection open."""
    lines = text.splitlines() or [""]
    return "".join(f": {line}\n" for line in lines).encode() + b"\n"


def _parse(frame: bytes) -> Event | None:
    # The two shapes that model servers send: `data: …` and `event: …` LF `data: …`.
    name = None
    data = frame
    if frame.startswith(b"event: "):
        head, _, data = frame.partition(b"\n")
        name = head[7:].decode("utf-8", "replace") or None
    if data.startswith(b"data: ") and _LF not in data:
        return Event(name, data[6:])
    return _parse_lines(frame)


def _parse_large(frame: bytearray) -> Event | None:
    """Return the event of a frame, which becomes its data if it has one of the usual shapes."""
    end = frame.find(b"\n") if frame.startswith(b"event: ") else -1
    if not frame.startswith(b"data: ", end + 1) or frame.find(b"\n", end + 1) >= 0:
        return _parse_lines(bytes(frame))
    name = frame[len(b"event: ") : end].decode("utf-8", "replace") or None if end >= 0 else None
    del frame[: end + 1 + len(b"data: ")]
    return Event(name, frame)


def _parse_lines(frame: bytes) -> Event | None:
    name = None
    data: list[bytes] = []
    for line in frame.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ").decode("utf-8", "replace") or None
    return Event(name, b"\n".join(data)) if data else None
