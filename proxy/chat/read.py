"""Messages as items: those of a request, and that of an answer. Whatever they hold, nothing here raises. Pure.

| message | items |
|---|---|
| system, developer, user | a message of that role, its parts as `input_…` |
| assistant | what was thought, what was said, each call, in this order |
| tool, function | the output of a call |

An item says what the Responses API can say; the rest of a message is kept beside it (`ChatItem`), so that just the same
message can be made of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any

import orjson

from proxy.chat.compose import CALLS, DETAILS, OUTPUTS, REASONING_FIELDS, ChatItem, compose
from proxy.chat.parts import audio_part, item_annotations, item_part, text_part
from proxy.chat.patches import difference
from proxy.protocol.ids import new_call_id
from proxy.protocol.item_types import Item

#: Bytes that are kept beside an item; of a message with more that no item can say, that is lost.
MAX_CHAT_BYTES = 256 * 1024

_NO_FORM: dict[str, Any] = {}


def message_items(message: Any) -> list[Item]:
    """Return the items that a message stands for, as they are compared: without made-up ids and what else is kept."""
    return _items(message, _no_id)[0] if isinstance(message, dict) else []


def read_messages(
    messages: Sequence[Any],
    *,
    only: Iterable[int] | None = None,
    mint: Callable[[], str] = new_call_id,
) -> list[ChatItem]:
    """Return the items of a request's messages; what is no message yields nothing.

    only: indexes of those that are wanted, all without. mint: makes ids for calls without.
    """
    reader = _Reader(messages, mint)
    return [item for index in (range(len(messages)) if only is None else only) for item in reader.read(index)]


class _Reader:
    """Reads messages one after the other, and knows which calls they made."""

    def __init__(self, messages: Sequence[Any], mint: Callable[[], str]) -> None:
        self._messages = messages
        self._mint = mint
        #: Ids of calls without an output so far, as often as they were made.
        self._unnamed: dict[str, int] = {}
        self._last = -1
        #: Whether the tools of calls are custom, by their ids, and the last call without one, of so many messages.
        self._customs: dict[str, bool] = {}
        self._legacy: Item | None = None
        self._seen = 0

    def read(self, index: int) -> list[ChatItem]:
        message = self._messages[index]
        if not isinstance(message, dict):
            return []
        items, form = _items(message, self._mint)
        if items[0]["type"] in OUTPUTS:
            self._name_output(items[0], index)
        else:
            for item in items:
                if item["type"] in CALLS:
                    self._unnamed[item["call_id"]] = self._unnamed.get(item["call_id"], 0) + 1
        if self._last == index - 1 and _follows(self._messages[index - 1], message):
            form = {**form, "begins": True}
        self._last = index
        return with_chat(items, form, message)

    def _name_output(self, output: Item, index: int) -> None:
        """Complete what a tool message does not say: the call, where it has no id, and whether its tool is custom."""
        if not output["call_id"]:
            output["call_id"] = self._legacy_call(index) or next(iter(self._unnamed), None) or self._mint()
        call_id = output["call_id"]
        if call_id in self._unnamed:
            self._unnamed[call_id] -= 1
            if not self._unnamed[call_id]:
                del self._unnamed[call_id]
        self._look_through(index)
        if call_id in self._customs:
            output["type"] = OUTPUTS[self._customs[call_id]]

    def _legacy_call(self, index: int) -> str:
        """Return the id of the function call that a message of role `function` answers, '' if it answers none."""
        if self._messages[index].get("role") != "function":
            return ""
        self._look_through(index)
        return _legacy_id(self._legacy) if self._legacy is not None else ""

    def _look_through(self, index: int) -> None:
        """Know the calls of all messages before one; each is looked at once."""
        for message in self._messages[self._seen : index]:
            for call in _entries(message):
                if isinstance(call_id := call.get("id"), str):
                    self._customs[call_id] = isinstance(call.get("custom"), dict)
            legacy = message.get("function_call") if isinstance(message, dict) else None
            if isinstance(legacy, dict):
                self._legacy = legacy
        self._seen = max(self._seen, index)


def _follows(before: Any, message: Any) -> bool:
    """Whether two messages are the assistant's both, so that the items of the second might be parts of the first."""
    return isinstance(before, dict) and before.get("role") == message.get("role") == "assistant"


def _entries(message: Any) -> list[Item]:
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def with_chat(items: Sequence[Item], form: dict[str, Any], message: Item) -> list[ChatItem]:
    """Return a message's items, and beside the first of them all that they do not say of it."""
    patch = difference(compose(items, form), message)
    chat = {**form, "patch": patch} if patch else form
    try:
        fits = not patch or len(orjson.dumps(patch)) <= MAX_CHAT_BYTES
    except orjson.JSONEncodeError:
        fits = False
    return [ChatItem(items[0], (chat if fits else form) or None), *map(ChatItem, items[1:])]


