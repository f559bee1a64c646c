"""The Response object: who decides which field, and what it holds when nobody says.

    ours       id, object, created_at, status, output, previous_response_id, conversation, store, background
    settings   the upstream's echo, else the client's request, else OpenAI's default
    result     model, usage, error, incomplete_details, completed_at: the upstream's, brought into shape
    the rest   as the upstream sent it

Which keys must be there, and which may not be null: OpenAI's specification and Open Responses' `ResponseResource`.
"""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import orjson

from proxy.protocol.params import includes_encrypted

if TYPE_CHECKING:
    from storage import TurnSource

#: `response.error.code` as OpenAI's client knows it (openai/types/responses/response_error.py) …
_SPECIFIED_CODES = frozenset(
    {
        "server_error",
        "rate_limit_exceeded",
        "invalid_prompt",
        "data_residency_mismatch",
        "bio_policy",
        "misalignment_policy_violation",
        "vector_store_timeout",
        "invalid_image",
        "invalid_image_format",
        "invalid_base64_image",
        "invalid_image_url",
        "image_too_large",
        "image_too_small",
        "image_parse_error",
        "image_content_policy_violation",
        "invalid_image_mode",
        "image_file_too_large",
        "unsupported_image_media_type",
        "empty_image_file",
        "failed_to_download_image",
        "image_file_not_found",
    }
)
#: … and those that OpenAI sends beside them. Codex CLI decides by these whether to try again.
_SENT_CODES = frozenset(
    {
        "context_length_exceeded",
        "insufficient_quota",
        "usage_not_included",
        "server_is_overloaded",
        "slow_down",
        "cyber_policy",
    }
)
_CODES = _SPECIFIED_CODES | _SENT_CODES

#: Other servers' words for the reasons of `incomplete_details`.
_REASONS = {"length": "max_output_tokens", "max_tokens": "max_output_tokens", "content-filter": "content_filter"}

#: What `usage` counts of tokens in more detail, where nothing is said of it.
_INPUT_COUNTS = {"cached_tokens": 0, "cache_write_tokens": 0}
_OUTPUT_COUNTS = {"reasoning_tokens": 0}

_SILENT_FAILURE = "The model server failed and did not say why."


@dataclass(slots=True)
class Ownership:
    """What Branchline decides in every Response object of a turn; nobody changes it."""

    response_id: str
    previous_response_id: str | None
    #: Key `conversation: {"id"}` is present only if this is set; its `branch` only if that is.
    conversation_id: str | None
    store: bool
    #: Item type → a fresh id of ours.
    new_item_id: Callable[[str], str]
    #: The client's request body, for echoing settings that the upstream left out. Never changed.
    request: Mapping[str, Any]
    #: The client asked to include `reasoning.encrypted_content`.
    show_encrypted: bool
    #: Unix seconds, used if the upstream names none.
    created_at: int
    branch: str = ""

    @classmethod
    def of(
        cls,
        asked: Mapping[str, Any],
        source: TurnSource,
        *,
        response_id: str,
        created_at: int,
        store: bool,
        new_item_id: Callable[[str], str],
        branch: str = "",
    ) -> Self:
        """Return the ownership of the response to a request.

        asked: the client's request body, checked. source: what it goes on from. created_at: Unix seconds.
        branch: where the turn goes on; the client is told if it named a branch, or had one made.
        """
        return cls(
            response_id=response_id,
            previous_response_id=source.previous_response_id,
            conversation_id=source.conversation_id,
            store=store,
            new_item_id=new_item_id,
            request=asked,
            show_encrypted=includes_encrypted(asked),
            created_at=created_at,
            branch=branch if source.branch or source.fork else "",
        )


class _Setting(NamedTuple):
    name: str
    types: tuple[type, ...]
    default: Any


_SETTINGS = (
    _Setting("instructions", (str, list), None),
    _Setting("max_output_tokens", (int,), None),
    _Setting("max_tool_calls", (int,), None),
    _Setting("metadata", (dict,), {}),
    _Setting("parallel_tool_calls", (bool,), default=True),
    _Setting("temperature", (int, float), 1.0),
    _Setting("top_p", (int, float), 1.0),
    _Setting("presence_penalty", (int, float), 0.0),
    _Setting("frequency_penalty", (int, float), 0.0),
    _Setting("top_logprobs", (int,), 0),
    _Setting("tool_choice", (str, dict), "auto"),
    _Setting("tools", (list,), []),
    _Setting("text", (dict,), {}),
    _Setting("reasoning", (dict,), {}),
    _Setting("truncation", (str,), "disabled"),
    _Setting("prompt_cache_key", (str,), None),
    _Setting("prompt_cache_retention", (str,), None),
    _Setting("safety_identifier", (str,), None),
    _Setting("user", (str,), None),
)

