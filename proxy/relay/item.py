"""Output items as the strictest client takes them: what a model server left out of an item is filled in here.

Required fields and legal statuses are those of OpenAI's specification (Response.output) and, where it is stricter,
of the Open Responses schema: it refuses null for the optional fields of reasoning items. Fields and item types that
are not named here stay exactly as they came.
"""

from __future__ import annotations

import copy
from typing import Any

import orjson

Item = dict[str, Any]

_RUN = ("completed", "in_progress", "incomplete")

#: Legal statuses by item type; a finished item without a legal one gets the first.
_STATUSES: dict[str, tuple[str, ...]] = {
    "message": _RUN,
    "function_call": _RUN,
    "function_call_output": _RUN,
    "custom_tool_call": _RUN,
    "custom_tool_call_output": _RUN,
    "computer_call": _RUN,
    "tool_search_call": _RUN,
    "tool_search_output": _RUN,
    "local_shell_call": _RUN,
    "shell_call": _RUN,
    "shell_call_output": _RUN,
    "computer_call_output": ("completed", "incomplete", "failed", "in_progress"),
    "file_search_call": ("completed", "in_progress", "searching", "incomplete", "failed"),
    "web_search_call": ("completed", "in_progress", "searching", "failed", "incomplete"),
    "code_interpreter_call": ("completed", "in_progress", "interpreting", "incomplete", "failed"),
    "image_generation_call": ("completed", "in_progress", "generating", "failed"),
    "apply_patch_call": ("completed", "in_progress"),
    "apply_patch_call_output": ("completed", "failed"),
    "program_output": ("completed", "incomplete"),
}

#: The same for items that may do without.
_OPTIONAL_STATUSES: dict[str, tuple[str, ...]] = {
    "reasoning": _RUN,
    "mcp_call": ("completed", "in_progress", "calling", "incomplete", "failed"),
    "local_shell_call_output": _RUN,
}

#: Fields that a client requires, by item type, with what they hold when the model server left them out.
_FIELDS: dict[str, Item] = {
    "message": {"role": "assistant", "content": []},
    "reasoning": {"summary": []},
    "function_call": {"name": "", "arguments": ""},
    "function_call_output": {"output": ""},
    "custom_tool_call": {"name": "", "input": ""},
    "custom_tool_call_output": {"call_id": "", "output": ""},
    "mcp_call": {"name": "", "arguments": "", "server_label": ""},
    "mcp_list_tools": {"server_label": "", "tools": []},
    "mcp_approval_request": {"name": "", "arguments": "", "server_label": ""},
    "file_search_call": {"queries": []},
    "web_search_call": {"action": {"type": "search", "query": ""}},
    "computer_call": {"pending_safety_checks": []},
    "image_generation_call": {"result": None},
    "code_interpreter_call": {"container_id": "", "code": None, "outputs": None},
    "local_shell_call": {"action": {"type": "exec", "command": [], "env": {}}},
    "local_shell_call_output": {"output": ""},
    "shell_call": {"action": {"commands": []}, "environment": None},
    "shell_call_output": {"call_id": "", "output": [], "max_output_length": None},
    "apply_patch_call": {"operation": {"type": "update_file", "path": "", "diff": ""}},
    "apply_patch_call_output": {"call_id": ""},
    "tool_search_call": {"arguments": {}, "call_id": None, "execution": "server"},
    "tool_search_output": {"tools": [], "call_id": None, "execution": "server"},
    "compaction": {"encrypted_content": ""},
}

_PARTS: dict[str, Item] = {
    "output_text": {"text": "", "annotations": [], "logprobs": []},
    "refusal": {"refusal": ""},
    "reasoning_text": {"text": ""},
    "summary_text": {"text": ""},
}

#: Types by which servers call the text of a message, of reasoning and of a summary, whatever it is.
_MISTAKEN = frozenset({"text", "output_text", "reasoning_text", "summary_text"})

#: What is still empty when an item of the type is announced, because it arrives in pieces afterwards.
_STREAMED: dict[str, Item] = {
    "message": {"content": []},
    "reasoning": {"summary": [], "content": []},
    "function_call": {"arguments": ""},
    "mcp_call": {"arguments": ""},
    "custom_tool_call": {"input": ""},
    "code_interpreter_call": {"code": ""},
    "image_generation_call": {"result": None},
}


