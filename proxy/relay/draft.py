"""An output item while it is streamed: what it has been announced as, the texts that arrive in pieces, what is owed.

Stream    one kind of text: where its pieces belong, what its events are called
Text      one text of one item: a content part, a summary part, or a string field of a call
Draft     one item
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from proxy.protocol.item_types import Item
from proxy.relay.item import as_text, complete_item, fill_part, is_empty, merged

EventBody = dict[str, Any]


class Stream(NamedTuple):
    """One kind of text that a model server sends in pieces."""

    #: Event type without `.delta` and `.done`.
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

_BY_PART = {stream.part_type: stream for stream in STREAMS if stream.part_type}
_BY_ITEM = {stream.item_type: stream for stream in STREAMS if not stream.part_type}


def part_stream(part_type: str, container: str) -> Stream:
    """Return the stream of a part; parts of an unknown type count as parts, but have no text events."""
    known = _BY_PART.get(part_type)
    if known is not None and known.container == container:
        return known
    return Stream("", "message", container, part_type, "text", f"{container}_index")


class Text:
    """One text that arrives in pieces. They are joined only when the whole is asked for."""

    __slots__ = ("annotations", "closed", "part", "pieces", "position", "stream", "told")

    def __init__(self, stream: Stream, position: int) -> None:
        self.stream = stream
        #: Place among the parts of its container, without gaps: the client's index, whatever the upstream counts.
        self.position = position
        self.pieces: list[str] = []
        self.annotations: list[Any] = []
        #: The whole part, once the upstream sent it.
        self.part: Item | None = None
        #: The `.done` event of the text went out.
        self.told = stream.prefix == ""
        #: The `.done` event of the part went out.
        self.closed = stream.part_type is None

    def value(self) -> str:
        """Return what has arrived of the text."""
        return "".join(self.pieces)

    def as_part(self) -> Item:
        """Return the part as far as it has arrived."""
        if self.part is not None:
            return self.part
        part: Item = {"type": self.stream.part_type, self.stream.text_key: self.value()}
        if self.annotations:
            part["annotations"] = list(self.annotations)
        fill_part(part, self.stream.part_type or "output_text")
        return part


class Draft:
    """One output item: as announced, then with its texts, then finished.

    item: complete, under our id. index: its `output_index` for the client. upstream_id and upstream_index: what
    the upstream calls it; either may be missing, or wrong.
    """

    __slots__ = (
        "done",
        "id",
        "index",
        "item",
        "order",
        "superseded",
        "texts",
        "type",
        "upstream_id",
        "upstream_index",
    )

    def __init__(
        self, item: Item, index: int, upstream_id: str | None = None, upstream_index: int | None = None
    ) -> None:
        self.item = item
        self.id: str = item["id"]
        self.type: str = item["type"]
        self.index = index
        self.upstream_id = upstream_id
        self.upstream_index = upstream_index
        #: `item` is finished and its `response.output_item.done` went out.
        self.done = False
        #: It was finished as an item of another type, which has become an item of its own.
        self.superseded = False
        #: (part type or field, upstream's index) → the newest text of that name.
        self.texts: dict[tuple[str, int], Text] = {}
        self.order: list[Text] = []

    @property
    def is_empty(self) -> bool:
        """Whether it is a message in which nothing has arrived, or not an item at all in the end."""
        return self.superseded or is_empty(self.snapshot())

    def find(self, stream: Stream, position: Any) -> Text | None:
        """Return the text that an event means; without a usable `position` the newest of that kind."""
        name = stream.part_type or stream.container
        if type(position) is int:
            return self.texts.get((name, position))
        for known in reversed(self.texts):
            if known[0] == name:
                return self.texts[known]
        return None

    def open(self, stream: Stream, position: Any) -> Text:
        """Start a text and return it. position: the upstream's index of it, of any type."""
        place = sum(text.stream.container == stream.container for text in self.order)
        text = Text(stream, place)
        name = stream.part_type or stream.container
        self.texts.pop((name, position if type(position) is int else place), None)
        self.texts[name, position if type(position) is int else place] = text
        self.order.append(text)
        return text

    def snapshot(self) -> Item:
        """Return the item with the texts as far as they have arrived; the finished item once it is done."""
        if self.done:
            return self.item
        item = dict(self.item)
        arrived: Item = {}
        for text in self.order:
            if text.stream.part_type is None:
                arrived[text.stream.container] = text.value()
            else:
                arrived.setdefault(text.stream.container, []).append(text.as_part())
        return merged(item, arrived)

    def finished(self, item: Item | None, status: str) -> Item:
        """Return the finished item.

        item: as the upstream finished it, of the same type; what it leaves out is taken from what was streamed.
        status: given to an item that has none.
        """
        earlier = self.snapshot()
        fresh = earlier if self.done else {**earlier, "status": None}
        if item is not None:
            final = merged(fresh, item)
        else:
            final = dict(earlier)
            if not self.done and ("status" in earlier or self.type == "reasoning"):
                final["status"] = status
        # The client has seen these two already; it finds the item, and answers the call, by them.
        final["id"] = self.id
        if self.item.get("call_id"):
            final["call_id"] = self.item["call_id"]
        if final.get("status") is None:
            final.pop("status", None)
        complete_item(final, status)
        return final

    def close(self, final: Item) -> None:
        """Make `final` the finished item."""
        self.item = final
        self.done = True

    def place(self, text: Text) -> EventBody:
        """Return the fields by which an event names one of this item's texts."""
        place: EventBody = {"item_id": self.id, "output_index": self.index}
        if text.stream.index_key:
            place[text.stream.index_key] = text.position
        return place

    def announcement(self, text: Text) -> EventBody:
        """Return the event that opens the part of `text`."""
        part: Item = {}
        fill_part(part, text.stream.part_type or "output_text")
        return {"type": _part_event(text.stream, "added"), **self.place(text), "part": part}

    def outstanding(self, final: Item) -> Iterator[EventBody]:
        """Yield the events that are missing before the item can be done, as if it had been streamed in full."""
        field = _BY_ITEM.get(self.type)
        if field is not None and isinstance(final.get(field.container), str):
            text = self.find(field, None) or self.open(field, 0)
            yield from self._rest(text, {field.text_key: final[field.container]})
        if self.type in ("message", "reasoning"):
            yield from self._parts(final, "content")
            yield from self._parts(final, "summary")

    def _parts(self, final: Item, container: str) -> Iterator[EventBody]:
        texts = [text for text in self.order if text.stream.container == container]
        for position, part in enumerate(final.get(container) or ()):
            stream = part_stream(part["type"], container)
            if position < len(texts):
                text = texts[position]
                if text.stream.part_type != part["type"]:
                    continue
            else:
                text = self.open(stream, position)
                yield self.announcement(text)
            yield from self._rest(text, part)

    def _rest(self, text: Text, part: Item) -> Iterator[EventBody]:
        stream, whole = text.stream, part.get(text.stream.text_key)
        if not text.told:
            whole = as_text(whole)
            extra: EventBody = {"logprobs": []} if stream is OUTPUT_TEXT else {}
            if whole and not text.pieces:
                yield {"type": f"{stream.prefix}.delta", **self.place(text), "delta": whole, **extra}
            yield self.ending(text, whole)
        if not text.closed:
            text.closed = True
            yield {"type": _part_event(stream, "done"), **self.place(text), "part": part}

    def ending(self, text: Text, whole: str) -> EventBody:
        """Return the event that ends a text, and note that it was told."""
        text.told = True
        event = {"type": f"{text.stream.prefix}.done", **self.place(text), text.stream.text_key: whole}
        if text.stream is OUTPUT_TEXT:
            event["logprobs"] = []
        elif text.stream.item_type == "function_call":
            event["name"] = as_text(self.item.get("name"))
        return event


def _part_event(stream: Stream, end: str) -> str:
    return f"response.{'reasoning_summary' if stream.container == 'summary' else 'content'}_part.{end}"
