"""Views: what people look at conversations with: graphs of branches, windows of items, where things are, what runs.

All of it is read. A *place* is where an item lies: the number of a segment, and the offset in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from storage.envelope import item_id
from storage.records import Chain

#: Bytes of an item from which on only its beginning is shown, and of bodies of responses that come with a window.
MAX_SHOWN_BYTES = 256 * 1024
MAX_WINDOW_BODY_BYTES = 2 * 1024 * 1024
#: Bytes of a body from which on it does not come with a list.
MAX_LISTED_BODY_BYTES = 64 * 1024
#: Branches of a graph, and conversations or places that are asked for at a time.
MOST_BRANCHES = 500
MOST_HEADS = 50
MOST_EXCERPTS = 1000
#: Bytes after which a scan pauses.
SCAN_BYTES = 1024 * 1024

#: Segment and offset.
ItemPlace: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The beginning of an item, JSON that may be cut anywhere. size: of the whole item, in bytes."""

    data: bytes
    size: int

    @property
    def id(self) -> str:
        """The item's id."""
        return item_id(self.data)

    @classmethod
    def of(cls, told: Sequence[Any]) -> Excerpt | None:
        """Return what the scripts' `excerpt` gives; None for nothing."""
        return cls(told[0], told[1]) if told else None


@dataclass(frozen=True, slots=True)
class GraphBranch:
    """A branch as a part of a graph. line: its number, whatever it is called. chain: closed.

    item_count: of living items. Times in ms, forked_at in seconds. parent: a line, which need not be there any more.
    forked_from: id of an item. running: id of the response that is being made on it.
    """

    line: int
    name: str
    chain: Chain
    item_count: int
    created_at: int
    updated_at: int
    parent: int | None = None
    forked_at: int | None = None
    forked_from: str | None = None
    description: str | None = None
    running: str | None = None


@dataclass(frozen=True, slots=True)
class Graph:
    """All branches of a conversation, newest use first; MAIN and the active one are always among them.

    more: how many were left out. tombstones: places of deleted items, in order, at most 10,000.
    """

    active_branch: str
    branches: Sequence[GraphBranch]
    more: int
    tombstones: Sequence[ItemPlace]


@dataclass(frozen=True, slots=True)
class WindowRequest:
    """Which part of a branch: `limit` places around an item, before or after another window, else at the tip.

    branch: '' for the active one, or where `around` is given for whichever has that item. at: an item or a response;
    the branch as it was when that was its last. before, after: cursors of another window. Of around, before and after
    the first that is given counts.
    """

    branch: str = ""
    around: str = ""
    at: str = ""
    before: str = ""
    after: str = ""
    limit: int = 50


@dataclass(frozen=True, slots=True)
class PlacedItem:
    """An item where it lies. number: of its place on the branch, from 0, deleted ones counted; -1 outside of one.

    data: empty for a deleted item; only its beginning for one of more than `MAX_SHOWN_BYTES`. size: of all of it.
    """

    segment: int
    offset: int
    number: int
    data: bytes
    size: int

    @property
    def is_cut(self) -> bool:
        """Whether data is only the beginning."""
        return len(self.data) < self.size

    @property
    def id(self) -> str:
        """The item's id, '' of a deleted one."""
        return item_id(self.data) if self.data else ""


@dataclass(frozen=True, slots=True)
class Append:
    """What was added to a segment at a time. end: offset past its last item; it begins where the one before ends.

    response_id: None where no response did. model: '' where none is known. status: '' if the response is gone.
    created_at: of the response, in seconds. body: the Response object without `output`; empty if it is gone, or where
    the bodies of a window would be more than `MAX_WINDOW_BODY_BYTES`.
    """

    segment: int
    end: int
    response_id: str | None
    model: str
    status: str = ""
    created_at: int | None = None
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a branch. A window counts places: deleted items are in it, without data.

    branch, line: which it is; '' and -1 of a response outside of all. first: number of its first place. length: places
    of the branch. earlier, later: how many living items come before and after. before, after: cursors, '' where
    nothing is. running: id of the response that is being made on the branch.
    """

    branch: str
    line: int
    items: Sequence[PlacedItem]
    appends: Sequence[Append]
    first: int
    length: int
    earlier: int
    later: int
    before: str
    after: str
    active_branch: str
    running: str | None


@dataclass(frozen=True, slots=True)
class ConversationHead:
    """What a list of conversations shows of one. first: a user's first message, last: the last message, if any.

    Both, item_count, model (of the last answer, '' if there is none) and running are the active branch's.
    """

    item_count: int
    branch_count: int
    model: str
    first: Excerpt | None
    last: Excerpt | None
    running: str | None


@dataclass(frozen=True, slots=True)
class LocatedItem:
    """An item of a conversation. branch: the active one, MAIN, or any that has it. model: '' where none is known.

    note: what is kept beside it, '' for nothing. places: all of them. response_id: of the response that brought it.
    """

    data: bytes
    note: str
    places: Sequence[ItemPlace]
    branch: str
    response_id: str | None
    model: str


@dataclass(frozen=True, slots=True)
class Scan:
    """A page of all living items of a conversation's branches, each once. after: where to go on, None at the end."""

    items: Sequence[PlacedItem]
    after: ItemPlace | None


@dataclass(frozen=True, slots=True)
class FoundId:
    """What an id leads to. kind: `conversation`, `response` or `item`.

    conversation_id, branch: where it is, None outside of all. response_id: the response that it is, or that brought it.
    """

    kind: str
    conversation_id: str | None
    branch: str | None
    response_id: str | None


@dataclass(frozen=True, slots=True)
class RecentResponse:
    """A response of late. touched_at: when it was accepted or finished, in ms. body: empty if it is over 64 kB.

    asked: the last item that the model was given; answered: the last that it gave.
    """

    id: str
    touched_at: int
    status: str
    body: bytes
    asked: Excerpt | None
    answered: Excerpt | None


@dataclass(frozen=True, slots=True)
class RecentPage:
    """Responses of late, newest first unless asked otherwise. next_cursor continues exactly here."""

    responses: Sequence[RecentResponse]
    has_more: bool
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class WatchedBranch:
    """What a watcher looks at. branch: '' for the active one."""

    owner: str
    conversation_id: str
    branch: str


@dataclass(frozen=True, slots=True)
class Pulse:
    """A watched branch at a moment. updated_at: of the conversation, in ms. branch_count: of the conversation.

    tip: place behind the branch's last, None while there is no such branch. running: id of the response that is being
    made on it. followable: its events are kept.
    """

    updated_at: int
    active_branch: str
    title: str | None
    branch_count: int
    tip: ItemPlace | None
    running: str | None
    followable: bool
