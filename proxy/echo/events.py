"""Echo events: a finished Response object told as the stream that OpenAI would have sent while it was made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

#: A word with the blanks before it: what one delta carries.
PIECE = re.compile(r"\s*\S+|\s+")

_Told = Iterator[tuple[str, dict[str, Any]]]


def play(response: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the events of `response`, numbered from 0. Item types: message, reasoning, function_call."""
    for number, (kind, fields) in enumerate(_tell(response)):
        yield {"type": f"response.{kind}", "sequence_number": number, **fields}


def _tell(response: dict[str, Any]) -> _Told:
    unfinished: dict[str, Any] = {
        "status": "in_progress",
        "completed_at": None,
        "incomplete_details": None,
        "output": [],
        "usage": None,
    }
    start = {**response, **unfinished, "service_tier": "auto"}
    yield "created", {"response": start}
    yield "in_progress", {"response": start}
    for index, item in enumerate(response["output"]):
        tell_item = {"reasoning": _tell_reasoning, "function_call": _tell_call}.get(item["type"], _tell_message)
        for kind, fields in tell_item(item):
            yield kind, {"output_index": index, **fields}
    yield response["status"], {"response": response}


def _tell_message(item: dict[str, Any]) -> _Told:
    yield "output_item.added", {"item": {**item, "status": "in_progress", "content": []}}
    for index, part in enumerate(item["content"]):
        place = {"item_id": item["id"], "content_index": index}
        yield "content_part.added", {**place, "part": {**part, "text": ""}}
        for piece in PIECE.findall(part["text"]):
            yield "output_text.delta", {**place, "delta": piece, "logprobs": []}
        yield "output_text.done", {**place, "text": part["text"], "logprobs": []}
        yield "content_part.done", {**place, "part": part}
    yield "output_item.done", {"item": item}


def _tell_reasoning(item: dict[str, Any]) -> _Told:
    yield "output_item.added", {"item": {**item, "summary": []}}
    for index, part in enumerate(item["summary"]):
        place = {"item_id": item["id"], "summary_index": index}
        yield "reasoning_summary_part.added", {**place, "part": {**part, "text": ""}}
        for piece in PIECE.findall(part["text"]):
            yield "reasoning_summary_text.delta", {**place, "delta": piece}
        yield "reasoning_summary_text.done", {**place, "text": part["text"]}
        yield "reasoning_summary_part.done", {**place, "part": part}
    yield "output_item.done", {"item": item}


def _tell_call(item: dict[str, Any]) -> _Told:
    yield "output_item.added", {"item": {**item, "status": "in_progress", "arguments": ""}}
    place = {"item_id": item["id"]}
    for start in range(0, len(item["arguments"]), 8):
        yield "function_call_arguments.delta", {**place, "delta": item["arguments"][start : start + 8]}
    finished = {"name": item["name"], "arguments": item["arguments"]}
    yield "function_call_arguments.done", {**place, **finished}
    yield "output_item.done", {"item": item}