#: What a Response repeats of its request.
SETTING_NAMES = tuple(setting.name for setting in _SETTINGS)
#: Settings that may be long; all others are the same turn after turn.
_LONG = frozenset({"instructions", "tools"})
_LONG_SETTINGS = tuple(setting for setting in _SETTINGS if setting.name in _LONG)
_SHORT_NAMES = tuple(name for name in SETTING_NAMES if name not in _LONG)

#: Accounts of the short settings that are remembered as completed, and how many bytes one may have.
MAX_ACCOUNTS, MAX_ACCOUNT_BYTES = 256, 4096

_EMPTY: tuple[Any, ...] = ({}, [])


def same_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two accounts of a response give the same settings."""
    return list(map(one.get, SETTING_NAMES)) == list(map(other.get, SETTING_NAMES))


def complete_response(
    upstream: Mapping[str, Any],
    ownership: Ownership,
    status: str,
    output: list[dict[str, Any]],
    error: dict[str, Any] | None,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the whole Response object for the client.

    upstream: what the upstream said of it so far. status: one of the API's six. output: the client's view of the
    items. error: from `complete_error`, for a failed response. settings: from `complete_settings`.
    """
    running = status in ("queued", "in_progress")
    background = ownership.request.get("background") is True
    # a background response was told its time before the upstream knew of it
    created_at = None if background else _seconds(upstream.get("created_at"))
    response: dict[str, Any] = {
        "id": ownership.response_id,
        "object": "response",
        "created_at": ownership.created_at if created_at is None else created_at,
        "status": status,
        "model": _model(upstream, ownership.request),
        "output": output,
        "error": error,
        "incomplete_details": _incomplete_details(upstream) if status == "incomplete" else None,
        "usage": None if running else _usage(upstream.get("usage")),
        "previous_response_id": ownership.previous_response_id,
        "store": ownership.store,
        "background": background,
        "service_tier": _service_tier(upstream, ownership.request, running=running),
        **settings,
    }
    response["completed_at"] = _completed_at(upstream, response) if status == "completed" else None
    if ownership.conversation_id is not None:
        response["conversation"] = {"id": ownership.conversation_id}
        if ownership.branch:
            response["conversation"]["branch"] = ownership.branch
    for key, value in upstream.items():
        if key not in response and key != "conversation":
            response[key] = value
    return response


def complete_error(error: Any) -> dict[str, Any]:
    """Return a Response object's `error`: code and message always there, the code one that clients know.

    error: what the upstream sent: an object, a text, anything. A code that no client knows becomes `server_error`
    and moves into the message.
    """
    fields: dict[str, Any] = dict(error) if isinstance(error, dict) else {"message": error}
    message = fields.get("message")
    code = fields.get("code")
    fields["message"] = message if isinstance(message, str) and message else _SILENT_FAILURE
    if isinstance(code, str) and code in _CODES:
        return fields
    fields["code"] = "server_error"
    if isinstance(code, str) and code and code not in fields["message"]:
        fields["message"] += f" ({code})"
    return {"code": "server_error", **fields}


def _model(upstream: Mapping[str, Any], request: Mapping[str, Any]) -> str:
    for source in (upstream, request):
        model = source.get("model")
        if isinstance(model, str) and model:
            return model
    return ""


