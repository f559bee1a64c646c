"""Answers: what a server tells about a store, asked for over HTTP, as JSON that gives the same bytes.

    {"as": "sk-alice", "path": "/v1/responses/resp_…", "status": 200, "type": "application/json", "body": {…}}

`body` is an object, or the list of the objects of JSON Lines (an export) or of a stream's events. All members are in
the order in which they came, but those of `metadata`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import aiohttp
import orjson

_JSON, _LINES, _EVENTS = "application/json", "application/x-ndjson", "text/event-stream"
_DONE = b"data: [DONE]\n\n"
_ALL = "/v1/conversations?limit=100"
_SEALED = "include[]=reasoning.encrypted_content"


async def ask(http: aiohttp.ClientSession, url: str, key: str, path: str) -> dict[str, Any]:
    """GET a path as the caller with this key; fail if the answer's bytes do not follow from what is returned."""
    async with http.get(url + path, headers={"Authorization": f"Bearer {key}"}) as response:
        kind, raw = response.content_type, await response.read()
        body = parse(kind, raw)
        assert render(kind, body) == raw
        _sort_metadata(body)
        if response.status >= 400:
            del body["request_id"]
        return {"as": key, "path": path, "status": response.status, "type": kind, "body": body}


def parse(kind: str, raw: bytes) -> Any:
    """Return the body of an answer of this content type."""
    if kind == _LINES:
        return [orjson.loads(line) for line in raw.split(b"\n") if line]
    if kind == _EVENTS:
        return [orjson.loads(frame.partition(b"\ndata: ")[2]) for frame in raw.split(b"\n\n")[:-2]]
    assert kind == _JSON, kind
    return orjson.loads(raw)


def render(kind: str, body: Any) -> bytes:
    """Return the bytes that `parse` was given."""
    if kind == _LINES:
        return b"".join(orjson.dumps(line) + b"\n" for line in body)
    if kind == _EVENTS:
        frames = (b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event)) for event in body)
        return b"".join((*frames, _DONE))
    return orjson.dumps(body)


def _sort_metadata(body: Any) -> None:
    """Put metadata in order: a conversation's come as Redis gives the fields of a hash, which is any."""
    children = body.values() if isinstance(body, dict) else body if isinstance(body, list) else ()
    for child in children:
        _sort_metadata(child)
    if isinstance(body, dict) and isinstance(body.get("metadata"), dict):
        body["metadata"] = dict(sorted(body["metadata"].items()))


class Questions:
    """All that can be asked about what callers have. responses: their ids, by the caller's key."""

    def __init__(self, http: aiohttp.ClientSession, url: str, responses: dict[str, list[str]]) -> None:
        self._http, self._url, self._responses = http, url, responses

    async def answers(self) -> AsyncIterator[dict[str, Any]]:
        """Ask everything; yield the answers."""
        for key, responses in self._responses.items():
            async for listing in self._listings(key):
                yield listing
                for conversation in listing["body"]["data"] if listing["path"] == _ALL else ():
                    async for one in self._conversation(key, conversation):
                        yield one
            for response_id in responses:
                async for one in self._response(key, response_id):
                    yield one

    async def _listings(self, key: str) -> AsyncIterator[dict[str, Any]]:
        yield await self._ask(key, _ALL)
        yield await self._ask(key, f"{_ALL}&order=asc")
        for query in ("project_id=p-1", "referrer=widget"):
            yield await self._ask(key, f"/v1/conversations?{query}")
        page = await self._ask(key, "/v1/conversations?limit=2")
        yield page
        while page["body"]["has_more"]:
            page = await self._ask(key, f"/v1/conversations?limit=2&after={page['body']['next_cursor']}")
            yield page

    async def _conversation(self, key: str, conversation: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        path = f"/v1/conversations/{conversation['id']}"
        yield await self._ask(key, path)
        yield await self._ask(key, f"{path}/export")
        yield await self._ask(key, f"{path}/items?limit=3")
        branches = await self._ask(key, f"{path}/branches")
        yield branches
        names = [branch["name"] for branch in branches["body"]["data"]]
        for name in names:
            yield await self._ask(key, f"{path}/branches/{name}")
            async for page in self._items(key, f"{path}/items?branch={name}"):
                yield page
        for one, other in pairwise(names):
            yield await self._ask(key, f"{path}/branches/{one}/compare/{other}?limit=2")

    async def _items(self, key: str, path: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the pages of a list of items, then one of the items and the past as of that."""
        path += f"&order=asc&limit=100&{_SEALED}"
        page = await self._ask(key, path)
        yield page
        while page["body"]["has_more"]:
            page = await self._ask(key, f"{path}&after={page['body']['last_id']}")
            yield page
        if page["body"]["data"]:
            middle = page["body"]["data"][len(page["body"]["data"]) // 2]["id"]
            items, _, query = path.partition("?")
            yield await self._ask(key, f"{items}/{middle}")
            yield await self._ask(key, f"{items}?at={middle}&{query.replace('limit=100', 'limit=1')}")

    async def _response(self, key: str, response_id: str) -> AsyncIterator[dict[str, Any]]:
        path = f"/v1/responses/{response_id}"
        response = await self._ask(key, path)
        yield response
        if any("encrypted_content" in item for item in response["body"].get("output", ())):
            yield await self._ask(key, f"{path}?{_SEALED}")
        yield await self._ask(key, f"{path}/input_items?limit=15&order=asc&{_SEALED}")
        yield await self._ask(key, f"{path}/input_items?limit=1&order=asc")
        events = await self._ask(key, f"{path}?stream=true")
        yield events
        if events["status"] == 200:
            yield await self._ask(key, f"{path}?stream=true&starting_after={len(events['body']) // 2}")

    async def _ask(self, key: str, path: str) -> dict[str, Any]:
        return await ask(self._http, self._url, key, path)
