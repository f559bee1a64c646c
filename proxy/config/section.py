"""Section: the base of every part of the tree of settings, and the kinds of values in it."""

from __future__ import annotations

from typing import Annotated

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
NotEmpty = Annotated[str, msgspec.Meta(min_length=1, description="text, not empty")]
Name = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9._-]{1,64}\Z", description="1 to 64 letters, digits, dots, underscores or hyphens"
    ),
]
UpstreamName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}\Z",
        description="1 to 32 letters, digits, underscores or hyphens, the first no hyphen",
    ),
]
ModelName = Annotated[
    str,
    msgspec.Meta(pattern=r"^(\*|[^*\s]+\*?)\Z", description="a model's name, or the beginning of it with a * behind"),
]
HostName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)\Z",
        description="names of hosts without port, *.example for all below one, or *",
    ),
]
SourceName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(body(\.[A-Za-z0-9_-]+){1,3}|[a-z0-9_*-]+)\Z",
        description="a header in lower case, or body. and names of fields",
    ),
]
KeyHash = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z", description="64 hex digits in lower case")]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every part of the tree: immutable, and a key that is not known is an error that names it."""


class Secret(str):
    """A string that never shows itself: `repr` is masked. Use it where the value is needed, never in a message."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret('**********')" if self else "Secret('')"
