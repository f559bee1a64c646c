"""An item of every type that is known, as a model server answers it: with all that its output form has."""

from __future__ import annotations

from typing import Any

Item = dict[str, Any]

SUMMARY = [{"type": "summary_text", "text": "I thought about it."}]


def message(number: int) -> Item:
    content = [{"type": "output_text", "text": f"said {number}", "annotations": [], "logprobs": []}]
    return {"type": "message", "role": "assistant", "status": "completed", "phase": "final_answer", "content": content}


def call(number: int, kind: str = "function_call", **fields: Any) -> Item:
    return {"type": kind, "call_id": f"call_{number}", "status": "completed", "created_by": "model", **fields}


def samples(number: int, model: str) -> dict[str, list[Item]]:
    """Return the items that an answer may have, by name; those of one name come together. number: tells them apart."""
    seal = f"gAAAAA-{model}-{number}-0123456789abcdef"
    ran = f"call_hosted_{number}"
    caller = {"type": "program", "caller_id": f"call_program_{number}"}
    said = message(number)
    return {
        "message": [said],
        "messages": [said, message(number + 1000)],
        "refusal": [{**said, "content": [{"type": "refusal", "refusal": "No."}]}],
        "sealed thought": [{"type": "reasoning", "summary": [], "encrypted_content": seal, "status": None}, said],
        "thought": [
            {"type": "reasoning", "summary": SUMMARY, "encrypted_content": seal, "status": "completed"},
            {"type": "reasoning", "summary": [], "encrypted_content": f"{seal}2"},
            said,
        ],
        "thought and call": [
            {"type": "reasoning", "summary": SUMMARY, "encrypted_content": seal},
            call(number, name="look", arguments='{"city":"Rome"}'),
        ],
        "readable thought": [
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            said,
        ],
        "empty thought": [{"type": "reasoning", "summary": []}, said],
        "thought alone": [{"type": "reasoning", "summary": [], "encrypted_content": seal}],
        "calls": [call(n, name="look", arguments="{}") for n in (number, number + 1000)],
        "call without arguments": [call(number, name="look", arguments="")],
        "broken call": [call(number, name="look", arguments="{'city'")],
        "cut call": [said, call(number, name="look", arguments='{"city":"Ro', status="incomplete")],
        "whole call of a cut answer": [call(number, name="look", arguments="{}", status="incomplete")],
        "custom call": [call(number, "custom_tool_call", name="run", input="ls")],
        "computer": [call(number, "computer_call", action={"type": "wait"}, pending_safety_checks=[])],
        "local shell": [call(number, "local_shell_call", action={"type": "exec", "command": ["ls"], "env": {}})],
        "shell": [
            call(number + 1000, "shell_call", action={"commands": ["ls"]}, environment=None),
            call(number + 1000, "shell_call_output", output=[{"stdout": "a", "created_by": "m"}], max_output_length=9),
            said,
        ],
        "open shell": [call(number, "shell_call", action={"commands": ["ls"]}, environment=None)],
        "patch": [call(number, "apply_patch_call", operation={"type": "delete_file", "path": "a"})],
        "search": [
            {
                "type": "web_search_call",
                "status": "completed",
                "action": {"type": "search", "query": "q", "sources": [{"type": "url", "url": "https://example.org"}]},
            },
            said,
        ],
        "files": [{"type": "file_search_call", "status": "completed", "queries": ["q"], "results": None}, said],
        "interpreter": [
            {"type": "code_interpreter_call", "status": "completed", "container_id": "c", "code": "1", "outputs": None},
            said,
        ],
        "picture": [
            {
                "type": "image_generation_call",
                "status": "completed",
                "result": "aGk=",
                "action": "generate",
                "background": "opaque",
                "output_format": "png",
                "quality": "high",
                "size": "auto",
                "revised_prompt": "A cat.",
            },
            said,
        ],
        "no picture": [{"type": "image_generation_call", "status": "failed", "result": None}, said],
        "mcp": [
            {"type": "mcp_list_tools", "server_label": "s", "tools": [], "error": None},
            {"type": "mcp_call", "server_label": "s", "name": "n", "arguments": "{}", "output": "x", "error": None},
            said,
        ],
        "cut mcp": [{"type": "mcp_call", "server_label": "s", "name": "n", "arguments": '{"a', "status": "incomplete"}],
        "approval": [{"type": "mcp_approval_request", "server_label": "s", "name": "n", "arguments": "{}"}],
        "tools found": [
            {
                "type": "tool_search_call",
                "call_id": None,
                "execution": "server",
                "arguments": {},
                "status": "completed",
            },
            {"type": "tool_search_output", "call_id": None, "execution": "server", "tools": [], "status": "completed"},
            said,
        ],
        "program": [
            {"type": "program", "call_id": f"call_program_{number}", "code": "look()", "fingerprint": seal},
            call(number, name="look", arguments="{}", caller=caller),
        ],
        "whole program": [
            {"type": "program", "call_id": ran, "code": "1", "fingerprint": seal},
            {"type": "program_output", "call_id": ran, "result": "1", "status": "completed"},
            said,
        ],
        "agents": [
            {"type": "multi_agent_call", "call_id": ran, "action": "spawn_agent", "arguments": "{}"},
            {"type": "multi_agent_call_output", "call_id": ran, "action": "spawn_agent", "output": []},
            {
                "type": "agent_message",
                "author": "a",
                "recipient": "b",
                "content": [{"type": "encrypted_content", "encrypted_content": seal}],
            },
            said,
        ],
        "compaction": [{"type": "compaction", "encrypted_content": seal, "created_by": "model"}, said],
        "unknown": [{"type": "strange_thing", "id": f"strg_{number}", "weight": 12345678901234567890}, said],
        "unknown call": [{"type": "strange_call", "id": f"strc_{number}", "call_id": ran}, said],
        "nothing": [],
    }


#: What each name means is the same for all numbers.
NAMES = sorted(samples(0, ""))


def output_for(item: Item) -> Item | None:
    """Return what a client answers to a call of its tools, None for what is none."""
    kind = str(item["type"])
    outputs: dict[str, Any] = {
        "function_call": "42",
        "custom_tool_call": "42",
        "computer_call": {"type": "computer_screenshot", "image_url": "data:image/png;base64,"},
        "local_shell_call": "42",
        "shell_call": [],
        "apply_patch_call": "done",
    }
    if kind == "mcp_approval_request":
        return {"type": "mcp_approval_response", "approval_request_id": item["id"], "approve": True}
    if kind not in outputs:
        return None
    return {"type": f"{kind}_output", "call_id": item["call_id"], "output": outputs[kind], "status": "completed"}
