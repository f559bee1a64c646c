"""Pictures: those of items that a browser may be shown. Pure.

Only what is stored with the item, as base64, and is by its first bytes PNG, JPEG, GIF or WebP. SVG can hold scripts;
what is behind a URL of somebody else would tell them who looks, and when.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: Largest picture that is shown, in bytes.
MAX_PICTURE_BYTES = 20 * 1024 * 1024

_BASE64 = ";base64,"
#: Characters of base64 that are looked at for the kind.
_HEAD = 32


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture to be sent. type: as its bytes say, whatever the item says."""

    type: str
    data: bytes


def picture_urls(item: Mapping[str, Any]) -> Iterator[str]:
    """Yield the URLs of an item's pictures in the order in which it shows them; what it made itself as `data:`."""
    for name in ("content", "output", "summary"):
        value = item.get(name)
        parts = value if isinstance(value, list) else [value]
        for part in parts:
            if isinstance(part, dict) and "image_url" in part:
                yield url_of(part)
    if item.get("type") == "image_generation_call" and isinstance(item.get("result"), str) and item["result"]:
        yield f"data:image/png{_BASE64}{item['result']}"


def url_of(part: Mapping[str, Any]) -> str:
    """Return the URL of a part with a picture, also in the form of Chat Completions; '' if there is none."""
    url = part.get("image_url")
    if isinstance(url, dict):
        url = url.get("url")
    return url if isinstance(url, str) else ""


def type_of(url: str) -> str:
    """Return the media type that the first bytes of a `data:` URL show, '' for whatever is not shown."""
    head, separator, body = url[:256].partition(_BASE64)
    if not separator or not head.lower().startswith("data:") or len(url) > MAX_PICTURE_BYTES * 4 // 3 + 256:
        return ""
    try:
        return _sniff(base64.b64decode(body[:_HEAD] + "=" * (-len(body[:_HEAD]) % 4), validate=True))
    except binascii.Error:
        return ""


def decode_picture(item: Mapping[str, Any], number: int) -> Picture | None:
    """Return an item's picture by its number from 0 on; None if there is none that may be shown."""
    for i, url in enumerate(picture_urls(item)):
        if i == number:
            media_type = type_of(url)
            if not media_type:
                return None
            try:
                return Picture(media_type, base64.b64decode(url.partition(_BASE64)[2], validate=True))
            except binascii.Error:
                return None
    return None


def _sniff(head: bytes) -> str:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    return ""
