"""Typed keys of what an application and a request carry: the one place where services meet their users.

The values are set by the cleanup contexts in `proxy.app` and by the middlewares in `proxy.http.middleware`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import web

from proxy.config.settings import Config

if TYPE_CHECKING:
    from proxy.telemetry.records import RequestNotes
    from storage import Store

#: The header that `proxy.idempotency` looks at.
KEY_HEADER = "Idempotency-Key"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: The configuration that the application was created with.
CONFIG: web.AppKey[Config] = web.AppKey("config", Config)
#: Everything that is kept: `storage.Store`.
STORE: web.AppKey[Store] = web.AppKey("store")

#: `req_` + 32 hex digits; also the `x-request-id` header of the answer. Set on every request.
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
#: What is noted of the request for metrics, line and trace. Set on every request.
NOTES: web.RequestKey[RequestNotes] = web.RequestKey("notes")
#: The `x-request-id` of the upstream's answer, for the log. Set by whoever called the upstream.
UPSTREAM_REQUEST_ID: web.RequestKey[str] = web.RequestKey("upstream_request_id", str)
