"""Typed keys of what an application and a request carry: the one place where services meet their users.

The values are set by the cleanup contexts in `proxy.app` and by the middlewares in `proxy.middleware`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from proxy.config import Config

if TYPE_CHECKING:
    from proxy.auth import Authenticator, Caller
    from proxy.claims import Claims, Held
    from proxy.follower import Followers
    from proxy.question import Services
    from proxy.reclaimer import Reclaimer
    from proxy.registry import Turns
    from proxy.sealing import Sealer
    from proxy.sockets import Sockets
    from proxy.upstream import Upstream
    from proxy.worker import Worker
    from storage import Store

#: The configuration that the application was created with.
CONFIG: web.AppKey[Config] = web.AppKey("config", Config)
#: Everything that is kept: `storage.Store`.
STORE: web.AppKey[Store] = web.AppKey("store")
#: The model server's client.
UPSTREAM: web.AppKey[Upstream] = web.AppKey("upstream")
#: Tells who a caller is.
AUTHENTICATOR: web.AppKey[Authenticator] = web.AppKey("authenticator")
#: Seals what only this service may read again.
SEALER: web.AppKey[Sealer] = web.AppKey("sealer")
#: What a turn works with.
SERVICES: web.AppKey[Services] = web.AppKey("services")
#: Idempotency keys that requests hold.
CLAIMS: web.AppKey[Claims] = web.AppKey("claims")
#: Frees what deleted branches leave behind.
RECLAIMER: web.AppKey[Reclaimer] = web.AppKey("reclaimer")
#: Those that read the logs of events.
FOLLOWERS: web.AppKey[Followers] = web.AppKey("followers")
#: The turns that are running.
TURNS: web.AppKey[Turns] = web.AppKey("turns")
#: Runs background responses.
WORKER: web.AppKey[Worker] = web.AppKey("worker")
#: The WebSocket connections that are open.
SOCKETS: web.AppKey[Sockets] = web.AppKey("sockets")

#: `req_` + 32 hex digits; also the `x-request-id` header of the answer. Set on every request.
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
#: Who is calling. Set on every request under `/v1/`.
CALLER: web.RequestKey[Caller] = web.RequestKey("caller")
#: The `x-request-id` of the upstream's answer, for the log. Set by whoever called the upstream.
UPSTREAM_REQUEST_ID: web.RequestKey[str] = web.RequestKey("upstream_request_id", str)
#: The idempotency key that this request holds. Set on a request that came with a key and is to be carried out.
HELD: web.RequestKey[Held] = web.RequestKey("held")
