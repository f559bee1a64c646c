"""Streamed text: one text of an output item, as a model server tells it in pieces and the client is told it.

Stream    one kind of text: where its pieces belong, what its events are called
Text      one text of one item: a content part, a summary part, or a string field of a call

What was told can't be taken back. So the text is what was told of it: its end adds what is missing, as one piece more,
and where the end contradicts the pieces, the pieces stand, in the item that is stored too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from proxy.protocol.item_types import Item
from proxy.protocol.lenient_json import is_high, is_low, mend
from proxy.relay.item import fill_part

EventBody = dict[str, Any]

#: Characters from which on a piece is not made bytes.
_LARGE = 1024 * 1024
#: Characters, or bytes, of a text that are looked at at a time.
_SOME = 64 * 1024

#: What stands for a half of a surrogate match_output whose other half never came.
_REPLACEMENT = "\ufffd"


class Stream(NamedTuple):
    """One kind of text that a model server sends in pieces."""

    #: EventBody type without `.delta` and `.done`.
    prefix: str
    item_type: str
    #: The item's field that the text ends up in: a list of parts, or a string.
    container: str
    #: Type of the part that carries the text; None where the field itself is the text.
    part_type: str | None
    #: Field of the `.done` event and of the part that holds the whole text.
    text_key: str
    #: Field of the events that says which part of the item is meant; None where there is only one.
    index_key: str | None

    @property
    def name(self) -> str:
        """What the texts of this kind are told apart from others of an item by."""
        return self.part_type or self.container


STREAMS = (
    Stream("response.output_text", "message", "content", "output_text", "text", "content_index"),
    Stream("response.refusal", "message", "content", "refusal", "refusal", "content_index"),
    Stream("response.reasoning_text", "reasoning", "content", "reasoning_text", "text", "content_index"),
    Stream("response.reasoning_summary_text", "reasoning", "summary", "summary_text", "text", "summary_index"),
    Stream("response.function_call_arguments", "function_call", "arguments", None, "arguments", None),
    Stream("response.mcp_call_arguments", "mcp_call", "arguments", None, "arguments", None),
    Stream("response.custom_tool_call_input", "custom_tool_call", "input", None, "input", None),
    Stream("response.code_interpreter_call_code", "code_interpreter_call", "code", None, "code", None),
)
#: Older servers' name for reasoning text: understood, and passed on under that name.
_OLD_REASONING = STREAMS[2]._replace(prefix="response.reasoning")

DELTAS = {f"{stream.prefix}.delta": stream for stream in (*STREAMS, _OLD_REASONING)}
DONES = {f"{stream.prefix}.done": stream for stream in (*STREAMS, _OLD_REASONING)}
OUTPUT_TEXT = STREAMS[0]

#: Item type → the stream of the field that is its text.
FIELD_STREAMS = {stream.item_type: stream for stream in STREAMS if not stream.part_type}

_BY_PART = {stream.part_type: stream for stream in STREAMS if stream.part_type}


def part_stream(part_type: str, container: str) -> Stream:
    """Return the stream of a part; parts of an unknown type count as parts, but have no text events."""
    known = _BY_PART.get(part_type)
    if known is not None and known.container == container:
        return known
    return Stream("", "message", container, part_type, "text", f"{container}_index")


class Text:
    """One text that arrives in pieces. None of them is kept: they add up to bytes, read when the text is asked for."""

    __slots__ = (
        "_recent",
        "_value",
        "annotations",
        "announced",
        "closed",
        "count",
        "early",
        "echoed",
        "ended",
        "half",
        "last_index",
        "mentions",
        "name",
        "opened",
        "part",
        "part_added",
        "position",
        "stream",
    )

    def __init__(self, stream: Stream, position: int, index: int | None = None) -> None:
        self.stream = stream
        self.name = stream.name
        #: Place among the parts of its container, without gaps: the client's index, whatever the upstream counts.
        self.position = position
        #: How many pieces there are to be told of it, and were, unless the item waits for something.
        self.count = 0
        #: The text, but for what was added since it was last asked for, which is UTF-8.
        self._value = ""
        self._recent = bytearray()
        #: What came before the first piece, in an announcement: part of the text, or the same once more.
        self.early = ""
        #: The first half of a surrogate match_output, until the second comes.
        self.half = ""
        self.annotations: list[Any] = []
        #: The whole part, once the upstream sent it, and the event that announced it.
        self.part: Item | None = None
        self.part_added: EventBody = {}
        #: The upstream announced the part.
        self.announced = False
        #: The upstream's latest index of it, and how many different ones it had.
        self.last_index = index
        self.mentions = 1
        #: How much of the text was said again after its end.
        self.echoed = 0
        #: The part's announcement, or the field's first piece, went out.
        self.opened = False
        #: The `.done` event of the text went out.
        self.ended = stream.prefix == ""
        #: The `.done` event of the part went out.
        self.closed = stream.part_type is None

    @property
    def size(self) -> int:
        """How long it is, about."""
        return len(self._value) + len(self._recent)

    def value(self) -> str:
        """Return what has been told of the text."""
        if self._recent:
            self._value += self._recent.decode("utf-8", "surrogatepass")
            self._recent = bytearray()
        return self._value

    def pieces(self) -> Iterator[str]:
        """Yield what has been told of the text, some of it at a time, without making one of it."""
        for at in range(0, len(self._value), _SOME):
            yield self._value[at : at + _SOME]
        at = 0
        while at < len(self._recent):
            end = at + _SOME
            while end < len(self._recent) and self._recent[end] & 0xC0 == 0x80:
                # not in the middle of a character
                end += 1
            yield self._recent[at:end].decode("utf-8", "surrogatepass")
            at = end

    def add(self, piece: str) -> None:
        """Keep a piece."""
        self.count += 1
        if len(piece) > _LARGE:
            # a whole text, mostly: then it is kept as it is
            self._value = self.value() + piece
            return
        try:
            self._recent += piece.encode()
        except UnicodeEncodeError:
            self._recent += piece.encode("utf-8", "surrogatepass")

    def add_bytes(self, piece: bytes) -> None:
        """Keep a piece that is UTF-8."""
        self.count += 1
        self._recent += piece

    def arrived(self) -> str:
        """Return what has arrived of the text, told or not."""
        value = self.value() + (_REPLACEMENT if self.half else "")
        return self.early if self.early.startswith(value) else value

    def is_only_counted(self, index: int) -> bool:
        """Whether `index` goes on counting the pieces of this text, as some servers do instead of parts."""
        counts = self.last_index is not None and index == self.last_index + 1
        return counts and self.mentions == self.count

    def take(self, piece: str) -> str:
        """Keep a piece and return what is to be told now: with what came before it, without what is only half."""
        if self.early and not self.count and not (self.early.startswith(piece) or piece.startswith(self.early)):
            piece = self.early + piece
        if self.half or is_low(piece[:1]) or is_high(piece[-1:]):
            piece, self.half = self.half + piece, ""
            if is_high(piece[-1:]):
                piece, self.half = piece[:-1], piece[-1]
            piece = mend(piece)
        if piece:
            self.add(piece)
        return piece

    def complete(self, whole: str | None) -> str:
        """Return what is still to be told before the text ends, and keep it.

        whole: the text as the upstream ended it; None or '' where it did not say.
        """
        told = self.value()
        whole = whole or self.early
        if len(whole) > len(told) and whole.startswith(told):
            rest = whole[len(told) :]
        else:
            rest = _REPLACEMENT if self.half else ""
        self.half = ""
        if rest:
            self.add(rest)
        return rest

    def likeness(self, whole: str) -> int:
        """Tell how well `whole` fits as the end of this text: 0 not at all, 2 it goes on, 3 it is the text."""
        value = self.arrived()
        if value and value == whole:
            return 3
        if self.ended and self.stream.prefix:
            return 0
        return 2 if not whole or whole.startswith(value) else 0

    def says_again(self, piece: str) -> bool:
        """Whether a piece after the text's end only repeats it."""
        if not self.value().startswith(piece, self.echoed):
            return False
        self.echoed += len(piece)
        return True

    def unsaid(self) -> str:
        """Return what was taken for a repetition, and was none."""
        taken, self.echoed = self.value()[: self.echoed], 0
        return taken

    def as_part(self) -> Item:
        """Return the part as far as it has arrived."""
        part: Item = dict(self.part or {"type": self.stream.part_type})
        if self.stream.prefix:
            part[self.stream.text_key] = self.arrived()
        if self.annotations and not part.get("annotations"):
            part["annotations"] = list(self.annotations)
        fill_part(part, self.stream.part_type or "output_text")
        return part