def item_type(item: Item) -> str:
    """Return the type of `item`; one without a type is a call when it has arguments, otherwise a message."""
    kind = item.get("type")
    if isinstance(kind, str) and kind:
        return kind
    return "function_call" if "arguments" in item else "message"


def complete_item(item: Item, status: str) -> None:
    """Fill what `item` lacks, in place. `status` goes where a legal one is missing or where `in_progress` is over."""
    kind = item["type"] = item_type(item)
    for field, default in _FIELDS.get(kind, {}).items():
        _fill(item, field, default)
    if kind == "message":
        item["content"] = _complete_parts(item["content"], "output_text")
    elif kind == "reasoning":
        _complete_reasoning(item)
    if kind in _STATUSES:
        _complete_status(item, _STATUSES[kind], status)
    elif item.get("status") is not None and kind in _OPTIONAL_STATUSES:
        _complete_status(item, _OPTIONAL_STATUSES[kind], status)


def complete_part(part: Item, default_type: str) -> None:
    """Fill what a content or summary part lacks, in place. A text that is not a `default_type` there becomes one."""
    kind = part.get("type")
    if not isinstance(kind, str) or (kind != default_type and kind in _MISTAKEN):
        part["type"] = kind = default_type
    for field, default in _PARTS.get(kind, {}).items():
        _fill(part, field, default)


def opened(item: Item) -> Item:
    """Return a copy of `item` as `response.output_item.added` shows it: in progress and still empty."""
    view = dict(item)
    for field, empty in _STREAMED.get(item["type"], {}).items():
        if field in view:
            view[field] = copy.copy(empty)
    if "in_progress" in _STATUSES.get(item["type"], ()):
        view["status"] = "in_progress"
    return view


def visible(item: Item, *, show_encrypted: bool) -> Item:
    """Return `item` as the client sees it: sealed reasoning only where asked for; never a compaction's content."""
    if show_encrypted or item.get("type") != "reasoning" or "encrypted_content" not in item:
        return item
    return {field: value for field, value in item.items() if field != "encrypted_content"}


def merged(earlier: Item, later: Item) -> Item:
    """Return `later` over `earlier`: a field that `later` leaves out or empty keeps its earlier value."""
    result = {**earlier, **later}
    for field, value in earlier.items():
        if result[field] in (None, "", []):
            result[field] = value
    return result


def as_text(value: Any) -> str:
    """Return `value` where the protocol has a string; servers send arguments as an object, or null."""
    if isinstance(value, str):
        return value
    return "" if value is None else orjson.dumps(value).decode()


def is_empty(item: Item) -> bool:
    """Tell whether a message has no text and no refusal. Other items are never empty."""
    if item.get("type") != "message":
        return False
    return not any(part.get("text") or part.get("refusal") or part["type"] not in _PARTS for part in item["content"])


def _fill(target: Item, field: str, default: Any) -> None:
    value = target.get(field)
    if value is None:
        target[field] = copy.deepcopy(default)
    elif isinstance(default, str) and not isinstance(value, str) and field != "output":
        target[field] = as_text(value)
    elif isinstance(default, list) and not isinstance(value, list):
        target[field] = [value]


def _complete_status(item: Item, legal: tuple[str, ...], status: str) -> None:
    current = item.get("status")
    # Only items that the model writes: hosted tools do end a turn as "generating" or "searching".
    over = legal is _RUN and current == "in_progress"
    if over or current not in legal:
        nearest = (status, "failed", "in_progress") if status == "incomplete" else (status,)
        item["status"] = next((each for each in nearest if each in legal), legal[0])


def _complete_reasoning(item: Item) -> None:
    for field in ("content", "encrypted_content", "status"):
        if field in item and item[field] is None:
            del item[field]
    item["summary"] = _complete_parts(item["summary"], "summary_text")
    if "content" in item:
        content = item["content"]
        item["content"] = _complete_parts(content if isinstance(content, list) else [content], "reasoning_text")


def _complete_parts(parts: list[Any], default_type: str) -> list[Item]:
    completed = []
    for part in parts:
        if isinstance(part, str):
            part = {"text": part}
        if isinstance(part, dict):
            complete_part(part, default_type)
            completed.append(part)
    return completed
