"""Keys: what a request says of its conversation, its end user and itself, beside the history that it resends. Pure.

A key groups, and never decides alone which line is meant: some apps send the same one as long as they run. What names
a user is no key; it parts the callers behind one API key.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from typing import Any, NamedTuple

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


#: What nearly every request says.
_NOTHING_SAID = RequestMarks()


def read_marks(
    headers: Mapping[str, str],
    body: Mapping[str, Any],
    sources: Sequence[str] = KEY_SOURCES,
    end_users: Sequence[str] = USER_SOURCES,
) -> RequestMarks:
    """Return what a request says of itself. sources: where keys are looked for, end_users: where end users are."""
    present = _present(tuple(headers), tuple(sources), tuple(end_users))
    if present.is_silent and body.keys().isdisjoint(present.fields):
        return _NOTHING_SAID
    found: dict[str, str] = {}
    for source, value in _said(present.keys, headers, body):
        if len(value) <= MAX_KEY:
            found.setdefault(value, source)
    keys = list(found)
    return RequestMarks(
        key=keys[0] if keys else "",
        key_source=found[keys[0]] if keys else "",
        other_keys=tuple(keys[1:]),
        end_user="\n".join(f"{source}={value}" for source, value in _said(present.end_users, headers, body)),
        is_temporary=any(key.startswith(_TEMPORARY) for key in keys),
        is_off=any(headers[name].strip().lower() in ("off", "false", "0", "no") for name in present.off),
        retries=max((_count(headers[name].strip()) for name in present.retries), default=0),
    )


class _Place(NamedTuple):
    """Where something may stand: fields of the body, one in the other, or else headers, as they were sent."""

    source: str
    path: tuple[str, ...]
    headers: tuple[str, ...]


class _Present(NamedTuple):
    """Where a request with some headers may say something. off, retries: headers. fields: of its body.

    is_silent: it says nothing in its headers.
    """

    keys: tuple[_Place, ...]
    end_users: tuple[_Place, ...]
    off: tuple[str, ...]
    retries: tuple[str, ...]
    fields: frozenset[str]
    is_silent: bool


@lru_cache(256)
def _present(names: tuple[str, ...], sources: tuple[str, ...], end_users: tuple[str, ...]) -> _Present:
    """Return where something may stand: a client always sends the same headers. names: of these, as they came."""
    sent: dict[str, str] = {}
    for name in names:
        sent.setdefault(name.lower(), name)
    keys, users = _places(sources, sent), _places(end_users, sent)
    off, retries = _sent((RECORD_HEADER,), sent), _sent(RETRY_HEADERS, sent)
    fields = frozenset(place.path[0] for place in (*keys, *users) if place.path)
    in_headers = any(place.headers for place in (*keys, *users))
    return _Present(keys, users, off, retries, fields, not (in_headers or off or retries))


def _places(sources: tuple[str, ...], sent: Mapping[str, str]) -> tuple[_Place, ...]:
    """Return the places in bodies, and those that are among some headers. sent: these, by names in lower case."""
    places = []
    for source in sources:
        path: tuple[str, ...] = ()
        named: Collection[str] = (source,)
        if source.startswith(_BODY):
            path, named = tuple(source.removeprefix(_BODY).split(".")), ()
        elif "*" in source:
            fits = re.compile(translate(source)).fullmatch
            named = [name for name in sent if fits(name) and name not in sources]
        places.append(_Place(source, path, _sent(named, sent)))
    return tuple(place for place in places if place.path or place.headers)


def _sent(names: Collection[str], sent: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sent[name] for name in names if name in sent)


def _said(places: Sequence[_Place], headers: Mapping[str, str], body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what stands at some places, without what is empty, each with where it was found."""
    for source, path, names in places:
        for text in (_of_body(path, body),) if path else [headers[name].strip() for name in names]:
            if text:
                yield source, text


def _of_body(path: Sequence[str], body: Mapping[str, Any]) -> str:
    value: Any = body
    for name in path:
        if not isinstance(value, Mapping) or (value := value.get(name)) is None:
            return ""
    return str(value).strip() if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def _count(text: str) -> int:
    return min(int(text), _MAX_RETRIES) if text.isascii() and text.isdigit() and len(text) < 10 else 0
