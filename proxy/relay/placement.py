"""Which output item an event means, and under which id and index the client knows it.

An event names its item by `output_index` and by `item_id`. Servers leave one or both out, repeat ids for several
items, send another id in each event of one item, or 0 for every index. The rule is: position first, then id, then the
item that is open; and never an item of another type than the event speaks of, because OpenAI's client ends the
stream over that.
"""

from __future__ import annotations

import secrets
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from proxy.protocol.item_types import Item, item_type_of
from proxy.relay.draft import Draft
from proxy.relay.item import complete_item, type_name

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class Placement:
    """The items of one answer in the client's order, found by whatever the upstream says about them."""

    def __init__(self, new_item_id: Callable[[str], str]) -> None:
        self._new_item_id = new_item_id
        self._drafts: dict[int, Draft] = {}
        self._by_upstream_index: dict[int, Draft] = {}
        self._by_upstream_id: dict[str, Draft] = {}
        self._call_ids: set[tuple[str, str]] = set()

    def in_order(self) -> list[Draft]:
        """Return all items by their `output_index`."""
        return [self._drafts[index] for index in sorted(self._drafts)]

    def identify(self, item: Item) -> None:
        """Give `item` an id of ours, in place; a call without a `call_id` of its own gets one of those too."""
        item["id"] = self._new_item_id(item["type"])
        kind, call_id = item["type"], item.get("call_id")
        if not item_type_of(kind).needs_call_id:
            return
        # Two calls under one id could never be answered apart, and OpenAI's client refuses them.
        if not isinstance(call_id, str) or not call_id or (kind, call_id) in self._call_ids:
            item["call_id"] = call_id = "call_" + "".join(secrets.choice(_BASE62) for _ in range(24))
        self._call_ids.add((kind, call_id))

    def add(self, item: Item, index: Any = None) -> Draft:
        """Place a new item that the upstream announced at `index` (of any type) and return it.

        `item` is completed and identified in place.
        """
        upstream_id = item.get("id")
        complete_item(item, "in_progress")
        self.identify(item)
        draft = Draft(item, self._free_index(index))
        if type(index) is int:
            draft.upstream_index = index
            self._by_upstream_index[index] = draft
        self._drafts[draft.index] = draft
        self.rename(draft, upstream_id)
        return draft

    def rename(self, draft: Draft, upstream_id: Any) -> None:
        """Remember what the upstream calls `draft` now; anything but a text is ignored."""
        if isinstance(upstream_id, str) and upstream_id:
            draft.upstream_id = upstream_id
            self._by_upstream_id[upstream_id] = draft

    def at(self, index: int, kind: str) -> Draft | None:
        """Return the item of type `kind` that the upstream has at `index`: the quick way for complete streams."""
        draft = self._by_upstream_index.get(index)
        return draft if draft is not None and draft.type == kind else None

    def find(self, event: dict[str, Any], kind: str | None, *, running: bool = False) -> Draft | None:
        """Return the item that `event` means.

        kind: the item's type if the event's type tells it; without one nothing is guessed. running: an item that is
        done already can't be meant, unless the event names it.
        """
        index = event.get("output_index")
        at_index = self._by_upstream_index.get(index) if type(index) is int else None
        if at_index is not None and kind in (None, at_index.type):
            return at_index
        named = self._named(event.get("item_id"))
        unplaced = type(index) is int and at_index is None
        if named is not None and kind in (None, named.type) and not (unplaced and named.upstream_index is not None):
            return named
        return self._latest(kind, running=running, unplaced=unplaced) if kind is not None else None

    def find_finished(self, event: dict[str, Any], item: Item) -> Draft | None:
        """Return the open item that `item` of a `response.output_item.done` finishes, or the done one it repeats."""
        kind = type_name(item)
        called = self._called(kind, item.get("call_id"))
        index = event.get("output_index")
        if called is not None and not called.done and type(index) is not int:
            return called
        draft = self.find({**event, "item_id": item.get("id")}, kind, running=True) or called
        if draft is None and type(index) is int:
            self._supersede(index)
        return None if draft is not None and draft.done and _differs(draft, item) else draft

    def is_announced(self, event: dict[str, Any], item: Item) -> bool:
        """Tell whether `item` of a `response.output_item.added` is one that the upstream announced before."""
        index = event.get("output_index")
        placed = type(index) is int
        known = self._by_upstream_index.get(index) if type(index) is int else self._named(item.get("id"))
        if known is None or known.type != type_name(item):
            return False
        if not known.done:
            return not _both_differ(known.item.get("call_id"), item.get("call_id"))
        return placed and known.upstream_id is not None and known.upstream_id == item.get("id")

    def _supersede(self, index: int) -> None:
        # The type changed on the way. OpenAI's client ends the stream over that, so a new item takes its place.
        draft = self._by_upstream_index.get(index)
        if draft is not None and not draft.done:
            draft.superseded = True

    def _free_index(self, index: Any) -> int:
        if type(index) is int and index >= 0 and index not in self._drafts:
            return index
        return max(self._drafts, default=-1) + 1

    def _named(self, upstream_id: Any) -> Draft | None:
        return self._by_upstream_id.get(upstream_id) if isinstance(upstream_id, str) else None

    def _called(self, kind: str, call_id: Any) -> Draft | None:
        if not isinstance(call_id, str) or not call_id:
            return None
        drafts = reversed(self._drafts.values())
        return next((each for each in drafts if each.type == kind and each.item.get("call_id") == call_id), None)

    def _latest(self, kind: str, *, running: bool, unplaced: bool) -> Draft | None:
        for draft in reversed(self._drafts.values()):
            if draft.type != kind or (unplaced and draft.upstream_index is not None):
                continue
            if not draft.done:
                return draft
            # The last of its kind is over: a text that goes on belongs to a new one.
            return None if running else draft
        return None


