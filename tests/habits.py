"""How clients resend a history: each habit gives back the same conversation in another form. Random, by `rng`.

A conversation is a list of turns' items in the Responses form: questions, what was thought, texts, calls and outputs.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from proxy.chat.compose import ChatItem
from proxy.chat.write import write_messages

Item = dict[str, Any]
Habit = Callable[[list[Item], Random], list[Item]]

_SERVER_FIELDS = ("id", "status", "phase", "logprobs", "annotations")


def as_sent(items: list[Item], rng: Random) -> list[Item]:
    """Everything as it came."""
    return items


def reserialised(items: list[Item], rng: Random) -> list[Item]:
    """Arguments parsed and written again (LangChain, AI SDK, pydantic-ai)."""
    return [
        {**item, "arguments": _rewritten(item["arguments"], rng)} if item["type"] == "function_call" else item
        for item in items
    ]


def _rewritten(arguments: str, rng: Random) -> str:
    value = json.loads(arguments)
    if isinstance(value, dict):
        names = list(value)
        rng.shuffle(names)
        value = {name: _number(value[name], rng) for name in names}
    return json.dumps(value, ensure_ascii=rng.random() < 0.5, separators=rng.choice([(",", ":"), (", ", ": ")]))


def _number(value: Any, rng: Random) -> Any:
    if isinstance(value, float) and value.is_integer():
        return rng.choice([int(value), value])
    return float(value) if type(value) is int and rng.random() < 0.5 else value


def without_ids(items: list[Item], rng: Random) -> list[Item]:
    """What the server added is dropped (LlamaIndex, Home Assistant)."""
    return [
        {**{name: value for name, value in item.items() if name not in _SERVER_FIELDS}, **_bare_content(item)}
        for item in items
    ]


def _bare_content(item: Item) -> Item:
    if item["type"] != "message":
        return {}
    parts = [{name: value for name, value in part.items() if name not in _SERVER_FIELDS} for part in item["content"]]
    return {"content": parts}


def merged(items: list[Item], rng: Random) -> list[Item]:
    """The parts of a message are one, and messages of one role that follow each other are (LangChain)."""
    found: list[Item] = []
    for item in items:
        if item["type"] == "message":
            text = "".join(part["text"] for part in item["content"])
            kind = item["content"][0]["type"] if item["content"] else "input_text"
            if found and found[-1]["type"] == "message" and found[-1]["role"] == item["role"]:
                text = found.pop()["content"][0]["text"] + text
            item = {"type": "message", "role": item["role"], "content": [{"type": kind, "text": text}]}
        found.append(item)
    return found


def split(items: list[Item], rng: Random) -> list[Item]:
    """Texts are cut in parts, or in messages (AI SDK, LangChain)."""
    found: list[Item] = []
    for item in items:
        if item["type"] != "message":
            found.append(item)
            continue
        parts = [{**part, "text": piece} for part in item["content"] for piece in _pieces(part["text"], rng)]
        if item["role"] == "assistant" and rng.random() < 0.5:
            found += [{**item, "content": [part]} for part in parts]
        else:
            found.append({**item, "content": parts})
    return found


def _pieces(text: str, rng: Random) -> list[str]:
    cut = rng.randint(0, len(text))
    return [text[:cut], text[cut:]]


def without_thoughts(items: list[Item], rng: Random) -> list[Item]:
    """Reasoning is dropped, also where it stood in the text (LangChain, LlamaIndex)."""
    found = [item for item in items if item["type"] != "reasoning"]
    for place, item in enumerate(found):
        if item["type"] == "message" and item["role"] == "assistant" and item["content"]:
            text = item["content"][0]["text"]
            if text.startswith("<think>") and "</think>" in text:
                part = {**item["content"][0], "text": text.partition("</think>")[2]}
                found[place] = {**item, "content": [part, *item["content"][1:]]}
    return found


def with_nulls(items: list[Item], rng: Random) -> list[Item]:
    """Fields that were not there are null (litellm, `model_dump`)."""
    return [{**dict.fromkeys(("namespace", "phase", "name_of"), None), **item} for item in items]


def trimmed(items: list[Item], rng: Random) -> list[Item]:
    """White space is trimmed, line ends are others, characters decomposed."""
    return [{**item, "content": _trimmed(item["content"])} if item["type"] == "message" else item for item in items]


def _trimmed(parts: Sequence[Item]) -> list[Item]:
    return [
        {**part, "text": unicodedata.normalize("NFD", part["text"]).replace("\n", "\r\n").strip(" ")} for part in parts
    ]


def pruned(items: list[Item], rng: Random) -> list[Item]:
    """What tools put out is cut, but for the last (opencode)."""
    outputs = [place for place, item in enumerate(items) if item["type"] == "function_call_output"]
    kept = outputs[-3:]
    return [
        {**item, "output": "[pruned]"} if place in outputs and place not in kept else item
        for place, item in enumerate(items)
    ]


def instructed(items: list[Item], rng: Random) -> list[Item]:
    """Instructions stand before everything, and change each time."""
    said = f"Today is day {rng.randint(0, 10**6)}."
    return [{"type": "message", "role": "developer", "content": [{"type": "input_text", "text": said}]}, *items]


def interleaved(items: list[Item], rng: Random) -> list[Item]:
    """Each output stands behind its call (AI SDK)."""
    outputs = {item["call_id"]: item for item in items if item["type"] == "function_call_output"}
    found = []
    for item in items:
        if item["type"] == "function_call_output":
            continue
        found.append(item)
        if item["type"] == "function_call" and item["call_id"] in outputs:
            found.append(outputs[item["call_id"]])
    return found


HABITS: dict[str, Habit] = {
    habit.__name__: habit
    for habit in (
        as_sent,
        reserialised,
        without_ids,
        merged,
        split,
        without_thoughts,
        with_nulls,
        trimmed,
        pruned,
        instructed,
        interleaved,
    )
}


def in_chat(items: Sequence[Item]) -> list[Item]:
    """The same as messages of Chat Completions."""
    return write_messages(ChatItem(item) for item in items)
