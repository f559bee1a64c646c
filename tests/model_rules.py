"""What real model servers refuse of a request's input, as far as it is known: the rules of the tests' own one.

Each is from reports of people who met it, or from recorded answers; messages and codes are those of OpenAI's API. They
are kept apart from what Branchline knows of item types, so that one checks the other.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import orjson

Item = dict[str, Any]
Refusal = tuple[int, dict[str, Any]]

#: What the ids of a type begin with. Of outputs nobody minds: Codex calls one `aborted`.
PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "compaction": "cmp",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "computer_call": "cu",
    "shell_call": "sh",
    "apply_patch_call": "apc",
    "web_search_call": "ws",
    "file_search_call": "fs",
    "code_interpreter_call": "ci",
    "image_generation_call": "ig",
    "mcp_call": "mcp",
    "mcp_list_tools": "mcpl",
    "mcp_approval_request": "mcpr",
    "tool_search_call": "tsc",
    "tool_search_output": "tso",
    "program": "cm_",
    "program_output": "cmo_",
    "multi_agent_call": "mac_",
    "multi_agent_call_output": "maco_",
    "agent_message": "amsg_",
}
#: Calls that must have an output, and how a message names them.
CALLS = {
    "function_call": "function call",
    "custom_tool_call": "custom tool call",
    "computer_call": "computer call",
    "local_shell_call": "local shell call",
    "shell_call": "shell call",
    "apply_patch_call": "apply patch call",
}
OUTPUTS = frozenset(f"{call}_output" for call in CALLS)
#: Fields that only an answer has.
OUTPUT_ONLY = {
    "image_generation_call": {"action", "background", "output_format", "quality", "revised_prompt", "size"},
    "reasoning": {"status"},
}
#: Why a seal is refused that another model made.
FOREIGN_SEAL = "Reason: it was made by another model."
_SEAL = re.compile(rb'"encrypted_content": ?"([^"]+)"')


class ModelRules:
    """The rules of one model server. strict: whether they are applied.

    plain_models: those that do not reason and take no reasoning items. refused_fields: fields of a request that the
    server does not know, each with the refusal that it gives. refused_types: types of items that it does not know.
    """

    def __init__(self, *, strict: bool = True) -> None:
        self.strict = strict
        self.plain_models: set[str] = set()
        self.refused_fields: dict[str, Refusal] = {}
        self.refused_types: set[str] = set()
        #: Seals whose key is lost.
        self.lost_seals: set[str] = set()
        #: What was refused, by its message.
        self.refusals: list[str] = []
        self._sealed: defaultdict[str, set[str]] = defaultdict(set)

    def note_answer(self, model: str, answer: bytes) -> None:
        """Remember the seals that an answer has: they are the model's."""
        for seal in _SEAL.findall(answer):
            self._sealed[seal.decode()].add(model)

    def refusal(self, body: Any) -> Refusal | None:
        """Return what is answered to a request that breaks a rule."""
        found = self._find(body)
        if found is not None:
            self.refusals.append(str(found[1]))
        return found

    def _find(self, body: Any) -> Refusal | None:
        if not self.strict or not isinstance(body, dict):
            return None
        for field, refusal in self.refused_fields.items():
            if field in body:
                return refusal
        items = body.get("input")
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            return None
        model = str(body.get("model"))
        faults = (_ids(items), _types(items), _thoughts(items), _calls(items, _exempt(body)), self._seals(model, items))
        return next((fault for each in faults for fault in each), None)

    def _seals(self, model: str, items: list[Item]) -> Iterator[Refusal]:
        for place, item in enumerate(items):
            if item.get("type") in self.refused_types:
                yield refuse(f"Invalid value: '{item['type']}'.", f"input[{place}]", "invalid_value")
            if item.get("type") == "reasoning" and model in self.plain_models:
                yield refuse(
                    "Reasoning input items can only be provided to a reasoning or computer use model. Remove reasoning "
                    "items from your input and try again."
                )
            for seal in map(bytes.decode, _SEAL.findall(orjson.dumps(item))):
                message = f"The encrypted content {seal[:4]}...{seal[-4:]} could not be verified."
                if seal in self.lost_seals:
                    yield refuse(message, code="invalid_encrypted_content")
                elif model not in self._sealed.get(seal, {model}):
                    yield refuse(f"{message} {FOREIGN_SEAL}", code="invalid_encrypted_content")


