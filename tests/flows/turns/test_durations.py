"""A turn that goes on for too long is ended, and its conversation is free."""

from __future__ import annotations

import time
from typing import Any

from proxy.turns.running import TURNS
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.streams import OPENING, Stream
from tests.flows.talk import new_conversation
from tests.upstream import HANG, Reply

#: More than a turn may take by default.
LONGER_SECONDS = 10_000.0
SHORT: dict[str, Any] = {"turns": {"max_seconds": 0.1}, "server": {"keepalive_seconds": 0.1}}


async def test_one_that_has_sent_nothing_is_a_timeout(start_proxy: StartProxy):
    proxy, other = await start_proxy(**SHORT), await start_proxy()
    proxy.upstream.script(Reply.raw(200, "application/json", chunks=[HANG]))
    conversation = await new_conversation(proxy)
    body: dict[str, Any] = {"model": "m", "input": "hi", "conversation": conversation}
    status, answer = await proxy.call("POST", "/v1/responses", body)
    assert (status, answer["code"]) == (504, "turn_timeout")
    assert (await other.call("POST", "/v1/responses", body))[0] == 200


async def test_a_stream_fails_with_what_it_has(proxy: Proxy):
    proxy.upstream.script(Reply.sse([*OPENING, HANG]))
    conversation = await new_conversation(proxy)
    stream = await proxy.client().responses.create(model="m", input="hi", stream=True, conversation=conversation)
    events = [await anext(stream)]
    (turn,) = proxy.app[TURNS]._running
    turn.watch(time.monotonic() + LONGER_SECONDS)
    events += [event async for event in stream]
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert "turns.max_seconds" in last.response.error.message
    status, stored = await proxy.call("GET", f"/v1/responses/{last.response.id}")
    assert (status, stored["status"]) == (200, "failed")


async def test_a_background_response_fails_too(start_proxy: StartProxy):
    proxy = await start_proxy(**SHORT)
    proxy.upstream.script(Reply.sse([*OPENING, HANG]))
    async with Stream(proxy, {"background": True}) as stream:
        failed = await stream.until("response.failed")
    assert "turns.max_seconds" in failed["response"]["error"]["message"]
