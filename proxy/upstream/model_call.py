"""Model call: one client request's question to the model server, asked again where a model can't do what we add."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs

from proxy.context.budget import OMITTED
from proxy.context.request_body import upstream_body
from proxy.protocol import sse
from proxy.protocol.errors import BadGateway, UpstreamRefusal
from proxy.upstream.client import RESPONSES, iter_chunks, read_body, read_json_answer
from proxy.upstream.headers import request_headers, response_headers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import aiohttp

    from proxy.auth.caller import Caller
    from proxy.context.budget import TokenBudget
    from proxy.context.input import TurnInput
    from proxy.protocol.request import TurnRequest
    from proxy.upstream.capabilities import Capabilities
    from proxy.upstream.client import Upstream
    from storage import OpenedTurn


@dataclass(frozen=True, slots=True)
class Inbound:
    """What goes along from the client's own request: its headers, of which the upstream gets some, and its query."""

    #: Not shown: credentials are among them.
    headers: Mapping[str, str] = field(repr=False)
    query: str = ""


class ModelCall:
    """Asks the upstream on behalf of one client request, as often as that takes."""

    def __init__(
        self, upstream: Upstream, capabilities: Capabilities, budget: TokenBudget, caller: Caller, inbound: Inbound
    ) -> None:
        self._upstream = upstream
        self._capabilities = capabilities
        self._budget = budget
        self._inbound = inbound
        self.caller = caller
        #: What the upstream calls the latest call, for the log.
        self.upstream_request_id = "-"

    @asynccontextmanager
    async def ask(
        self, request: TurnRequest, opened: OpenedTurn, turn_input: TurnInput, *, keeps: bool
    ) -> AsyncIterator[ModelAnswer]:
        """Ask for a turn's answer, a second time without encrypted reasoning if the model has none (OpenAI says 400).

        request: as the upstream gets it. keeps: the answer's items will be stored. Raises ApiError.
        """
        opened, omitted = await self._budget.fit(request.body, opened, turn_input)
        model = str(request.body.get("model"))
        ask_encrypted = keeps and not self._capabilities.is_unsealed(model)
        body = upstream_body(request, opened, turn_input, ask_encrypted=ask_encrypted)
        async with AsyncExitStack() as stack:
            try:
                answer = await stack.enter_async_context(self.post(body, omitted=omitted))
            except UpstreamRefusal as refusal:
                if not ask_encrypted or request.show_encrypted or not _refuses_encrypted(refusal):
                    raise
                self._capabilities.note_unsealed(model)
                body = upstream_body(request, opened, turn_input, ask_encrypted=False)
                answer = await stack.enter_async_context(self.post(body, omitted=omitted))
            yield answer

    @asynccontextmanager
    async def post(self, body: bytes, path: str = RESPONSES, *, omitted: int = 0) -> AsyncIterator[ModelAnswer]:
        """Post a body as it is. path: below the upstream's URL. omitted: see ModelAnswer. Raises ApiError."""
        headers = request_headers(self._inbound.headers, self.caller.credentials)
        # the key stands for the client's request, not for this one, whose history may be another the next time
        headers.popall("Idempotency-Key", None)
        async with self._upstream.create_response(body, headers, self._inbound.query, path=path) as answer:
            self.upstream_request_id = answer.headers.get("x-request-id", "-")
            yield ModelAnswer(answer, self._upstream, omitted)


class ModelAnswer:
    """A 2xx answer of the model server, its body unread. omitted: items of the history that the model was not shown."""

    def __init__(self, answer: aiohttp.ClientResponse, upstream: Upstream, omitted: int) -> None:
        self._answer = answer
        self._upstream = upstream
        self._omitted = omitted

    @property
    def headers(self) -> Mapping[str, str]:
        """What of its headers goes on to the client, with how many items the model was not shown."""
        headers = response_headers(self._answer.headers)
        if self._omitted:
            headers[OMITTED] = str(self._omitted)
        return headers

    @property
    def is_json(self) -> bool:
        """Whether it says that it is one JSON body."""
        return self._answer.content_type == "application/json"

    def is_stream(self, *, expected: bool) -> bool:
        """Whether it is a stream of events. expected: what it is if it does not say."""
        untold = not self._answer.headers.get(hdrs.CONTENT_TYPE)
        return self._answer.content_type == "text/event-stream" or (untold and expected)

    async def read(self) -> bytes:
        """Return the whole body. Raises BadGateway, GatewayTimeout."""
        return await read_body(self._answer, self._upstream.max_response_bytes)

    async def read_json(self) -> dict[str, Any]:
        """Return the JSON object that the whole body is. Raises BadGateway, GatewayTimeout."""
        return await read_json_answer(self._answer, self._upstream.max_response_bytes)

    async def events(self) -> AsyncIterator[list[sse.Event]]:
        """Yield the events of a stream as they arrive, some at a time.

        Raises BadGateway (also for an answer over `upstream.max_response_bytes`), GatewayTimeout, EventTooLarge.
        """
        decoder = sse.SseDecoder(self._upstream.max_event_bytes)
        room = self._upstream.max_response_bytes
        async for chunk in iter_chunks(self._answer):
            room -= len(chunk)
            if room < 0:
                raise BadGateway("The upstream's answer is too large.", code="upstream_response_too_large")
            if events := decoder.feed(chunk):
                yield events
        yield decoder.flush()


def _refuses_encrypted(refusal: UpstreamRefusal) -> bool:
    """Whether a model has no encrypted reasoning: OpenAI's 400 on param `include` for those that don't reason."""
    return refusal.status == 400 and "encrypted content is not supported" in refusal.message.lower()
