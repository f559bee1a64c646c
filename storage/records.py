"""Records: what goes into the store and comes out. Items are JSON bytes throughout: the store never parses them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol, TypeAlias

from storage.calls import NO_MARK, CallMark


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation's facts. created_at in seconds, updated_at in milliseconds of Unix time."""

    id: str
    created_at: int
    updated_at: int
    active_branch: str = "MAIN"
    title: str | None = None
    project_id: str | None = None
    referrer: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConversationPage:
    """A page of a listing. next_cursor continues exactly here even if its conversation moves or goes meanwhile."""

    conversations: Sequence[Conversation]
    has_more: bool
    next_cursor: str | None


class Origin(StrEnum):
    """Where an entry's id comes from, which decides what a known id means."""

    MINTED = "m"  #: made for this call; can't be known yet
    CLIENT = "c"  #: brought by the client: if known, the stored item is used and the given bytes are ignored
    REFERENCE = "r"  #: stands for a stored item; unknown is an error


@dataclass(slots=True)
class Entry:
    """One item to append. note: what is kept beside it, see `storage.envelope`."""

    origin: Origin
    id: str
    data: bytes
    mark: CallMark = NO_MARK
    note: str = ""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page: `limit` items past the item `after` (or from the start), oldest first if `ascending`."""

    limit: int = 20
    after: str | None = None
    ascending: bool = False


@dataclass(frozen=True, slots=True)
class ItemPage:
    """Items of a page, in the order asked for."""

    items: Sequence[bytes]
    has_more: bool


@dataclass(frozen=True, slots=True)
class KnownItem:
    """A stored item that a request names, and its note. in_history: the model sees it already."""

    data: bytes
    in_history: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Branch:
    """A named line of a conversation's history. Times in seconds; parent_branch: as it is called now."""

    name: str
    item_count: int
    created_at: int
    updated_at: int
    is_active: bool
    description: str | None = None
    parent_branch: str | None = None
    forked_at: int | None = None
    forked_from_item_id: str | None = None


@dataclass(frozen=True, slots=True)
class BranchPage:
    """Branches of a page, in the order asked for, and the name of the active one."""

    branches: Sequence[Branch]
    has_more: bool
    active_branch: str


class ForkPoint(StrEnum):
    """Which part of a branch's history a new one starts with. The target is an item, of `AT` also a response."""

    TIP = "tip"  #: all of it; no target
    AFTER = "after"  #: up to the item, inclusive
    BEFORE = "before"  #: up to the item, exclusive
    WITHOUT = "without"  #: all but the item
    EDIT = "edit"  #: like BEFORE, of a user's message only
    REPLY = "reply"  #: up to the user's message that the item is, or answers
    AT = "at"  #: as it was when the item was its last, or when the response had ended


@dataclass(frozen=True, slots=True)
class Fork:
    """A new branch. name: what it is called; empty: it becomes MAIN, and the old MAIN is called `backup`."""

    point: ForkPoint
    target: str = ""
    name: str = ""
    backup: str = ""
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Forked:
    """A branch that was made. items: what was appended to it. anchor: id of the last inherited item.

    source: the branch that was forked, None for a response outside of all. backup: what the old MAIN is called now.
    """

    branch: Branch
    items: Sequence[bytes]
    anchor: str | None
    source: str | None
    backup: str | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two branches beside each other. ancestor: last item of their common beginning. shared: how many both have."""

    ancestor: bytes | None
    shared: int
    only_first: ItemPage
    only_second: ItemPage


@dataclass(slots=True)
class TurnSource:
    """What a turn continues: a conversation's branch, a previous response, or (neither) nothing.

    branch: empty for the active one. fork: the branch that the turn makes; `branch` is then the one that is forked,
    empty for the one that has the target.
    """

    conversation_id: str | None = None
    previous_response_id: str | None = None
    branch: str = ""
    fork: Fork | None = None
    #: The id that it is about, or ''.
    subject: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.subject = self.conversation_id or self.previous_response_id or ""

    @property
    def kind(self) -> str:
        """`conversation`, `response` or `none`, as open_turn names them."""
        if self.conversation_id:
            return "conversation"
        return "response" if self.previous_response_id else "none"


class HistoryLimit(NamedTuple):
    """How much of a history somebody wants to read. items, bytes: from which on it is too much."""

    items: int
    bytes: int


@dataclass(slots=True)
class OpenedTurn:
    """All that a turn needs before its upstream call.

    items: the history, oldest first. chain: the same as refs, for the commit. pending: calls that wait for an output.
    notes, severed: see `storage.history`. line: the branch that is continued or forked, -1 for none. branch: the name
    under which the turn will be found. lock: which lock is held. known: the input's ids that are
    stored. calls: the answered call ids that the partition knows. anchor: id of the last item that a fork inherits;
    model: of the answer that it replaces. watched: somebody watches the conversation. beside: id of the
    conversation in whose partition the previous response lives, '' for none.
    """

    items: Sequence[bytes] = ()
    chain: bytes = b""
    pending: frozenset[str] = frozenset()
    line: int = -1
    branch: str = ""
    lock: str = ""
    project_id: str | None = None
    referrer: str | None = None
    known: Mapping[str, KnownItem] = field(default_factory=dict)
    calls: frozenset[str] = frozenset()
    anchor: str | None = None
    model: str | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    severed: frozenset[str] = frozenset()
    watched: bool = False
    beside: str = ""

    @property
    def history(self) -> bytes:
        """The items as the inside of a JSON array."""
        return b",".join(self.items)


class CommitMode(StrEnum):
    """Where a turn's items go."""

    APPEND = "append"  #: to the conversation's branch
    FORK = "fork"  #: to a new branch, made in the same step
    PROMOTE = "promote"  #: the same, and the new branch becomes MAIN
    CHAIN = "chain"  #: after the previous response, outside any conversation
    RECORD = "record"  #: readable with the response, inherited by nothing (a failed turn)


