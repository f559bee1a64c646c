"""Health: `/healthz` tells that the process answers, `/readyz` whether it can do its work.

That is: the store takes writes, an upstream can be reached, and no task of the server fails.

Both are open to everybody, so their answers carry no detail, and checks run at most once a second.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from proxy.http.keys import STORE
from proxy.runtime.tasks import TASKS
from proxy.upstream.choice import UPSTREAMS
from storage import Reason, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from proxy.upstream.choice import Upstreams

#: Longest time that one check may take.
CHECK_SECONDS = 2.0

#: Time that one result is answered again, so that probes can't be used to hammer store and upstream.
CACHE_SECONDS = 1.0

#: What a store that does not take writes is said to be.
_STATES = {
    Reason.AWAY: "unreachable",
    Reason.LOADING: "loading",
    Reason.REPLICAS: "too few replicas",
    Reason.READ_ONLY: "read-only",
    Reason.FULL: "full",
    Reason.NO_PERMISSION: "permission denied",
    Reason.BUSY: "busy",
    Reason.LAYOUT: "unsupported layout",
    Reason.UNKNOWN: "failing",
}

log = logging.getLogger(__name__)


class Readiness:
    """The latest result of both checks; callers that come at the same time share one run."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._checked_at = float("-inf")
        self._result: dict[str, str] = {}

    async def check(self, app: web.Application) -> dict[str, str]:
        """Return `{"status": …, "store": …, "upstream": …, "tasks": …}`; the last three are `ok`, or say why not.

        It is at most 1 s old. A task without which requests go well all the same is named, and the status is `ok`.
        """
        loop = asyncio.get_running_loop()
        async with self._lock:
            if loop.time() - self._checked_at >= CACHE_SECONDS:
                store, upstream = await asyncio.gather(
                    _check("store", app[STORE].condition.look()), _check_upstreams(app[UPSTREAMS])
                )
                failing = app[TASKS].failing
                tasks = f"failing: {', '.join(failing)}" if failing else "ok"
                is_ready = store == upstream == "ok" and not app[TASKS].fails_vitally
                status = "ok" if is_ready else "unavailable"
                self._result = {"status": status, "store": store, "upstream": upstream, "tasks": tasks}
                self._checked_at = loop.time()
            return self._result


#: Made by `proxy.app.create_app`.
READINESS: web.AppKey[Readiness] = web.AppKey("readiness", Readiness)


async def healthz(_request: web.Request) -> web.Response:
    """`GET /healthz`: 200 while the process can answer."""
    return _answer(200, {"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """`GET /readyz`: 200 when store, upstream and tasks are all right, else 503 and what is not."""
    result = await request.app[READINESS].check(request.app)
    return _answer(200 if result["status"] == "ok" else 503, result)


async def _check_upstreams(upstreams: Upstreams) -> str:
    """Return `ok` as soon as one of them can be reached, else why the first one can't."""
    checks = [asyncio.ensure_future(_check(f"upstream {one.name}", one.ping())) for one in upstreams]
    try:
        for check in asyncio.as_completed(checks):
            if await check == "ok":
                return "ok"
        return await checks[0]
    finally:
        for check in checks:
            check.cancel()


async def _check(name: str, ping: Awaitable[object]) -> str:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await ping
    except TimeoutError:
        return f"no answer within {CHECK_SECONDS:g} s"
    except Unavailable as exc:
        log.warning("%s is not ready: it %s (%s)", name, exc.reason.value, exc.subject)
        return _STATES[exc.reason]
    except Exception as exc:
        # Whatever is wrong, the probe gets an answer, and one without addresses.
        log.warning("%s is not ready: %s", name, type(exc).__name__)
        return "unreachable"
    return "ok"


def _answer(status: int, body: dict[str, str]) -> web.Response:
    return web.Response(
        body=orjson.dumps(body),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


#: Paths that need no credentials.
ROUTES = [web.get("/healthz", healthz), web.get("/readyz", readyz)]
