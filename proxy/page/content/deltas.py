"""Deltas: the pieces of text in a response's events. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

#: Types of events that bring a piece of text → what it is a piece of.
KINDS = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "refusal",
    "response.reasoning_text.delta": "reasoning",
    "response.reasoning_summary_text.delta": "reasoning",
    "response.function_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "arguments",
    "response.mcp_call_arguments.delta": "arguments",
}
_DATA = b"data: "


def deltas_in(frames: Iterable[bytes]) -> list[dict[str, Any]]:
    """Return what frames of a response's stream add to its items; what follows each other in one place is joined.

    Each piece has `item`, an id; `part`, the number of the part of that; `kind`, see `KINDS`; and `text`.
    """
    pieces: list[dict[str, Any]] = []
    for frame in frames:
        event = _read(frame)
        kind = KINDS.get(event.get("type", ""))
        text = event.get("delta")
        if kind is None or not isinstance(text, str):
            continue
        part = event.get("content_index", event.get("summary_index", 0))
        place = {"item": event.get("item_id"), "part": part, "kind": kind}
        if pieces and place.items() <= pieces[-1].items():
            pieces[-1]["text"] += text
        else:
            pieces.append({**place, "text": text})
    return pieces


def _read(frame: bytes) -> dict[str, Any]:
    """Return the event of a frame that may bring a piece of text, {} of any other."""
    at = frame.find(_DATA)
    if at < 0 or b'.delta"' not in frame:
        return {}
    event = orjson.loads(frame[at + len(_DATA) :].rstrip())
    return event if isinstance(event, dict) else {}
