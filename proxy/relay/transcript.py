"""The upstream's events about items: completed, placed, told on. Pure.

Also tells what the upstream left untold: the announcement of an item or part before its first text, the ends of texts
and parts before an item is done.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from proxy.protocol.item_types import Item
from proxy.relay.draft import Draft, Likeness
from proxy.relay.events import FILLS, RENAMED, SUBJECTS, item_type_in
from proxy.relay.item import as_text, fill_part, is_empty, type_name
from proxy.relay.lane import Lane, TextLane
from proxy.relay.output import Output
from proxy.relay.text import DONES, OUTPUT_TEXT, EventBody, Stream, Text, part_stream
from proxy.relay.undecided import Undecided

#: Types of what can be part of such a place.
_PLAIN = frozenset({str, int, type(None)})
#: Places of pieces that are remembered at most: some servers give every piece another.
_MAX_LANES = 64


class Transcript:
    """The upstream's events about items, in the order in which they come. output: the items that they make."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._emit = output.emit
        self._placement = output.placement
        #: Kind of text, and where a piece of it claims to be → where such pieces go.
        self._lanes: dict[Any, TextLane] = {}
        #: The lane that the last event took, if it was a piece that went on in one.
        self.lane: Lane | None = None
        #: The lane of pieces that are passed on whole.
        self._passing = Lane()
        #: A piece, a text's end, or a part's announcement or end.
        self._waiting = Undecided(output.placement)

    def close(self) -> None:
        """Take what still waits for a next event, because none comes."""
        self._waiting.settle()
        self._close_lanes()

    def delta(self, stream: Stream, body: EventBody) -> None:
        """Take a piece of a text: at once, if it goes on where one before it was."""
        try:
            lane = self._lanes.get((stream.prefix, body.get("item_id"), body.get("output_index")))
        except TypeError:
            lane = None
        if lane is None or type(delta := body.get("delta")) is not str or not lane.admits(_index(stream, body)):
            self.torn_delta(stream, body)
            return
        self.lane = lane
        lane.taken += 1
        lane.text.add(delta)
        self._emit_piece(lane.text, lane.draft, body)

    def torn_delta(self, stream: Stream, body: EventBody) -> None:
        """Take a piece that has to be looked at: the first one in its place, or one that ends in half a character."""
        self._passing.memo = None
        self._waiting.settle(body, stream.item_type)
        if not self._waiting and self._placement.is_undecided(body, stream.item_type):
            self._waiting.put(partial(self._piece, stream), body, stream.item_type)
            return
        self._piece(stream, body)

    def event(self, body: EventBody) -> None:
        """Take any other event that is not about the response as a whole."""
        self._close_lanes()
        kind: str = RENAMED.get(body["type"]) or body["type"]
        body["type"] = kind
        if self._waiting:
            self._waiting.settle(body, item_type_in(body))
        stream = DONES.get(kind)
        may_wait = stream is not None or kind.endswith(("_part.added", "_part.done"))
        if may_wait and not self._waiting and not self._placement.ids and self._puts_off(stream, body):
            return
        self._take(stream, body)

    def _puts_off(self, stream: Stream | None, body: EventBody) -> bool:
        """Let an event wait if only the next one tells where it belongs; return whether it does."""
        item_type = item_type_in(body)
        if not self._placement.is_undecided(body, item_type, _likeness(stream, body)):
            return False
        self._waiting.put(partial(self._take, stream), body, item_type)
        return True

    def _take(self, stream: Stream | None, body: EventBody) -> None:
        if stream is not None:
            self._text_done(stream, body)
        else:
            self._HANDLERS.get(body["type"], Transcript._other)(self, body)

    def _piece(self, stream: Stream, body: EventBody) -> None:
        piece = as_text(body.get("delta"))
        draft = self._placement.find(body, stream.item_type, piece=True)
        text = draft.find(stream, _index(stream, body)) if draft is not None else None
        if text is not None and text.ended:
            # It says again what has ended, or goes on as something new.
            if text.says_again(piece):
                return
            piece = text.unsaid() + piece
        if draft is None or draft.done or (text is not None and text.ended and not stream.part_type):
            draft, text = self._begin(stream.item_type, body), None
        if text is None or text.ended:
            text = draft.open(stream, _index(stream, body))
        self._tell_piece(draft, text, body, piece)

    def _tell_piece(self, draft: Draft, text: Text, body: EventBody, piece: str) -> None:
        if draft.is_nameless:
            text.take(piece)
            return
        piece = text.take(piece)
        if not piece and (text.half or not text.opened):
            self._close_lanes()
            return
        if not text.opened:
            self._output.announce(draft, but=text)
            self._output.emit_all(draft.opening(text))
        body["delta"] = piece
        place, index = (text.stream.prefix, body.get("item_id"), body.get("output_index")), _index(text.stream, body)
        self._emit_piece(text, draft, body)
        if text.half:
            self._close_lanes()
        elif _PLAIN.issuperset(map(type, (*place, index))):
            self._lead(place, draft, text, index)

    def _lead(self, place: Any, draft: Draft, text: Text, index: Any) -> None:
        if (lane := self._lanes.get(place)) is not None:
            lane.lead(draft, text, index)
            return
        if len(self._lanes) >= _MAX_LANES:
            self._close_lanes()
        self._lanes[place] = TextLane(draft, text, index)

    def _close_lanes(self) -> None:
        for lane in self._lanes.values():
            lane.memo = None
        self._lanes.clear()
        self._passing.memo = None

    def _emit_piece(self, text: Text, draft: Draft, body: EventBody) -> None:
        body["item_id"] = draft.id
        body["output_index"] = draft.index
        stream = text.stream
        if stream.index_key is not None:
            body[stream.index_key] = text.position
        if stream is OUTPUT_TEXT and body.get("logprobs") is None:
            body["logprobs"] = []
        self._emit(body)

    def _text_done(self, stream: Stream, body: EventBody) -> None:
        whole = body.get(stream.text_key)
        whole = None if whole is None else as_text(whole)

        draft = self._placement.find(body, stream.item_type, likeness=lambda draft: draft.likeness(stream, whole or ""))
        text = draft.find(stream, _index(stream, body), whole or "") if draft is not None else None
        if text is not None and text.ended:
            if not stream.part_type or not whole or whole == text.value():
                return
            text = None
        if draft is None or draft.done:
            draft, text = self._begin(stream.item_type, body), None
        text = text or draft.open(stream, _index(stream, body))
        if draft.is_nameless:
            text.complete(whole)
        if draft.is_nameless or not (whole or text.arrived()):
            # There is nothing to tell yet: the call's name is missing, or the text, which may come with the item.
            return
        self._output.announce(draft)
        self._output.emit_all(draft.end(text, whole, body))

    def _part_added(self, body: EventBody) -> None:
        draft, stream, part = self._part(body, piece=True)
        if draft.done:
            return
        index = _index(stream, body)
        known = draft.texts.get((stream.name, index)) if type(index) is int else draft.find(stream, None)
        if known is None or known.ended or (known.announced and type(index) is not int):
            known = draft.open(stream, index)
        if not known.announced:
            known.announced = True
            known.part_added = {**body, "part": part}
        if not stream.prefix:
            known.part = part
            self._output.announce(draft)
            self._output.emit_all(draft.opening(known))
        elif not known.count:
            known.early = known.early or part[stream.text_key]

    def _part_done(self, body: EventBody) -> None:
        draft, stream, part = self._part(body)
        whole = part.get(stream.text_key) if stream.prefix else None
        text = draft.find(stream, _index(stream, body), whole or "")
        if text is None:
            text = draft.open(stream, _index(stream, body))
        if text.closed or draft.done:
            return
        text.part = part
        if stream.prefix and not (whole or text.arrived()):
            return
        self._output.announce(draft)
        for event in draft.ending(text, part):
            is_end = event["type"] == body["type"]
            self._emit({**body, **event} if is_end else event)

    def _part(self, body: EventBody, *, piece: bool = False) -> tuple[Draft, Stream, Item]:
        container = "summary" if body["type"].startswith("response.reasoning_summary") else "content"
        told = body.get("part")
        part: Item = told if isinstance(told, dict) else {}
        if container == "summary" or part.get("type") == "reasoning_text":
            kind = "reasoning"
            part.update({"type": "summary_text"} if container == "summary" else {})
        else:
            # Some servers announce every part as `output_text`: whose it is is told by the item that it names.
            kind = "message" if part.get("type") == "refusal" else self._owner(body, part, piece=piece)
        default_type = "output_text" if kind == "message" else "reasoning_text"
        fill_part(part, "summary_text" if container == "summary" else default_type)
        stream = part_stream(part["type"], container)
        whole = as_text(part.get(stream.text_key))
        draft = self._placement.find(
            body,
            kind,
            piece=piece,
            likeness=None if piece else lambda draft: draft.likeness(stream, whole, part=True),
        )
        return draft or self._begin(kind, body), stream, part

    def _owner(self, body: EventBody, part: Item, *, piece: bool) -> str:
        """Return the type of the item that a part is in, which calls itself `output_text`, or nothing."""
        whole = as_text(part.get("text"))

        def likeness(draft: Draft) -> int:
            kind = "reasoning_text" if draft.type == "reasoning" else "output_text"
            return draft.likeness(part_stream(kind, "content"), whole, part=True)

        owner = self._placement.owner(body, ("message", "reasoning"), None if piece else likeness)
        return owner.type if owner is not None else "message"

    def _annotation(self, body: EventBody) -> None:
        draft = self._draft("message", body)
        text = draft.find(OUTPUT_TEXT, _index(OUTPUT_TEXT, body)) or draft.open(OUTPUT_TEXT, None)
        self._output.announce(draft)
        self._output.emit_all(draft.opening(text))
        if type(body.get("annotation_index")) is not int:
            body["annotation_index"] = len(text.annotations)
        if body.setdefault("annotation", None) is not None:
            text.annotations.append(body["annotation"])
        self._emit({**body, **draft.place(text)})

    def _item_added(self, body: EventBody) -> None:
        item = body.get("item")
        if not isinstance(item, dict) or not item:
            return
        known = self._placement.announced_before(body, item)
        if known is not None and known.announced:
            return
        if known is not None:
            self._placement.announce(known, item, body.get("output_index"))
        else:
            known = self._placement.add(item, body.get("output_index"))
        known.body = body
        if known.type != "message" and (not known.waits or any(text.count for text in known.order)):
            self._output.announce(known)

    def _item_done(self, body: EventBody) -> None:
        told = body.get("item")
        item = told if isinstance(told, dict) and told else None
        draft = self._placement.find(body, None) if item is None else self._placement.find_finished(body, item)
        if item is not None:
            if draft is None:
                draft = self._placement.add(dict(item), body.get("output_index"))
            elif not draft.announced:
                self._placement.announce(draft, dict(item), None)
            self._placement.name(draft, item.get("id"))
        if draft is None or draft.done or draft.pending is not None:
            return
        self._placement.finish(draft, body)
        final = draft.finished(item, "completed")
        if item is not None and _may_change(draft, item, final):
            draft.pending = item
        else:
            self._output.finish(draft, final, body)

    def _other(self, body: EventBody) -> None:
        kind: str = body["type"]
        for field, value in FILLS.get(kind, {}).items():
            if body.get(field) is None:
                body[field] = value
        subject = SUBJECTS.get(kind.split(".")[1]) if kind.startswith("response.") else None
        draft = self._placement.find(body, None) if subject is None else self._draft(subject, body)
        if draft is not None:
            self._output.announce(draft)
            place = {"item_id": draft.id, "output_index": draft.index}
            body.update({field: value for field, value in place.items() if subject is not None or field in body})
        self._emit(body)
        if subject is None and not self._waiting and type(body.get("delta")) is str:
            self._passing.taken += 1
            self.lane = self._passing

    _HANDLERS: ClassVar[dict[str, Callable[[Transcript, EventBody], None]]] = {
        "response.output_item.added": _item_added,
        "response.output_item.done": _item_done,
        "response.content_part.added": _part_added,
        "response.content_part.done": _part_done,
        "response.reasoning_summary_part.added": _part_added,
        "response.reasoning_summary_part.done": _part_done,
        "response.output_text.annotation.added": _annotation,
    }

    # What they are made of.

    def _draft(self, kind: str, body: EventBody) -> Draft:
        return self._placement.find(body, kind) or self._begin(kind, body)

    def _begin(self, kind: str, body: EventBody) -> Draft:
        item = {"type": kind, "id": body.get("item_id")}
        self._placement.give_up(kind, body)
        draft = self._placement.add(item, body.get("output_index"), announced=False)
        if not draft.waits and not draft.is_nameless:
            self._output.announce(draft)
        return draft


