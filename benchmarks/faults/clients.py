"""Clients that note what they were told of each write: done, refused, or that it is not known."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from benchmarks.faults.history import Read, Sight, Told, Write
from benchmarks.faults.model import key

#: Longest that a client waits for an answer, in seconds.
PATIENCE_SECONDS = 60.0
#: What one page of items holds.
PAGE_ITEMS = 100


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client was told of a request. what: status and code, or how a stream ended, for people.

    saw: what the model was shown, if the answer is there. response_id: of a response that is told to be stored.
    """

    told: Told
    what: str
    saw: Sight | None = None
    response_id: str = ""


UNHEARD = Answer(Told.UNKNOWN, "no answer")


def read_error(status: int, body: bytes) -> Answer:
    """Return what an error says."""
    try:
        error = orjson.loads(body)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return Answer(Told.UNKNOWN, f"{status}, no error of ours")
    told = Told.UNKNOWN if "not known" in error["message"] or status == 409 else Told.REFUSED
    return Answer(told, f"{status} {error['code'] or error['type']}")


def read_response(response: Any) -> Answer:
    """Return what a finished Response says."""
    status, error = response["status"], response["error"]
    if status == "failed":
        told = Told.UNKNOWN if "not known" in error["message"] else Told.REFUSED
        return Answer(told, f"failed {error['code']}")
    text = response["output"][0]["content"][0]["text"] if response["output"] else ""
    _, _, seen = text.partition(" | ")
    count, _, view = seen.partition(" ")
    saw = Sight(int(count), view) if status == "completed" and len(view) == 16 else None
    return Answer(Told.DONE, status, saw, response["id"])


def read_stream(data: bytes) -> Answer:
    """Return what a stream says, as far as it came."""
    for frame in reversed(data.split(b"\n\n")):
        _, _, event = frame.partition(b"\ndata: ")
        if frame.startswith((b"event: response.completed", b"event: response.incomplete", b"event: response.failed")):
            return read_response(orjson.loads(event)["response"])
    return Answer(Told.UNKNOWN, "cut off")


@dataclass
class Conversation:
    """A conversation and all that was told of it. users: operations under way. size: items, as far as known."""

    id: str
    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    responses: list[str] = field(default_factory=list)
    size: int = 0
    users: int = 0
    retired: float = 0.0


@dataclass
class Wire:
    """Requests to servers; each may fail in any way."""

    session: aiohttp.ClientSession

    async def get(self, url: str) -> Any:
        """Return the JSON of a 200, None for anything else."""
        try:
            async with self.session.get(url) as answer:
                return orjson.loads(await answer.read()) if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError):
            return None

    async def post(self, url: str, body: Any, headers: dict[str, str] | None = None) -> Answer:
        """Send a request and return what its answer says."""
        try:
            async with self.session.post(url, json=body, headers=headers) as answer:
                data = await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            return UNHEARD
        if answer.status != 200:
            return read_error(answer.status, data)
        if answer.content_type == "text/event-stream":
            return read_stream(data)
        told = orjson.loads(data)
        return read_response(told) if told.get("object") == "response" else Answer(Told.DONE, "200")

    async def converse(self, url: str, body: dict[str, Any]) -> Answer:
        """Take a turn over a WebSocket of its own and return what its last event says."""
        try:
            async with self.session.ws_connect(url) as socket:
                await socket.send_json({**body, "type": "response.create"})
                async for message in socket:
                    event = orjson.loads(message.data)
                    if event["type"] == "error":
                        return read_error(event["status"], message.data.encode())
                    if event["type"] in {"response.completed", "response.incomplete", "response.failed"}:
                        return read_response(event["response"])
        except (aiohttp.ClientError, TimeoutError):
            return UNHEARD
        return UNHEARD

    async def leave(self, url: str, body: Any, after_bytes: int) -> Answer:
        """Send a request and break it off after so much of its answer."""
        data = b""
        try:
            async with self.session.post(url, json=body) as answer:
                if answer.status != 200:
                    return read_error(answer.status, await answer.read())
                while len(data) < after_bytes and (piece := await answer.content.readany()):
                    data += piece
                answer.close()
        except (aiohttp.ClientError, TimeoutError):
            return UNHEARD
        return read_stream(data) if answer.content_type == "text/event-stream" else UNHEARD

    async def items(self, url: str, conversation: str, *, pages: bool = False) -> list[str] | None:
        """Return the keys of a conversation's items, None if that was not told. pages: also beyond the first page."""
        found: list[str] = []
        path = f"{url}/v1/conversations/{conversation}/items?order=asc&limit={PAGE_ITEMS}"
        after = ""
        while True:
            page = await self.get(path + after)
            if page is None:
                return None
            found += [key(item) for item in page["data"]]
            if not pages or not page["has_more"]:
                return found
            after = f"&after={page['last_id']}"

    async def surely(self, url: str, conversation: str, seconds: float) -> list[str]:
        """Return the keys of all items of a conversation. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while (found := await self.items(url, conversation, pages=True)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError("the items of a conversation can't be read")
            await asyncio.sleep(0.1)
        return found
