"""Cards: stored items as what a screen shows of them. Pure.

A message is a heading and parts. Everything else is one line that opens, with JSON behind it where nothing better is
known: also types that do not exist yet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import orjson

from proxy.page.content.pictures import type_of, url_of
from proxy.page.content.text import shorten, size_of
from proxy.protocol import integers

#: Characters of a text that are shown in a conversation, where it is not rendered, and on an item's own screen.
SHOWN = 4 * 1024
SHOWN_ALONE = 1024 * 1024
#: Characters of a text that is rendered.
RENDERED = 16 * 1024
#: Characters of a line that stands for an item.
LINE = 160

#: Roles whose texts are written in Markdown, by habit.
_WRITERS = frozenset({"user", "assistant"})
_TEXTS = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text", "refusal"})

#: Where the text of an item begins in its JSON, and as much of a string of JSON as is whole.
_TEXT_BEGINS = re.compile(r'"(?:text|output|arguments|input|content)":"')
_STRING = re.compile(
    r'(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4}|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})*'
)

#: Marks of Markdown that would only be noise in a single line.
_MARKS = re.compile(r"\*\*|__|^#{1,6} |^> |`{1,3}", re.MULTILINE)

ItemFields = Mapping[str, Any]


@dataclass(slots=True)
class CardPart:
    """A piece of an item. kind: `markdown`, `plain`, `code`, `picture` or `note`. label: what it is, '' for a text.

    text: in `markdown` the source, what is shown where it can't be rendered; of a picture its description. size: of all
    of it, in characters, where `text` is less. number: of a picture. html: set by whoever renders.
    """

    kind: str
    text: str
    label: str = ""
    size: int = 0
    number: int = 0
    html: str | None = None

    @property
    def is_cut(self) -> bool:
        """Whether there is more than is shown."""
        return self.size > len(self.text)


@dataclass(slots=True)
class Card:
    """An item as it is shown. kind: `message`, `call`, `output`, `reasoning` or `other`. title: role or type.

    name: of the tool that is called. line: what it says, in one line. bytes: of the item as it is stored.
    """

    id: str
    kind: str
    title: str
    line: str = ""
    name: str = ""
    call_id: str = ""
    status: str = ""
    bytes: int = 0
    parts: list[CardPart] = field(default_factory=list)

    @property
    def is_message(self) -> bool:
        """Whether it is shown open."""
        return self.kind == "message"


def card_of(data: bytes, *, alone: bool = False) -> Card:
    """Return an item's card. alone: on a screen of its own, with as much as a screen holds."""
    item = integers.loads_exact(data)
    item_type = str(item.get("type") or "message")
    card = Card(str(item.get("id")), _kind(item_type), item_type, bytes=len(data))
    card.call_id, card.status = str(item.get("call_id") or ""), str(item.get("status") or "")
    _FILL.get(item_type, _FILL_KIND.get(card.kind, _fill_other))(card, item, SHOWN_ALONE if alone else SHOWN)
    return card


def cut_card(data: bytes, size: int) -> Card:
    """Return the card of an item so large that only its beginning is at hand. size: of all of it, in bytes."""
    item_type, role = (_word_in_cut(data, name) for name in ("type", "role"))
    card = Card(_word_in_cut(data, "id"), _kind(item_type or "message"), item_type or "message", bytes=size)
    if card.is_message:
        card.title = role or "message"
    text = _text_in_cut(data)
    card.line = shorten(text, LINE)
    card.parts = [CardPart("plain" if text else "code", (text or data.decode("utf-8", "replace"))[:SHOWN], size=size)]
    return card


def first_line(data: bytes, limit: int = LINE) -> str:
    """Return what an item says in one line; '' if it is cut so that it can't be read."""
    try:
        card = card_of(data)
    except orjson.JSONDecodeError:
        return shorten(_text_in_cut(data), limit)
    if card.is_message:
        said = " ".join(part.text for part in card.parts if part.kind in {"markdown", "plain"})
        return shorten(_MARKS.sub("", said) or card.line or "a message without text", limit)
    return shorten(f"{card.title} {card.name} {card.line}", limit)


def _text_in_cut(data: bytes) -> str:
    """Return the beginning of the first text of an item whose JSON is cut."""
    text = data.decode("utf-8", "ignore")
    found = _TEXT_BEGINS.search(text)
    if not found:
        return ""
    whole = _STRING.match(text, found.end())
    return str(orjson.loads(f'"{whole[0]}"'.encode("utf-8", "replace"))) if whole else ""


def _word_in_cut(data: bytes, name: str) -> str:
    found = re.search(rb'"' + name.encode() + rb'":"([\w.-]{1,64})"', data)
    return found[1].decode() if found else ""


def _kind(item_type: str) -> str:
    if item_type == "message":
        return "message"
    if item_type in {"reasoning", "compaction"}:
        return "reasoning"
    if item_type.endswith("_output"):
        return "output"
    return "call" if item_type.endswith("_call") else "other"


# --- what each kind says ------------------------------------------------------------------------------------------


def _fill_message(card: Card, item: ItemFields, shown: int) -> None:
    role = str(item.get("role") or "message")
    card.title = role
    content = item.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    numbers = iter(range(len(parts)))
    card.parts = [part for one in parts for part in _parts(one, shown, numbers, rendered=role in _WRITERS)]
    if not card.parts:
        card.parts = [CardPart("note", "This message is empty.")]


