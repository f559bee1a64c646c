"""The model server of the faults: answers as the name of the model in a request says, and tells what it was shown.

Its answer to a question is `re:QUESTION | COUNT DIGEST`: the history that it was given, as `history.digest` has it. An
item's key is its text up to the ` | `.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import orjson

from benchmarks.faults.history import digest
from benchmarks.faults.injector import listening, reset
from proxy.protocol import sse

Item: TypeAlias = dict[str, Any]
#: Seconds between two pieces of an answer that takes its time.
PAUSE_SECONDS = 0.02


def key(item: Item) -> str:
    """Return the key of a message."""
    content = item["content"]
    text = content if isinstance(content, str) else content[0]["text"] if content else ""
    return str(text).partition(" | ")[0]


class Call:
    """One request of a turn. body: its JSON; name: the model that it asks for; key: of the question."""

    def __init__(self, body: Any, writer: asyncio.StreamWriter) -> None:
        self.body, self.writer = body, writer
        self.name = str(body["model"])
        asked = body["input"]
        self.items: list[Item] = [{"content": asked}] if isinstance(asked, str) else asked
        self.key = key(self.items[-1])
        self.streams = bool(body.get("stream"))

    def answer(self, text: str = "", **fields: Any) -> Item:
        """Return the whole Response. text: of its message, else what is said of this module."""
        before = [key(item) for item in self.items[:-1]]
        said = text or f"re:{self.key} | {len(before)} {digest(before)}"
        part = {"type": "output_text", "text": said, "annotations": []}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
        return {"id": "resp_1", "object": "response", "status": "completed", "output": [message], **fields}

    def send(self, status: int, content_type: str, body: bytes, headers: str = "") -> None:
        """Answer with a length."""
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self.writer.write(head.encode() + body)

    def begin(self, content_type: str = "text/event-stream") -> None:
        """Begin an answer in chunks."""
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.writer.write(head.encode())

    async def piece(self, data: bytes) -> None:
        """Send a chunk; empty: the end."""
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self.writer.drain()

    async def event(self, name: str, **fields: Any) -> None:
        """Send an event as a chunk."""
        await self.piece(sse.encode(name, orjson.dumps({"type": name, **fields})))

    async def head(self, response: Item) -> None:
        """Begin a stream and say everything up to the text."""
        self.begin()
        await self.event("response.created", response={**response, "status": "in_progress", "output": []})
        item = {**response["output"][0], "status": "in_progress", "content": []}
        await self.event("response.output_item.added", output_index=0, item=item)
        part = {"type": "output_text", "text": "", "annotations": []}
        await self.event("response.content_part.added", item_id="msg_1", output_index=0, content_index=0, part=part)

    async def delta(self, text: str) -> None:
        """Send a piece of text."""
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        await self.event("response.output_text.delta", **place, delta=text)

    async def end(self, response: Item) -> None:
        """Say that the message is whole, and end the stream."""
        item = response["output"][0]
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        await self.event("response.output_text.done", **place, text=item["content"][0]["text"])
        await self.event("response.content_part.done", **place, part=item["content"][0])
        await self.event("response.output_item.done", output_index=0, item=item)
        await self.event("response.completed", response=response)
        await self.piece(sse.DONE)
        await self.piece(b"")


async def fine(call: Call) -> None:
    """Answer, a stream in a few pieces."""
    response = call.answer()
    if not call.streams:
        call.send(200, "application/json", orjson.dumps(response))
        return
    await call.head(response)
    text = response["output"][0]["content"][0]["text"]
    cut = text.index(" | ") + 3
    await call.delta(text[:cut])
    for letter in text[cut : cut + 3]:
        await call.delta(letter)
        await asyncio.sleep(PAUSE_SECONDS)
    await call.delta(text[cut + 3 :])
    await call.end(response)


def cut_off(call: Call) -> None:
    """Reset the connection."""
    reset(call.writer)


Answer: TypeAlias = Callable[[Call], Awaitable[None]]


class Model:
    """A running model server. url: ends in `/v1`. calls: how often it was asked, by key. connections: open ones.
    busy: calls under way.

    answers: by the model's name; any other is `fine`. gate: while it is not set, calls of models in `answers` wait.
    """

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.port = 0
        self.calls: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()
        self.connections = self.busy = 0
        self._answers = answers

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        self.connections += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while not writer.is_closing():
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                    body = await reader.readexactly(int(length[0])) if length else b""
                    if not body:
                        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                        continue
                    await self._answer(Call(orjson.loads(body), writer))
        finally:
            self.connections -= 1
            writer.close()

    async def _answer(self, call: Call) -> None:
        self.calls[call.key] += 1
        answer = self._answers.get(call.name, fine)
        self.busy += 1
        try:
            if call.name in self._answers:
                await self.gate.wait()
            await answer(call)
            await call.writer.drain()
        finally:
            self.busy -= 1


@asynccontextmanager
async def running_model(answers: dict[str, Answer] | None = None) -> AsyncIterator[Model]:
    """Run the model server on a free port."""
    model = Model(answers or {})
    async with listening(model.serve, limit=1 << 20) as model.port:
        yield model
