"""Answers of Chat Completions as chunks, cut at random."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any


def play(answer: dict[str, Any], rng: Random) -> Iterator[dict[str, Any]]:
    """Yield the chunks of an answer: choices beside each other, texts in pieces, the usage last."""
    head = {name: value for name, value in answer.items() if name not in ("choices", "usage")}
    waiting = {choice["index"]: list(_deltas(choice["message"], rng)) for choice in answer["choices"]}
    reasons = {choice["index"]: choice["finish_reason"] for choice in answer["choices"]}
    while waiting:
        index = rng.choice(list(waiting))
        if waiting[index]:
            yield {**head, "choices": [{"index": index, "delta": waiting[index].pop(0), "finish_reason": None}]}
        else:
            del waiting[index]
            yield {**head, "choices": [{"index": index, "delta": {}, "finish_reason": reasons[index]}]}
    if "usage" in answer:
        yield {**head, "choices": [], "usage": answer["usage"]}


def _deltas(message: dict[str, Any], rng: Random) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": None if message["content"] is None else ""}
    for name in ("reasoning_content", "reasoning", "content", "refusal"):
        for piece in _pieces(message.get(name), rng):
            yield {name: piece}
    if audio := message.get("audio"):
        yield {"audio": {"id": audio["id"]}}
        for name in ("data", "transcript"):
            for piece in _pieces(audio[name], rng):
                yield {"audio": {name: piece}}
        yield {"audio": {"expires_at": audio["expires_at"]}}
    for one in message.get("annotations") or ():
        yield {"annotations": [one]}
    for index, call in enumerate(message.get("tool_calls") or ()):
        yield {"tool_calls": [{**call, "index": index, "function": {**call["function"], "arguments": ""}}]}
        for piece in _pieces(call["function"]["arguments"], rng):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _pieces(text: str | None, rng: Random) -> list[str]:
    if text is None:
        return []
    cut = rng.randint(0, len(text))
    return [text[:cut], text[cut:]]
