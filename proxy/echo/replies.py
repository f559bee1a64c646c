"""Echo replies: what the built-in model answers to a request, read as a stateless model server does. No I/O.

What it says depends on the request alone, and says how much history it was given, so that a test or a reader
sees at once whether the state in front of it works.
"""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

import msgspec
import orjson

from proxy.echo.events import PIECE
from proxy.echo.schema_sample import specimen
from proxy.protocol.errors import BadRequest
from proxy.protocol.item_types import Item


class Format(msgspec.Struct, kw_only=True):
    """`text.format`: text, json_object or json_schema."""

    type: str = "text"
    schema: dict[str, Any] | None = None


class TextSettings(msgspec.Struct, kw_only=True):
    """`text` of a request."""

    format: Format | None = None


class Request(msgspec.Struct, kw_only=True):
    """The fields of a `POST /v1/responses` body that change the answer; all others are echoed unread."""

    model: str
    input: str | list[Item]
    instructions: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextSettings | None = None
    reasoning: dict[str, Any] | None = None
    include: list[str] | None = None
    max_output_tokens: int | None = None
    stream: bool | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    background: bool | None = None


class ToolCall(NamedTuple):
    """A function that the model wants called; `arguments` is JSON."""

    name: str
    arguments: str


class Answer(NamedTuple):
    """What the model has to say: a text or calls. Tokens are words; `is_cut`: the limit took some away."""

    text: str
    calls: list[ToolCall]
    thought: str
    is_cut: bool
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int


class _Prompt(NamedTuple):
    texts: list[str]
    images: int
    earlier: int
    is_tool_output: bool


def answer(request: Request) -> Answer:
    """Return the answer to `request`. Raises BadRequest for what a stateless model server can't do."""
    items = _items(request)
    _refuse_state(request, items)
    prompt = _read(items)
    calls = _calls(request, prompt)
    said, is_cut = ("", False) if calls else _cut(_say(request, prompt), request.max_output_tokens)
    effort = (request.reasoning or {}).get("effort")
    thought = "I repeat what I was told." if request.reasoning and effort != "none" else ""
    spoken = [said, thought, *(call.arguments for call in calls)]
    return Answer(
        text=said,
        calls=calls,
        thought=thought,
        is_cut=is_cut,
        input_tokens=_count(request.instructions or "", *map(_text_of, items)),
        output_tokens=_count(*spoken),
        reasoning_tokens=_count(thought),
    )


def seal(item_id: str) -> str:
    """Return `encrypted_content` that is bound to `item_id`, as OpenAI's is."""
    return "echo" + base64.urlsafe_b64encode(item_id.encode()).decode()


def _items(request: Request) -> list[Item]:
    if isinstance(request.input, str):
        return [{"type": "message", "role": "user", "content": request.input}]
    return request.input


def _refuse_state(request: Request, items: list[Item]) -> None:
    for name in ("previous_response_id", "conversation", "background"):
        if getattr(request, name):
            raise BadRequest(f"This model server keeps no state: '{name}' is not supported.", param=name)
    if request.max_output_tokens is not None and request.max_output_tokens < 1:
        raise BadRequest("'max_output_tokens' must be at least 1.", param="max_output_tokens")
    called = set()
    for index, item in enumerate(items):
        _refuse_item(item, f"input[{index}]")
        if item.get("type") == "function_call":
            called.add(str(item.get("call_id")))
        elif item.get("type") == "function_call_output" and str(item.get("call_id")) not in called:
            message = f"No tool call found for function call output with call_id {item.get('call_id')}."
            raise BadRequest(message, param="input")


def _refuse_item(item: Item, path: str) -> None:
    if item.get("type") == "item_reference" or not (item.get("type") or item.get("role")):
        raise BadRequest(f"Item with id '{item.get('id')}' not found.", param=path)
    sealed = item.get("encrypted_content")
    # OpenAI issues encrypted reasoning for one item id and refuses it under another; none is fine.
    if str(sealed).startswith("echo") and item.get("id") and sealed != seal(item["id"]):
        message = f"The encrypted content for item {item['id']} could not be verified."
        raise BadRequest(message, param=path, code="invalid_encrypted_content")


def _read(items: list[Item]) -> _Prompt:
    outputs: list[str] = []
    for item in reversed(items):
        if item.get("type") != "function_call_output":
            break
        outputs.insert(0, _text_of(item))
    if outputs:
        return _Prompt(outputs, 0, len(items) - len(outputs), is_tool_output=True)
    for index in range(len(items) - 1, -1, -1):
        if items[index].get("role") == "user":
            return _Prompt([_text_of(items[index])], _images_of(items[index]), index, is_tool_output=False)
    return _Prompt([""], 0, len(items), is_tool_output=False)


def _say(request: Request, prompt: _Prompt) -> str:
    wanted = request.text.format if request.text and request.text.format else Format()
    if wanted.type == "json_schema":
        return orjson.dumps(specimen(wanted.schema or {"type": "object"})).decode()
    if wanted.type == "json_object":
        return orjson.dumps({"said": " ".join(prompt.texts)}).decode()
    speaker = "The tool" if prompt.is_tool_output else "You"
    quote = " and ".join(f'"{text}"' for text in prompt.texts)
    images = f" and {_plural(prompt.images, 'image')}" if prompt.images else ""
    return f"{speaker} said: {quote}{images} (I saw {_plural(prompt.earlier, 'earlier item')}.)"


def _calls(request: Request, prompt: _Prompt) -> list[ToolCall]:
    schemas = {
        tool.get("name", ""): tool.get("parameters") or {"type": "object"}
        for tool in request.tools or []
        if tool.get("type") == "function"
    }
    if not schemas or prompt.is_tool_output or request.tool_choice == "none":
        return []
    words = [word.strip(".,;:!?\"'`()") for word in " ".join(prompt.texts).split()]
    triples = zip(words, words[1:], [*words[2:], ""], strict=False)
    wanted = [(name, word) for call, name, word in triples if call.lower() == "call" and name in schemas]
    forced = _forced(request, list(schemas))
    if forced and not any(name == forced for name, _ in wanted):
        wanted = [(forced, "")] if isinstance(request.tool_choice, dict) or not wanted else wanted
    if request.parallel_tool_calls is False:
        wanted = wanted[:1]
    return [ToolCall(name, orjson.dumps(specimen(schemas[name], word or "echo")).decode()) for name, word in wanted]


def _forced(request: Request, names: list[str]) -> str:
    if isinstance(request.tool_choice, dict):
        name = request.tool_choice.get("name", "")
        return name if name in names else ""
    return names[0] if request.tool_choice == "required" else ""


def _cut(text: str, limit: int | None) -> tuple[str, bool]:
    pieces = PIECE.findall(text)
    if limit is None or len(pieces) <= limit:
        return text, False
    return "".join(pieces[:limit]), True


def _text_of(item: Item) -> str:
    for field in ("content", "output", "arguments", "input", "summary"):
        value = item.get(field)
        if isinstance(value, str):
            return value
        if isinstance(value, list) and value:
            return " ".join(
                part["text"] for part in value if isinstance(part, dict) and isinstance(part.get("text"), str)
            )
    return ""


def _images_of(item: Item) -> int:
    content = item.get("content")
    parts = content if isinstance(content, list) else []
    return sum(isinstance(part, dict) and part.get("type") == "input_image" for part in parts)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _count(*texts: str) -> int:
    return sum(len(text.split()) for text in texts)
