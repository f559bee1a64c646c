"""Chat Completions: the older API in front of the echo model: its request, its answer, its chunks. No I/O."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

import msgspec

from proxy.echo.events import PIECE
from proxy.echo.replies import Answer, Format, Request, TextSettings

if TYPE_CHECKING:
    from collections.abc import Iterator


class ChatRequest(msgspec.Struct, kw_only=True):
    """The fields of a `POST /v1/chat/completions` body that change the answer."""

    model: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None

    def wants_usage(self) -> bool:
        """Tell whether the stream ends with a chunk that carries the usage."""
        return bool((self.stream_options or {}).get("include_usage"))

    def to_responses(self) -> Request:
        """Return the same request in the terms of the Responses API."""
        choice = self.tool_choice
        return Request(
            model=self.model,
            input=[item for message in self.messages for item in _to_items(message)],
            tools=[{"type": tool.get("type"), **(tool.get("function") or {})} for tool in self.tools or []],
            tool_choice=choice.get("function") if isinstance(choice, dict) else choice,
            parallel_tool_calls=self.parallel_tool_calls,
            text=TextSettings(format=_to_format(self.response_format or {})),
            max_output_tokens=self.max_completion_tokens or self.max_tokens,
        )


def build_completion(model: str, said: Answer) -> dict[str, Any]:
    """Return the finished `chat.completion` object."""
    message: dict[str, Any] = {"role": "assistant", "content": said.text, "refusal": None, "annotations": []}
    reason = "length" if said.is_cut else "stop"
    if said.calls:
        reason = "tool_calls"
        message["content"] = None
        message["tool_calls"] = [
            {
                "id": f"call_{secrets.token_urlsafe(18)}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in said.calls
        ]
    return {
        "id": f"chatcmpl-{secrets.token_urlsafe(21)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
        "usage": {
            "prompt_tokens": said.input_tokens,
            "completion_tokens": said.output_tokens,
            "total_tokens": said.input_tokens + said.output_tokens,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": said.reasoning_tokens},
        },
        "service_tier": "default",
    }


def play_completion(completion: dict[str, Any], *, include_usage: bool) -> Iterator[dict[str, Any]]:
    """Yield the chunks that `completion` would have been streamed as."""
    (choice,) = completion["choices"]
    frame = {**completion, "object": "chat.completion.chunk"}
    usage = frame.pop("usage")
    if include_usage:
        frame["usage"] = None
    for delta in _deltas(choice["message"]):
        yield {**frame, "choices": [_chunk_choice(delta, None)]}
    yield {**frame, "choices": [_chunk_choice({}, choice["finish_reason"])]}
    if include_usage:
        yield {**frame, "choices": [], "usage": usage}


def _deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    content = message["content"]
    yield {"role": "assistant", "content": None if content is None else "", "refusal": None}
    for piece in PIECE.findall(content or ""):
        yield {"content": piece}
    for index, call in enumerate(message.get("tool_calls") or []):
        yield {"tool_calls": [{"index": index, **call, "function": {**call["function"], "arguments": ""}}]}
        arguments = {"arguments": call["function"]["arguments"]}
        yield {"tool_calls": [{"index": index, "function": arguments}]}


def _chunk_choice(delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def _to_items(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if message.get("role") == "tool":
        call_id, output = message.get("tool_call_id"), message.get("content")
        yield {"type": "function_call_output", "call_id": call_id, "output": output}
        return
    content = message.get("content")
    if content:
        yield {"type": "message", "role": message.get("role"), "content": _to_parts(content)}
    for call in message.get("tool_calls") or []:
        yield {"type": "function_call", "call_id": call.get("id"), **(call.get("function") or {})}


def _to_parts(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return [{**part, "type": f"input_{part.get('type', '').removesuffix('_url')}"} for part in content]


def _to_format(response_format: dict[str, Any]) -> Format:
    schema = (response_format.get("json_schema") or {}).get("schema")
    return Format(type=response_format.get("type", "text"), schema=schema)
