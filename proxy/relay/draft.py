"""An output item while it is streamed: what it has been announced as, the texts that arrive in pieces, what is owed.

A client is told of an item when there is something to tell: a message with its first text, a call with its name. An
id that a client has seen stands for an item from then on, and an item that turns out to be nothing was never seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from proxy.protocol.item_types import Item
from proxy.relay.item import as_text, complete_item, fill_part, is_empty, merged
from proxy.relay.text import FIELD_STREAMS, OUTPUT_TEXT, EventBody, Stream, Text, part_stream

#: Items of these types are announced with their first text.
_WAITING = frozenset({"message", "function_call", "custom_tool_call"})

#: How well what an event says fits an item: 0 not at all, 1 it may be something new in it, 2 it goes on with what there
#: is, 3 it is what there is.
Likeness: TypeAlias = "Callable[[Draft], int]"


class Draft:
    """One output item: as announced, then with its texts, then finished.

    item: complete, under our id. index: its `output_index` for the client. announced: by an event of the upstream's
    that shows the item, not only by one that is about it.
    """

    __slots__ = (
        "announced",
        "body",
        "call_id",
        "done",
        "id",
        "index",
        "item",
        "names",
        "order",
        "pending",
        "superseded",
        "texts",
        "told",
        "type",
        "upstream_index",
    )

    def __init__(self, item: Item, index: int, *, announced: bool = True) -> None:
        self.item = item
        self.id: str = item["id"]
        self.type: str = item["type"]
        self.index = index
        self.announced = announced
        #: What the upstream calls it: ids, `output_index`, `call_id`. Any may be missing, or wrong.
        self.names: list[str] = []
        self.upstream_index: int | None = None
        self.call_id: str | None = None
        #: The event that announced it, for the fields that nobody knows.
        self.body: EventBody = {}
        #: The client knows of it.
        self.told = False
        #: `item` is finished and its `response.output_item.done` went out.
        self.done = False
        #: The item as the upstream finished it, while it is not certain that this is all.
        self.pending: Item | None = None
        #: It was finished as an item of another type, which has become an item of its own.
        self.superseded = False
        #: (kind of text, upstream's index) → the newest text of that name.
        self.texts: dict[tuple[str, int], Text] = {}
        self.order: list[Text] = []

    @property
    def is_empty(self) -> bool:
        """Whether it is nothing that a client was told of, and has nothing to tell: a message without text."""
        return not self.told and (self.superseded or is_empty(self.snapshot()))

    @property
    def waits(self) -> bool:
        """Whether the client is told of it only when its text comes."""
        return self.type in _WAITING

    @property
    def is_nameless(self) -> bool:
        """Whether it is a call of which only the text is known: not what is called, nor the call's id."""
        return not self.announced and self.type in FIELD_STREAMS and "name" in self.item

    @property
    def is_fresh(self) -> bool:
        """Whether it was announced, and nothing of it has come yet."""
        return self.announced and not self.has_begun

    @property
    def has_begun(self) -> bool:
        """Whether any text of it has come."""
        return any(text.count for text in self.order)

    @property
    def is_over(self) -> bool:
        """Whether it is done, or all that is known of it has ended."""
        return self.done or self.pending is not None or (bool(self.order) and all(text.ended for text in self.order))

    def is_at(self, position: int | None) -> bool:
        """Whether a position may be its: as far as both are known, they are one."""
        return position is None or self.upstream_index in (None, position)

    def is_elsewhere(self, position: int | None, name: str) -> bool:
        """Whether neither a position nor an id is its."""
        return not self.is_at(position) and bool(name) and bool(self.names) and name not in self.names

    def may_be_elsewhere(self, likeness: Likeness | None) -> bool:
        """Whether an event with its id may mean it at a position where nothing was announced."""
        if self.announced or self.upstream_index is None:
            return True
        return likeness is not None and likeness(self) > int(self.has_begun)

    def has_said_else(self, likeness: Likeness | None, *, surely: bool) -> bool:
        """Whether it is open under an id of its own, and all of it has ended in other words than an event's.

        surely: those can't be another text of it either.
        """
        if likeness is None or not self.names or self.done or not (self.is_over or self.is_nameless):
            return False
        return likeness(self) <= (0 if surely else 1)

    def find(self, stream: Stream, index: Any, whole: str | None = None) -> Text | None:
        """Return the text that an event means, None if that has not begun yet.

        index: the upstream's, of any type. whole: of an event that ends a text. An index that nobody announced, and
        that only counts, means the text that is open.
        """
        known = self.texts.get((stream.name, index)) if type(index) is int else None
        if known is not None:
            return known
        newest = self._newest(stream.name)
        if newest is None or type(index) is not int:
            return newest
        if newest.ended:
            return newest if whole is not None and whole == newest.value() else None
        if newest.announced or (whole is not None and newest.likeness(whole)):
            return newest
        return newest if self._is_counted(newest, index) else None

    def goes_on(self, text: Text, index: int) -> bool:
        """Whether a piece with that index goes on with `text`, one of this item's; what `find` notes is noted."""
        known = self.texts.get((text.name, index))
        if known is not None:
            return known is text
        newest = text if self.order[-1] is text else self._newest(text.name)
        return newest is text and not text.ended and (text.announced or self._is_counted(text, index))

    def _newest(self, name: str) -> Text | None:
        return next((text for text in reversed(self.order) if text.name == name), None)

    def _is_counted(self, text: Text, index: int) -> bool:
        if text.stream.container != "content" or not text.is_only_counted(index):
            return False
        text.last_index = index
        text.mentions += 1
        return True

    def open(self, stream: Stream, index: Any) -> Text:
        """Start a text and return it. index: the upstream's, of any type."""
        place = sum(text.stream.container == stream.container for text in self.order)
        index = index if type(index) is int else place
        text = Text(stream, place, index)
        self.texts.pop((stream.name, index), None)
        self.texts[stream.name, index] = text
        self.order.append(text)
        return text

    def likeness(self, stream: Stream, whole: str, *, part: bool = False) -> int:
        """Tell how well `whole` fits as the end of a text of this item: see `Likeness`.

        part: it is the end of a part, whose text may have ended before.
        """
        texts = [text for text in self.order if text.stream.name == stream.name]
        waiting = [text.likeness(whole) for text in texts if not (text.closed if part else text.ended)]
        if not waiting and whole in [text.value() for text in texts]:
            return 2
        return max(waiting, default=int(bool(stream.part_type) or not texts))

    def snapshot(self) -> Item:
        """Return the item with the texts as far as they have arrived; the finished item once it is done."""
        if self.done:
            return self.item
        arrived: Item = {}
        for text in self.order:
            if text.stream.part_type is None:
                arrived[text.stream.container] = text.arrived()
            elif text.opened or text.part is not None or text.arrived():
                arrived.setdefault(text.stream.container, []).append(text.as_part())
        return merged(dict(self.item), arrived)

    def finished(self, item: Item | None, status: str) -> Item:
        """Return the finished item.

        item: as the upstream finished it, of the same type; what it leaves out is taken from what was streamed.
        status: given to an item that has none. What the client was told stands, whatever the upstream says later.
        """
        if self.done:
            final = self.item if item is None else merged(item, self.item)
            if self.type == "reasoning":
                # what only this last item has of it may be in any shape
                complete_item(final, status)
                self._tell_once(final, item or {})
            return final
        earlier = self.snapshot()
        if item is not None:
            final = merged({**earlier, "status": None}, item)
        else:
            final = dict(earlier)
            if "status" in earlier or self.type == "reasoning":
                final["status"] = status
        final["id"] = self.id
        if self.item.get("call_id"):
            final["call_id"] = self.item["call_id"]
        if final.get("status") is None:
            final.pop("status", None)
        complete_item(final, status)
        if self.order:
            self._keep_told(final, item or {})
        return final

    def close(self, final: Item) -> None:
        """Make `final` the finished item."""
        self.item = final
        self.pending = None
        self.done = True

    def place(self, text: Text) -> EventBody:
        """Return the fields by which an event names one of this item's texts."""
        place: EventBody = {"item_id": self.id, "output_index": self.index}
        if text.stream.index_key:
            place[text.stream.index_key] = text.position
        return place

    def opening(self, text: Text) -> Iterator[EventBody]:
        """Yield the events that announce the part of `text`, and of those before it, if they are not announced yet."""
        for each in self.order:
            if each.opened or each.position > text.position or each.stream.container != text.stream.container:
                continue
            each.opened = True
            if each.stream.part_type is not None:
                part = dict(each.part_added.get("part") or {})
                if each.stream.prefix:
                    part[each.stream.text_key] = ""
                fill_part(part, each.stream.part_type)
                yield {**each.part_added, "type": _part_event(each.stream, "added"), **self.place(each), "part": part}

    def arrived(self, but: Text | None = None) -> Iterator[EventBody]:
        """Yield the events of what arrived of its texts before the client was told of the item. but: one to leave."""
        for text in self.order:
            if text.count and not text.opened and text is not but:
                yield from self.opening(text)
                yield self._piece(text, text.value())

    def outstanding(self, final: Item) -> Iterator[EventBody]:
        """Yield the events that are missing before the item can be done, as if it had been streamed in full."""
        field = FIELD_STREAMS.get(self.type)
        if field is not None and isinstance(final.get(field.container), str):
            text = self.find(field, 0) or self.open(field, 0)
            yield from self.ending(text, {field.text_key: final[field.container]})
        if self.type in ("message", "reasoning"):
            yield from self._parts(final, "content")
            yield from self._parts(final, "summary")

    def ending(self, text: Text, part: Item) -> Iterator[EventBody]:
        """Yield what is missing before a text and its part have ended. part: the whole part."""
        yield from self.end(text, part.get(text.stream.text_key), {})
        if not text.closed:
            text.closed = True
            said = {text.stream.text_key: text.value()} if text.stream.prefix else {}
            yield {"type": _part_event(text.stream, "done"), **self.place(text), "part": {**part, **said}}

    def end(self, text: Text, whole: Any, body: EventBody) -> Iterator[EventBody]:
        """Yield what is missing of a text and then the event that ends it, unless it has ended.

        whole: as the upstream has it, None if it does not say. body: the upstream's event, for its other fields.
        """
        yield from self.opening(text)
        if text.ended:
            return
        if rest := text.complete(None if whole is None else as_text(whole)):
            yield self._piece(text, rest)
        text.ended = True
        event: EventBody = {"type": f"{text.stream.prefix}.done", **self.place(text)}
        if text.stream is OUTPUT_TEXT:
            event["logprobs"] = []
        elif text.stream.item_type == "function_call":
            event["name"] = as_text(self.item.get("name"))
        told = {name: value for name, value in body.items() if value is not None}
        yield {**event, **told, **self.place(text), text.stream.text_key: text.value()}

    def _piece(self, text: Text, piece: str) -> EventBody:
        event = {"type": f"{text.stream.prefix}.delta", **self.place(text), "delta": piece}
        if text.stream is OUTPUT_TEXT:
            event["logprobs"] = []
        return event

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
                text.part_added = {} if stream.prefix else {"part": part}
            yield from self.ending(text, part)

    def _keep_told(self, final: Item, item: Item) -> None:
        """Make `final` say what the client was told, in place. item: as the upstream finished it."""
        field = FIELD_STREAMS.get(self.type)
        text = self.texts.get((field.name, 0)) if field is not None else None
        if text is not None and text.count:
            final[text.stream.container] = _standing(text, final[text.stream.container])
            return
        for container in ("content", "summary"):
            texts = [text for text in self.order if text.opened and text.stream.container == container]
            if texts:
                final[container] = _standing_parts(texts, final.get(container) or [])
        if self.type == "reasoning":
            self._tell_once(final, item)

    def _tell_once(self, final: Item, item: Item) -> None:
        """Drop reasoning that the upstream has in the other of its two places in the end, where it was told already."""
        for told, other in (("content", "summary"), ("summary", "content")):
            streamed = {text.stream.container for text in self.order if text.opened}
            if item.get(told) or told not in streamed or other in streamed:
                continue
            if _joined(final.get(other) or []) == _joined(final[told]):
                final[other] = []