def _items(message: Item, mint: Callable[[], str]) -> tuple[list[Item], dict[str, Any]]:
    """Return the items of a message, at least one, and the form in which it says them."""
    role, content = message.get("role"), message.get("content")
    if role in ("tool", "function"):
        return _output(message)
    if role == "assistant":
        return assistant_items(message, mint)
    parts, form = _parts(content)
    name = role if isinstance(role, str) and role else "user"
    return [{"type": "message", "role": name, "content": parts, "status": "completed"}], form


def _parts(content: Any, *, by_model: bool = False) -> tuple[list[Item], dict[str, Any]]:
    if isinstance(content, str):
        return [text_part(content, by_model=by_model)], _NO_FORM
    if not isinstance(content, list):
        return [], _NO_FORM
    parts = [item_part(part, by_model=by_model) for part in content]
    is_usual = len(parts) > 1 or (bool(parts) and parts[0].get("type") not in ("input_text", "output_text"))
    return parts, _NO_FORM if is_usual and not by_model else {"is_list": True}


def _output(message: Item) -> tuple[list[Item], dict[str, Any]]:
    content, call_id = message.get("content"), message.get("tool_call_id")
    output: Any = content if isinstance(content, str) else ""
    if isinstance(content, list):
        output = [item_part(part) for part in content]
    item = {
        "type": "function_call_output",
        "call_id": call_id if isinstance(call_id, str) else "",
        "output": output,
        "status": "completed",
    }
    name = message.get("name")
    return [item], {"legacy": name if isinstance(name, str) else ""} if message["role"] == "function" else _NO_FORM


def assistant_items(message: Item, mint: Callable[[], str]) -> tuple[list[Item], dict[str, Any]]:
    """Return what an assistant's message stands for, at least one item, and the form in which it says it."""
    thoughts, form = _thoughts(message)
    calls = [item for call in _entries(message) if (item := _call(call, mint)) is not None]
    if isinstance(legacy := message.get("function_call"), dict) and not calls:
        calls = [_function(legacy, _legacy_id(legacy))]
        form = {**form, "legacy": str(legacy.get("name") or "")}
    parts, list_form = _parts(message.get("content"), by_model=True)
    form = {**form, **list_form}
    refusal, audio = message.get("refusal"), message.get("audio")
    if isinstance(refusal, str) and refusal:
        parts.append({"type": "refusal", "refusal": refusal})
    if isinstance(audio, dict):
        parts.append(audio_part(audio))
    if isinstance(notes := message.get("annotations"), list) and parts and parts[0].get("type") == "output_text":
        parts[0]["annotations"] = item_annotations(notes)
    is_empty = not parts or (len(parts) == 1 and parts[0].get("text") == "")
    if (thoughts or calls) and is_empty:
        return [*thoughts, *calls], form
    said: Item = {"type": "message", "role": "assistant", "content": parts, "status": "completed"}
    return [*thoughts, said, *calls], form


def _thoughts(message: Item) -> tuple[list[Item], dict[str, Any]]:
    fields = [name for name in REASONING_FIELDS[:-1] if isinstance(message.get(name), str) and message[name]]
    details = message.get(DETAILS)
    details = [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    if not fields and not details:
        return [], _NO_FORM
    text = message[fields[0]] if fields else "".join(map(_detail_text, details))
    item: Item = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}
    sealed = next((one["data"] for one in details if isinstance(one.get("data"), str)), None)
    if sealed:
        item["encrypted_content"] = sealed
    if details:
        fields.append(DETAILS)
    return [item], {"reasoning": fields} if fields != [REASONING_FIELDS[0]] else _NO_FORM


def _detail_text(detail: Item) -> str:
    text = detail.get("text", detail.get("summary"))
    return text if isinstance(text, str) else ""


def _call(call: Item, mint: Callable[[], str]) -> Item | None:
    call_id = call.get("id")
    call_id = call_id if isinstance(call_id, str) and call_id else mint()
    if isinstance(function := call.get("function"), dict):
        return _function(function, call_id)
    if isinstance(custom := call.get("custom"), dict):
        name, said = str(custom.get("name") or ""), custom.get("input")
        text = said if isinstance(said, str) else _as_json(said)
        return {"type": "custom_tool_call", "call_id": call_id, "name": name, "input": text, "status": "completed"}
    return None


def _function(function: Item, call_id: str) -> Item:
    arguments = function.get("arguments")
    return {
        "type": "function_call",
        "call_id": call_id,
        "name": str(function.get("name") or ""),
        "arguments": arguments if isinstance(arguments, str) else _as_json(arguments),
        "status": "completed",
    }


def _legacy_id(function: Item) -> str:
    """Return the id of a call of the time before tools, which has none: always the same for the same call."""
    arguments = function.get("arguments")
    with suppress(orjson.JSONDecodeError, TypeError):
        arguments = orjson.loads(arguments) if isinstance(arguments, str) else arguments
    with suppress(orjson.JSONEncodeError):
        told = orjson.dumps([function.get("name"), arguments], option=orjson.OPT_SORT_KEYS)
        return f"call_{blake2b(told, digest_size=12).hexdigest()}"
    return "call_"


def _as_json(value: Any) -> str:
    """Return the JSON of what should have been text, some servers and apps have it parsed."""
    try:
        return "" if value is None else orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return ""


def _no_id() -> str:
    return ""
