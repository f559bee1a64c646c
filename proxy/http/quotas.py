"""Request quota: how many requests an owner may make in a minute, and the headers that say how it stands."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aiohttp import web

from proxy.http.keys import STORE
from proxy.protocol.errors import TooManyRequests
from storage import Allowance

if TYPE_CHECKING:
    from collections.abc import Mapping

#: How the caller's requests stand, where they are counted.
ALLOWANCE: web.RequestKey[Allowance] = web.RequestKey("allowance", Allowance)


async def count_request(request: web.Request, owner: str, limit: int) -> None:
    """Count a request of this owner, which may make `limit` a minute. Raises TooManyRequests, Unavailable."""
    allowance = request[ALLOWANCE] = await request.app[STORE].quotas.count_request(owner, limit)
    if allowance.wait_seconds:
        message = f"Rate limit reached: {limit} requests per minute. Please try again in {allowance.wait_seconds:.3f}s."
        raise TooManyRequests(message, retry_after_seconds=allowance.wait_seconds)


def rate_limit_headers(allowance: Allowance) -> Mapping[str, str]:
    """Return the headers as OpenAI has them."""
    return {
        "x-ratelimit-limit-requests": str(allowance.limit),
        "x-ratelimit-remaining-requests": str(allowance.left),
        "x-ratelimit-reset-requests": _duration(allowance.reset_seconds),
    }


def _duration(seconds: float) -> str:
    """Return `120ms`, `8.64s` or `1m3s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{math.ceil(rest)}s" if minutes else f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
