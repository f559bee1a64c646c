"""An event that may go on with an item under another id, or begin a new one, until what follows it tells. Pure.

What tells is whether ids last (`Placement`): an id that comes again; another one for the same item; a whole text in the
place of one that has ended in other words, where nothing shows both to be of one item.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy.protocol.item_types import Item
from proxy.relay.draft import Draft
from proxy.relay.item import as_text
from proxy.relay.pairing import words_of
from proxy.relay.placement import Placement
from proxy.relay.text import DONES, EventBody

Take = Callable[[EventBody], None]


class Undecided:
    """At most one event that waits; those that come before it is placed are taken first."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        #: What takes it, the event, its item's type.
        self._waiting: tuple[Take, EventBody, str] | None = None

    def __bool__(self) -> bool:
        return self._waiting is not None

    def put(self, take: Take, body: EventBody, kind: str) -> None:
        """Let an event about an item of `kind` wait."""
        self._waiting = take, body, kind

    def settle(self, following: EventBody | None = None, kind: str = "") -> None:
        """Take the event that waits, if the one that follows, about an item of `kind`, tells where it belongs."""
        if self._waiting is None:
            return
        take, body, waiting_kind = self._waiting
        item = (following or {}).get("item")
        name = item.get("id") if isinstance(item, dict) else (following or {}).get("item_id")
        is_alike = following is None or kind == waiting_kind
        is_other = is_alike and self._is_other(body, waiting_kind, following)
        if self._placement.decide(body["item_id"], name, is_alike=is_alike, is_other=is_other):
            self._waiting = None
            take(body)

    def _is_other(self, body: EventBody, kind: str, following: EventBody | None) -> bool:
        """Whether the text that waits is another item's than the one that ended in its place."""
        whole, draft = _whole(body), self._placement.open_at(body, kind)
        if draft is None or not whole or not _has_ended_in_place(draft, body):
            return False
        if following is None:
            return True
        item: Item | None = following.get("item")
        if isinstance(item, dict):
            return words_of(item) in (whole, words_of(draft.snapshot()))
        said = _whole(following)
        return bool(said) and said != whole and _place(following) == _place(body)


def _whole(body: EventBody) -> str:
    """Return the text that an event ends, '' for any other."""
    kind: str = body["type"]
    if kind.endswith("_part.done"):
        part = body.get("part")
        return as_text(part.get("text")) if isinstance(part, dict) else ""
    stream = DONES.get(kind)
    return as_text(body.get(stream.text_key)) if stream is not None else ""


def _place(body: EventBody) -> tuple[str, Any]:
    name = "summary" if "summary" in body["type"] else "content"
    return name, body.get(f"{name}_index")


def _has_ended_in_place(draft: Draft, body: EventBody) -> bool:
    container, index = _place(body)
    return any(
        text.ended and at == index and text.stream.container == container for (_, at), text in draft.texts.items()
    )
