"""POST /v1/responses as the proxy reads it: the few fields that concern state, checked; all others untouched. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from proxy.errors import (
    BadRequest,
    invalid_id_characters,
    invalid_type,
    missing_parameter,
    too_long,
)
from proxy.fields import ENCRYPTED_REASONING, check_conversation_id, read_metadata
from proxy.ids import MAX_LENGTH, is_valid
from proxy.items import InputItem, call_key, json_type, read_input
from storage import TurnSource


@dataclass(frozen=True)
class TurnRequest:
    """A checked request. body: the client's own, whole."""

    body: Mapping[str, Any]
    source: TurnSource
    stored: bool
    stream: bool
    items: list[InputItem]

    @property
    def show_encrypted(self) -> bool:
        """Whether the client asked for `reasoning.encrypted_content`."""
        return ENCRYPTED_REASONING in (self.body.get("include") or ())

    @cached_property
    def exempt_tools(self) -> frozenset[str]:
        """Names of the tools whose calls need no output: those declared with `async: true`."""
        tools = self.body.get("tools")
        declared = [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
        return frozenset(str(tool.get("name")) for tool in declared if tool.get("async") is True)

    @cached_property
    def item_ids(self) -> list[str]:
        """Ids that the input names, each once."""
        return list(dict.fromkeys(item.id for item in self.items if item.id))

    @cached_property
    def answered_calls(self) -> list[str]:
        """Keys of the calls that the input brings outputs for."""
        return [
            call_key(item.body["call_id"])
            for item in self.items
            if item.body and item.type.endswith("_call_output") and isinstance(item.body.get("call_id"), str)
        ]


def read_request(body: Mapping[str, Any]) -> TurnRequest:
    """Check a request body. Raises BadRequest with the path of the offending field."""
    stored = _read_flag(body, "store", default=True)
    if _read_flag(body, "background", default=False):
        raise BadRequest(
            "Background mode is not supported by this server. Leave 'background' out, or set it to false.",
            param="background",
            code="unsupported_parameter",
        )
    include = body.get("include")
    if include is not None and not (isinstance(include, list) and all(isinstance(one, str) for one in include)):
        raise invalid_type("include", "an array of strings", json_type(include))
    read_metadata(body.get("metadata"))
    return TurnRequest(
        body=body,
        source=_read_source(body),
        stored=stored,
        stream=_read_flag(body, "stream", default=False),
        items=read_input(body.get("input")),
    )


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
    conversation, branch = _read_conversation(body.get("conversation"))
    if not previous:
        return TurnSource(conversation_id=conversation, branch=branch)
    if conversation:
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


def _read_conversation(value: Any) -> tuple[str | None, str]:
    """Return the id and the branch ('' = the active one) that `conversation` names."""
    branch = ""
    param = "conversation"
    if isinstance(value, dict):
        param = "conversation.id"
        branch = value.get("branch") or ""
        if not isinstance(branch, str):
            raise invalid_type("conversation.branch", "a string", json_type(branch))
        if value.get("fork_from") is not None:
            raise BadRequest(
                "Forking is not supported by this server.",
                param="conversation.fork_from",
                code="unsupported_parameter",
            )
        if "id" not in value:
            raise missing_parameter(param)
        value = value["id"]
    if value is None:
        return None, branch
    if not isinstance(value, str):
        raise invalid_type(param, "one of a string or object", json_type(value))
    check_conversation_id(value, "conversation")
    return value, branch
