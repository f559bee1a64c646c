"""Several model servers behind one proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from proxy.config.upstreams import NamedUpstreamConfig
from proxy.protocol.sse import SseDecoder
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.connection import Connection
from tests.flows.talk import post
from tests.proxy.relay.invariants import accept_told
from tests.upstream import Reply, ScriptedUpstream

#: The ways in which a turn is taken.
WAYS = ("plain", "stream", "websocket", "background", "background stream")


@dataclass
class Several:
    """A proxy and the model servers behind it, by name."""

    proxy: Proxy
    servers: dict[str, ScriptedUpstream]

    def asked(self) -> list[str]:
        """The names of the servers that were asked for an answer, each as often as it was."""
        return [name for name, server in self.servers.items() for _ in turns_of(server)]

    def question(self, name: str) -> dict[str, Any]:
        """The newest request for an answer that a server got."""
        return dict(turns_of(self.servers[name])[-1].json)


def turns_of(server: ScriptedUpstream) -> list[Any]:
    """The requests for answers that a server got."""
    return [request for request in server.requests if request.path_qs.partition("?")[0] == "/v1/responses"]


StartSeveral = Callable[..., Awaitable[Several]]


@pytest.fixture
async def start_several(start_proxy: StartProxy) -> AsyncIterator[StartSeveral]:
    """Start servers and a proxy before them. keywords: what is configured of each server, by its name (`_` for `-`);
    `settings`: other sections.
    """
    async with AsyncExitStack() as stack:

        async def start(settings: dict[str, Any] | None = None, **named: Any) -> Several:
            servers: dict[str, ScriptedUpstream] = {}
            upstreams: dict[str, NamedUpstreamConfig] = {}
            for key, keys in named.items():
                name = key.replace("_", "-")
                servers[name] = await stack.enter_async_context(ScriptedUpstream())
                upstreams[name] = NamedUpstreamConfig(**{"url": servers[name].url, **keys})
            return Several(await start_proxy(upstreams=upstreams, **(settings or {})), servers)

        yield start


async def take(several: Several, way: str, *, key: str = "sk-alice", **body: Any) -> dict[str, Any]:
    """Take a turn in one of the ways and return its Response, whatever its status; an error body if it is refused."""
    proxy, body = several.proxy, {"input": "hi", **body}
    if way == "websocket":
        async with Connection(proxy, key) as connection:
            await connection.send(type="response.create", **body)
            while (message := await connection.next())["type"] not in ENDS:
                pass
            return dict(message.get("response") or message)
    if way == "plain":
        return dict((await post(proxy, "/v1/responses", body, None, owner=key)).json)
    background = way.startswith("background")
    answer = await post(
        proxy, "/v1/responses", {**body, "stream": way.endswith("stream"), "background": background}, None, owner=key
    )
    if answer.status != 200:
        return dict(answer.json)
    if way.endswith("stream"):
        return dict(told_in(answer.body)[-1]["response"])
    response = answer.json
    while response["status"] in ("queued", "in_progress"):
        _, response = await proxy.call("GET", f"/v1/responses/{response['id']}", key=key)
    return dict(response)


#: The events after which nothing follows.
ENDS = ("response.completed", "response.incomplete", "response.failed", "error")


def told_in(stream: bytes) -> list[Any]:
    """The events of a whole stream, whose numbers have no gap and whose items contradict nothing."""
    events = [orjson.loads(data) for _, data in SseDecoder(1 << 20).feed(stream) if data != b"[DONE]"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    accept_told(events)
    return events


def text_of(response: dict[str, Any]) -> str:
    """What a response says."""
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


def says(text: str, way: str = "plain", *before: dict[str, Any], model: str = "m") -> Reply:
    """An answer of a model server for a turn that is taken in some way. before: items in front of the text."""
    content = [{"type": "output_text", "text": text, "annotations": []}]
    said = {"id": "msg_up", "type": "message", "role": "assistant", "status": "completed", "content": content}
    response = {"id": "up", "object": "response", "status": "completed", "model": model, "output": [*before, said]}
    if way in ("plain", "background"):
        return Reply.json(200, response)
    return Reply.sse(
        [
            {"type": "response.created", "response": {**response, "status": "in_progress", "output": []}},
            *(
                {"type": f"response.output_item.{end}", "output_index": place, "item": item}
                for place, item in enumerate([*before, said])
                for end in ("added", "done")
            ),
            {"type": "response.completed", "response": response},
        ]
    )
