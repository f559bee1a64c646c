"""Streams and items for the tests of the relay."""

from __future__ import annotations

from typing import Any

TEXT: dict[str, Any] = {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
MESSAGE: dict[str, Any] = {
    "type": "message",
    "id": "msg_up",
    "role": "assistant",
    "status": "completed",
    "content": [TEXT],
}
CALL: dict[str, Any] = {
    "type": "function_call",
    "id": "fc_up",
    "call_id": "call_up",
    "name": "look",
    "arguments": "{}",
    "status": "completed",
}
SUMMARY: dict[str, Any] = {"type": "summary_text", "text": "why"}
REASONING: dict[str, Any] = {"type": "reasoning", "id": "rs_up", "summary": [SUMMARY], "encrypted_content": "sealed"}


def body(kind: str, index: int | None = None, item_id: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return the event `response.<kind>` with what is given and nothing else."""
    place = {"output_index": index, "item_id": item_id}
    return {"type": f"response.{kind}", **{name: at for name, at in place.items() if at is not None}, **fields}


def completed(*output: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return body("completed", response={"status": "completed", "output": list(output), **fields})


_RUNNING = {"id": "resp_up", "status": "in_progress", "model": "m"}
_PART = {"content_index": 0}
_SUMMARY = {"summary_index": 0}
_USAGE = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}

#: A stream as OpenAI sends it: reasoning with a summary, a message, a call.
WHOLE: list[dict[str, Any]] = [
    body("created", response=_RUNNING),
    body("in_progress", response=_RUNNING),
    body("output_item.added", 0, item={**REASONING, "summary": []}),
    body("reasoning_summary_part.added", 0, "rs_up", **_SUMMARY, part={**SUMMARY, "text": ""}),
    body("reasoning_summary_text.delta", 0, "rs_up", **_SUMMARY, delta="why"),
    body("reasoning_summary_text.done", 0, "rs_up", **_SUMMARY, text="why"),
    body("reasoning_summary_part.done", 0, "rs_up", **_SUMMARY, part=SUMMARY),
    body("output_item.done", 0, item=REASONING),
    body("output_item.added", 1, item={**MESSAGE, "status": "in_progress", "content": []}),
    body("content_part.added", 1, "msg_up", **_PART, part={**TEXT, "text": ""}),
    body("output_text.delta", 1, "msg_up", **_PART, delta="Hel", logprobs=[], obfuscation="x9"),
    body("output_text.delta", 1, "msg_up", **_PART, delta="lo", logprobs=[]),
    body("output_text.done", 1, "msg_up", **_PART, text="Hello", logprobs=[]),
    body("content_part.done", 1, "msg_up", **_PART, part=TEXT),
    body("output_item.done", 1, item=MESSAGE),
    body("output_item.added", 2, item={**CALL, "status": "in_progress", "arguments": ""}),
    body("function_call_arguments.delta", 2, "fc_up", delta="{}"),
    body("function_call_arguments.done", 2, "fc_up", name="look", arguments="{}"),
    body("output_item.done", 2, item=CALL),
    completed(REASONING, MESSAGE, CALL, id="resp_up", model="m", usage=_USAGE),
]
