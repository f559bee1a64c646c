"""What a client says over plain HTTP and is told, what the model server answers, and what it was sent."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import orjson

from proxy.turns.running import TURNS
from tests.flows.conftest import Proxy
from tests.upstream import Reply


class Answer:
    """What came back: status, headers, body."""

    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status, self.headers, self.body = response.status, response.headers, body
        self.replayed = response.headers.get("idempotent-replayed") == "true"

    @property
    def json(self) -> Any:
        """The body's value."""
        return orjson.loads(self.body)


async def post(
    proxy: Proxy, path: str, body: Any, key: str | None = "k1", *, owner: str = "sk-alice", **options: Any
) -> Answer:
    """POST a body, bytes as they are and anything else as JSON. key: its Idempotency-Key, None for none."""
    headers = {"Authorization": f"Bearer {owner}", "Content-Type": "application/json", **options.pop("headers", {})}
    if key is not None:
        headers["Idempotency-Key"] = key
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    async with proxy.http.post(proxy.url + path, data=data, headers=headers, **options) as response:
        return Answer(response, await response.read())


async def idempotency_records(proxy: Proxy) -> Any:
    """The Redis keys of what is remembered of requests that may come again."""
    return await proxy.redis.keys("*:idempotency:*")


async def stored_keys(proxy: Proxy) -> list[bytes]:
    """The Redis keys of all that is stored: all but the one that says how the store is laid out."""
    return [key for key in await proxy.redis.keys("*") if isinstance(key, bytes) and b":layout:" not in key]


async def until_worker_waits(proxy: Proxy) -> None:
    """Return once the worker waits for jobs: from then on nothing asks the store on its own."""
    while not any("b" in one["flags"] for one in await proxy.redis.client_list()):  # noqa: ASYNC110 (another process)
        await asyncio.sleep(0.01)


async def respond(proxy: Proxy, *, key: str = "sk-alice", expect: int = 200, **body: Any) -> dict[str, Any]:
    """Take a turn, with the echo model unless another is named; return the Response object."""
    status, response = await proxy.call("POST", "/v1/responses", {"model": "echo", "input": "hi", **body}, key=key)
    assert status == expect, response
    return dict(response)


async def new_conversation(proxy: Proxy) -> str:
    """Return the id of a new, empty conversation."""
    _, conversation = await proxy.call("POST", "/v1/conversations")
    return str(conversation["id"])


async def items_of(proxy: Proxy, conversation_id: str, query: str = "") -> list[dict[str, Any]]:
    """Return the items of a conversation, oldest first (at most 100). query: more of it, beginning with `&`."""
    _, page = await proxy.call("GET", f"/v1/conversations/{conversation_id}/items?order=asc&limit=100{query}")
    return list(page["data"])


def model_answer(text: str, *before: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The Response object of a model server that says this. before: items in front; fields: of the response."""
    content = [{"type": "output_text", "text": text, "annotations": []}]
    said = {"id": "msg_up", "type": "message", "role": "assistant", "status": "completed", "content": content}
    return {"id": "up", "object": "response", "status": "completed", "output": [*before, said], **fields}


def answer_when(gate: asyncio.Event, text: str) -> Reply:
    """That answer, which does not come before the gate opens."""
    return Reply.raw(200, "application/json", chunks=[gate, orjson.dumps(model_answer(text))])


def sent(proxy: Proxy) -> list[dict[str, Any]]:
    """The input of the newest request that the model server got."""
    return list(proxy.upstream.requests[-1].json["input"])


async def settled(proxy: Proxy) -> None:
    """Wait until no turn runs any more."""
    await proxy.app[TURNS].settled()