def _part_event(stream: Stream, end: str) -> str:
    return f"response.{'reasoning_summary' if stream.container == 'summary' else 'content'}_part.{end}"


def _joined(parts: list[Item]) -> str:
    return "".join(as_text(part.get("text") or part.get("refusal")) for part in parts)


def _standing(text: Text, whole: Any) -> str:
    """Return the whole of a text, of which some has been told."""
    value, whole = text.value(), as_text(whole)
    return whole if len(whole) > len(value) and whole.startswith(value) and not text.ended else value


def _standing_parts(texts: list[Text], parts: list[Item]) -> list[Item]:
    """Return the parts of an item, of which `texts` have been told. parts: as the upstream has them in the end."""
    if len(parts) != len(texts):
        told = [text.as_part() for text in texts]
        if _joined(parts) == _joined(told):
            return told
    pairs = zip(texts, parts, strict=False)
    return [
        *(_standing_part(text, part) for text, part in pairs),
        *(text.as_part() for text in texts[len(parts) :]),
        *parts[len(texts) :],
    ]


def _standing_part(text: Text, part: Item) -> Item:
    key = text.stream.text_key
    if part["type"] != text.stream.part_type:
        return text.as_part()
    if text.stream.prefix and part.get(key) == text.value():
        # the same, and then there once only
        part[key] = text.value()
    if not text.stream.prefix or (part.get(key) == text.value() and not text.annotations):
        return part
    return merged(text.as_part(), {**part, key: _standing(text, part.get(key))})
