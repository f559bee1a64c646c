"""POST /v1/responses as the proxy reads it: the few fields that concern state, checked; all others untouched. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy.protocol.calls import mark_of
from proxy.protocol.errors import (
    BadRequest,
    invalid_id_characters,
    invalid_type,
    json_type,
    missing_parameter,
    too_long,
)
from proxy.protocol.ids import MAX_LENGTH, is_valid, new_branch_name
from proxy.protocol.items import InputItem, read_input
from proxy.protocol.params import (
    check_branch_name,
    check_conversation_id,
    check_id,
    includes_encrypted,
    read_metadata,
    refuse_unknown,
)
from storage import CallSign, Fork, ForkPoint, TurnSource

#: Fields of a request, of which most are the model server's to judge (OpenAI's client 3.57).
REQUEST_FIELDS = frozenset(
    {
        "access_programs",
        "background",
        "background_options",
        "context_management",
        "conversation",
        "image",
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "model",
        "moderation",
        "parallel_tool_calls",
        "previous_response_id",
        "prompt",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "truncation",
        "user",
    }
)
_NO_TOOLS: frozenset[str] = frozenset()
#: What a turn goes on from that goes on from nothing.
_NOWHERE = TurnSource()
#: Fields of `conversation`, which is ours but for its id.
_CONVERSATION = ("id", "branch", "fork_from", "at")


@dataclass(slots=True)
class TurnRequest:
    """A checked request, which nobody changes. body: the client's own, whole; all else is read from it.

    model: that the client asks for, '' if it names none. exempt_tools: names of the tools whose calls need no output,
    those declared with `async: true`. item_ids: that the input names, each once. answered_calls: keys of the calls that
    the input brings outputs for, where they must be known.
    """

    body: Mapping[str, Any]
    source: TurnSource
    stored: bool
    stream: bool
    background: bool
    items: list[InputItem]
    model: str = field(init=False)
    exempt_tools: frozenset[str] = field(init=False)
    item_ids: list[str] = field(init=False)
    answered_calls: list[str] = field(init=False)

    def __post_init__(self) -> None:
        model, tools = self.body.get("model"), self.body.get("tools")
        self.model = model if isinstance(model, str) else ""
        self.exempt_tools = _exempt(tools) if isinstance(tools, list) else _NO_TOOLS
        named = [item.id for item in self.items if item.id]
        self.item_ids = list(dict.fromkeys(named)) if named else named
        self.answered_calls = [
            mark.key for item in self.items if item.body and (mark := mark_of(item.body)).sign is CallSign.OUTPUT
        ]

    def keeps_items(self, *, append_unstored: bool) -> bool:
        """Whether the turn's items are stored. append_unstored: those of unstored turns in conversations are."""
        return self.stored or (append_unstored and self.source.conversation_id is not None)

    @property
    def show_encrypted(self) -> bool:
        """Whether the client asked for `reasoning.encrypted_content`."""
        return includes_encrypted(self.body)


def read_request(body: Mapping[str, Any]) -> TurnRequest:
    """Check a request body. Raises BadRequest with the path of the offending field."""
    stored = _read_flag(body, "store", default=True)
    background = _read_flag(body, "background", default=False)
    if background and not stored:
        raise BadRequest(
            "Background responses are stored: set 'store' to true, or leave it out.",
            param="store",
            code="invalid_value",
        )
    include = body.get("include")
    if include is not None and not (isinstance(include, list) and all(isinstance(one, str) for one in include)):
        raise invalid_type("include", "an array of strings", json_type(include))
    if (metadata := body.get("metadata")) is not None:
        read_metadata(metadata)
    return TurnRequest(
        body=body,
        source=_read_source(body),
        stored=stored,
        stream=_read_flag(body, "stream", default=False),
        background=background,
        items=read_input(body.get("input")),
    )


def _exempt(tools: list[Any]) -> frozenset[str]:
    return frozenset(str(tool.get("name")) for tool in tools if isinstance(tool, dict) and tool.get("async") is True)


def _read_flag(body: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise invalid_type(name, "a boolean", json_type(value))
    return value


def _read_source(body: Mapping[str, Any]) -> TurnSource:
    previous = body.get("previous_response_id")
    if previous is not None and not isinstance(previous, str):
        raise invalid_type("previous_response_id", "a string", json_type(previous))
    source = _read_conversation(body.get("conversation"))
    if not previous:
        return source
    if source.conversation_id:
        raise BadRequest(
            "Mutually exclusive parameters: Ensure you are only providing one of: 'previous_response_id' "
            "or 'conversation'.",
            code="mutually_exclusive_parameters",
        )
    if len(previous) > MAX_LENGTH:
        raise too_long("previous_response_id", MAX_LENGTH, len(previous))
    if not is_valid(previous):
        raise invalid_id_characters("previous_response_id", previous)
    return TurnSource(previous_response_id=previous)


def _read_conversation(value: Any) -> TurnSource:
    """Return what `conversation` names: an id, or an object with `id`, `branch`, `fork_from`, `at`."""
    if value is None:
        return _NOWHERE
    if not isinstance(value, dict):
        return TurnSource(conversation_id=_read_conversation_id(value, "conversation"))
    refuse_unknown(value, _CONVERSATION, within="conversation")
    if "id" not in value:
        raise missing_parameter("conversation.id")
    conversation_id = _read_conversation_id(value["id"], "conversation.id")
    branch = _read_name(value, "branch")
    if branch:
        check_branch_name(branch, "conversation.branch")
    targets = {name: target for name in ("fork_from", "at") if (target := _read_name(value, name))}
    if conversation_id is None and (branch or targets):
        # a branch of no conversation: the turn would not have the history that was asked for
        raise missing_parameter("conversation.id")
    if not targets:
        return TurnSource(conversation_id=conversation_id, branch=branch)
    if len(targets) > 1:
        raise BadRequest(
            "Mutually exclusive parameters: Ensure you are only providing one of: 'conversation.fork_from' or "
            "'conversation.at'.",
            param="conversation",
            code="mutually_exclusive_parameters",
        )
    ((name, target),) = targets.items()
    check_id(target, f"conversation.{name}")
    point = ForkPoint.AFTER if name == "fork_from" else ForkPoint.AT
    return TurnSource(conversation_id, fork=Fork(point, target, name=branch or new_branch_name("branch")))


def _read_conversation_id(value: Any, param: str) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise invalid_type(param, "one of a string or object", json_type(value))
    check_conversation_id(value, "conversation")
    return value


def _read_name(conversation: Mapping[str, Any], name: str) -> str:
    value = conversation.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid_type(f"conversation.{name}", "a string", json_type(value))
    return value or ""
