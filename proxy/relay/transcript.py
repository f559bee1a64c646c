"""The output of one answer: takes the upstream's events about items, completes them, and knows the items at the end.

Also tells what the upstream left untold: the announcement of an item or part before its first text, the ends of texts
and parts before an item is done, whole items that only the final output has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from proxy.protocol.item_types import Item
from proxy.relay.draft import DONES, OUTPUT_TEXT, Draft, EventBody, Stream, Text, part_stream
from proxy.relay.frames import Frames
from proxy.relay.item import as_text, complete_item, fill_part, opened, visible
from proxy.relay.placement import Placement, match_output

#: What the word after `response.` says about the item that an event is about.
_SUBJECTS = {
    "web_search_call": "web_search_call",
    "file_search_call": "file_search_call",
    "code_interpreter_call": "code_interpreter_call",
    "image_generation_call": "image_generation_call",
    "mcp_call": "mcp_call",
    "mcp_list_tools": "mcp_list_tools",
    "compaction": "compaction",
    "shell_call_command": "shell_call",
    "shell_call_output_content": "shell_call_output",
    "apply_patch_call_operation_diff": "apply_patch_call",
}
#: Fields of such events that clients require.
_FILLS: dict[str, EventBody] = {
    "response.image_generation_call.partial_image": {"partial_image_b64": "", "partial_image_index": 0},
    "response.shell_call_command.added": {"command": "", "command_index": 0},
    "response.shell_call_command.delta": {"delta": "", "command_index": 0},
    "response.shell_call_command.done": {"command": "", "command_index": 0},
    "response.shell_call_output_content.delta": {"delta": {}, "command_index": 0},
    "response.shell_call_output_content.done": {"output": [], "command_index": 0},
    "response.audio.delta": {"delta": ""},
    "response.audio.transcript.delta": {"delta": ""},
}

#: Ends before which every item is finished. Before the others a client might act on a half-told call.
_OWING = ("completed", "incomplete")


class Transcript:
    """The items of one answer as its events tell them.

    frames: takes each completed event, in order. new_item_id: item type → a fresh id. show_encrypted: the client sees
    reasoning's encrypted_content.
    """

    def __init__(self, frames: Frames, new_item_id: Callable[[str], str], *, show_encrypted: bool) -> None:
        self._emit = frames.emit
        self._placement = Placement(new_item_id)
        #: Items that the upstream knows nothing of; they come first.
        self._own: list[Draft] = []
        self._show_encrypted = show_encrypted

    # Items that are told before the upstream says anything.

    def begin(self, item: Item, progress: str) -> None:
        """Announce an item of our own, and emit the event `progress` for it."""
        draft = self._placement.add(item)
        self._own.append(draft)
        self._announce(draft, {})
        self._emit({"type": progress, "item_id": draft.id, "output_index": draft.index})

    def end(self, fields: Item) -> None:
        """Finish the item that `begin` announced last. fields: what it holds now."""
        draft = self._own[-1]
        self._finish(draft, {**draft.item, **fields}, {})

    # What came from elsewhere than a stream, and what is there at the end.

    def take(self, items: list[Any], status: str) -> list[Item]:
        """Complete the items of a JSON answer, in place, and return those that are items. Nothing is emitted."""
        taken = [item for item in items if isinstance(item, dict) and item]
        for item in taken:
            complete_item(item, status)
            self._placement.identify(item)
        return [*self._finished_own(), *taken]

    def replay(self, items: list[Item]) -> None:
        """Emit the events that would have streamed `items`, which have ids of ours; those told already come first."""
        told = len(self._finished_own())
        for index, item in enumerate(items[told:], told):
            draft = Draft(item, index)
            self._announce(draft, {})
            self._finish(draft, item, {})

    def settle(self, output: list[Any], status: str) -> list[Item]:
        """End the stream: emit what is still owed, and return the items to keep.

        output: the upstream's final output, often empty. Its items come in its order; those that it leaves out were
        seen by the client all the same and stay, at their place.
        """
        finals = [item for item in output if isinstance(item, dict) and item]
        drafts = [draft for draft in self._placement.in_order() if draft not in self._own]
        kept: list[Draft] = []
        for item, draft in zip(finals, match_output(drafts, finals), strict=True):
            if draft is None:
                draft = self._placement.add(dict(item))
                if status in _OWING:
                    self._announce(draft, {})
            self._wind_up(draft, item, status)
            kept.append(draft)
        matched = {draft.index for draft in kept}
        for draft in drafts:
            if draft.index in matched:
                continue
            self._wind_up(draft, None, status)
            if not draft.is_empty:
                after = (place for place, each in enumerate(kept) if each.index > draft.index)
                kept.insert(next(after, len(kept)), draft)
        return [*self._finished_own(), *(draft.item for draft in kept)]

    def so_far(self) -> list[Item]:
        """Return all items as they stand, unfinished ones as `incomplete`, messages without text left out."""
        drafts = [draft for draft in self._placement.in_order() if draft.done or draft not in self._own]
        return [_as_it_stands(draft) for draft in drafts if not draft.is_empty]

    def usable(self) -> list[Item]:
        """Return the items that a later turn can build on.

        These are the messages, as far as they came, and finished reasoning that leads to one. A call without its
        result would make the conversation unusable.
        """
        kept: list[Item] = []
        leads_on = False
        for draft in reversed(self._placement.in_order()):
            if draft.type == "reasoning":
                wanted = leads_on and draft.done
            else:
                wanted = leads_on = draft.type == "message" and not draft.is_empty
            if wanted:
                kept.append(_as_it_stands(draft))
        return [*self._finished_own(), *kept[::-1]] if kept else []

    # The events of a stream.

    def delta(self, stream: Stream, body: EventBody) -> None:
        """Take a piece of a text."""
        index = body.get("output_index")
        draft = self._placement.at(index, stream.item_type) if type(index) is int else None
        if draft is None:
            draft = self._draft(stream.item_type, body, running=True)
        text = self._text(draft, stream, body, running=True)
        delta = body.get("delta")
        if type(delta) is not str:
            body["delta"] = delta = as_text(delta)
        text.pieces.append(delta)
        body["item_id"] = draft.id
        body["output_index"] = draft.index
        if stream.index_key is not None:
            body[stream.index_key] = text.position
        if stream is OUTPUT_TEXT and body.get("logprobs") is None:
            body["logprobs"] = []
        self._emit(body)

    def event(self, body: EventBody) -> None:
        """Take any other event that is not about the response as a whole."""
        kind = body["type"]
        stream = DONES.get(kind)
        if stream is not None:
            self._text_done(stream, body)
        else:
            self._HANDLERS.get(kind, Transcript._other)(self, body)

    def _text_done(self, stream: Stream, body: EventBody) -> None:
        draft = self._draft(stream.item_type, body)
        text = self._text(draft, stream, body)
        whole = body.get(stream.text_key)
        whole = text.value() if whole is None else as_text(whole)
        text.pieces = [whole]
        told = {name: value for name, value in body.items() if value is not None}
        self._emit({**draft.ending(text, whole), **told, **draft.place(text), stream.text_key: whole})

    def _part_added(self, body: EventBody) -> None:
        draft, stream, part = self._part(body, running=True)
        position = body.get(f"{stream.container}_index")
        known = draft.find(stream, position) if type(position) is int else None
        if known is not None and not known.closed:
            return
        text = draft.open(stream, position)
        if not stream.prefix:
            text.part = part
        elif part[stream.text_key]:
            text.pieces.append(part[stream.text_key])
        self._emit({**body, **draft.place(text), "part": part})

    def _part_done(self, body: EventBody) -> None:
        draft, stream, part = self._part(body)
        text = self._text(draft, stream, body)
        if stream.prefix:
            part[stream.text_key] = part[stream.text_key] or text.value()
        text.part = part
        if not text.told:
            self._emit(draft.ending(text, part[stream.text_key]))
        text.closed = True
        self._emit({**body, **draft.place(text), "part": part})

    def _part(self, body: EventBody, *, running: bool = False) -> tuple[Draft, Stream, Item]:
        container = "summary" if body["type"].startswith("response.reasoning_summary") else "content"
        told = body.get("part")
        part: Item = told if isinstance(told, dict) else {}
        if container == "summary" or part.get("type") == "reasoning_text":
            kind = "reasoning"
            part.update({"type": "summary_text"} if container == "summary" else {})
        else:
            named = None if part.get("type") in ("output_text", "refusal") else self._placement.find(body, None)
            kind = "reasoning" if named is not None and named.type == "reasoning" else "message"
        default_type = "output_text" if kind == "message" else "reasoning_text"
        fill_part(part, "summary_text" if container == "summary" else default_type)
        return self._draft(kind, body, running=running), part_stream(part["type"], container), part

    def _annotation(self, body: EventBody) -> None:
        draft = self._draft("message", body)
        text = self._text(draft, OUTPUT_TEXT, body)
        if type(body.get("annotation_index")) is not int:
            body["annotation_index"] = len(text.annotations)
        if body.setdefault("annotation", None) is not None:
            text.annotations.append(body["annotation"])
        self._emit({**body, **draft.place(text)})

    def _item_added(self, body: EventBody) -> None:
        item = body.get("item")
        if not isinstance(item, dict) or not item or self._placement.is_announced(body, item):
            return
        self._announce(self._placement.add(item, body.get("output_index")), body)

    def _item_done(self, body: EventBody) -> None:
        told = body.get("item")
        item = told if isinstance(told, dict) and told else None
        draft = self._placement.find(body, None) if item is None else self._placement.find_finished(body, item)
        if item is not None:
            if draft is None:
                draft = self._placement.add(dict(item), body.get("output_index"))
                self._announce(draft, {})
            self._placement.rename(draft, item.get("id"))
        if draft is not None and not draft.done:
            self._finish(draft, draft.finished(item, "completed"), body)

    def _other(self, body: EventBody) -> None:
        kind: str = body["type"]
        for field, value in _FILLS.get(kind, {}).items():
            if body.get(field) is None:
                body[field] = value
        subject = _SUBJECTS.get(kind.split(".")[1]) if kind.startswith("response.") else None
        draft = self._placement.find(body, None) if subject is None else self._draft(subject, body)
        for field, value in (("item_id", draft.id), ("output_index", draft.index)) if draft is not None else ():
            if subject is not None or field in body:
                body[field] = value
        self._emit(body)

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

    def _draft(self, kind: str, body: EventBody, *, running: bool = False) -> Draft:
        draft = self._placement.find(body, kind, running=running)
        if draft is None:
            draft = self._placement.add({"type": kind, "id": body.get("item_id")}, body.get("output_index"))
            self._announce(draft, {})
        return draft

    def _text(self, draft: Draft, stream: Stream, body: EventBody, *, running: bool = False) -> Text:
        position = body.get(stream.index_key) if stream.index_key is not None else 0
        text = draft.find(stream, position)
        # Without an index, a text that goes on after the last part's end can only be a new part.
        if text is None or (running and text.closed and stream.part_type and type(position) is not int):
            text = draft.open(stream, position)
            if stream.part_type is not None:
                self._emit(draft.announcement(text))
        return text

    def _announce(self, draft: Draft, body: EventBody) -> None:
        item = self._visible(opened(draft.item))
        self._emit({**body, "type": "response.output_item.added", "output_index": draft.index, "item": item})

    def _finish(self, draft: Draft, final: Item, body: EventBody) -> None:
        for event in draft.outstanding(final):
            self._emit(event)
        draft.close(final)
        item = self._visible(final)
        self._emit({**body, "type": "response.output_item.done", "output_index": draft.index, "item": item})

    def _wind_up(self, draft: Draft, item: Item | None, status: str) -> None:
        whole = status == "completed" and not draft.superseded
        final = draft.finished(item, "completed" if whole else "incomplete")
        if draft.done or status not in _OWING:
            draft.close(final)
        else:
            self._finish(draft, final, {})

    def _finished_own(self) -> list[Item]:
        return [draft.item for draft in self._own if draft.done]

    def _visible(self, item: Item) -> Item:
        return visible(item, show_encrypted=self._show_encrypted)


def _as_it_stands(draft: Draft) -> Item:
    return draft.item if draft.done else draft.finished(None, "incomplete")