#: The events that are about items and nothing else.
ITEM_EVENTS = frozenset({*DONES, *Transcript._HANDLERS})  # noqa: SLF001


def _likeness(stream: Stream | None, body: EventBody) -> Likeness | None:
    """Return how well an item goes with an event that ends a text, `stream`'s or else a part's; None for any other."""
    if stream is not None:
        whole = as_text(body.get(stream.text_key))
        return lambda draft: draft.likeness(stream, whole)
    part = body.get("part")
    if not body["type"].endswith("_part.done") or not isinstance(part, dict):
        return None
    container = "summary" if body["type"].startswith("response.reasoning_summary") else "content"
    ended = part_stream(type_name(part), container)
    text = as_text(part.get("text"))
    return lambda draft: draft.likeness(ended, text, part=True)


def _index(stream: Stream, body: EventBody) -> Any:
    """Return the upstream's index of a part, of any type; of a field, which is only one, 0."""
    return body.get(stream.index_key) if stream.index_key is not None else 0


def _may_change(draft: Draft, item: Item, final: Item) -> bool:
    """Whether only the final output tells what becomes of an item: it is empty so far, or the call's id another one."""
    if not draft.waits:
        return False
    call_id = item.get("call_id")
    is_renamed = draft.told and bool(draft.call_id and call_id) and call_id != draft.call_id
    return is_renamed or (
        is_empty(final) if draft.type == "message" else not (final.get("arguments") or final.get("input"))
    )
