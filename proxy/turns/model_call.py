"""A turn's question to the model server: its request, asked again where a model can't do what is asked for us."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.context.budget import OMITTED
from proxy.context.input import Prepared
from proxy.context.request_body import upstream_body
from proxy.protocol import sse
from proxy.protocol.errors import BadGateway, UpstreamRefusal
from proxy.services import Services
from proxy.upstream.call import Inbound, call_upstream
from proxy.upstream.client import iter_chunks
from proxy.upstream.headers import response_headers
from storage import OpenedTurn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager, AsyncExitStack

    import aiohttp

    from proxy.auth.caller import Caller
    from proxy.protocol.request import TurnRequest

#: Models known to refuse `include: reasoning.encrypted_content` that are remembered.
MAX_UNSEALED_MODELS = 1024


class Question:
    """What one turn asks the upstream."""

    def __init__(self, services: Services, caller: Caller, request: TurnRequest, inbound: Inbound) -> None:
        self._services = services
        self._caller = caller
        self._request = request
        self._inbound = inbound
        self._omitted = 0

    async def ask(
        self, stack: AsyncExitStack, opened: OpenedTurn, prepared: Prepared, *, keeps: bool
    ) -> aiohttp.ClientResponse:
        """Call the upstream, a second time without encrypted reasoning if the model has none (OpenAI answers 400).

        The answer is open for as long as `stack`. keeps: its items will be stored. Raises ApiError.
        """
        opened, self._omitted = await self._services.gauge.fit(self._request.body, opened, prepared)
        model = str(self._request.body.get("model"))
        unsealed = self._services.unsealed_models
        ask_encrypted = keeps and model not in unsealed
        body = upstream_body(self._request, opened, prepared, ask_encrypted=ask_encrypted)
        try:
            return await stack.enter_async_context(self._call(body))
        except UpstreamRefusal as refusal:
            if not ask_encrypted or self._request.show_encrypted or not _refuses_encrypted(refusal):
                raise
            if len(unsealed) < MAX_UNSEALED_MODELS:
                unsealed.add(model)
            body = upstream_body(self._request, opened, prepared, ask_encrypted=False)
            return await stack.enter_async_context(self._call(body))

    def headers_of(self, answer: aiohttp.ClientResponse) -> Mapping[str, str]:
        """Return the headers of an answer for the client, with how many items the model was not shown."""
        headers = response_headers(answer.headers)
        if self._omitted:
            headers[OMITTED] = str(self._omitted)
        return headers

    async def events(self, answer: aiohttp.ClientResponse) -> AsyncIterator[list[sse.Event]]:
        """Yield the events of a streamed answer as they arrive, some at a time.

        Raises BadGateway (also for an answer over `upstream.max_response_bytes`), GatewayTimeout, EventTooLarge.
        """
        decoder = sse.SseDecoder(self._services.config.upstream.max_event_bytes)
        room = self._services.upstream.max_response_bytes
        async for chunk in iter_chunks(answer):
            room -= len(chunk)
            if room < 0:
                raise BadGateway("The upstream's answer is too large.", code="upstream_response_too_large")
            if events := decoder.feed(chunk):
                yield events
        yield decoder.flush()

    def _call(self, body: bytes) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return call_upstream(self._services, self._caller, self._inbound, body)


def _refuses_encrypted(refusal: UpstreamRefusal) -> bool:
    """Whether a model has no encrypted reasoning: OpenAI's 400 on param `include` for those that don't reason."""
    return refusal.status == 400 and "encrypted content is not supported" in refusal.message.lower()
