"""POST /v1/responses/input_tokens: how many tokens a turn would give the model. Nothing is locked or written.

The model server counts, if it can, what the turn would send it; else it is reckoned here, and a header says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from proxy.api.turns import asking, take_here
from proxy.compaction.automatic import Compaction
from proxy.context.budget import OMITTED
from proxy.context.model_request import ModelRequest, count_model_request
from proxy.http.body import read_json
from proxy.http.keys import CONFIG
from proxy.protocol.errors import UpstreamRefusal
from proxy.protocol.request import read_request
from proxy.services import SERVICES
from proxy.turns.intake import take_in
from proxy.turns.opening import look
from proxy.upstream.capabilities import means_absence
from proxy.upstream.model_call import Compose, ModelCall

if TYPE_CHECKING:
    from proxy.context.reader import Reader
    from proxy.protocol.request import TurnRequest
    from proxy.services import Services
    from storage import HistoryLimit

#: Where it is, here below `/v1` and below the upstream's URL.
INPUT_TOKENS = "/responses/input_tokens"
#: The header of a number that was reckoned here.
TOKENS = "x-branchline-tokens"


async def count_input_tokens(request: web.Request) -> web.Response:
    """POST /v1/responses/input_tokens: a turn's body; its tokens, history included."""
    body = {**await read_json(request, allow_empty=True), "store": False, "stream": False, "background": False}
    turn_request = await take_in(request.app[CONFIG], body, read_request)
    services = request.app[SERVICES]

    async def count(most: HistoryLimit | None) -> tuple[bytes, Mapping[str, str]]:
        with asking(request) as call:
            return await TokenCount(services, call, turn_request).take(most)

    answer, headers = await take_here(request, turn_request.source.subject, count)
    return web.Response(body=answer, headers=headers, content_type="application/json")


class TokenCount:
    """One count."""

    def __init__(self, services: Services, call: ModelCall, request: TurnRequest) -> None:
        self._services = services
        self._call = call
        self._request = request

    async def take(self, most_history: HistoryLimit | None = None) -> tuple[bytes, Mapping[str, str]]:
        """Return the answer's body and headers. Raises ApiError and StoreError as the turn would."""
        opening = await look(self._services, self._call.caller.owner, self._request, most_history)
        compaction = Compaction(self._services, self._call, opening.request)
        compaction.open(opening.opened, opening.turn_input)
        request, budget = compaction.request, self._services.budget

        async def compose(reader: Reader) -> tuple[ModelRequest, int]:
            opened, turn_input = compaction.view(reader)
            opened, omitted = await budget.fit(request.body, opened, turn_input)
            return count_model_request(request, reader, opened, turn_input), omitted

        counted = await self._ask(request, compose)
        if counted is not None:
            return counted
        asked, omitted = await compose(self._call.reader(request))
        tokens = await budget.count(request.body, asked.opened, asked.turn_input)
        return _answer(tokens), {TOKENS: "estimate", **({OMITTED: str(omitted)} if omitted else {})}

    async def _ask(self, request: TurnRequest, compose: Compose) -> tuple[bytes, Mapping[str, str]] | None:
        """Return the upstream's answer and its headers; None if it has no such endpoint. Raises ApiError."""
        if self._call.is_absent(INPUT_TOKENS, request.model):
            return None
        try:
            with await self._call.put(request, compose, INPUT_TOKENS) as answer:
                counted = await answer.read()
                if _is_count(counted):
                    return counted, answer.headers
        except UpstreamRefusal as refusal:
            if not means_absence(refusal):
                raise
        self._call.note_absent(INPUT_TOKENS, request.model)
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
