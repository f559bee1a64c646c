"""Caller: who sent a request, and what finds that out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from aiohttp.web import AppKey, RequestKey

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Owners that nobody had to prove to be.
UNPROVEN = frozenset({"anonymous", "local"})

#: Tells who a caller is.
AUTHENTICATOR: AppKey[Authenticator] = AppKey("authenticator")

#: Who is calling. Set on every request under `/v1/`.
CALLER: RequestKey[Caller] = RequestKey("caller")


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller.

    owner: what all its records are scoped by; at most 80 characters, safe in storage keys and logs.
    upstream_authorization: the whole `Authorization` value to send upstream, or None to send none.
    """

    owner: str
    upstream_authorization: str | None = field(repr=False)


class Authenticator(Protocol):
    """Tells callers apart by the headers of their requests."""

    async def authenticate(self, headers: Mapping[str, str]) -> Caller:
        """Return the caller. Raises Unauthorized; ServiceUnavailable when no keys to verify tokens can be had."""
