"""Model list: what several model servers have, told as one list: by clients' names, each once.

A server's own list counts as far as `models` has it; the exact names in there are told too where it is silent. Each
server gets 2 seconds, and its list is kept for 30.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import hdrs
from aiohttp.web import AppKey

from proxy.protocol import lenient_json
from proxy.protocol.errors import ApiError, BadGateway
from proxy.upstream.body import read_body
from proxy.upstream.errors import refusal

if TYPE_CHECKING:
    from proxy.auth.caller import Caller
    from proxy.upstream.choice import Upstreams
    from proxy.upstream.client import Upstream

#: Seconds that a server may take to tell its models, and that they are told again without asking.
MODELS_SECONDS = 2.0
KEPT_SECONDS = 30.0
#: Lists that are kept at most: a server that gets callers' own keys may tell each caller another one.
MAX_LISTS = 1024
#: Longest list that is read, in bytes, and models of one server that are told.
MAX_MODELS_BYTES = 8 * 1024 * 1024
MAX_MODELS = 10_000

Model = dict[str, Any]

#: The merged list.
MODEL_LIST: AppKey[ModelList] = AppKey("model_list")

log = logging.getLogger(__name__)


class ModelList:
    """The merged list. clock: monotonic seconds."""

    def __init__(self, upstreams: Upstreams, clock: Callable[[], float] = time.monotonic) -> None:
        self._upstreams = upstreams
        self._clock = clock
        self._kept: dict[tuple[str, str], tuple[float, asyncio.Future[Sequence[Model]]]] = {}

    async def read(self, caller: Caller) -> list[Model]:
        """Return the models that a caller can name, as objects of the API. Never fails: a silent server has none."""
        servers = list(self._upstreams)
        lists = await asyncio.gather(*(self._list_of(server, caller) for server in servers))
        found: dict[str, Model] = {}
        for server, models in zip(servers, lists, strict=True):
            for name, model in self._told(server, models):
                found.setdefault(name, {**model, "id": name})
        for server in servers:
            for name in server.models:
                if not name.endswith("*"):
                    found.setdefault(name, _object(name, server.name))
        return list(found.values())

    def _told(self, server: Upstream, models: Sequence[Model]) -> Iterator[tuple[str, Model]]:
        """Yield a server's models by the names that lead to it."""
        names: dict[str, list[str]] = {}
        for ours, theirs in server.rename.items():
            names.setdefault(theirs, []).append(ours)
        for model in models:
            name = model["id"]
            own = [] if name in server.rename else [name]
            for told in (*names.get(name, ()), *own):
                if server in self._upstreams.serving(told):
                    yield told, model

    async def _list_of(self, server: Upstream, caller: Caller) -> Sequence[Model]:
        """Return what a server tells; callers that ask at the same time share one request."""
        credentials = server.credentials(caller.credentials)
        # what a caller's own key is shown is for that caller only
        key = (server.name, caller.owner if credentials and credentials is caller.credentials else "")
        until, kept = self._kept.get(key, (0.0, None))
        if kept is None or until <= self._clock():
            if len(self._kept) >= MAX_LISTS:
                del self._kept[next(iter(self._kept))]
            kept = asyncio.ensure_future(_ask(server, credentials))
            self._kept[key] = self._clock() + KEPT_SECONDS, kept
        # not cancelled with the one who came first: others wait for it too
        return await asyncio.shield(kept)


async def _ask(server: Upstream, credentials: Mapping[str, str]) -> Sequence[Model]:
    try:
        async with asyncio.timeout(MODELS_SECONDS):
            return await read_models(server, credentials)
    except TimeoutError:
        log.warning("upstream %s: its models are not listed: no answer within %g s", server.name, MODELS_SECONDS)
    except ApiError as error:
        log.warning("upstream %s: its models are not listed: %s", server.name, error.message)
    return []


async def read_models(server: Upstream, credentials: Mapping[str, str]) -> list[Model]:
    """Return the objects of a server's `GET /models` that have an id.

    Raises UpstreamRefusal (for a redirect too), BadGateway, GatewayTimeout.
    """
    headers = {**credentials, hdrs.ACCEPT: "application/json"}
    async with server.forward(hdrs.METH_GET, "/models", "", headers, None) as answer:
        body = await read_body(answer, MAX_MODELS_BYTES)
        if answer.status >= 300:
            raise refusal(answer.status, answer.headers, body)
    try:
        told = lenient_json.loads_lenient(body)
    except orjson.JSONDecodeError:
        raise BadGateway("The list of models is not JSON.") from None
    data = told.get("data") if isinstance(told, dict) else None
    if not isinstance(data, list):
        raise BadGateway("The list of models has no data.")
    return [one for one in data if isinstance(one, dict) and isinstance(one.get("id"), str)][:MAX_MODELS]


def _object(name: str, owner: str) -> Model:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}
