"""Output items as the strictest client takes them: what a model server left out of an item is filled in here.

Required fields and legal statuses are those of `protocol.item_types`; Open Responses also refuses null for the
optional fields of reasoning items. Fields and item types that are not named there stay exactly as they came.
"""

from __future__ import annotations

import copy
from typing import Any

import orjson

from proxy.protocol.item_types import Item, ItemType, item_type_of

#: Fields of parts that a client requires.
_PARTS: dict[str, Item] = {
    "output_text": {"text": "", "annotations": [], "logprobs": []},
    "refusal": {"refusal": ""},
    "reasoning_text": {"text": ""},
    "summary_text": {"text": ""},
}

#: Fields of a finished message, and of the one text in it.
_WHOLE_MESSAGE = frozenset({"id", "type", "role", "status", "content"})
_WHOLE_TEXT = frozenset({"type", "text", "annotations", "logprobs"})

#: Fields that an item may still lack when it is announced: a search has no query yet, and none is made up.
_LATER = frozenset({("web_search_call", "action")})

#: Types by which servers call the text of a message, of reasoning and of a summary, whatever it is.
_MISTAKEN = frozenset({"text", "output_text", "reasoning_text", "summary_text"})


def type_name(item: Item) -> str:
    """Return the type of `item`; one without a type is a call when it has arguments, otherwise a message."""
    kind = item.get("type")
    if isinstance(kind, str) and kind:
        return kind
    return "function_call" if "arguments" in item else "message"


def complete_item(item: Item, status: str) -> None:
    """Fill what `item` lacks, in place. `status` goes where a legal one is missing or where `in_progress` is over."""
    kind = item["type"] = type_name(item)
    row = item_type_of(kind)
    for field, default in row.required.items():
        # most are there, and of their type
        if type(item.get(field)) is not type(default) and (status != "in_progress" or (kind, field) not in _LATER):
            _fill(item, field, default)
    if kind == "message":
        item["content"] = _complete_parts(item["content"], "output_text")
    elif kind == "reasoning":
        _complete_reasoning(item)
    if row.statuses and (not row.has_optional_status or item.get("status") is not None):
        _complete_status(item, row, status)


def is_whole_message(item: Item) -> bool:
    """Whether `item` is what nearly every answer has: a finished message with all of its fields, of one text.

    Such a one is complete and not empty, which is seen here at a glance.
    """
    if item.keys() != _WHOLE_MESSAGE or item["type"] != "message" or item["status"] != "completed":
        return False
    content = item["content"]
    if type(item["role"]) is not str or type(content) is not list or len(content) != 1:
        return False
    part = content[0]
    return (
        type(part) is dict
        and part.keys() == _WHOLE_TEXT
        and part["type"] == "output_text"
        and type(part["text"]) is str
        and part["text"] != ""
        and type(part["annotations"]) is type(part["logprobs"]) is list
    )


def fill_part(part: Item, default_type: str) -> None:
    """Fill what a content or summary part lacks, in place. A text that is not a `default_type` there becomes one."""
    kind = part.get("type")
    if not isinstance(kind, str) or (kind != default_type and kind in _MISTAKEN):
        part["type"] = kind = default_type
    for field, default in _PARTS.get(kind, {}).items():
        if type(part.get(field)) is not type(default):
            _fill(part, field, default)


def opened(item: Item) -> Item:
    """Return a copy of `item` as `response.output_item.added` shows it: in progress and still empty."""
    view = dict(item)
    row = item_type_of(item["type"])
    for field, empty in row.streamed.items():
        if field in view:
            view[field] = copy.copy(empty)
    # An output is not made piece by piece: it is announced as it is.
    if "in_progress" in row.statuses and not row.has_optional_status and not row.is_output:
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


def _complete_status(item: Item, row: ItemType, status: str) -> None:
    current = item.get("status")
    # A program's calls end a response while the program still waits for them.
    may_end = row.may_end_in_progress or row.name in ("function_call", "custom_tool_call")
    over = current == "in_progress" and not may_end
    if over or current not in row.statuses:
        nearest = (status, "failed", "in_progress") if status == "incomplete" else (status,)
        item["status"] = next((each for each in nearest if each in row.statuses), row.statuses[0])


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
            fill_part(part, default_type)
            completed.append(part)
    return completed


def told_name(value: Any) -> str:
    """Return an id that the upstream told, '' for anything that is none."""
    return value if isinstance(value, str) else ""


def position_of(event: dict[str, Any]) -> int | None:
    """Return the `output_index` of an event, None if it has none."""
    index = event.get("output_index")
    return index if type(index) is int else None
