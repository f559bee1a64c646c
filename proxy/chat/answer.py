"""An answer of Chat Completions as items, and what a response's record keeps of it. Pure.

What is no answer yields no choices, and its `problem` says why: whoever takes answers down never fails by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from proxy.chat.compose import ChatItem
from proxy.chat.read import assistant_items, with_chat
from proxy.protocol.ids import new_call_id
from proxy.protocol.item_types import Item
from proxy.protocol.lenient_json import loads_lenient

#: Why a choice ended → why its response is incomplete.
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
#: Fields of an answer that no item has, and that its record keeps.
_KEPT = ("id", "system_fingerprint", "service_tier")
_MAX_TEXT = 256


@dataclass(frozen=True, slots=True)
class ChatLimits:
    """What of one answer is taken down. max_bytes: of all of it, max_event_bytes: of one event of a stream."""

    max_bytes: int = 64 * 1024 * 1024
    max_event_bytes: int = 16 * 1024 * 1024
    max_choices: int = 128
    max_calls: int = 1024


CHAT_LIMITS = ChatLimits()


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the answers. items: without ids. finish_reason: None if it never came.

    status: `completed` or `incomplete`; incomplete_details: as a response has it, None where nothing is known.
    """

    index: int
    items: list[ChatItem]
    finish_reason: str | None = None
    status: str = "completed"
    incomplete_details: Mapping[str, str] | None = None

    @property
    def bare_items(self) -> list[Item]:
        """The items alone."""
        return [one.item for one in self.items]


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer. choices: by index, none if it is no answer; problem: what was wrong with it, '' for nothing.

    usage: as a response has it. extra: what else the record of a response keeps.
    """

    choices: list[Choice] = field(default_factory=list)
    model: str = ""
    created: int | None = None
    usage: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


def read_completion(body: bytes, limits: ChatLimits = CHAT_LIMITS, mint: Callable[[], str] = new_call_id) -> Completion:
    """Return what a JSON answer says. mint: makes ids for calls that have none."""
    if len(body) > limits.max_bytes:
        return Completion(problem="larger than what is taken down")
    try:
        value = loads_lenient(body)
    except orjson.JSONDecodeError:
        return Completion(problem="no JSON")
    return completion_of(value, limits, mint)


def completion_of(value: Any, limits: ChatLimits = CHAT_LIMITS, mint: Callable[[], str] = new_call_id) -> Completion:
    """Return what a parsed answer says."""
    if not isinstance(value, dict) or not isinstance(value.get("choices"), list):
        is_error = isinstance(value, dict) and value.get("error") is not None
        return Completion(problem="an error" if is_error else "no choices")
    found = value["choices"]
    if len(found) > limits.max_choices:
        return Completion(problem="more choices than are taken down")
    if any(len(_list(_message(one).get("tool_calls"))) > limits.max_calls for one in found):
        return Completion(problem="more calls than are taken down")
    choices = [_choice(one, number, mint) for number, one in enumerate(found) if _message(one)]
    model, created = value.get("model"), value.get("created")
    return Completion(
        sorted(choices, key=lambda choice: choice.index),
        model if isinstance(model, str) else "",
        created if type(created) is int else None,
        _usage(value.get("usage")),
        {name: value[name] for name in _KEPT if isinstance(value.get(name), str) and len(value[name]) <= _MAX_TEXT},
        "" if choices else "no message",
    )


def response_fields(completion: Completion, choice: Choice) -> dict[str, Any]:
    """Return what a response's record has of an answer: its state, its model, its usage, and `chat` for the rest."""
    fields: dict[str, Any] = {
        "status": choice.status,
        "incomplete_details": choice.incomplete_details,
        "usage": completion.usage,
        "chat": {**completion.extra, "finish_reason": choice.finish_reason},
    }
    if completion.model:
        fields["model"] = completion.model
    if completion.created is not None:
        fields["created_at"] = completion.created
    return fields


def _message(choice: Any) -> Item:
    message = choice.get("message") if isinstance(choice, dict) else None
    return message if isinstance(message, dict) else {}


def _choice(choice: Item, number: int, mint: Callable[[], str]) -> Choice:
    # nulls and empty arrays are how servers say that there is nothing
    message = {name: value for name, value in _message(choice).items() if name == "content" or value not in (None, [])}
    message["role"] = "assistant"
    items, form = assistant_items(message, mint)
    taken = with_chat(items, form, {"content": None, **message})
    reason, index = choice.get("finish_reason"), choice.get("index")
    reason = reason if isinstance(reason, str) else None
    is_whole = reason is not None and reason not in _INCOMPLETE
    texts = [part for item in items for part in item.get("content", ()) if part.get("type") == "output_text"]
    if texts and (tokens := _logprobs(choice)):
        texts[0]["logprobs"] = tokens
    if not is_whole:
        for item in items[-1:]:
            item["status"] = "incomplete"
    details = {"reason": _INCOMPLETE[reason]} if reason in _INCOMPLETE else None
    return Choice(
        index if type(index) is int else number, taken, reason, "completed" if is_whole else "incomplete", details
    )


def _logprobs(choice: Item) -> list[Any]:
    logprobs = choice.get("logprobs")
    return _list(logprobs.get("content")) if isinstance(logprobs, dict) else []


def _usage(usage: Any) -> dict[str, Any] | None:
    if not isinstance(usage, dict):
        return None
    asked, answered = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    cached = _detail(usage, "prompt_tokens_details", "cached_tokens")
    thought = _detail(usage, "completion_tokens_details", "reasoning_tokens")
    return {
        "input_tokens": asked,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": answered,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": _count(usage.get("total_tokens")) or asked + answered,
    }


def _detail(usage: Item, group: str, name: str) -> int:
    details = usage.get(group)
    return _count(details.get(name)) if isinstance(details, dict) else 0


def _count(value: Any) -> int:
    return int(value) if type(value) in (int, float) and 0 <= value < 2**53 else 0


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
