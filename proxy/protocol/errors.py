"""Errors: what a caller can be told went wrong, and the one place that writes it down as JSON.

    ApiError
    ├── BadRequest           400  the caller's input; names the parameter
    ├── Unauthorized         401  no, bad or expired credentials; never says which
    ├── Forbidden            403  a web page that may not call here
    ├── NotFound             404  unknown = foreign = deleted, byte for byte
    ├── MethodNotAllowed     405
    ├── RequestTimeout       408
    ├── AlreadyExists        409  a name that is taken; not to be repeated
    ├── InProgress           409  the same request runs already; to be repeated
    ├── PayloadTooLarge      413
    ├── UnsupportedMedia     415
    ├── KeyReused            422  an idempotency key that stands for another request
    ├── TooManyRequests      429  more than the owner's quota; to be repeated later
    ├── QuotaReached         429  more than the owner may have; not to be repeated
    ├── UpgradeRequired      426  WebSocket asked for, not offered
    ├── InternalError        500
    ├── BadGateway           502  the upstream broke off or spoke nonsense
    ├── ServiceUnavailable   503  the store or the upstream can't be reached; retry
    ├── GatewayTimeout       504
    ├── InsufficientStorage  507  the store has no room for anything new
    └── UpstreamRefusal       *   the upstream's own 4xx/5xx, in our envelope

Statuses, codes and messages per case: OpenAI's, as docs/api/errors.md lists them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson


class ApiError(Exception):
    """An answer other than success. `str()` of it is the message the caller reads; keep secrets out of it.

    message: what is wrong, in a sentence. param: path of the offending field (`items[0].id`) or None.
    code: stable slug or None. headers: extra response headers.
    """

    status = 500
    type = "server_error"
    code: str | None = None
    param: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code
        self.headers: Mapping[str, str] = headers or {}

    def to_dict(self) -> dict[str, Any]:
        """Return OpenAI's error object: message, type, param, code."""
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code}


class BadRequest(ApiError):
    """400: the request itself is wrong."""

    status = 400
    type = "invalid_request_error"


class Unauthorized(ApiError):
    """401 with a challenge and no hint of what was wrong with the credentials."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"

    def __init__(self, message: str = "Incorrect or missing credentials.") -> None:
        super().__init__(message, headers={"WWW-Authenticate": 'Bearer realm="branchline"'})


class Forbidden(ApiError):
    """403: a browser's request for a page of another origin, where nothing else tells who is calling."""

    status = 403
    type = "invalid_request_error"
    code = "origin_not_allowed"


class NotFound(ApiError):
    """404: never existed, was deleted, or belongs to somebody else: the answer is the same."""

    status = 404
    type = "invalid_request_error"


class MethodNotAllowed(ApiError):
    """405 with the methods that the path has."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class RequestTimeout(ApiError):
    """408: the caller did not finish sending its request in time."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class AlreadyExists(ApiError):
    """409 with the header that keeps OpenAI's clients from repeating the request, which they do on this status."""

    status = 409
    type = "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None, code: str) -> None:
        super().__init__(message, param=param, code=code, headers={"x-should-retry": "false"})


class InProgress(ApiError):
    """409: an earlier attempt at this request still runs; OpenAI's clients repeat on this status by themselves."""

    status = 409
    type = "invalid_request_error"
    code = "request_in_progress"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"Retry-After": "2"})


class KeyReused(ApiError):
    """422: the idempotency key came with another request before."""

    status = 422
    type = "invalid_request_error"
    code = "idempotency_key_reused"
    param = "Idempotency-Key"

    def __init__(self) -> None:
        super().__init__("This idempotency key was used for another request. Use a new key for each request.")


class PayloadTooLarge(ApiError):
    """413: the request body, sent or decompressed, is over `server.max_json_bytes` or `server.max_body_bytes`."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class UnsupportedMedia(ApiError):
    """415: a content type or encoding that the path can't read."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class TooManyRequests(ApiError):
    """429: the caller has to wait; OpenAI's clients do so by themselves, for as long as `Retry-After` says."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message, headers={"Retry-After": str(math.ceil(retry_after_seconds))})


class QuotaReached(ApiError):
    """429 with the header that keeps OpenAI's clients from repeating the request: waiting does not help."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"x-should-retry": "false"})


class UpgradeRequired(ApiError):
    """426: Codex CLI falls back from WebSocket to HTTP on this status."""

    status = 426
    type = "invalid_request_error"
    code = "websocket_not_supported"


class InternalError(ApiError):
    """500: a fault of ours; the log has the traceback under the request id."""

    code = "internal_error"


class BadGateway(ApiError):
    """502: the upstream broke off, could not be reached, or answered nonsense."""

    status = 502
    code = "upstream_error"


class ServiceUnavailable(ApiError):
    """503: the store can't be reached or the server is stopping; nothing was done, so retry."""

    status = 503
    code = "service_unavailable"

    def __init__(self, message: str, *, code: str | None = None, retry_after_seconds: int = 1) -> None:
        super().__init__(message, code=code, headers={"Retry-After": str(retry_after_seconds)})


class GatewayTimeout(ApiError):
    """504: the upstream did not answer in time."""

    status = 504
    code = "upstream_timeout"


class InsufficientStorage(ApiError):
    """507 with the header that keeps OpenAI's clients from repeating the request: room is not made in a second."""

    status = 507
    code = "insufficient_storage"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"x-should-retry": "false"})


