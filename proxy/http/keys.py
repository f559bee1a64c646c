"""Typed keys of what an application and a request carry: the one place where services meet their users.

The values are set by the cleanup contexts in `proxy.app` and by the middlewares in `proxy.http.middleware`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import web

from proxy.config.settings import Config

if TYPE_CHECKING:
    from proxy.telemetry.records import TurnRecord
    from proxy.telemetry.traces import Trace
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
#: When the request came, by `time.perf_counter`.
BEGUN: web.RequestKey[float] = web.RequestKey("begun", float)
#: What the turn of the request, or what only asks the upstream, notes of itself.
RECORD: web.RequestKey[TurnRecord] = web.RequestKey("record")
#: The request's place in a trace; only where traces are made.
TRACE: web.RequestKey[Trace] = web.RequestKey("trace")
#: The `x-request-id` of the upstream's answer, for the log. Set by whoever called the upstream.
UPSTREAM_REQUEST_ID: web.RequestKey[str] = web.RequestKey("upstream_request_id", str)
