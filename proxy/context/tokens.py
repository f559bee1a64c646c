"""How many tokens a request is, reckoned without the model server. Pure.

An estimate: the texts are counted exactly, in the vocabulary of OpenAI's models since GPT-4o and whatever the model;
what frames them, and what is not text, is reckoned with the flat figures below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
import toktok

#: The vocabulary that texts are counted in.
ENCODING = "o200k_base"
#: Tokens around each item, and before the answer: those of OpenAI's chat format.
ITEM_TOKENS = 4
ANSWER_TOKENS = 3
#: A picture of 1024 x 1024 pixels as OpenAI bills it, at high and at low detail; what is in a URL is not looked at.
IMAGE_TOKENS = 765
SMALL_IMAGE_TOKENS = 85
#: A file of a few pages, and half a minute of sound.
FILE_TOKENS = 1500
AUDIO_TOKENS = 300
#: Characters of sealed content for one token of what is inside: base64 of four bytes, with its padding.
SEALED_CHARACTERS = 16 / 3

_FLAT = {
    "computer_screenshot": IMAGE_TOKENS,
    "image": IMAGE_TOKENS,
    "image_generation_call": IMAGE_TOKENS,
    "input_audio": AUDIO_TOKENS,
    "input_file": FILE_TOKENS,
    "input_image": IMAGE_TOKENS,
}
#: What a model is not shown, or what the frame of an item stands for.
_UNSEEN = frozenset(
    {"annotations", "call_id", "created_by", "fingerprint", "id", "logprobs", "phase", "role", "status", "type"}
)
#: What a model is shown as JSON.
_AS_JSON = frozenset({"format", "parameters", "tools"})


def count_items(items: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the tokens of each item."""
    texts: list[str] = []
    flat: list[int] = []
    for item in items:
        found: list[str] = []
        flat.append(ITEM_TOKENS + _gather(item, found))
        texts.append("\n".join(found))
    return [known + counted for known, counted in zip(flat, _count(texts), strict=True)]


def count_settings(body: Mapping[str, Any]) -> int:
    """Return the tokens of all that a request tells the model beside its input, and of the answer's beginning.

    body: `instructions`, `tools` and the format in `text` are counted; a `prompt` template is not known here.
    """
    texts: list[str] = []
    tokens = ANSWER_TOKENS
    for name in ("instructions", "tools", "text"):
        if value := body.get(name):
            tokens += ITEM_TOKENS + _gather({name: value}, texts)
    return tokens + sum(_count(texts))


def load() -> None:
    """Read the vocabulary, which else is done when the first text is counted."""
    _count([])


def _count(texts: Iterable[str]) -> list[int]:
    counts: list[int] = toktok.batch_count(texts, ENCODING, threads=1)
    return counts


def _gather(value: Any, texts: list[str]) -> int:
    """Add the texts in a value to `texts`; return the tokens of what is not text."""
    if isinstance(value, str):
        texts.append(value)
        return 0
    if isinstance(value, list):
        return sum([_gather(one, texts) for one in value])
    if not isinstance(value, dict):
        return 0
    kind = value.get("type")
    if isinstance(kind, str) and kind in _FLAT:
        return SMALL_IMAGE_TOKENS if value.get("detail") == "low" else _FLAT[kind]
    return sum([_gather_field(name, field, texts) for name, field in value.items() if name not in _UNSEEN])


def _gather_field(name: str, value: Any, texts: list[str]) -> int:
    if name == "encrypted_content" and isinstance(value, str):
        return round(len(value) / SEALED_CHARACTERS)
    if name in _AS_JSON and isinstance(value, dict | list):
        texts.append(orjson.dumps(value).decode())
        return 0
    return _gather(value, texts)