def complete_settings(upstream: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a Response object repeats: the upstream's word, else the request's, else the default.

    They are not to be changed: those that were told and asked alike before are shared.
    """
    settings = _SHORT_SETTINGS.complete(upstream, request)
    for setting in _LONG_SETTINGS:
        settings[setting.name] = _complete_setting(setting, upstream.get(setting.name), request.get(setting.name))
    settings["tools"] = [_tool(tool) for tool in settings["tools"] if isinstance(tool, dict)]
    return settings


class _ShortSettings:
    """All settings but the long ones, completed; what was told and asked lately is remembered, by its bytes as JSON."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, dict[str, Any]] = OrderedDict()

    def complete(self, upstream: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
        """Return all settings in their order, the long ones as None."""
        account = list(map(upstream.get, _SHORT_NAMES)), list(map(request.get, _SHORT_NAMES))
        try:
            said = orjson.dumps(account)
        except orjson.JSONEncodeError:
            return self._made(*account)
        if (known := self._known.get(said)) is None:
            known = self._made(*account)
            if len(said) <= MAX_ACCOUNT_BYTES:
                self._known[said] = known
                if len(self._known) > MAX_ACCOUNTS:
                    self._known.popitem(last=False)
        return dict(known)

    def _made(self, told: list[Any], asked: list[Any]) -> dict[str, Any]:
        said = dict(zip(_SHORT_NAMES, zip(told, asked, strict=True), strict=True))
        settings: dict[str, Any] = {
            setting.name: None if setting.name in _LONG else _complete_setting(setting, *said[setting.name])
            for setting in _SETTINGS
        }
        settings["tool_choice"] = settings["tool_choice"] or "auto"
        settings["text"] = _text(settings["text"])
        settings["reasoning"] = {"effort": None, "summary": None, **settings["reasoning"]}
        if settings["truncation"] not in ("auto", "disabled"):
            settings["truncation"] = "disabled"
        return settings


_SHORT_SETTINGS = _ShortSettings()


def _complete_setting(setting: _Setting, told: Any, asked: Any) -> Any:
    _, types, default = setting
    # bool is an int to Python, not to JSON.
    is_told, is_asked = type(told) in types, type(asked) in types and not _says_nothing(asked)
    if is_told and not (is_asked and _says_nothing(told)):
        return told
    if is_asked:
        return {**told, **asked} if type(told) is type(asked) is dict else asked
    return copy.copy(default) if default in _EMPTY else default


def _says_nothing(value: Any) -> bool:
    # Servers echo settings that they don't know as "", [], {} or {"effort": null}: the request knows better.
    if type(value) is dict:
        return all(inner is None for inner in value.values())
    return type(value) in (str, list) and not value


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": None, **tool}


def _text(text: dict[str, Any]) -> dict[str, Any]:
    form = text.get("format")
    if not isinstance(form, dict):
        form = {"type": "text"}
    elif form.get("type") == "json_schema":
        form = {"name": "", "description": None, "schema": None, **form, "strict": form.get("strict") is True}
    return {**text, "format": form, "verbosity": text.get("verbosity") or "medium"}


def _service_tier(upstream: Mapping[str, Any], request: Mapping[str, Any], *, running: bool) -> str:
    tier = upstream.get("service_tier")
    if isinstance(tier, str) and tier:
        return tier
    asked = request.get("service_tier")
    if isinstance(asked, str) and asked and (running or asked != "auto"):
        return asked
    return "auto" if running else "default"


def _incomplete_details(upstream: Mapping[str, Any]) -> dict[str, Any] | None:
    details = upstream.get("incomplete_details")
    if not isinstance(details, dict):
        return None
    reason = details.get("reason")
    return {**details, "reason": _REASONS.get(reason, reason) if isinstance(reason, str) else None}


def _completed_at(upstream: Mapping[str, Any], response: dict[str, Any]) -> int:
    completed_at = _seconds(upstream.get("completed_at"))
    created_at: int = response["created_at"]
    # The upstream's clock may be ahead of ours: a response is never completed before it was created.
    return max(created_at, int(time.time())) if completed_at is None else completed_at


def _seconds(value: Any) -> int | None:
    return _count(value) or None


def _usage(usage: Any) -> dict[str, Any] | None:
    if not isinstance(usage, dict):
        return None
    input_tokens, output_tokens = _count(usage.get("input_tokens")), _count(usage.get("output_tokens"))
    return {
        **usage,
        "input_tokens": input_tokens,
        "input_tokens_details": _counts(usage.get("input_tokens_details"), _INPUT_COUNTS),
        "output_tokens": output_tokens,
        "output_tokens_details": _counts(usage.get("output_tokens_details"), _OUTPUT_COUNTS),
        "total_tokens": _count(usage.get("total_tokens")) or input_tokens + output_tokens,
    }


def total_usage(one: Mapping[str, Any], other: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the usage of two calls together, field by field."""
    total = dict(one)
    for name, value in (other or {}).items():
        earlier = total.get(name)
        if isinstance(value, dict) and isinstance(earlier, dict):
            total[name] = total_usage(earlier, value)
        else:
            total[name] = value + earlier if type(value) is type(earlier) is int else value
    return total


def _counts(details: Any, counts: dict[str, int]) -> dict[str, Any]:
    if not isinstance(details, dict):
        return dict(counts)
    told = {**counts, **details}
    for name in counts:
        if type(count := told[name]) is not int or not 0 <= count < 2**53:
            told[name] = _count(count)
    return told


def _count(value: Any) -> int:
    # The bound is JSON's own for exact integers; orjson could not write one above 64 bits.
    return int(value) if type(value) in (int, float) and 0 <= value < 2**53 else 0
