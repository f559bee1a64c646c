"""Store errors as a caller is told of them: statuses and codes are OpenAI's for the same case. Pure."""

from __future__ import annotations

from proxy.protocol.errors import (
    ApiError,
    BadRequest,
    InsufficientStorage,
    InternalError,
    NotFound,
    QuotaReached,
    ServiceUnavailable,
    TooManyRequests,
    branch_exists,
    conversation_locked,
    conversation_not_found,
    history_too_long,
    item_not_found,
    response_not_found,
    response_unfinished,
)
from storage import (
    AlreadyThere,
    BranchExists,
    BranchNotFound,
    BranchProtected,
    BytesExceeded,
    ConversationNotFound,
    CursorNotFound,
    HistoryFull,
    ItemNotFound,
    Locked,
    NotAMessage,
    NotAUserMessage,
    NoUserMessage,
    QueueFull,
    QuotaExceeded,
    Reason,
    ResponseNotFound,
    ResponseUnfinished,
    StoreError,
    TooManyMetadata,
    Unavailable,
)

#: Seconds after which a client may ask again that has too many background responses waiting.
QUEUE_RETRY_SECONDS = 10


def from_branch_error(error: StoreError) -> ApiError | None:
    """Return what a caller is told about a refusal that only branches know; None for any other."""
    match error:
        case BranchNotFound():
            return NotFound(f"Branch '{error.subject}' not found.", param="branch")
        case BranchExists():
            return branch_exists(error.subject)
        case BranchProtected():
            return BadRequest(
                f"Branch '{error.subject}' can't be deleted or renamed: it is MAIN or the active branch.",
                param="branch",
                code="branch_protected",
            )
        case NotAUserMessage():
            return BadRequest("Only messages of a user can be edited.", param="item_id", code="not_a_user_message")
        case NotAMessage():
            return BadRequest(
                "Only messages of a user or an assistant can be answered anew.", param="item_id", code="not_a_message"
            )
        case NoUserMessage():
            return NotFound(f"No message of a user comes before item '{error.subject}'.", param="item_id")
        case _:
            return None


def from_unavailable(error: Unavailable) -> ApiError:
    """Return what a caller is told while the store can't serve: why, and whether anything was changed."""
    if error.unsure:
        text = "The store did not answer" if error.reason is Reason.AWAY else f"The store {error.reason.value}"
        return _unavailable(error.reason, f"{text}. Whether this was carried out is not known; try again.")
    if error.reason is Reason.FULL:
        return _unavailable(error.reason, "The store is full. Nothing was changed; reading and deleting still work.")
    return _unavailable(error.reason, f"The store {error.reason.value}. Nothing was changed; try again.")


def _unavailable(reason: Reason, message: str) -> ApiError:
    match reason:
        case Reason.FULL:
            return InsufficientStorage(message)
        case Reason.LOADING:
            return ServiceUnavailable(message, code="store_loading")
        case Reason.REPLICAS:
            return ServiceUnavailable(message, code="store_too_few_replicas")
        case Reason.READ_ONLY:
            return ServiceUnavailable(message, code="store_read_only")
        case Reason.NO_PERMISSION:
            return ServiceUnavailable(message, code="store_permission_denied")
        case Reason.LAYOUT:
            return ServiceUnavailable(message, code="store_layout_unsupported")
        case Reason.BUSY:
            return ServiceUnavailable(message, code="store_busy")
        case _:
            return ServiceUnavailable(message, code="store_unavailable")


def from_store_error(error: StoreError) -> ApiError:
    """Return what a caller is told about a refusal of the store; statuses and codes as OpenAI's for the same case."""
    match error:
        case Unavailable():
            return from_unavailable(error)
        case ConversationNotFound():
            return conversation_not_found(error.subject)
        case ResponseNotFound():
            return response_not_found(error.subject)
        case ResponseUnfinished():
            return response_unfinished(error.subject, None)
        case ItemNotFound():
            return item_not_found(error.subject)
        case CursorNotFound():
            return NotFound(f"No item found with id '{error.subject}'", param="after")
        case AlreadyThere():
            return BadRequest("Item already in conversation", param="items", code="item_already_in_conversation")
        case TooManyMetadata():
            return BadRequest(
                "Invalid 'metadata': too many properties. Expected an object with at most 16 properties.",
                param="metadata",
                code="object_above_max_properties",
            )
        case Locked():
            return conversation_locked()
        case _:
            unknown = InternalError("The server had an error while processing your request.")
            return from_branch_error(error) or _from_quota(error) or unknown


def _from_quota(error: StoreError) -> ApiError | None:
    match error:
        case HistoryFull():
            return history_too_long("as many items as turns.max_history_items says")
        case QuotaExceeded():
            return QuotaReached("You have as many conversations as you may have; delete one first.")
        case BytesExceeded():
            return QuotaReached("You have stored as many bytes as you may have; delete something first.")
        case QueueFull():
            message = "You have as many background responses waiting as are allowed."
            return TooManyRequests(message, retry_after_seconds=QUEUE_RETRY_SECONDS)
        case _:
            return None
