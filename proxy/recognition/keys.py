"""Keys: what a request says of its conversation, its end user and itself, beside the history that it resends. Pure.

A key groups, and never decides alone which line is meant: some apps send the same one as long as they run. What names
a user is no key; it parts the callers behind one API key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from proxy.config.sources import KEY_SOURCES, USER_SOURCES

#: Longest key that is taken, in characters; a longer one counts as absent.
MAX_KEY = 256
#: Ends recording for one request; it goes no further.
RECORD_HEADER = "x-branchline-record"
#: How many times a client has tried before.
RETRY_HEADERS = ("x-stainless-retry-count", "x-retry-count", "retry-attempt")

_BODY = "body."
_SOURCE = re.compile(r"body(?:\.[A-Za-z0-9_-]+){1,3}|(?!body$)[a-z0-9_*-]+")
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
    for source in sources:
        shown = {name: value for name, value in named.items() if name not in sources} if "*" in source else named
        for key in _keys_at(source, shown, body):
            found.setdefault(key, source)
    keys = list(found)
    users = [f"{source}={value}" for source in end_users for value in _values_at(source, named, body)]
    return RequestMarks(
        key=keys[0] if keys else "",
        key_source=found[keys[0]] if keys else "",
        other_keys=tuple(keys[1:]),
        end_user="\n".join(users),
        is_temporary=any(key.startswith(_TEMPORARY) for key in keys),
        is_off=named.get(RECORD_HEADER, "").lower() in ("off", "false", "0", "no"),
        retries=max([0, *(_count(named[name]) for name in RETRY_HEADERS if name in named)]),
    )


def is_key_source(source: str) -> bool:
    """Whether a text says where a key may stand: a header in lower case, or `body.` and the names of fields."""
    return _SOURCE.fullmatch(source) is not None


def _keys_at(source: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> list[str]:
    return [value for value in _values_at(source, headers, body) if len(value) <= MAX_KEY]


def _values_at(source: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> list[str]:
    if source.startswith(_BODY):
        value: Any = body
        for name in source.removeprefix(_BODY).split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
        values = [text.strip()]
    elif "*" in source:
        values = [value for name, value in headers.items() if fnmatchcase(name, source)]
    else:
        values = [headers.get(source, "")]
    return [value for value in values if value]


def _count(text: str) -> int:
    return min(int(text), _MAX_RETRIES) if text.isascii() and text.isdigit() and len(text) < 10 else 0
