"""Streams on both sides of the proxy: what a model server sends, and a client that may leave in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Self

import orjson

from proxy.protocol import sse
from tests.flows.conftest import Proxy
from tests.upstream import Reply

MESSAGE = {"id": "m1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}


def delta(text: str) -> dict[str, Any]:
    """More text of that message."""
    return {"type": "response.output_text.delta", "item_id": "m1", "output_index": 0, "content_index": 0, "delta": text}


#: A stream up to its first text.
OPENING: list[Any] = [
    {"type": "response.created", "response": {"id": "r1", "object": "response", "status": "in_progress"}},
    {"type": "response.output_item.added", "output_index": 0, "item": MESSAGE},
    delta("Once upon"),
]


def answer_after(gate: asyncio.Event) -> Reply:
    """An answer that begins and waits for the test before it ends."""
    return Reply.sse([*OPENING, gate, {"type": "response.completed", "response": {}}])


def frames(events: Iterable[dict[str, Any]], *, done: bool = True) -> bytes:
    """The bytes of a stream as a careful server sends them."""
    told = [sse.encode(event["type"], orjson.dumps(event)) for event in events]
    return b"".join([*told, sse.DONE] if done else told)


class Stream:
    """A streamed turn read event by event, which can be left in the middle."""

    def __init__(self, proxy: Proxy, body: dict[str, Any]) -> None:
        self._proxy, self._body = proxy, {"model": "m", "stream": True, "input": "hi", **body}
        self.events: list[Any] = []

    async def __aenter__(self) -> Self:
        self.response = await self._proxy.http.post(
            f"{self._proxy.url}/v1/responses", json=self._body, headers={"Authorization": "Bearer sk-alice"}
        )
        assert self.response.status == 200, await self.response.text()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.response.close()

    async def until(self, event_type: str) -> Any:
        """Read on to an event of this type and return it."""
        while True:
            line = await self.response.content.readline()
            assert line, f"the stream ended before {event_type}"
            if line.startswith(b"data: {"):
                self.events.append(orjson.loads(line[6:]))
                if self.events[-1]["type"] == event_type:
                    return self.events[-1]

    async def rest(self) -> bytes:
        """Read to the end."""
        return await self.response.content.read()


async def read_stream(proxy: Proxy, body: dict[str, Any], path: str = "/v1/responses") -> bytes:
    """Take a streamed turn and return its bytes."""
    headers = {"Authorization": "Bearer sk-alice"}
    async with proxy.http.post(proxy.url + path, json={"model": "echo", "stream": True, **body}, headers=headers) as it:
        assert it.status == 200, await it.text()
        return await it.read()