class UpstreamRefusal(ApiError):
    """The upstream's own error answer: its status, and its error object brought into OpenAI's shape."""

    def __init__(self, status: int, error: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(str(error.get("message") or f"The upstream answered {status}."), headers=headers)
        self.status = status
        self.error = dict(error)

    def to_dict(self) -> dict[str, Any]:
        """Return the upstream's error object, every field of it, with OpenAI's four always present."""
        shape = "invalid_request_error" if self.status < 500 else "server_error"
        code = self.error.get("code")
        return {
            **self.error,
            "message": self.message,
            "type": self.error.get("type") or shape,
            "param": self.error.get("param"),
            # llama.cpp sends the status as an integer code; clients expect a slug or null
            "code": code if isinstance(code, str) else None,
        }


def error_body(error: ApiError, request_id: str, error_format: str = "openai") -> bytes:
    """Return the JSON body for `error`.

    `openai`: `{"error": {message, type, param, code}, "code", "message", "request_id"}`;
    `flat`: `{"code", "error": "<message>", "message", "request_id"}` for clients that need a string there.
    """
    inner = error.to_dict()
    outer: dict[str, Any] = {"code": inner["code"], "message": inner["message"], "request_id": request_id}
    if error_format == "flat":
        return orjson.dumps({**outer, "code": inner["code"] or "", "error": inner["message"]})
    return orjson.dumps({"error": inner, **outer})


def method_not_allowed(method: str, allowed: str) -> MethodNotAllowed:
    """405 with `Allow`. allowed: the path's methods, joined with commas."""
    return MethodNotAllowed(f"Not allowed here: {method}; allowed: {allowed}.", headers={"Allow": allowed})


def conversation_not_found(conversation_id: str) -> NotFound:
    """404 on every route and in responses.create, with no code (recorded answers of OpenAI)."""
    return NotFound(f"Conversation with id '{conversation_id}' not found.")


def response_not_found(response_id: str) -> NotFound:
    """404 for a response named in the path."""
    return NotFound(f"Response with id '{response_id}' not found.")


def previous_response_not_found(response_id: str) -> BadRequest:
    """400, not 404, for a response that a turn wants to continue."""
    return BadRequest(
        f"Previous response with id '{response_id}' not found.",
        param="previous_response_id",
        code="previous_response_not_found",
    )


def response_unfinished(response_id: str, param: str | None) -> BadRequest:
    """400 for a background response that a turn wants to continue before its end."""
    message = f"Response with id '{response_id}' is not finished: wait while it is 'queued' or 'in_progress'."
    return BadRequest(message, param=param, code="response_not_finished")


def item_not_found(item_id: str, param: str | None = None, *, referenced: bool = False) -> NotFound:
    """404 for an item; a reference gets OpenAI's hint about `store`."""
    hint = (
        " Items are not persisted when `store` is set to false. Try again with `store` set to true, "
        "or remove this item from your input."
    )
    return NotFound(f"Item with id '{item_id}' not found.{hint if referenced else ''}", param=param)


def duplicate_item(item_id: str, param: str) -> BadRequest:
    """400 for a client's own id that stands for another item already, here or in the same request."""
    return BadRequest(
        f"Duplicate item found with id {item_id}: it was given to an item with other content before. Use an id once, "
        "or leave it out.",
        param=param,
        code="duplicate_item",
    )


def conversation_locked() -> BadRequest:
    """400, never 409: openai-agents waits and repeats on exactly this code; 409 the base client repeats blindly."""
    return BadRequest(
        "Another process is currently operating on this conversation. Please retry in a few seconds.",
        param="conversation",
        code="conversation_locked",
    )


def history_too_long(limit: str) -> BadRequest:
    """400 for a turn on more history, or for more of it, than one may have. limit: what it may have, in words."""
    return BadRequest(
        f"The history is too long: at most {limit}. Begin a new conversation, or compact this one.",
        param="conversation",
        code="history_too_long",
    )


def invalid_type(param: str, expected: str, got: str) -> BadRequest:
    """400 for a value of the wrong JSON type."""
    message = f"Invalid type for '{param}': expected {expected}, but got {got} instead."
    return BadRequest(message, param=param, code="invalid_type")


def missing_parameter(param: str) -> BadRequest:
    """400 for a required parameter that is absent."""
    return BadRequest(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def unknown_parameter(param: str, hint: str) -> BadRequest:
    """400 for a parameter that an object of ours does not have. hint: a sentence that says what to do instead."""
    return BadRequest(f"Unknown parameter: '{param}'. {hint}", param=param, code="unknown_parameter")


def too_long(param: str, limit: int, length: int) -> BadRequest:
    """400 for a string over its limit, in characters."""
    return BadRequest(
        f"Invalid '{param}': string too long. Expected a string with maximum length {limit}, "
        f"but got a string with length {length} instead.",
        param=param,
        code="string_above_max_length",
    )


def invalid_id_prefix(param: str, value: str, prefix: str) -> BadRequest:
    """400 for an id of the wrong kind."""
    message = f"Invalid '{param}': '{value}'. Expected an ID that begins with '{prefix}'."
    return BadRequest(message, param=param, code="invalid_value")


def invalid_id_characters(param: str, value: str) -> BadRequest:
    """400 for an id with characters that no id has."""
    return BadRequest(
        f"Invalid '{param}': '{value}'. Expected an ID that contains letters, numbers, underscores, or dashes, "
        "but this value contained additional characters.",
        param=param,
        code="invalid_value",
    )


def branch_exists(name: str, param: str = "name") -> AlreadyExists:
    """409 for the name of a branch that is there, or that a running turn is about to make."""
    return AlreadyExists(f"Branch '{name}' already exists.", param=param, code="branch_already_exists")


def json_type(value: Any) -> str:
    """Return the JSON name of a value's type, as error messages name it."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float() | orjson.Fragment():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
