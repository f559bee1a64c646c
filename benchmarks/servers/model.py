"""A model server that costs next to nothing and says what it was shown.

    python -m benchmarks.servers.model PORT

What to do stands in the newest message that a request holds, wherever a gateway put it: `<<TAG|DELTAS|GAP>>` asks for
DELTAS deltas, GAP microseconds apart (0: all at once). The answer names the tag, how many messages the request held,
and how many bytes it had. A delta is the time at which it was sent, so that whoever reads it knows how long it took; of
those that are sent at once it is their number, and they are made once for all streams.
"""

from __future__ import annotations

import asyncio
import gc
import re
import secrets
import sys
import time
from typing import Any, cast

import orjson
import uvloop

from benchmarks.wire import MessageReader

#: The end of every answer: with it an item has about 550 bytes.
FILLER = "The quick brown fox jumps over the lazy dog. " * 8
_ORDER = re.compile(rb"<<([\w-]+)\|(\d+)\|(\d+)>>")
_STREAMED = re.compile(rb'"stream":\s?true')
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


#: Deltas that are sent at once, and their text: by the first one's number, and how many they are.
_BURSTS: dict[tuple[int, int], tuple[bytes, str]] = {}
#: Whose they are: each stream puts its own number there, as a server that keeps items takes no id twice.
_NOBODY = "x" * 32


def order(tag: str, deltas: int = 0, gap_us: int = 0) -> str:
    """Return what a message must hold to be answered under this tag."""
    return f"<<{tag}|{deltas}|{gap_us}>>"


def expected_text(tag: str, messages: int) -> str:
    """Return how the answer begins; the bytes that were seen and FILLER follow."""
    return f"[[{tag} saw {messages} messages in "


def delta_text(moment_us: int) -> str:
    """Return a delta that was sent at this time of the system's monotonic clock; always of one length."""
    return f"{moment_us:016d} "


def _message(number: str, text: str, status: str = "completed") -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    content = [part] if status == "completed" else []
    return {"id": f"msg_{number}", "type": "message", "role": "assistant", "status": status, "content": content}


def _response(number: str, text: str, status: str = "completed") -> dict[str, Any]:
    usage = {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 100,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 200,
    }
    done = status == "completed"
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": "bench",
        "output": [_message(number, text)] if done else [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage if done else None,
    }


class _Story:
    """The events of one stream, numbered."""

    def __init__(self, number: str, sequence: int = 0) -> None:
        self._id = number
        self._sequence = sequence
        self._place = {"item_id": f"msg_{number}", "output_index": 0, "content_index": 0}
        # A delta's bytes are put together by hand: the model server must not be what is measured.
        self._delta = (
            b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":%%d,'
            b'"item_id":"msg_%s","output_index":0,"content_index":0,"delta":"%%s","logprobs":[]}\n\n' % number.encode()
        )

    def opening(self) -> bytes:
        begun = _response(self._id, "", "in_progress")
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        return (
            self._event("created", response=begun)
            + self._event("in_progress", response=begun)
            + self._event("output_item.added", output_index=0, item=_message(self._id, "", "in_progress"))
            + self._event("content_part.added", **self._place, part=part)
        )

    def delta(self, text: bytes) -> bytes:
        self._sequence += 1
        return self._delta % (self._sequence - 1, text)

    def burst(self, count: int) -> tuple[bytes, str]:
        """Return so many deltas, and their text."""
        key = self._sequence, count
        if key not in _BURSTS:
            texts, nobodys = [delta_text(number) for number in range(count)], _Story(_NOBODY, self._sequence)
            _BURSTS[key] = b"".join([nobodys.delta(text.encode()) for text in texts]), "".join(texts)
        self._sequence += count
        events, text = _BURSTS[key]
        return events.replace(_NOBODY.encode(), self._id.encode()), text

    def ending(self, text: str) -> bytes:
        message = _message(self._id, text)
        return (
            self._event("output_text.done", **self._place, text=text, logprobs=[])
            + self._event("content_part.done", **self._place, part=message["content"][0])
            + self._event("output_item.done", output_index=0, item=message)
            + self._event("completed", response=_response(self._id, text))
            + b"data: [DONE]\n\n"
        )

    def _event(self, kind: str, **fields: Any) -> bytes:
        event = {"type": f"response.{kind}", "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return b"event: response.%s\ndata: %s\n\n" % (kind.encode(), orjson.dumps(event))


class _Stream:
    """One streamed answer: the first delta says what was seen, the others when they were sent."""

    def __init__(self, transport: asyncio.Transport, said: str, deltas: int, gap: float) -> None:
        self._transport, self._gap, self._left = transport, gap, deltas - 1
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self._story = _Story(secrets.token_hex(16))
        self._told = [said]
        opening = self._story.opening() + self._story.delta(said.encode())
        if not gap:
            burst, text = self._story.burst(self._left)
            self._write(opening + burst + self._story.ending(said + text), last=True)
            return
        self._write(opening)
        self._next()

    def _next(self) -> None:
        if self._left > 0:
            self._due += self._gap
            self._loop.call_at(self._due, self._tick)
        else:
            self._write(self._story.ending("".join(self._told)), last=True)

    def _tick(self) -> None:
        if not self._transport.is_closing():
            self._tell()
            self._next()

    def _tell(self) -> None:
        self._left -= 1
        text = delta_text(time.monotonic_ns() // 1000)
        self._told.append(text)
        self._write(self._story.delta(text.encode()))

    def _write(self, data: bytes, *, last: bool = False) -> None:
        self._transport.write(b"%x\r\n%s\r\n%s" % (len(data), data, b"0\r\n\r\n" if last else b""))


class ModelConnection(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self) -> None:
        self._reader = MessageReader(self._begin, self._take, self._answer)
        self._transport: asyncio.Transport
        self._head = b""
        self._pieces: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by class

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)

    def _begin(self, head: bytes) -> None:
        self._head, self._pieces = head, []

    def _take(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def _answer(self) -> None:
        if not self._head.startswith(b"POST"):
            listed = {"object": "list", "data": [{"id": "bench", "object": "model", "owned_by": "bench"}]}
            return self._send(orjson.dumps(listed))
        body = b"".join(self._pieces)
        self._pieces = []
        asked = _ORDER.match(body, max(0, body.rfind(b"<<")))
        if asked is None:
            return self._send(b'{"error":{"message":"no order in the request"}}', b"400 Bad Request")
        tag, deltas, gap_us = asked[1].decode(), int(asked[2]), int(asked[3])
        said = expected_text(tag, body.count(b'"role"')) + f"{len(body)} bytes]] "
        if _STREAMED.search(body) is None:
            return self._send(orjson.dumps(_response(secrets.token_hex(16), said + FILLER)))
        self._transport.write(_STREAM_HEAD)
        _Stream(self._transport, said, deltas, gap_us / 1e6)
        return None

    def _send(self, body: bytes, status: bytes = b"200 OK") -> None:
        head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._transport.write(head % (status, len(body)) + body)


async def serve(port: int) -> None:
    """Serve on 127.0.0.1 until the process is ended."""
    server = await asyncio.get_running_loop().create_server(ModelConnection, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    gc.freeze()
    gc.set_threshold(100_000)
    uvloop.run(serve(int(sys.argv[1])))
