"""Caller: who sent a request, and what finds that out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from aiohttp.web import AppKey, RequestKey

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Headers that hold a credential: HTTP's own with its scheme, and those of clients for Azure and others, bare.
CREDENTIAL_HEADERS = frozenset({"authorization", "api-key", "x-api-key"})

#: Owners that nobody had to prove to be.
UNPROVEN = frozenset({"anonymous", "local"})

#: Tells who a caller is.
AUTHENTICATOR: AppKey[Authenticator] = AppKey("authenticator")

#: Who is calling. Set on every request under `/v1/`.
CALLER: RequestKey[Caller] = RequestKey("caller")


@dataclass(slots=True)
class Caller:
    """An authenticated caller.

    owner: what all its records are scoped by; at most 80 characters, safe in storage keys and logs.
    credentials: the headers to send upstream in its name, of `CREDENTIAL_HEADERS`; empty to send none. expires_at: when
    what it showed will be taken no more, in Unix seconds.
    """

    owner: str
    credentials: Mapping[str, str] = field(repr=False)
    expires_at: float = field(default=math.inf, repr=False, compare=False)


class Authenticator(Protocol):
    """Tells callers apart by the headers of their requests."""

    async def authenticate(self, headers: Mapping[str, str]) -> Caller:
        """Return the caller.

        Raises Unauthorized; BadRequest for credentials that contradict each other; ServiceUnavailable when no keys to
        verify tokens can be had.
        """


def is_credential(name: str) -> bool:
    """Whether a header of this name holds a credential."""
    return name.lower() in CREDENTIAL_HEADERS
