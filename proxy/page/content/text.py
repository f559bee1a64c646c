"""Text of strangers made fit to be shown: what can't be seen, or turns others around, as code points. Pure."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

#: Control characters but tab and line feed; what changes the direction of others (Trojan Source); separators and
#: tags that nobody sees.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)
_UNITS = ("bytes", "kB", "MB", "GB")
_SPANS = ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h"), (31 * 86_400, 86_400, "d"))


def made_visible(text: str) -> str:
    """Return text with what can't be seen, or turns around what can, written as `⟨U+202E⟩`."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSEEN.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text.replace("\r\n", "\n"))


def shorten(text: str, limit: int) -> str:
    """Return the beginning of a text in one line, with … where something follows."""
    line = " ".join(text[: limit * 4].split())
    return line if len(line) <= limit and len(text) <= limit * 4 else line[:limit].rstrip() + "…"


def size_of(count: int) -> str:
    """Return a number of bytes for people: `1.2 kB`."""
    value = float(count)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            return f"{count} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def age_of(seconds: float, now: float | None = None) -> str:
    """Return how long ago that was, in a few characters: `now`, `2 min`, `3 d`, else the date. seconds: Unix time."""
    ago = (time.time() if now is None else now) - seconds
    if ago < 5:
        return "now"
    for limit, unit, name in _SPANS:
        if ago < limit:
            return f"{int(ago // unit)} {name}"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def moment(seconds: float) -> str:
    """Return a Unix time as HTML's `datetime`: `2026-11-21T12:01:09Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def grouped(count: int) -> str:
    """Return an integer with its thousands apart: `4,950`."""
    return f"{count:,}"
