"""The upstream's stream as bytes, through a relay, to the client's as bytes. Pure.

chunk → frames ┬ of a known shape → memo ──────────┬→ the client's frames
               └ any other → decoder → relay.feed ─┘
"""

from __future__ import annotations

from proxy.protocol import sse
from proxy.relay.frames import MalformedEvent
from proxy.relay.memo import Memo
from proxy.relay.relay import Relay

#: Pieces of a text that are parsed before their shape is remembered.
REMEMBER_AFTER = 4
#: Shapes that are tried: more texts than these are hardly told at the same time.
_MAX_MEMOS = 8


class Splicer:
    """Feeds one stream to a relay. max_event_bytes: see `SseDecoder`.

    remember_after: how many pieces of a text are parsed before their shape is remembered, 0: all. The client is told
    the same bytes, and the same is kept, whatever it is. One piece costs about 10 times as much to be remembered as it
    costs to be parsed.
    """

    def __init__(self, relay: Relay, max_event_bytes: int, *, remember_after: int = REMEMBER_AFTER) -> None:
        self._relay = relay
        self._max_event_bytes = max_event_bytes
        self._decoder = sse.SseDecoder(max_event_bytes)
        #: The decoder waits for the first byte of an event.
        self._is_idle = False
        self._remember_after = remember_after
        #: What was fed last had more in it than pieces of known shapes.
        self.has_parsed = False
        #: What is known of the shapes of pieces; what fitted last comes first.
        self._memos: list[Memo] = []
        #: Why nothing more is taken: the stream can't be read from there on.
        self.failure: MalformedEvent | sse.EventTooLarge | None = None

    def feed(self, chunk: bytes) -> sse.FrameBytes:
        """Return the frames that the client gets for some bytes, which may be cut anywhere: none, one or several.

        Raises nothing; after what can't be read, `failure` is set.
        """
        self.has_parsed = False
        if self._memos and self._is_idle:
            memo = self._memos[0]
            # most reads bring one piece, of the shape of the one before
            if memo.lane.memo is memo and len(chunk) <= self._max_event_bytes and (frame := memo.tell(chunk)):
                return frame
        told: list[sse.FrameBytes] = []
        at = self._splice(chunk, 0, told) if self._memos and self._is_idle else 0
        if at < len(chunk) and self.failure is None:
            self._feed(chunk, at, told)
        return told[0] if len(told) == 1 else sse.together(told)

    def flush(self) -> sse.FrameBytes:
        """Return the frames for what the end of the stream completes. Raises nothing, as `feed`."""
        told: list[sse.FrameBytes] = []
        if self.failure is None:
            try:
                told.extend(map(self._relay.feed, self._decoder.flush()))
            except (MalformedEvent, sse.EventTooLarge) as failure:
                self._fail(failure, told)
        return sse.together(told)

    def _feed(self, chunk: bytes, at: int, told: list[sse.FrameBytes]) -> None:
        """Tell events in the ordinary way from `at` on, but for those between them that are of a known shape."""
        blank_line = b"\r\n\r\n" if b"\r" in chunk else b"\n\n"
        while self._memos and at < len(chunk) and self.failure is None:
            end = chunk.find(blank_line, at)
            end = len(chunk) if end < 0 else end + len(blank_line)
            self._decode(chunk[at:end], told)
            at = self._splice(chunk, end, told) if self._memos and self._is_idle else end
        if at < len(chunk) and self.failure is None:
            self._decode(chunk[at:] if at else chunk, told)

    def _splice(self, chunk: bytes, at: int, told: list[sse.FrameBytes]) -> int:
        """Tell the pieces of known shapes from `at` on; return where the first other event begins."""
        begin = -1
        while begin < at < len(chunk):
            begin = at
            for memo in self._memos:
                if memo.holds and (at := memo.splice(chunk, begin, self._max_event_bytes, told)) > begin:
                    self._bring_forward(memo)
                    break
        return at

    def _bring_forward(self, memo: Memo) -> None:
        if memo is not self._memos[0]:
            self._memos.remove(memo)
            self._memos.insert(0, memo)

    def _decode(self, data: bytes, told: list[sse.FrameBytes]) -> None:
        """Tell events, or what there is of them in one chunk, in the ordinary way."""
        relay, decoder, was_idle = self._relay, self._decoder, self._is_idle
        self.has_parsed = True
        try:
            events = decoder.feed(data)
            # one by one: what was told before an event that can't be read is not lost
            told.extend(map(relay.feed, events))
        except (MalformedEvent, sse.EventTooLarge) as failure:
            self._fail(failure, told)
            return
        self._is_idle = decoder.is_idle
        lane, after = relay.lane, self._remember_after
        if lane is not None and events and self._is_idle and after and lane.is_due(after):
            self._remember(_last_frame(data, is_whole=was_idle), events[-1].data, told[-1])
        elif self._memos and not self._memos[0].holds:
            self._memos = [memo for memo in self._memos if memo.holds]

    def _remember(self, frame: bytes, data: bytes | bytearray, told: sse.FrameBytes) -> None:
        if not (isinstance(data, bytes) and isinstance(told, bytes)):
            # none like a large one will come
            return
        memo = self._relay.memo_of((frame, data), told)
        if memo is not None:
            self._memos = [memo, *(each for each in self._memos if each.holds)][:_MAX_MEMOS]

    def _fail(self, failure: MalformedEvent | sse.EventTooLarge, told: list[sse.FrameBytes]) -> None:
        self._memos, self.failure = [], failure
        if isinstance(failure, sse.EventTooLarge):
            try:
                told.extend(map(self._relay.feed, failure.events))
            except MalformedEvent as earlier:
                self.failure = earlier


def _last_frame(data: bytes, *, is_whole: bool) -> bytes:
    """Return the last frame of some that have ended. is_whole: the first of them begins with them."""
    blank_line = b"\r\n\r\n" if data.endswith(b"\r\n\r\n") else b"\n\n"
    start = data.rfind(blank_line, 0, -len(blank_line))
    if start < 0:
        return data if is_whole else b""
    return data[start + len(blank_line) :]
