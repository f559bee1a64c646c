"""URL hints: what a path that leads nowhere was probably meant to be, for those who set a client's base URL. Pure."""

from __future__ import annotations

import itertools
import re
import unicodedata
from urllib.parse import unquote_to_bytes

#: First segments of the API below `/v1`, by which a path without it is known.
_ROOTS = frozenset(
    {
        "audio",
        "batches",
        "chat",
        "completions",
        "containers",
        "conversations",
        "embeddings",
        "evals",
        "files",
        "fine_tuning",
        "images",
        "messages",
        "models",
        "moderations",
        "realtime",
        "rerank",
        "responses",
        "score",
        "tokenize",
        "uploads",
        "vector_stores",
        "videos",
    }
)
API_VERSION = "v1"

#: How often `split_path` decodes: no client encodes more than twice.
MOST_DECODINGS = 4
_SLASH = re.compile(r"[/\\]")
_END = re.compile(r"[;#?]")
_INVISIBLE = re.compile(r"[\s\x00-\x20\x7f-\xa0\xad\u200b-\u200f\u2060\ufeff]+")
_OTHER_VERSION = re.compile(r"v[0-9]\w*", re.ASCII)


def split_path(raw_path: str) -> list[str]:
    """Return a path's segments as the most forgiving server would read them.

    It decodes until there is nothing to decode, takes look-alikes of ASCII for it, drops blanks, control characters and
    bytes that are no UTF-8, and takes `;`, `#` and `?` for the end of a segment. There are none at all in a path that
    has a NUL, or that is not decoded soon.
    """
    # as bytes: a letter's may be escaped to different depths
    octets = raw_path.encode("utf-8", "surrogateescape")
    for _ in range(MOST_DECODINGS):
        octets = unquote_to_bytes(octets)
    if unquote_to_bytes(octets) != octets or b"\0" in octets:
        return []
    decoded = octets.decode("utf-8", "ignore")
    if not decoded.isascii():
        decoded = unicodedata.normalize("NFKC", decoded)
    segments = [_INVISIBLE.sub("", _END.split(segment, maxsplit=1)[0]) for segment in _SLASH.split(decoded)]
    return [segment for segment in segments if segment not in ("", ".")]


def hint_for(raw_path: str) -> str:
    """Return a sentence to add to a 404: the path with one `/v1`, where it belongs; '' if there is nothing to say."""
    segments = split_path(raw_path)
    rest = _below_version(segments)
    if not rest or segments == [API_VERSION, *rest]:
        return ""
    meant = "/".join(["", API_VERSION, *rest])
    return f" Did you mean '{meant}'? The base URL of a client ends with one '/{API_VERSION}'."


def _below_version(segments: list[str]) -> list[str]:
    """Return what was meant below `/v1`, behind whatever prefix (`openai`, …): what follows it, else a known root."""
    if API_VERSION in segments:
        rest = segments[segments.index(API_VERSION) :]
        return list(itertools.dropwhile(lambda segment: segment == API_VERSION, rest))
    if any(map(_OTHER_VERSION.fullmatch, segments)):
        return []
    return list(itertools.dropwhile(lambda segment: segment.lower() not in _ROOTS, segments))
