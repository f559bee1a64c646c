"""Events about items: which item's they are by their names, and what clients require of them."""

from __future__ import annotations

from proxy.relay.item import type_name
from proxy.relay.text import DONES, EventBody

#: What the word after `response.` says about the item that an event is about.
SUBJECTS = {
    "web_search_call": "web_search_call",
    "file_search_call": "file_search_call",
    "code_interpreter_call": "code_interpreter_call",
    "image_generation_call": "image_generation_call",
    "mcp_call": "mcp_call",
    "mcp_list_tools": "mcp_list_tools",
    "compaction": "compaction",
    "shell_call_command": "shell_call",
    "shell_call_output_content": "shell_call_output",
    "apply_patch_call_operation_diff": "apply_patch_call",
}
#: Fields of such events that clients require.
FILLS: dict[str, EventBody] = {
    "response.image_generation_call.partial_image": {"partial_image_b64": "", "partial_image_index": 0},
    "response.shell_call_command.added": {"command": "", "command_index": 0},
    "response.shell_call_command.delta": {"delta": "", "command_index": 0},
    "response.shell_call_command.done": {"command": "", "command_index": 0},
    "response.shell_call_output_content.delta": {"delta": {}, "command_index": 0},
    "response.shell_call_output_content.done": {"output": [], "command_index": 0},
    "response.audio.delta": {"delta": ""},
    "response.audio.transcript.delta": {"delta": ""},
}

#: vLLM's names for the parts of reasoning.
RENAMED = {
    "response.reasoning_part.added": "response.content_part.added",
    "response.reasoning_part.done": "response.content_part.done",
}


def item_type_in(body: EventBody) -> str:
    """Return the type of the item that an event is about, as far as it says so; '' if it does not."""
    kind, item, part = body["type"], body.get("item"), body.get("part")
    if stream := DONES.get(kind):
        return stream.item_type
    if isinstance(item, dict):
        return type_name(item)
    if not kind.endswith(("_part.added", "_part.done")):
        return ""
    is_reasoning = kind.startswith("response.reasoning") or (
        isinstance(part, dict) and part.get("type") == "reasoning_text"
    )
    return "reasoning" if is_reasoning else "message"