def match_output(drafts: Sequence[Draft], output: Sequence[Item]) -> list[Draft | None]:
    """Return, for each item of a final `output`, the streamed item that it is, None for one that never streamed.

    Tried in turn: an id that only one of them has, the `call_id`, the rank, the type.
    """
    free = set(range(len(drafts)))
    found: list[Draft | None] = [None] * len(output)
    for keys_of_drafts, keys_of_items in _keys(drafts, output):
        pool: defaultdict[Hashable, deque[int]] = defaultdict(deque)
        for number, key in enumerate(keys_of_drafts):
            if number in free and key is not None:
                pool[key].append(number)
        for rank, key in enumerate(keys_of_items):
            if found[rank] is None and key is not None and pool.get(key):
                number = pool[key].popleft()
                free.discard(number)
                found[rank] = drafts[number]
    return found


def _keys(
    drafts: Sequence[Draft], output: Sequence[Item]
) -> Iterable[tuple[list[Hashable | None], list[Hashable | None]]]:
    types = [draft.type for draft in drafts], [type_name(item) for item in output]
    ids = [draft.upstream_id for draft in drafts], [item.get("id") for item in output]
    calls = [draft.item.get("call_id") for draft in drafts], [item.get("call_id") for item in output]
    for names in (ids, calls):
        yield _named(types[0], names[0]), _named(types[1], names[1])
    yield list(enumerate(types[0])), list(enumerate(types[1]))
    yield list(types[0]), list(types[1])


def _named(types: list[str], names: list[Any]) -> list[Hashable | None]:
    pairs = [(kind, name) if isinstance(name, str) and name else None for kind, name in zip(types, names, strict=True)]
    counts = Counter(pairs)
    return [key if counts[key] == 1 else None for key in pairs]


def _differs(draft: Draft, item: Item) -> bool:
    return (
        draft.type != type_name(item)
        or _both_differ(draft.upstream_id, item.get("id"))
        or _both_differ(draft.item.get("call_id"), item.get("call_id"))
    )


def _both_differ(one: Any, other: Any) -> bool:
    return isinstance(one, str) and isinstance(other, str) and bool(one) and bool(other) and one != other
