"""Item types: the table of what is known of each type of item, one row a type. Pure.

Whatever depends on an item's type asks here, so that a new type is one new row: how a model server's answer is
completed, and how a stored item goes back to a model (`context.model_input`). A type without a row is legal, too: its
items go through untouched, and only its name tells whether they are calls or outputs (`item_type_of`).

Sources: OpenAI's answers, specification (Response.output, the examples' ids) and SDK; where it is stricter, the Open
Responses schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

#: An item as JSON.
Item: TypeAlias = dict[str, Any]

#: Statuses of what the model writes.
_RUN = ("completed", "in_progress", "incomplete")


@dataclass(frozen=True, slots=True)
class ItemType:
    """What is known of a type; the defaults are those of an unknown one."""

    name: str
    #: What its ids begin with, before the `_`.
    id_prefix: str = "item"
    #: OpenAI refuses a client's id with another prefix. Of the other types that is not known: any prefix is taken.
    checks_prefix: bool = False

    #: It asks for something, which an output with its `call_id` answers.
    is_call: bool = False
    #: It answers: a call by its `call_id`, a request for an approval by its `approval_request_id`.
    is_output: bool = False
    #: The call or the output of a client's own tool: OpenAI takes neither without the other.
    is_paired: bool = False
    #: A client answers it by its `call_id`, which therefore must be there and be its own.
    needs_call_id: bool = False

    #: The legal statuses; a finished item without a legal one gets the first.
    statuses: tuple[str, ...] = ()
    #: An item without a status is complete as it is.
    has_optional_status: bool = False
    #: Its input form has the field: clients that leave the status out mean `completed`.
    takes_status: bool = False
    #: Fields that a client requires, with what they hold when the model server left them out.
    required: Mapping[str, Any] = field(default_factory=dict)
    #: What is still empty when an item is announced, because it arrives in pieces afterwards.
    streamed: Mapping[str, Any] = field(default_factory=dict)

    #: Fields of its output form that its input form has not; `output.created_by` is in each part of its output.
    output_only: tuple[str, ...] = ("created_by",)
    #: Statuses of its output form that its input form has not.
    output_statuses: tuple[str, ...] = ()
    #: A field without which it is no input, though it may be an output.
    needs: str = ""
    #: Only the model that made it takes it back, or all of it.
    is_sealed: bool = False
    #: What its ids began with in stores of before.
    former_prefix: str = ""

    @property
    def may_end_in_progress(self) -> bool:
        """Whether a finished item may say so: hosted tools do end a turn that way, what the model writes never does."""
        return self.statuses != _RUN


_ROWS = (
    ItemType(
        "message",
        "msg",
        checks_prefix=True,
        statuses=_RUN,
        takes_status=True,
        required={"role": "assistant", "content": []},
        streamed={"content": []},
    ),
    ItemType(
        "reasoning",
        "rs",
        statuses=_RUN,
        has_optional_status=True,
        required={"summary": []},
        streamed={"summary": [], "content": []},
        # OpenAI refuses any status, also null
        output_only=("status", "created_by"),
        is_sealed=True,
    ),
    ItemType("compaction", "cmp", required={"encrypted_content": ""}, is_sealed=True),
    # Tools of the client.
    ItemType(
        "function_call",
        "fc",
        checks_prefix=True,
        is_call=True,
        is_paired=True,
        needs_call_id=True,
        statuses=_RUN,
        takes_status=True,
        required={"name": "", "arguments": ""},
        streamed={"arguments": ""},
    ),
    ItemType(
        "function_call_output",
        "fco",
        is_output=True,
        is_paired=True,
        statuses=_RUN,
        takes_status=True,
        required={"output": ""},
    ),
    ItemType(
        "custom_tool_call",
        "ctc",
        is_call=True,
        is_paired=True,
        needs_call_id=True,
        statuses=_RUN,
        required={"name": "", "input": ""},
        streamed={"input": ""},
    ),
    ItemType(
        "custom_tool_call_output",
        "ctco",
        is_output=True,
        is_paired=True,
        statuses=_RUN,
        required={"call_id": "", "output": ""},
    ),
    # Tools that OpenAI describes, run by the client.
    ItemType(
        "computer_call",
        "cu",
        is_call=True,
        needs_call_id=True,
        statuses=_RUN,
        required={"pending_safety_checks": []},
    ),
    ItemType(
        "computer_call_output",
        "cuo",
        is_output=True,
        statuses=("completed", "incomplete", "failed", "in_progress"),
        takes_status=True,
        output_statuses=("failed",),
    ),
    ItemType(
        "local_shell_call",
        "lsh",
        is_call=True,
        needs_call_id=True,
        statuses=_RUN,
        required={"action": {"type": "exec", "command": [], "env": {}}},
    ),
    ItemType(
        "local_shell_call_output",
        "lsho",
        is_output=True,
        statuses=_RUN,
        has_optional_status=True,
        required={"output": ""},
    ),
    ItemType(
        "shell_call",
        "sh",
        is_call=True,
        needs_call_id=True,
        statuses=_RUN,
        required={"action": {"commands": []}, "environment": None},
    ),
    ItemType(
        "shell_call_output",
        "sho",
        is_output=True,
        statuses=_RUN,
        required={"call_id": "", "output": [], "max_output_length": None},
        output_only=("created_by", "output.created_by"),
    ),
    ItemType(
        "apply_patch_call",
        "apc",
        is_call=True,
        needs_call_id=True,
        statuses=("completed", "in_progress"),
        required={"operation": {"type": "update_file", "path": "", "diff": ""}},
    ),
    ItemType(
        "apply_patch_call_output",
        "apco",
        is_output=True,
        statuses=("completed", "failed"),
        required={"call_id": ""},
    ),
    # Tools that the model server runs, or a server of its choice.
    ItemType(
        "web_search_call",
        "ws",
        is_call=True,
        statuses=("completed", "in_progress", "searching", "failed", "incomplete"),
        required={"action": {"type": "search", "query": ""}},
    ),
    ItemType(
        "file_search_call",
        "fs",
        is_call=True,
        statuses=("completed", "in_progress", "searching", "incomplete", "failed"),
        required={"queries": []},
    ),
    ItemType(
        "code_interpreter_call",
        "ci",
        is_call=True,
        statuses=("completed", "in_progress", "interpreting", "incomplete", "failed"),
        required={"container_id": "", "code": None, "outputs": None},
        streamed={"code": ""},
    ),
    ItemType(
        "image_generation_call",
        "ig",
        is_call=True,
        statuses=("completed", "in_progress", "generating", "failed"),
        required={"result": None},
        streamed={"result": None},
        output_only=(
            "action",
            "background",
            "created_by",
            "error",
            "output_format",
            "quality",
            "revised_prompt",
            "size",
            "svg_usage",
        ),
        needs="result",
    ),
    ItemType(
        "mcp_call",
        "mcp",
        is_call=True,
        statuses=("completed", "in_progress", "calling", "incomplete", "failed"),
        has_optional_status=True,
        required={"name": "", "arguments": "", "server_label": ""},
        streamed={"arguments": ""},
    ),
    ItemType("mcp_list_tools", "mcpl", required={"server_label": "", "tools": []}),
    ItemType("mcp_approval_request", "mcpr", required={"name": "", "arguments": "", "server_label": ""}),
    ItemType("mcp_approval_response", "mcpa", is_output=True),
    ItemType(
        "tool_search_call",
        "tsc",
        is_call=True,
        statuses=_RUN,
        required={"arguments": {}, "call_id": None, "execution": "server"},
    ),
    ItemType(
        "tool_search_output",
        "tso",
        is_output=True,
        statuses=_RUN,
        required={"tools": [], "call_id": None, "execution": "server"},
    ),
    ItemType("program", "cm", needs_call_id=True, is_sealed=True, former_prefix="prog"),
    ItemType(
        "program_output",
        "cmo",
        is_output=True,
        statuses=("completed", "incomplete"),
        is_sealed=True,
        former_prefix="progo",
    ),
    # Agents of the model server among themselves.
    ItemType("multi_agent_call", "mac", is_call=True, needs_call_id=True, required={"arguments": ""}),
    ItemType("multi_agent_call_output", "maco", is_output=True, required={"output": []}),
    ItemType("agent_message", "amsg", required={"content": []}, is_sealed=True),
    # What changes the setting of a conversation.
    ItemType("additional_tools", "at"),
    ItemType("configuration_update", "cfgu"),
)

#: The table: type → row.
ITEM_TYPES: Mapping[str, ItemType] = {row.name: row for row in _ROWS}


def item_type_of(name: str) -> ItemType:
    """Return the row of a type; of an unknown one what its name says: `…_call`, `…_output`, `…_response`."""
    return ITEM_TYPES.get(name) or ItemType(
        name, is_call=name.endswith("_call"), is_output=name.endswith(("_output", "_response"))
    )
