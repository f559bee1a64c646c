"""upstream.call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.services import Services
from proxy.upstream.client import RESPONSES
from proxy.upstream.headers import request_headers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    import aiohttp
    from aiohttp import web

    from proxy.auth.caller import Caller


@dataclass(frozen=True, slots=True)
class Inbound:
    """What goes along from the client's own request: its headers, of which the upstream gets some, and its query."""

    headers: Mapping[str, str]
    query: str = ""

    @classmethod
    def of(cls, request: web.Request) -> Inbound:
        """Return what an HTTP request brings."""
        return cls(request.headers, request.rel_url.raw_query_string)


def call_upstream(
    services: Services, caller: Caller, inbound: Inbound, body: bytes, path: str = RESPONSES
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    """Return the call that asks the upstream on behalf of a client. path: below the upstream's URL. Raises ApiError."""
    headers = request_headers(inbound.headers, caller.upstream_authorization)
    # the key stands for the client's request, not for this one, whose history may be another the next time
    headers.popall("Idempotency-Key", None)
    return services.upstream.create_response(body, headers, inbound.query, path=path)
