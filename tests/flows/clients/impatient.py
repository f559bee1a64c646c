"""OpenAI's client, whose first request times out when the model server has it, however long that takes."""

from __future__ import annotations

import asyncio

from httpx2 import AsyncHTTPTransport, ReadTimeout, Request, Response
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from tests.flows.conftest import Proxy
from tests.upstream import ScriptedUpstream


class _FirstTimesOut(AsyncHTTPTransport):
    def __init__(self, upstream: ScriptedUpstream) -> None:
        super().__init__(verify=False)
        self._upstream = upstream
        self._is_first = True

    async def handle_async_request(self, request: Request) -> Response:
        if not self._is_first:
            return await super().handle_async_request(request)
        self._is_first = False
        asked = len(self._upstream.requests)
        sending = asyncio.create_task(super().handle_async_request(request))
        await self._upstream.wait_for_requests(asked + 1)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        raise ReadTimeout("nothing came in time", request=request)


def impatient_client(proxy: Proxy) -> AsyncOpenAI:
    """Return such a client, which then tries again twice. The model server's first answer must not begin by itself."""
    return proxy.client(http_client=DefaultAsyncHttpxClient(transport=_FirstTimesOut(proxy.upstream))).with_options(
        max_retries=2
    )
