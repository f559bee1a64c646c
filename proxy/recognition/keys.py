"""Keys: what a request says of its conversation, its end user and itself, beside the history that it resends. Pure.

A key groups, and never decides alone which line is meant: some apps send the same one as long as they run. What names
a user is no key; it parts the callers behind one API key.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from typing import Any

from proxy.config.sources import KEY_SOURCES, USER_SOURCES

#: Longest key that is taken, in characters; a longer one counts as absent.
MAX_KEY = 256
#: Ends recording for one request; it goes no further.
RECORD_HEADER = "x-branchline-record"
#: How many times a client has tried before.
RETRY_HEADERS = ("x-stainless-retry-count", "x-retry-count", "retry-attempt")

_BODY = "body."
#: Open WebUI's chats that it does not keep.
_TEMPORARY = "local:"
_MAX_RETRIES = 1_000


@dataclass(frozen=True, slots=True)
class RequestMarks:
    """What a request says of itself.

    key: of its conversation, '' for none; key_source: where that stood. other_keys: further ones that are present, for
    links to the conversations that they lead to. end_user: who asks, of those behind one API key, '' if not said.
    is_temporary: its chat is not kept by the app. is_off: it asks not to be recorded. retries: times it was tried
    before.
    """

    key: str = ""
    key_source: str = ""
    other_keys: tuple[str, ...] = ()
    end_user: str = ""
    is_temporary: bool = False
    is_off: bool = False
    retries: int = 0


def read_marks(
    headers: Mapping[str, str],
    body: Mapping[str, Any],
    sources: Sequence[str] = KEY_SOURCES,
    end_users: Sequence[str] = USER_SOURCES,
) -> RequestMarks:
    """Return what a request says of itself. sources: where keys are looked for, end_users: where end users are."""
    named: dict[str, str] = {}
    for name, value in headers.items():
        named.setdefault(name.lower(), value.strip())
    found: dict[str, str] = {}
    names = frozenset(named)
    for place in _present(tuple(sources), names, body):
        for key in place.values(named, body):
            if len(key) <= MAX_KEY:
                found.setdefault(key, place.source)
    keys = list(found)
    places = _present(tuple(end_users), names, body)
    users = [f"{place.source}={value}" for place in places for value in place.values(named, body)]
    return RequestMarks(
        key=keys[0] if keys else "",
        key_source=found[keys[0]] if keys else "",
        other_keys=tuple(keys[1:]),
        end_user="\n".join(users),
        is_temporary=any(key.startswith(_TEMPORARY) for key in keys),
        is_off=named.get(RECORD_HEADER, "").lower() in ("off", "false", "0", "no"),
        retries=max([0, *(_count(named[name]) for name in RETRY_HEADERS if name in named)]),
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where something may stand. path: fields of the body; pattern: of headers' names, but for those in `others`."""

    source: str
    path: tuple[str, ...] = ()
    pattern: re.Pattern[str] | None = None
    others: frozenset[str] = frozenset()

    def values(self, headers: Mapping[str, str], body: Mapping[str, Any]) -> Sequence[str]:
        """Return what stands there, without what is empty. headers: by names in lower case."""
        if self.path:
            return self._of_body(body)
        return [value for name in self.named(headers) if (value := headers[name])]

    def named(self, names: Collection[str]) -> Sequence[str]:
        """Return which of some headers' names are meant."""
        if self.pattern is None:
            return (self.source,) if self.source in names else ()
        fits, others = self.pattern.fullmatch, self.others
        return [name for name in names if fits(name) and name not in others]

    def _of_body(self, body: Mapping[str, Any]) -> Sequence[str]:
        value: Any = body
        for name in self.path:
            if not isinstance(value, Mapping) or (value := value.get(name)) is None:
                return ()
        text = str(value).strip() if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
        return (text,) if text else ()


def _present(sources: tuple[str, ...], names: frozenset[str], body: Mapping[str, Any]) -> Sequence[_Place]:
    """Return the places that a request has. names: of its headers, in lower case."""
    return [place for place in _among(sources, names) if not place.path or place.path[0] in body]


@lru_cache(256)
def _among(sources: tuple[str, ...], names: frozenset[str]) -> tuple[_Place, ...]:
    """Return the places in bodies, and those that are among some headers: a client always sends the same ones."""
    return tuple(place for place in _places(sources) if place.path or place.named(names))


@lru_cache(16)
def _places(sources: tuple[str, ...]) -> tuple[_Place, ...]:
    return tuple(_place(source, frozenset(sources)) for source in sources)


def _place(source: str, sources: frozenset[str]) -> _Place:
    if source.startswith(_BODY):
        return _Place(source, path=tuple(source.removeprefix(_BODY).split(".")))
    if "*" in source:
        return _Place(source, pattern=re.compile(translate(source)), others=sources)
    return _Place(source)


def _count(text: str) -> int:
    return min(int(text), _MAX_RETRIES) if text.isascii() and text.isdigit() and len(text) < 10 else 0
