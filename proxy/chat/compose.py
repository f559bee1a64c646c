"""A message made of the items that it stands for, in the form that most apps send. Pure.

    message item of a role that is not the assistant's       that message
    function_call_output, custom_tool_call_output            a `tool` message
    reasoning, message, function_call, custom_tool_call …    an `assistant` message: thoughts, text, calls

How a message differs from that form is kept beside its first item, as `ChatItem.chat` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from proxy.chat.parts import message_annotations, message_audio, message_part
from proxy.protocol.item_types import Item

#: Fields of an assistant message that hold what the model thought, the usual one first.
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
DETAILS = "reasoning_details"
OUTPUTS = ("function_call_output", "custom_tool_call_output")
CALLS = ("function_call", "custom_tool_call")


class ChatItem(NamedTuple):
    """An item, and what of its message it does not say, None for most.

    chat: small JSON. `begins`: a message of its own, though it could be a part of the one before. `is_list`: content is
    a list. `reasoning`: the fields that hold what was thought. `legacy`: a function's name, of the time before tools.
    `patch`: all else that is unusual. It stands beside the first item of a message, and is about all of them.
    """

    item: Item
    chat: dict[str, Any] | None = None


def compose(items: Sequence[Item], chat: Mapping[str, Any]) -> Item:
    """Return the message that items stand for. items: of one message, in order. chat: without its `patch`."""
    first = items[0]
    kind = first.get("type")
    if kind in OUTPUTS:
        return _output(first, chat)
    if kind == "message" and first.get("role") != "assistant":
        return {"role": first.get("role"), "content": _content(first.get("content"), chat)}
    return _assistant(items, chat)


def _output(item: Item, chat: Mapping[str, Any]) -> Item:
    output = item.get("output")
    content = [message_part(part) for part in output] if isinstance(output, list) else output
    if "legacy" in chat:
        return {"role": "function", "name": chat["legacy"], "content": content}
    return {"role": "tool", "tool_call_id": item.get("call_id"), "content": content}


def _content(parts: Any, chat: Mapping[str, Any]) -> Any:
    if not isinstance(parts, list):
        return parts
    kinds = [part.get("type") if isinstance(part, dict) else None for part in parts]
    if len(parts) == 1 and not chat.get("is_list") and kinds[0] in ("input_text", "output_text"):
        return parts[0].get("text")
    return [message_part(part) for part in parts]


def _assistant(items: Sequence[Item], chat: Mapping[str, Any]) -> Item:
    message: Item = {"role": "assistant", "content": None}
    calls: list[Item] = []
    for item in items:
        kind = item.get("type")
        if kind == "reasoning":
            message.update(_thoughts(item, chat.get("reasoning") or REASONING_FIELDS[:1]))
        elif kind == "message":
            message.update(_said(item, chat))
        elif kind == "custom_tool_call":
            custom = {"name": item.get("name"), "input": item.get("input")}
            calls.append({"id": item.get("call_id"), "type": "custom", "custom": custom})
        else:
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            if "legacy" in chat:
                message["function_call"] = function
            else:
                calls.append({"id": item.get("call_id"), "type": "function", "function": function})
    return {**message, "tool_calls": calls} if calls else message


def _said(item: Item, chat: Mapping[str, Any]) -> Item:
    parts = [part for part in item.get("content") or () if isinstance(part, dict)]
    spoken = [part for part in parts if part.get("type") == "output_audio"]
    refusals = [part for part in parts if part.get("type") == "refusal"]
    written = [part for part in parts if part not in spoken and (chat.get("is_list") or part not in refusals)]
    message: Item = {"content": _content(written, chat) if written or chat.get("is_list") else None}
    if refusals and not chat.get("is_list"):
        message["refusal"] = "".join(str(part.get("refusal")) for part in refusals)
    if spoken:
        message["audio"] = message_audio(spoken[0])
    annotations = [one for part in written for one in part.get("annotations") or ()]
    return {**message, "annotations": message_annotations(annotations)} if annotations else message


def _thoughts(item: Item, fields: Sequence[str]) -> Item:
    parts = [part for part in item.get("content") or item.get("summary") or () if isinstance(part, dict)]
    text = "".join(str(part.get("text")) for part in parts)
    message: Item = {name: text for name in fields if name != DETAILS}
    if DETAILS in fields:
        details: list[Item] = [{"type": "reasoning.text", "text": part.get("text")} for part in parts]
        if isinstance(item.get("encrypted_content"), str):
            details.append({"type": "reasoning.encrypted", "data": item["encrypted_content"]})
        message[DETAILS] = details
    return message