@dataclass(slots=True)
class TurnCommit:
    """A finished turn. body: the Response object without its `output`. opened: what open_turn gave.

    model: as the caller named it, '' if it did not. fork: as the turn was opened with. job_token: of a response that
    was accepted before its turn ran, see submit_response; else ''.
    """

    owner: str
    response_id: str
    partition: str
    mode: CommitMode
    opened: OpenedTurn
    conversation_id: str | None
    token: str
    stored: bool
    status: str
    body: bytes
    inputs: Sequence[Entry]
    outputs: Sequence[Entry]
    model: str = ""
    fork: Fork | None = None
    job_token: str = ""


class CommitResult(StrEnum):
    """How a commit ended."""

    OK = "ok"
    DROPPED = "dropped"  #: the conversation or its branch is gone: the response was stored, the append was not
    REPEATED = "repeated"  #: this commit had been done before


@dataclass(slots=True)
class Committed:
    """What a commit did. branch: the one that a fork made, backup: what the old MAIN is called now.

    places: of its entries on a branch, as a chain, inputs first; b"" where that is not known.
    """

    result: CommitResult
    branch: Branch | None = None
    backup: str | None = None
    places: bytes = b""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response as stored. body: JSON object without `output`; output: its items."""

    body: bytes
    output: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Lease:
    """A held lock that has to be renewed while its turn runs. lock: see `OpenedTurn`."""

    partition: str
    lock: str
    token: str


#: Spans in reading order, all closed. A span is items that follow each other: segment, first offset, offset past the
#: last.
Chain: TypeAlias = Sequence[tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class ArchivedBranch:
    """A branch as it is exported. line: number of the segment that it writes. Times in ms, forked_at in seconds.

    pending: calls that wait for an output. parent: a line, which need not be there any more. mixed: see journal.lua.
    """

    line: int
    name: str
    chain: Chain
    pending: Sequence[str]
    created_at: int
    updated_at: int
    parent: int | None = None
    forked_at: int | None = None
    forked_from: str | None = None
    description: str | None = None
    mixed: bool = False


@dataclass(frozen=True, slots=True)
class ArchivedResponse:
    """A response as it is exported. body: JSON object without `output`. created_at in seconds."""

    status: str
    body: bytes
    snapshot: Chain
    context: Chain
    output: Chain
    pending: Sequence[str]
    created_at: int


@dataclass(frozen=True, slots=True)
class ArchivedAppend:
    """An entry of the journal: where a segment ended after an append, and the response that made it.

    id: None where no response did. model: '' where none is known. response: None when it is gone.
    """

    segment: int
    end: int
    id: str | None
    model: str
    pending: Sequence[str]
    response: ArchivedResponse | None


@dataclass(frozen=True, slots=True)
class ArchivedItem:
    """An item where it lies. data: empty for one that was deleted or that nothing reads. mark: None if unknown.

    note: what is kept beside it.
    """

    segment: int
    offset: int
    data: bytes
    mark: CallMark | None = None
    id: str = ""
    note: str = ""


class ImportSource(Protocol):
    """What an import reads, all of it checked. Its segments are numbered from 0 without gaps.

    The same fingerprint goes on where an interrupted import stopped.
    """

    @property
    def fingerprint(self) -> str:
        """Name of the content."""
        ...

    @property
    def conversation(self) -> Conversation:
        """The conversation's facts."""
        ...

    @property
    def branches(self) -> Sequence[ArchivedBranch]:
        """All branches, MAIN and the active one among them."""
        ...

    @property
    def lengths(self) -> Sequence[int]:
        """How many items each segment has."""
        ...

    def appends(self) -> Iterable[ArchivedAppend]:
        """Return all, in any order."""
        ...

    def items(self) -> Iterable[ArchivedItem]:
        """Return the items of each segment from offset 0 on, without gaps."""
        ...
