"""Content parts: those of messages as those of items, and back. What an item's part can't say is in a patch. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from proxy.protocol.item_types import Item

_FILE = ("file_id", "file_data", "filename")
_AUDIO = ("id", "data", "expires_at", "transcript")
_CITATION = "url_citation"


def item_part(part: Any, *, by_model: bool = False) -> Any:
    """Return a part of a message's content as an item has it; one of an unknown type as it is."""
    if isinstance(part, str):
        return text_part(part, by_model=by_model)
    if not isinstance(part, dict):
        return {"type": "unknown", "value": part}
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("text"), str):
        return text_part(part["text"], by_model=by_model)
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        return {"type": "refusal", "refusal": part["refusal"]}
    if kind == "image_url":
        return _image(part.get("image_url"))
    if kind == "file" and isinstance(part.get("file"), dict):
        return {"type": "input_file", **{name: part["file"][name] for name in _FILE if name in part["file"]}}
    return dict(part)


def text_part(text: str, *, by_model: bool) -> Item:
    """Return the part of an item that is text. by_model: an answer's."""
    if by_model:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": text}


def _image(image: Any) -> Item:
    if isinstance(image, str):
        return {"type": "input_image", "image_url": image}
    found = image if isinstance(image, dict) else {}
    part = {"type": "input_image", "image_url": found.get("url")}
    return {**part, "detail": found["detail"]} if "detail" in found else part


def message_part(part: Any) -> Any:
    """Return a part of an item as a message's content has it."""
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if kind in ("input_text", "output_text"):
        return {"type": "text", "text": part.get("text")}
    if kind == "input_image" and part.get("image_url") is not None:
        image = {"url": part["image_url"]}
        return {"type": "image_url", "image_url": {**image, "detail": part["detail"]} if "detail" in part else image}
    if kind == "input_file" and "file_url" not in part:
        return {"type": "file", "file": {name: part[name] for name in _FILE if name in part}}
    return dict(part)


def audio_part(audio: Item) -> Item:
    """Return what a model said aloud as an item's part; of a message that is sent again only the id is there."""
    return {"type": "output_audio", **{name: audio[name] for name in _AUDIO if name in audio}}


def message_audio(part: Item) -> Item:
    """Return the same as a message has it."""
    return {name: part[name] for name in _AUDIO if name in part}


def item_annotations(annotations: Sequence[Any]) -> list[Any]:
    """Return annotations as `output_text` has them: a citation's fields are its own."""
    return [_flat(one) for one in annotations]


def message_annotations(annotations: Sequence[Any]) -> list[Any]:
    """Return annotations as a message has them."""
    return [_nested(one) for one in annotations]


def _flat(one: Any) -> Any:
    inner = one.get(_CITATION) if isinstance(one, dict) else None
    if not isinstance(inner, dict) or one.keys() != {"type", _CITATION} or "type" in inner:
        return one
    return {"type": one["type"], **inner}


def _nested(one: Any) -> Any:
    if not isinstance(one, dict) or one.get("type") != _CITATION or _CITATION in one:
        return one
    return {"type": _CITATION, _CITATION: {name: value for name, value in one.items() if name != "type"}}
