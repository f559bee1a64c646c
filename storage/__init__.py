"""Branchline's state: conversations, items, branches and responses in Redis or Valkey.

`Store` is the way in; records go in and come out, refusals are `StoreError`s. Knows nothing of HTTP.
"""

from storage.errors import (
    AlreadyThere,
    BranchNotFound,
    Conflict,
    ConversationNotFound,
    CursorNotFound,
    ItemNotFound,
    Locked,
    Missing,
    ResponseNotFound,
    StoreError,
    TooManyMetadata,
    Unavailable,
)
from storage.records import (
    CommitMode,
    CommitResult,
    Conversation,
    ConversationPage,
    Entry,
    ItemPage,
    KnownItem,
    Lease,
    OpenedTurn,
    Origin,
    PageRequest,
    StoredResponse,
    TurnCommit,
    TurnSource,
)
from storage.store import Store

__all__ = [
    "AlreadyThere",
    "BranchNotFound",
    "CommitMode",
    "CommitResult",
    "Conflict",
    "Conversation",
    "ConversationNotFound",
    "ConversationPage",
    "CursorNotFound",
    "Entry",
    "ItemNotFound",
    "ItemPage",
    "KnownItem",
    "Lease",
    "Locked",
    "Missing",
    "OpenedTurn",
    "Origin",
    "PageRequest",
    "ResponseNotFound",
    "Store",
    "StoreError",
    "StoredResponse",
    "TooManyMetadata",
    "TurnCommit",
    "TurnSource",
    "Unavailable",
]
