"""Which output item an event means, and under which id and index the client knows it.

An event names its item by `item_id` and by `output_index`. Servers leave one or both out, give several items one id, or
one item another id with every event, count positions one too high, or give all items position 0. The rule, in turn,
always among items of the type that the event speaks of, because OpenAI's client ends the stream over any other:

1. the id, if it is that of an item that is still open: one that was announced by that id, wherever the event claims to
   be. Several open items of that id are told apart by the position, then by what the event says.
2. the position, if an open item was announced there. The end of a text means another one, if only the other's text
   begins like it; and a piece under an unknown id means another one, if ids have been seen to last.
3. where neither leads to an open item: the end of a text means the open one whose text begins like it. A piece means
   the item that was announced and has no text yet; without a position, the only one that is open.
4. an item that is done, if the id or the position is its: the event comes late, and tells nothing new.
5. else an item that nobody announced.

A position or an id that led to an item by rule 3 is remembered for it, after those that were announced. Whether ids
last, or change with every event, is learnt from the first event that shows it; one that could mean both waits for the
next (`is_undecided`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from proxy.protocol.ids import new_call_id, with_prefix_of
from proxy.protocol.item_types import Item, item_type_of
from proxy.relay.draft import Draft, Likeness
from proxy.relay.item import complete_item, merged, position_of, told_name, type_name
from proxy.relay.pairing import is_same, likeness_of, words_of

#: Ids that are remembered of one item: those of a server that changes them with every event lead nowhere.
_MAX_NAMES = 8


class Placement:
    """The items of one answer in the client's order, found by whatever the upstream says about them.

    drafts: those that are there before it.
    """

    def __init__(self, new_item_id: Callable[[str], str], drafts: Iterable[Draft] = ()) -> None:
        self._new_item_id = new_item_id
        self._drafts = {draft.index: draft for draft in drafts}
        #: Where the upstream announced items, and where it seems to speak of them.
        self._announced: dict[int, list[Draft]] = {}
        self._guessed: dict[int, list[Draft]] = {}
        #: Where the ends of an item's texts, and of items, were told.
        self._ended: dict[int, Draft] = {}
        self._finished: dict[int, Draft] = {}
        self._named: dict[str, list[Draft]] = {}
        self._call_ids: set[tuple[str, str]] = set()
        #: Items of a response that the upstream has ended, before it began another in the same stream.
        self._earlier: set[str] = set()
        #: Whether an item's id stays the same from event to event, '' as long as that is not known.
        self.ids: Literal["", "last", "change"] = ""

    def in_order(self) -> list[Draft]:
        """Return all items by their `output_index`."""
        drafts = self._drafts
        return [drafts[index] for index in sorted(drafts)] if len(drafts) > 1 else list(drafts.values())

    def begin_again(self) -> None:
        """Forget the positions: the upstream counts them anew."""
        self._announced.clear()
        self._guessed.clear()
        self._ended.clear()
        self._finished.clear()
        self._earlier.update(draft.id for draft in self._drafts.values())

    def is_earlier(self, draft: Draft) -> bool:
        """Whether an item is one of a response that has ended."""
        return draft.id in self._earlier

    # New items.

    def identify(self, item: Item) -> None:
        """Give `item` an id of ours, in place; a call without a `call_id` of its own gets one of those too."""
        item["id"] = with_prefix_of(self._new_item_id(item["type"]), item["type"], item.get("id"))
        if not item_type_of(item["type"]).needs_call_id:
            return
        # Two calls under one id could never be answered apart, and OpenAI's client refuses them.
        call_id = told_name(item.get("call_id"))
        if not call_id or (item["type"], call_id) in self._call_ids:
            item["call_id"] = call_id = new_call_id()
        self._call_ids.add((item["type"], call_id))

    def add(self, item: Item, index: Any = None, *, announced: bool = True) -> Draft:
        """Place a new item that the upstream has at `index` (of any type) and return it.

        `item` is completed and identified in place. announced: the upstream showed the item itself.
        """
        name, call_id = item.get("id"), told_name(item.get("call_id"))
        complete_item(item, "in_progress")
        self.identify(item)
        draft = Draft(item, self._free_index(index), announced=announced)
        draft.call_id = call_id or None
        self._drafts[draft.index] = draft
        self._put(draft, index)
        self.name(draft, name)
        return draft

    def announce(self, draft: Draft, item: Item, index: Any) -> None:
        """Note that `item`, at `index`, announces a draft that has begun without."""
        name, call_id = item.get("id"), told_name(item.get("call_id"))
        complete_item(item, "in_progress")
        kept = {"id": draft.id, "call_id": draft.item["call_id"]} if "call_id" in draft.item else {"id": draft.id}
        draft.item = {**merged(draft.item, item), **kept}
        draft.announced = True
        self._put(draft, index)
        self.name(draft, name)
        self.adopt_call_id(draft, call_id)

    def name(self, draft: Draft, name: Any) -> None:
        """Remember what the upstream calls `draft` now; anything but a text is ignored."""
        if not isinstance(name, str) or not name or (draft.names and draft.names[-1] == name):
            return
        draft.names.append(name)
        named = self._named.setdefault(name, [])
        if draft not in named:
            named.append(draft)

    def adopt_call_id(self, draft: Draft, call_id: Any) -> None:
        """Take the upstream's last word on a call's id, unless the client was told one of ours, or it is another's."""
        call_id, key = told_name(call_id), (draft.type, call_id)
        if not call_id or call_id == draft.item.get("call_id") or not item_type_of(draft.type).needs_call_id:
            return
        if key in self._call_ids or (draft.call_id is None and draft.told):
            return
        self._call_ids.add(key)
        draft.call_id = draft.item["call_id"] = call_id

    # Items by what events say of them.

    def find(
        self, event: dict[str, Any], kind: str | None, *, piece: bool = False, likeness: Likeness | None = None
    ) -> Draft | None:
        """Return the item that `event` means: one that is done only if nothing else is meant, None for a new one.

        kind: the item's type if the event's type tells it; without one nothing is guessed. piece: it brings text.
        likeness: how well an item goes with what the event says.
        """
        name = told_name(event.get("item_id"))
        if (draft := self._open_by_name(name, kind)) is not None:
            self.ids = self.ids or ("last" if kind is not None else "")
            return draft
        return self._search(event, kind, name, piece=piece, likeness=likeness)

    def _search(
        self, event: dict[str, Any], kind: str | None, name: str, *, piece: bool, likeness: Likeness | None
    ) -> Draft | None:
        position = position_of(event)
        here = self._at(position, kind)
        named = [draft for draft in self._named.get(name, ()) if kind in (None, draft.type)] if name else []
        if named and kind is not None:
            self.ids = self.ids or "last"
        if open_named := [draft for draft in named if not draft.done]:
            return self._of_one_name(open_named, here, position, likeness=likeness)
        is_stranger = bool(name) and not named
        if here is not None and not here.done:
            if named and (here.names or piece) and self.ids == "last":
                return named[-1]
            return self._here(here, name if is_stranger and kind else "", piece=piece, likeness=likeness)
        if named:
            return named[-1]
        if kind is not None:
            lasting = is_stranger and self.ids == "last"
            found = self._open(kind, position, lasting=lasting, piece=piece, likeness=likeness)
            if found is not None:
                if is_stranger and len(found.names) < _MAX_NAMES and not lasting:
                    self.name(found, name)
                return found
        if here is not None:
            return None if is_stranger and here.names and self.ids == "last" else here
        latest = self._latest(kind) if kind is not None and not piece and position is None else None
        is_other = is_stranger and latest is not None and latest.has_said_else(likeness, surely=self.ids != "last")
        return None if is_other else latest

    def owner(self, event: dict[str, Any], kinds: tuple[str, ...], likeness: Likeness | None = None) -> Draft | None:
        """Return the open item that an event means which may be about items of several `kinds`, the likeliest first.

        likeness: how well an item goes with what the event says. Nothing is remembered.
        """
        name, position = told_name(event.get("item_id")), position_of(event)
        if (found_by_name := self._open_by_name(name, None)) is not None:
            return found_by_name if found_by_name.type in kinds else None
        drafts = [draft for draft in self._drafts.values() if draft.type in kinds and not draft.done]
        here = [
            draft
            for draft in (self._announced.get(position, ()) if position is not None else ())
            if draft.announced or self.ids == "change" or not (name and draft.names) or name in draft.names
        ]
        named = [draft for draft in drafts if name in draft.names and (draft.announced or draft.is_at(position))]
        likely = {draft.id: likeness(draft) for draft in drafts} if likeness is not None else {}
        found = (
            [draft for draft in named if draft in here]
            or named
            or [draft for draft in drafts if likely.get(draft.id) == 3]
            or [draft for draft in drafts if draft in here]
            or [draft for draft in drafts if likely.get(draft.id) and draft.is_at(position)]
        )
        if not found and likeness is None:
            found = [draft for draft in drafts[-1:] if draft.is_fresh]
        return min(found, key=lambda draft: kinds.index(draft.type), default=None)

    def give_up(self, kind: str, event: dict[str, Any]) -> None:
        """Forget what was begun where `event` speaks of an item of another `kind`, unless the client was told of it."""
        name, position = told_name(event.get("item_id")), position_of(event)
        for draft in list(self._drafts.values()):
            is_other = self.ids == "last" and bool(name and draft.names)
            is_here = position is not None and draft.upstream_index == position and not is_other
            is_meant = is_here or (name in draft.names and draft.is_at(position))
            is_known = draft.announced or draft.told or draft.done or any(text.count for text in draft.order)
            if draft.type != kind and is_meant and not is_known:
                del self._drafts[draft.index]
                for drafts in (*self._named.values(), *self._announced.values(), *self._guessed.values()):
                    if draft in drafts:
                        drafts.remove(draft)

    def finish(self, draft: Draft, event: dict[str, Any]) -> None:
        """Note where an item was said to be done: it may be said again there."""
        if (position := position_of(event)) is not None:
            self._finished[position] = draft

    def is_undecided(self, event: dict[str, Any], kind: str, likeness: Likeness | None = None) -> bool:
        """Whether an event may be about the open item, under another id, or a new one: the next event will tell."""
        name = told_name(event.get("item_id"))
        if self.ids or not name or name in self._named:
            return False
        draft = self.open_at(event, kind)
        is_open = draft is not None and not (draft.announced or draft.done) and bool(draft.names)
        return is_open and (likeness is None or draft is None or (draft.is_over and likeness(draft) == 1))

    def open_at(self, event: dict[str, Any], kind: str) -> Draft | None:
        """Return the newest item where an event claims to be, or of all, if it says nothing of that."""
        position = position_of(event)
        return self._at(position, kind) if position is not None else self._latest(kind)

    def decide(self, waiting: str, name: Any, *, is_alike: bool, is_other: bool = False) -> bool:
        """Learn from an event after an undecided one whether ids last; return whether that is known now.

        waiting, name: the ids in the two. is_alike: they are about items of one type. is_other: they show that the
        undecided one begins another item.
        """
        is_known = isinstance(name, str) and (name == waiting or name in self._named)
        if not self.ids and (is_known or is_other):
            self.ids = "last"
        elif not self.ids and is_alike:
            self.ids = "change"
        return bool(self.ids)

    def find_finished(self, event: dict[str, Any], item: Item) -> Draft | None:
        """Return the open item that `item` of a `response.output_item.done` finishes, or the done one it repeats."""
        kind, position = type_name(item), position_of(event)
        event = {"output_index": position, "item_id": item.get("id") or event.get("item_id")}
        if (named := self._open_by_name(event["item_id"], kind)) is not None:
            return named
        for here in (self._at(position, kind), self._finished.get(-1 if position is None else position)):
            if here is not None and here.done and is_same(here, item):
                return here
        known = self._called(kind, item.get("call_id"))
        if known is not None:
            is_other = known.done and words_of(known.item) != words_of(item)
            return None if is_other and known.is_elsewhere(position, told_name(event["item_id"])) else known
        found = self.find(event, kind, likeness=lambda draft: likeness_of(draft, item))
        if found is not None and not found.done:
            return found
        if found is not None and is_same(found, item):
            return found
        if position is not None and (here := self._at(position, None)) is not None and not here.done:
            # The type changed on the way. OpenAI's client ends the stream over that, so a new item takes its place.
            here.superseded = True
        return None

    def announced_before(self, event: dict[str, Any], item: Item) -> Draft | None:
        """Return the item that `item` of a `response.output_item.added` is, if it has begun or was announced before."""
        kind, position, name = type_name(item), position_of(event), told_name(item.get("id"))
        call_id = told_name(item.get("call_id"))
        if (called := self._called(kind, call_id)) is not None and not called.is_elsewhere(position, name):
            return called
        if (begun := self._begun(kind, position, name)) is not None:
            return begun
        named = [draft for draft in self._named.get(name, ()) if draft.type == kind] if name else []
        here = self._at(position, kind)
        known = here if position is not None else (named[-1] if named else None)
        if known is None and named and self.is_earlier(named[-1]):
            known = named[-1]
        if known is None or (call_id and known.call_id and call_id != known.call_id):
            return None
        is_named = bool(name) and name in known.names
        if known.done:
            return known if is_named and (position is not None or self.is_earlier(known)) else None
        return known if is_named or not (name and known.names) or self.ids == "change" else None

    # How they are found.

    def _of_one_name(
        self, drafts: list[Draft], here: Draft | None, position: int | None, *, likeness: Likeness | None
    ) -> Draft | None:
        if here is None and position is not None:
            # One id for all that nobody announced: the position is all there is.
            drafts = [draft for draft in drafts if draft.may_be_elsewhere(likeness)]
        if here in drafts and len(drafts) > 1 and (likeness is None or likeness(here)):
            return here
        return max(reversed(drafts), key=likeness or (lambda _: 0), default=None)

    def _here(self, here: Draft, stranger: str, *, piece: bool, likeness: Likeness | None) -> Draft | None:
        best = self._likeliest(here.type, likeness) if likeness is not None else None
        if likeness is not None and best is not None and (not likeness(here) or likeness(best) == 3 > likeness(here)):
            return best
        if stranger and here.names and likeness is not None:
            is_full = (here.is_over or here.is_nameless) and not likeness(here)
            if is_full or (self.ids == "last" and here.is_over and likeness(here) == 1):
                return None
        if stranger and here.names:
            if piece and self.ids == "last":
                return None
            if piece:
                self.ids = "change"
            if len(here.names) < _MAX_NAMES:
                self.name(here, stranger)
        return here

    def _open(
        self, kind: str, position: int | None, *, lasting: bool, piece: bool, likeness: Likeness | None
    ) -> Draft | None:
        drafts = [draft for draft in self._drafts.values() if draft.type == kind and not draft.done]
        if likeness is not None:
            found = self._likeliest(kind, likeness)
            if found is not None and lasting and found.has_said_else(likeness, surely=False):
                return None
            if found is None or position is None or found.upstream_index is None:
                return found
            is_new = likeness(found) == 1 and found.has_begun and self._ended.get(position) is not found
            if not is_new:
                self._ended[position] = found
            return None if is_new else found
        if lasting and piece:
            return None
        if position is None:
            return drafts[-1] if drafts else None
        unplaced = [draft for draft in drafts if draft.upstream_index is None]
        fresh = [draft for draft in drafts if draft.is_fresh]
        found = next(iter([*unplaced[-1:], *fresh]), None)
        if found is not None:
            self._guessed.setdefault(position, [found])
        return found

    def _likeliest(self, kind: str, likeness: Likeness) -> Draft | None:
        drafts = [draft for draft in self._drafts.values() if draft.type == kind and not draft.done]
        best = max(reversed(drafts), key=likeness, default=None)
        return best if best is not None and likeness(best) else None

    def _begun(self, kind: str, position: int | None, name: str) -> Draft | None:
        for draft in reversed(self._drafts.values()):
            if draft.type != kind or draft.done or draft.announced:
                continue
            other_name = bool(name) and bool(draft.names) and name not in draft.names
            if position is None or draft.upstream_index is None:
                if not other_name or self.ids == "change":
                    return draft
            elif position == draft.upstream_index and not (other_name and self.ids == "last"):
                return draft
        return None

    def _open_by_name(self, name: Any, kind: str | None) -> Draft | None:
        """Return the open item that was announced by an id, and is the only one of that id."""
        named = self._named.get(name, ()) if type(name) is str and name else ()
        if len(named) > 1:
            named = [draft for draft in named if draft.type == kind and not draft.done]
        if len(named) != 1:
            return None
        (draft,) = named
        return draft if draft.announced and not draft.done and kind in (None, draft.type) else None

    def _called(self, kind: str, call_id: Any) -> Draft | None:
        if not told_name(call_id) or not item_type_of(kind).needs_call_id:
            return None
        drafts = reversed(self._drafts.values())
        return next((draft for draft in drafts if draft.type == kind and draft.call_id == call_id), None)

    def _latest(self, kind: str) -> Draft | None:
        return next((draft for draft in reversed(self._drafts.values()) if draft.type == kind), None)

    def _at(self, position: int | None, kind: str | None) -> Draft | None:
        if position is None:
            return None
        here = [*self._guessed.get(position, ()), *self._announced.get(position, ())]
        of_kind = [draft for draft in here if kind in (None, draft.type)]
        return next((draft for draft in reversed(of_kind) if not draft.done), of_kind[-1] if of_kind else None)

    def _put(self, draft: Draft, index: Any) -> None:
        if type(index) is int:
            draft.upstream_index = index
            self._announced.setdefault(index, []).append(draft)

    def _free_index(self, index: Any) -> int:
        if type(index) is int and index >= 0 and index not in self._drafts:
            return index
        return max(self._drafts, default=-1) + 1
