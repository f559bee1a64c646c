"""What an item's content says: its text, and digests of its media and of what a tool put out. Pure, never raises."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import orjson

from proxy.protocol.item_types import Item
from proxy.recognition.canonical import canonical_arguments

#: Fields of parts that are text, in whichever API; audio has what was said in it.
_TEXTS = ("text", "refusal", "transcript")
#: Fields of parts that are media, or lead to it; those of an object inside, too.
_MEDIA = ("image_url", "file_id", "file_url", "file_data", "input_audio", "data", "video_url", "image_file")
#: Fields of a part that is nothing but text.
_OF_TEXT = frozenset({"type", "text", "annotations", "logprobs"})
#: What a model said aloud: an app sends it again by its id, or not at all.
_SPOKEN = "output_audio"
_ELEMENT = re.compile(r"<([A-Za-z][\w.-]*)[\s>]", re.ASCII)
_INSTRUCTIONS = "# AGENTS.md instructions"


def read_content(content: Any) -> tuple[str, Sequence[bytes]]:
    """Return the text of a message's content, a string or parts, and a digest of each part that is no text."""
    if isinstance(content, str):
        return content, ()
    if not isinstance(content, list):
        return "", ()
    texts: list[str] = []
    media: list[bytes] = []
    for part in content:
        if type(part) is not dict:
            texts.append(part if isinstance(part, str) else "")
        elif part.keys() <= _OF_TEXT and type(text := part.get("text")) is str:
            texts.append(text)
        else:
            texts.append(_part_text(part))
            media += _media_of(part)
    return texts[0] if len(texts) == 1 else "".join(texts), media


def _part_text(part: dict[str, Any]) -> str:
    if part.get("type") == _SPOKEN and isinstance(part.get("id"), str):
        return str(part["id"])
    return next((value for name in _TEXTS if isinstance(value := part.get(name), str)), "")


def _media_of(part: dict[str, Any]) -> Sequence[bytes]:
    if part.keys().isdisjoint(_MEDIA) or part.get("type") == _SPOKEN:
        return ()
    return (_digest([part.get(name) for name in _MEDIA]),)


def output_text(item: Item) -> str:
    """Return what a tool put out as text; media in it by their digests."""
    output = next((item[name] for name in ("output", "tools", "content") if item.get(name) is not None), "")
    if isinstance(output, str):
        return output
    if isinstance(output, list) and all(isinstance(part, (str, dict)) for part in output):
        text, marks = read_content(output)
        if text or marks:
            return text + "".join(one.hex() for one in marks)
    return canonical_arguments(output)


def is_context(text: str) -> bool:
    """Whether a user's message is what an app says of itself, in one element as of XML or by Codex's heading.

    `<environment_context>…</environment_context>`: all threads and agents of a session have the same.
    """
    text = text.strip()
    if not text.startswith("<"):
        return text.startswith(_INSTRUCTIONS)
    name = _ELEMENT.match(text)
    return name is not None and text.endswith(f"</{name[1]}>")


def _digest(value: Any) -> bytes:
    try:
        data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        data = repr(value).encode("utf-8", "backslashreplace")
    return hashlib.blake2b(data, digest_size=8).digest()
