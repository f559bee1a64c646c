"""What goes into the store and comes out of it. Items are JSON bytes throughout: the store never parses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


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


@dataclass(frozen=True, slots=True)
class Entry:
    """One item to append. mark: see append.lua."""

    origin: Origin
    id: str
    data: bytes
    mark: str = ""


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
    """A stored item that a turn's input names. in_history: the model sees it already."""

    data: bytes
    in_history: bool


@dataclass(frozen=True, slots=True)
class TurnSource:
    """What a turn continues: a conversation's branch, a previous response, or (neither) nothing.

    branch: empty for the active one.
    """

    conversation_id: str | None = None
    previous_response_id: str | None = None
    branch: str = ""

    @property
    def kind(self) -> str:
        """`conversation`, `response` or `none`, as open_turn names them."""
        if self.conversation_id:
            return "conversation"
        return "response" if self.previous_response_id else "none"

    @property
    def subject(self) -> str:
        """The id that it is about, or ''."""
        return self.conversation_id or self.previous_response_id or ""


@dataclass(frozen=True, slots=True)
class OpenedTurn:
    """All that a turn needs before its upstream call.

    history: items as the inside of a JSON array. chain: the same as refs, for the commit. pending: calls that wait
    for an output. fence: number of the lock. known: the input's ids that are stored. calls: the answered call ids
    that the partition knows.
    """

    history: bytes = b""
    chain: bytes = b""
    pending: frozenset[str] = frozenset()
    fence: int = 0
    branch: str = ""
    project_id: str | None = None
    referrer: str | None = None
    known: Mapping[str, KnownItem] = field(default_factory=dict)
    calls: frozenset[str] = frozenset()


class CommitMode(StrEnum):
    """Where a turn's items go."""

    APPEND = "append"  #: to the conversation's branch
    CHAIN = "chain"  #: after the previous response, outside any conversation
    RECORD = "record"  #: readable with the response, inherited by nothing (a failed turn)


@dataclass(frozen=True, slots=True)
class TurnCommit:
    """A finished turn. body: the Response object without its `output`. opened: what open_turn gave."""

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


class CommitResult(StrEnum):
    """How a commit ended."""

    OK = "ok"
    DROPPED = "dropped"  #: the conversation is gone: the response was stored, the append was not
    REPEATED = "repeated"  #: this commit had been done before


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response as stored. body: JSON object without `output`; output: its items."""

    body: bytes
    output: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Lease:
    """A held branch lock that has to be renewed while its turn runs."""

    partition: str
    branch: str
    token: str
