"""The output of one answer: its items as the client is told of them, and what they come to at the end. Pure.

For what the client was told:

- the pieces of a text add up to what its end says, and to what is stored;
- every id stands for one item, from its announcement to the stored response;
- a call is told once, with its name and its own arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from proxy.protocol.item_types import Item
from proxy.relay.draft import Draft
from proxy.relay.frames import LARGE_TEXT, Frames
from proxy.relay.item import complete_item, is_empty, is_whole_message, merged, opened, type_name, visible
from proxy.relay.pairing import is_same, match_output
from proxy.relay.placement import Placement
from proxy.relay.text import EventBody, Text

#: Ends before which every item is finished. Before the others a client might act on a half-told call.
_OWING = ("completed", "incomplete")


class Output:
    """The items of one answer.

    frames: takes each completed event, in order. new_item_id: item type → a fresh id. show_encrypted: the client sees
    reasoning's encrypted_content.
    """

    def __init__(self, frames: Frames, new_item_id: Callable[[str], str], *, show_encrypted: bool) -> None:
        self.emit = frames.emit
        self._new_item_id = new_item_id
        self.placement = Placement(new_item_id)
        #: Items that the upstream knows nothing of; they come first.
        self._own: list[Draft] = []
        #: What the output of earlier responses in the same stream came to.
        self._settled: list[Draft] = []
        self._show_encrypted = show_encrypted

    # Items that are told before the upstream says anything.

    def begin(self, item: Item, progress: str) -> None:
        """Announce an item of our own, and emit the event `progress` for it."""
        draft = self.placement.add(item)
        self._own.append(draft)
        self.announce(draft)
        self.emit({"type": progress, "item_id": draft.id, "output_index": draft.index})

    def end(self, fields: Item) -> None:
        """Finish the item that `begin` announced last. fields: what it holds now."""
        draft = self._own[-1]
        self.finish(draft, {**draft.item, **fields}, {})

    # What came from elsewhere than a stream, and what is there at the end.

    def take(self, items: list[Any], status: str) -> list[Item]:
        """Complete the items of a JSON answer, in place, and return those that are items. Nothing is emitted."""
        taken = []
        for item in items:
            if isinstance(item, dict) and item:
                if not is_whole_message(item):
                    complete_item(item, status)
                    if is_empty(item):
                        continue
                self.placement.identify(item)
                taken.append(item)
        return [*self._finished_own(), *taken]

    def replay(self, items: list[Item]) -> None:
        """Emit the events that would have streamed `items`, which have ids of ours; those told already come first."""
        told = len(self._finished_own())
        for index, item in enumerate(items[told:], told):
            draft = Draft(item, index)
            self.announce(draft)
            self.finish(draft, item, {})

    @property
    def is_large(self) -> bool:
        """Whether there is a large text among what has come in pieces."""
        return bool(self.large_texts())

    def large_texts(self) -> list[Text]:
        """Return the large texts among what has come in pieces."""
        return [text for draft in self.placement.in_order() for text in draft.order if text.size > LARGE_TEXT]

    @property
    def is_over(self) -> bool:
        """Whether there are items, and all of them have ended."""
        drafts = self._running()
        return bool(drafts) and all(draft.is_over for draft in drafts if draft.told)

    def begin_again(self) -> None:
        """Take the events that follow as those of another response, whose output comes behind what there is."""
        self.placement.begin_again()

    def start_over(self) -> None:
        """Forget what the upstream said: of our own items alone the client was told."""
        self.placement = Placement(self._new_item_id, self._own)
        self._settled = []

    def settle(self, output: list[Any], status: str) -> list[Item]:
        """End the stream: emit what is still owed, and return the items to keep.

        output: the upstream's final output, often empty. Its items come in its order; those that it leaves out were
        seen by the client all the same and stay, at their place. Items that repeat one of those are left out.
        """
        finals = [item for item in output if isinstance(item, dict) and item]
        drafts = [draft for draft in self._running() if draft.announced or draft.pending or not draft.is_empty]
        streamed = self.placement.in_order()
        kept: list[Draft] = []
        for item, draft in zip(finals, match_output(drafts, finals), strict=True):
            if draft is None:
                if _is_nothing(item) or any(is_same(each, item) for each in streamed):
                    continue
                draft = self.placement.add(dict(item))
                drafts.append(draft)
                if status not in _OWING:
                    draft.close(draft.finished(item, "incomplete"))
            self._wind_up(draft, item, status)
            kept.append(draft)
        for draft in drafts:
            if draft in kept:
                continue
            self._wind_up(draft, None, status)
            after = (place for place, each in enumerate(kept) if each.index > draft.index)
            kept.insert(next(after, len(kept)), draft)
        self._settled += [draft for draft in kept if draft.done]
        return [*self._finished_own(), *(draft.item for draft in self._settled)]

    def so_far(self) -> list[Item]:
        """Return all items that the client knows of as they stand, unfinished ones as `incomplete`."""
        drafts = [draft for draft in self.placement.in_order() if draft.done or draft not in self._own]
        return [_as_it_stands(draft) for draft in drafts if draft.told or draft.pending]

    def usable(self) -> list[Item]:
        """Return the items that a later turn can build on.

        These are the messages, as far as they came, and finished reasoning that leads to one. A call without its
        result would make the conversation unusable.
        """
        kept: list[Item] = []
        leads_on = False
        for draft in reversed(self.placement.in_order()):
            if draft.type == "reasoning":
                wanted = leads_on and draft.done
            else:
                wanted = leads_on = draft.type == "message" and not draft.is_empty
            if wanted:
                kept.append(_as_it_stands(draft))
        return [*self._finished_own(), *kept[::-1]] if kept else []

    # How the client is told of them.

    def announce(self, draft: Draft, *, but: Text | None = None) -> None:
        """Tell the client of an item, unless it was told, and of what has arrived of it, `but` one text."""
        if draft.told:
            return
        draft.told = True
        item = self._visible(opened(draft.item))
        event = {**draft.body, "type": "response.output_item.added", "output_index": draft.index, "item": item}
        self.emit(event)
        self.emit_all(draft.arrived(but))

    def finish(self, draft: Draft, final: Item, body: EventBody) -> None:
        """Tell what is missing of an item, and then that it is done. body: the upstream's event of that."""
        self.announce(draft)
        self.emit_all(draft.outstanding(final))
        draft.close(final)
        item = self._visible(final)
        self.emit({**body, "type": "response.output_item.done", "output_index": draft.index, "item": item})

    def emit_all(self, events: Iterable[EventBody]) -> None:
        """Emit events in order."""
        for event in events:
            self.emit(event)

    def _wind_up(self, draft: Draft, item: Item | None, status: str) -> None:
        """Finish an item at the end of the stream, unless there is nothing to it. item: as the final output has it."""
        whole = status == "completed" and not draft.superseded
        if draft.pending is not None:
            item = merged(draft.pending, item or {})
        if item is not None:
            self.placement.adopt_call_id(draft, item.get("call_id"))
        if draft.done:
            draft.close(draft.finished(item, "completed"))
            return
        final = draft.finished(item, "completed" if whole or draft.pending else "incomplete")
        if not draft.told and (draft.superseded or is_empty(final)):
            return
        if status in _OWING:
            self.finish(draft, final, {})
        elif draft.told:
            draft.close(final)

    def _running(self) -> list[Draft]:
        drafts = self.placement.in_order()
        return [draft for draft in drafts if draft not in self._own and not self.placement.is_earlier(draft)]

    def _finished_own(self) -> list[Item]:
        return [draft.item for draft in self._own if draft.done]

    def _visible(self, item: Item) -> Item:
        return visible(item, show_encrypted=self._show_encrypted)


def _as_it_stands(draft: Draft) -> Item:
    return draft.item if draft.done else draft.finished(draft.pending, "completed" if draft.pending else "incomplete")


def _is_nothing(item: Item) -> bool:
    copy = {**item, "type": type_name(item)}
    complete_item(copy, "completed")
    return is_empty(copy)
