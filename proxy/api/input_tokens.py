"""POST /v1/responses/input_tokens: how many tokens a turn would give the model. Nothing is locked or written.

The model server counts, if it can, what the turn would send it; else it is reckoned here, and a header says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from proxy.auth.caller import CALLER
from proxy.compaction.automatic import Compaction
from proxy.context.budget import OMITTED
from proxy.context.input import Prepared
from proxy.context.request_body import count_body
from proxy.http.body import read_json
from proxy.http.keys import UPSTREAM_REQUEST_ID
from proxy.protocol.errors import UpstreamRefusal
from proxy.protocol.request import read_request
from proxy.services import SERVICES
from proxy.turns.opening import look
from proxy.upstream.call import Inbound, call_upstream
from proxy.upstream.capabilities import means_absence
from proxy.upstream.client import read_body
from proxy.upstream.headers import response_headers
from storage import OpenedTurn

if TYPE_CHECKING:
    from proxy.auth.caller import Caller
    from proxy.protocol.request import TurnRequest
    from proxy.services import Services

#: Where it is, here below `/v1` and below the upstream's URL.
INPUT_TOKENS = "/responses/input_tokens"
#: The header of a number that was reckoned here.
TOKENS = "x-branchline-tokens"


async def count_input_tokens(request: web.Request) -> web.Response:
    """POST /v1/responses/input_tokens: a turn's body; its tokens, history included."""
    body = {**await read_json(request, allow_empty=True), "store": False, "stream": False, "background": False}
    turn_request = read_request(body)
    measure = Measure(request.app[SERVICES], request[CALLER], turn_request, Inbound.of(request))
    answer, headers = await measure.take()
    request[UPSTREAM_REQUEST_ID] = measure.upstream_request_id
    return web.Response(body=answer, headers=headers, content_type="application/json")


class Measure:
    """One count."""

    def __init__(self, services: Services, caller: Caller, request: TurnRequest, inbound: Inbound) -> None:
        self._services = services
        self._caller = caller
        self._request = request
        self._inbound = inbound
        #: What the upstream calls its count, for the log.
        self.upstream_request_id = "-"

    async def take(self) -> tuple[bytes, Mapping[str, str]]:
        """Return the answer's body and headers. Raises ApiError and StoreError as the turn would."""
        opened, prepared = await look(self._services, self._caller.owner, self._request)
        compaction = Compaction(self._services, self._caller, self._request, self._inbound)
        compaction.open(opened, prepared)
        self._request = compaction.request
        opened, prepared = compaction.view
        opened, omitted = await self._services.gauge.fit(self._request.body, opened, prepared)
        own = {OMITTED: str(omitted)} if omitted else {}
        counted = await self._ask(opened, prepared)
        if counted is not None:
            body, headers = counted
            return body, {**headers, **own}
        tokens = await self._services.gauge.count(self._request.body, opened, prepared)
        return _answer(tokens), {TOKENS: "estimate", **own}

    async def _ask(self, opened: OpenedTurn, prepared: Prepared) -> tuple[bytes, Mapping[str, str]] | None:
        """Return the upstream's answer and its headers; None if it has no such endpoint. Raises ApiError."""
        upstream, absences, model = self._services.upstream, self._services.absences, self._request.model
        if absences.has(INPUT_TOKENS, model):
            return None
        body = count_body(self._request, opened, prepared)
        try:
            async with call_upstream(self._services, self._caller, self._inbound, body, INPUT_TOKENS) as answer:
                self.upstream_request_id = answer.headers.get("x-request-id", "-")
                counted = await read_body(answer, upstream.max_response_bytes)
                if _is_count(counted):
                    return counted, response_headers(answer.headers)
        except UpstreamRefusal as refusal:
            if not means_absence(refusal):
                raise
        absences.note(INPUT_TOKENS, model)
        return None


def _is_count(body: bytes) -> bool:
    """Whether an answer is a count; some servers answer any path with a page of theirs."""
    try:
        counted = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(counted, dict) and isinstance(counted.get("input_tokens"), int)


def _answer(tokens: int) -> bytes:
    return orjson.dumps({"object": "response.input_tokens", "input_tokens": tokens})


ROUTES = [web.post(f"/v1{INPUT_TOKENS}", count_input_tokens)]
