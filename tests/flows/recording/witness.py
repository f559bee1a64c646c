"""What is recorded, as the store has it: conversations, their lines, and what a step has added."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from proxy.recording.chat import CHAT_RECORDER
from proxy.recording.recorder import RECORDER
from tests.flows.conftest import Proxy
from tests.flows.talk import settled


@dataclass
class Line:
    """One line of a conversation: its name, how many items it wrote itself, the kinds of them, and facts."""

    name: str
    items: list[bytes]
    facts: dict[str, str]


@dataclass
class Recorded:
    """A conversation as it is stored."""

    id: str
    owner: str
    metadata: dict[str, str]
    lines: dict[int, Line] = field(default_factory=dict)

    @property
    def deleted(self) -> int:
        return sum(not item for line in self.lines.values() for item in line.items)


def text(value: bytes) -> str:
    return value.decode()


async def all_recorded(proxy: Proxy) -> dict[str, Recorded]:
    """Return the living conversations by id, once nothing is left to be written."""
    await settled(proxy)
    await proxy.app[CHAT_RECORDER].settle(5)
    await proxy.app[RECORDER].notes.settle(5)
    redis: Any = proxy.redis

    async def texts(key: str) -> dict[str, str]:
        return {text(name): text(value) for name, value in (await redis.hgetall(key)).items()}

    found = {}
    for key in await redis.keys("*:conversation"):
        facts = await texts(text(key))
        if "deleted_at" in facts:
            continue
        base = text(key).removesuffix("conversation")
        metadata = {name[2:]: value for name, value in facts.items() if name.startswith("m:")}
        owner = (await texts(base + "partition"))["owner"]
        one = found[facts["id"]] = Recorded(facts["id"], owner, metadata)
        for name, line in await redis.zrange(base + "branches", 0, -1, withscores=True):
            items = await redis.lrange(f"{base}segment:{int(line)}", 0, -1)
            one.lines[int(line)] = Line(text(name), items, await texts(f"{base}branch:{int(line)}"))
    return found


@dataclass
class Change:
    """What one step has done."""

    action: str
    conversation: str = ""
    line: int = -1
    new_items: int = 0


def difference(before: dict[str, Recorded], after: dict[str, Recorded]) -> Change:
    """Return what has come between two looks, which is one turn at most."""
    for one, recorded in after.items():
        if one not in before:
            (first,) = recorded.lines
            action = "separate" if "parent_conversation_id" in recorded.metadata else "new"
            return Change(action, one, first, len(recorded.lines[first].items))
    for one, recorded in after.items():
        old = before[one]
        for number, line in recorded.lines.items():
            if number not in old.lines:
                return Change(_kind(line), one, number, len(line.items))
            if added := len(line.items) - len(old.lines[number].items):
                action = "retry" if recorded.deleted > old.deleted else "continue"
                return Change(action, one, number, added)
    return Change("not_recorded")


def _kind(line: Line) -> str:
    if line.facts.get("description") == "rewritten history":
        return "rewritten"
    if line.name.startswith("side"):
        return "side_branch"
    begins = line.items[0][:200]
    return "fork" if b'"role":"user"' in begins or b'_output"' in begins else "regenerate"


def answer_object(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the Response object of a model server with this output."""
    return {"id": "up", "object": "response", "status": "completed", "output": items}


def answer_events(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the same as the events of a stream."""
    started = {"id": "up", "object": "response", "status": "in_progress", "output": []}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": started}]
    for index, item in enumerate(items):
        begun = {**item, "content": []} if item["type"] == "message" else item
        if item["type"] == "function_call":
            begun = {**item, "arguments": ""}
        events.append({"type": "response.output_item.added", "output_index": index, "item": begun})
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    return [*events, {"type": "response.completed", "response": answer_object(items)}]


def completion(message: dict[str, Any]) -> dict[str, Any]:
    """Return a completion of a model server that says this."""
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 7, "model": "m-1", "choices": [choice]}


def chunks(message: dict[str, Any], *, cut: bool = False) -> list[bytes]:
    """Return the same as the frames of a stream, its texts and arguments in two pieces. cut: without its end."""
    made: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in _deltas(message)]
    made += [] if cut else [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m-1"}
    frames = [b"data: " + orjson.dumps({**head, "choices": [choice]}) + b"\n\n" for choice in made]
    return frames if cut else [*frames, b"data: [DONE]\n\n"]


def _deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": None if message["content"] is None else ""}
    for name in ("reasoning_content", "content", "refusal"):
        for piece in _halves(message.get(name) or ""):
            yield {name: piece}
    for index, call in enumerate(message.get("tool_calls") or ()):
        yield {"tool_calls": [{**call, "index": index, "function": {**call["function"], "arguments": ""}}]}
        for piece in _halves(call["function"]["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _halves(text: str) -> list[str]:
    middle = len(text) // 2
    return [text[:middle], text[middle:]] if text else []