def refuse(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """Return a 400 in OpenAI's form."""
    return 400, {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def _ids(items: list[Item]) -> Iterator[Refusal]:
    seen = set()
    for place, item in enumerate(items):
        item_id = item.get("id")
        if not item_id:
            continue
        if item_id in seen:
            yield refuse(
                f"Duplicate item found with id {item_id}. Remove duplicate items from your input and try again.",
                "input",
            )
        seen.add(item_id)
        prefix = PREFIXES.get(item.get("type") or "message", "")
        if not str(item_id).startswith(prefix):
            message = f"Invalid 'input[{place}].id': '{item_id}'. Expected an ID that begins with '{prefix}'."
            yield refuse(message, f"input[{place}].id", "invalid_value")


def _types(items: list[Item]) -> Iterator[Refusal]:
    for place, item in enumerate(items):
        kind = str(item.get("type"))
        unknown = OUTPUT_ONLY.get(kind, set()) | {"created_by"}
        for field in sorted(unknown & item.keys()):
            yield _unknown(f"input[{place}].{field}")
        for number, part in enumerate(item["output"] if isinstance(item.get("output"), list) else ()):
            if "created_by" in part:
                yield _unknown(f"input[{place}].output[{number}].created_by")
        if kind == "image_generation_call" and not item.get("result"):
            yield refuse(f"Missing required parameter: 'input[{place}].result'.", f"input[{place}].result")
        if kind == "function_call_output" and not item.get("call_id"):
            yield refuse(f"Missing required parameter: 'input[{place}].call_id'.", f"input[{place}].call_id")
        if kind == "function_call" and not _is_json(item.get("arguments")):
            yield refuse(f"Invalid 'input[{place}].arguments': not valid JSON.", f"input[{place}].arguments")


def _unknown(param: str) -> Refusal:
    return refuse(f"Unknown parameter: '{param}'.", param, "unknown_parameter")


def _is_json(text: Any) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _thoughts(items: list[Item]) -> Iterator[Refusal]:
    follower: Item = {}
    for item in reversed(items):
        if item.get("type") != "reasoning":
            follower = item
            continue
        name = item.get("id") or "(no id)"
        if not (item.get("encrypted_content") or item.get("content") or item.get("summary")):
            yield refuse(f"Item with id '{name}' not found. Items are not persisted when `store` is set to false.")
        kind = str(follower.get("type") or "message")
        made = follower.get("role") == "assistant" if kind == "message" else not kind.endswith(("_output", "_response"))
        if not follower or not made:
            yield refuse(
                f"Item '{name}' of type 'reasoning' was provided without its required following item.", "input"
            )


def _exempt(body: Item) -> set[str]:
    tools = [tool for tool in body.get("tools") or () if isinstance(tool, dict)]
    return {str(tool.get("name")) for tool in tools if tool.get("async")}


def _calls(items: list[Item], exempt: set[str]) -> Iterator[Refusal]:
    after_compaction = False
    asked: set[str] = set()
    outputs = [(place, item.get("call_id")) for place, item in enumerate(items) if item.get("type") in OUTPUTS]
    for place, item in enumerate(items):
        kind, call_id = str(item.get("type")), item.get("call_id")
        after_compaction = after_compaction or kind == "compaction"
        if kind in CALLS:
            asked.add(str(call_id))
            answered = any(at > place and other == call_id for at, other in outputs)
            if not answered and item.get("name") not in exempt:
                yield refuse(f"No tool output found for {CALLS[kind]} {call_id}.", "input")
        elif kind in OUTPUTS and str(call_id) not in asked and not after_compaction:
            yield refuse(f"No tool call found for {kind.replace('_', ' ')} with call_id {call_id}.", "input")