def _fill_reasoning(card: Card, item: ItemFields, shown: int) -> None:
    texts = [*_list(item.get("content")), *_list(item.get("summary"))]
    numbers = iter(range(len(texts)))
    card.parts = [part for one in texts for part in _parts(one, shown, numbers, rendered=True)]
    sealed = item.get("encrypted_content")
    if isinstance(sealed, str) and sealed:
        card.line = f"sealed, {size_of(len(sealed))}"
        card.parts.append(CardPart("note", f"{size_of(len(sealed))} are sealed: only the model's maker can read them."))
    elif not card.parts:
        card.line = "empty"
    if texts:
        card.line = shorten(" ".join(part.text for part in card.parts if part.kind == "markdown"), LINE)


def _fill_call(card: Card, item: ItemFields, shown: int) -> None:
    name = item.get("name")
    card.name = str(name) if isinstance(name, str) else ""
    if isinstance(item.get("server_label"), str):
        card.name = f"{item['server_label']}.{card.name}"
    for field_name in ("arguments", "input", "action", "operation", "queries", "code"):
        if (value := item.get(field_name)) not in (None, "", [], {}):
            card.line = card.line or shorten(_compact(value), LINE)
            card.parts.append(_code(value, shown, field_name))
    for field_name in ("output", "outputs", "results", "error"):
        if (value := item.get(field_name)) not in (None, "", [], {}):
            card.parts.append(_code(value, shown, field_name))
    if item.get("type") == "image_generation_call" and isinstance(item.get("result"), str) and item["result"]:
        kept = type_of(f"data:image/png;base64,{item['result'][:64]}")
        prompt = str(item.get("revised_prompt") or "a generated picture")
        card.line = shorten(prompt, LINE)
        card.parts.append(
            CardPart("picture", prompt) if kept else CardPart("note", "A picture of a kind that is not shown.")
        )
    if not card.parts:
        _fill_other(card, item, shown)


def _fill_output(card: Card, item: ItemFields, shown: int) -> None:
    value = item.get("output")
    if isinstance(value, list):
        numbers = iter(range(len(value)))
        card.parts = [part for one in value for part in _parts(one, shown, numbers, rendered=False)]
    elif isinstance(value, dict) and "image_url" in value:
        card.parts = list(_parts(value, shown, iter([0]), rendered=False))
    elif value is not None:
        card.parts = [_code(value, shown, "")]
    if not card.parts:
        _fill_other(card, item, shown)
    card.line = shorten(" ".join(part.text or part.label for part in card.parts), LINE)


def _fill_other(card: Card, item: ItemFields, shown: int) -> None:
    rest = {name: value for name, value in item.items() if name not in {"id", "type", "status"}}
    card.line = shorten(_compact(rest), LINE) if rest else ""
    card.parts = [_code(rest, shown, "")] if rest else []


_FILL: dict[str, Callable[[Card, ItemFields, int], None]] = {"message": _fill_message}
_FILL_KIND: dict[str, Callable[[Card, ItemFields, int], None]] = {
    "reasoning": _fill_reasoning,
    "call": _fill_call,
    "output": _fill_output,
}


# --- parts --------------------------------------------------------------------------------------------------------


def _parts(part: Any, shown: int, numbers: Iterator[int], *, rendered: bool) -> Iterator[CardPart]:
    """Yield what is shown of one part of a content. numbers: those that are left for pictures."""
    if not isinstance(part, dict):
        yield _code(part, shown, "")
        return
    kind = str(part.get("type"))
    text = part.get("text", part.get("refusal"))
    if kind in _TEXTS and isinstance(text, str):
        if text:
            label = "refusal" if kind == "refusal" else ""
            is_short = rendered and len(text) <= RENDERED
            yield CardPart("markdown", text, label) if is_short else _plain(text, shown, label)
        if part.get("annotations"):
            yield _code(part["annotations"], shown, "annotations")
    elif "image_url" in part:
        yield _picture(url_of(part), numbers)
    elif kind == "input_file":
        yield _file(part)
    elif kind == "input_audio":
        yield CardPart("note", "A recording, which is not played here.")
    else:
        yield _code(part, shown, kind)


def _picture(url: str, numbers: Iterator[int]) -> CardPart:
    number = next(numbers)
    if type_of(url):
        return CardPart("picture", "A picture in this item", number=number)
    if url.startswith("data:"):
        return CardPart("note", "A picture of a kind that is not shown.", number=number)
    return CardPart(
        "note", f"A picture elsewhere, which is not loaded: {shorten(url, LINE)}", _host(url), number=number
    )


def _file(part: ItemFields) -> CardPart:
    name = part.get("filename") or part.get("file_id") or part.get("file_url") or "without a name"
    data = part.get("file_data")
    size = f", {size_of(len(data) * 3 // 4)}" if isinstance(data, str) else ""
    return CardPart("note", f"A file: {shorten(str(name), LINE)}{size}")


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _plain(text: str, shown: int, label: str) -> CardPart:
    return CardPart("plain", text[:shown], label, size=len(text))


def _code(value: Any, shown: int, label: str) -> CardPart:
    text = value if isinstance(value, str) else pretty(value)
    if isinstance(value, str) and len(value) <= RENDERED and value[:1] in "{[":
        try:
            text = pretty(integers.loads_exact(value.encode()))
        except (ValueError, RecursionError):
            text = value
    return CardPart("code", text[:shown], label, size=len(text))


def pretty(value: Any) -> str:
    """Return a value as JSON for people."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def _compact(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
