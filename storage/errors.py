"""Errors of the store: what it can refuse.

StoreError
├── Unavailable               Redis can't be reached, or answers with an error; `reason` says which
│   └── UnsupportedLayout     it is laid out for another version, or a restore was broken off
├── Conflict                  the branch was taken by another turn after the lock was lost
├── Locked                    another turn runs on the branch
├── ServerReplaced            a backup: a server was restarted or replaced meanwhile
├── StoreNotEmpty             a restore: something is there already
├── ResponseUnfinished        the response that a turn continues has not come to its end
├── TooManyMetadata           the merged metadata has too many pairs
├── HistoryFull               the branch would have more items than it may have
├── AlreadyThere              the conversation has this item already
├── Unstaged                  what was staged for the call is gone; whoever stages brings it again
├── QueueFull                 the owner has as many background responses waiting as it may have
├── QuotaExceeded             the owner has as many conversations as it may have
├── BytesExceeded             the owner has stored as many bytes as it may have
├── ConversationExists        what is imported would take the place of something else
├── BranchExists              the conversation has a branch of this name, or a running turn is about to make it
├── BranchProtected           MAIN and the active branch stay, and MAIN keeps its name
├── NotAUserMessage           only a user's message can be edited
├── NotAMessage               only a user's or an assistant's message can be answered anew
├── NoUserMessage             no user's message comes before the answer
└── Missing                   not there, deleted, or another owner's; `subject` is the id asked for
    ├── ConversationNotFound
    ├── BranchNotFound
    ├── ResponseNotFound
    ├── ItemNotFound
    └── CursorNotFound
"""

from __future__ import annotations

from enum import Enum


class StoreError(Exception):
    """Base of all refusals. subject: the id or name it is about."""

    def __init__(self, subject: str = "") -> None:
        super().__init__(subject)
        self.subject = subject


class Reason(Enum):
    """What keeps Redis from doing what it was asked. The value is what people read of it, after "the store"."""

    AWAY = "can't be reached"
    LOADING = "is still loading its data"
    REPLICAS = "has too few replicas that follow it"
    READ_ONLY = "takes no writes at the moment"
    FULL = "is full"
    NO_PERMISSION = "does not let Branchline in, or do this"
    BUSY = "is busy"
    LAYOUT = "is laid out for another version of Branchline, or not restored to its end"
    UNKNOWN = "answered with an error"


class Unavailable(StoreError):
    """Redis can't be reached or can't serve.

    subject: what Redis or its client calls that, without credentials. reason: what it comes down to. unsure: whether
    it may have been done all the same: it was sent, and the answer did not come.
    """

    def __init__(self, subject: str = "", reason: Reason = Reason.AWAY, *, unsure: bool = False) -> None:
        super().__init__(subject)
        self.reason = reason
        self.unsure = unsure


class UnsupportedLayout(Unavailable):
    """The store is not laid out as this code knows it; nothing was read. subject: why, and what to do, after "it"."""

    def __init__(self, subject: str) -> None:
        super().__init__(subject, Reason.LAYOUT)


class HeavyHistory(Exception):
    """No refusal: a history has more than whoever asked for it wants to read; somebody else may.

    subject: the conversation or response. lock: which was taken and is still held, '' for none.
    """

    def __init__(self, subject: str, lock: str) -> None:
        super().__init__(subject)
        self.subject = subject
        self.lock = lock


class Conflict(StoreError):
    """The lock was lost and the branch has moved on; nothing was written."""


class Locked(StoreError):
    """Another turn holds the branch's lock."""


class ResponseUnfinished(StoreError):
    """The response is queued or being made: there is nothing to go on from yet."""


class TooManyMetadata(StoreError):
    """A merge would leave more metadata pairs than are allowed; nothing was changed."""


class AlreadyThere(StoreError):
    """The item is in this conversation already; the whole batch was refused."""


class HistoryFull(StoreError):
    """The branch would have more items than it may have; nothing was added."""


class Unstaged(StoreError):
    """What was staged for the call is not there, or not all of it; nothing was written."""


class ConversationExists(StoreError):
    """An import's conversation would share its partition with another owner's, or with responses; none was written."""


class ServerReplaced(StoreError):
    """A server was restarted or another one took its place while all was read: something may be missing."""


class StoreNotEmpty(StoreError):
    """There is something in the store that a restore would overwrite; nothing was changed. subject: one of its keys."""


class QueueFull(StoreError):
    """The owner has as many responses waiting for a worker as it may have; nothing was queued."""


class QuotaExceeded(StoreError):
    """The owner has as many conversations as it may have; nothing was changed."""


class BytesExceeded(StoreError):
    """The owner has stored as many bytes as it may have; nothing was changed."""


class BranchExists(StoreError):
    """The name is taken; nothing was changed."""


class BranchProtected(StoreError):
    """MAIN and the active branch can't be deleted, MAIN can't be renamed."""


class NotAUserMessage(StoreError):
    """The item is no message of a user, so it can't be edited."""


class NotAMessage(StoreError):
    """The item is no message of a user or an assistant, so there is no answer to make anew."""


class NoUserMessage(StoreError):
    """No message of a user comes before the item on its branch."""


class Missing(StoreError):
    """Unknown, deleted or foreign: these are never told apart."""


class ConversationNotFound(Missing):
    """No such conversation for this owner."""


class BranchNotFound(Missing):
    """The conversation has no branch of this name."""


class ResponseNotFound(Missing):
    """No such response for this owner."""


class ItemNotFound(Missing):
    """No such item where it was looked for."""


class CursorNotFound(Missing):
    """The `after` of a listing names nothing in that listing."""


#: First element of a script's reply → what it means. `ok` and commit_turn's outcomes are not refusals.
REFUSALS: dict[bytes, type[StoreError]] = {
    b"conversation_not_found": ConversationNotFound,
    b"branch_not_found": BranchNotFound,
    b"response_not_found": ResponseNotFound,
    b"response_unfinished": ResponseUnfinished,
    b"item_not_found": ItemNotFound,
    b"cursor_not_found": CursorNotFound,
    b"item_already_in_conversation": AlreadyThere,
    b"branch_exists": BranchExists,
    b"branch_protected": BranchProtected,
    b"not_a_user_message": NotAUserMessage,
    b"not_a_message": NotAMessage,
    b"no_user_message": NoUserMessage,
    b"too_many_metadata": TooManyMetadata,
    b"locked": Locked,
    b"conflict": Conflict,
    b"conversation_exists": ConversationExists,
    b"quota_exceeded": QuotaExceeded,
    b"bytes_exceeded": BytesExceeded,
    b"queue_full": QueueFull,
    b"history_full": HistoryFull,
    b"unstaged": Unstaged,
}
