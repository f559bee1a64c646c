"""The clients of the fault matrix: each takes one turn in its own way, and tells what it saw of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import aiohttp
import orjson

from benchmarks.faults.clients import UNHEARD, Answer, Wire, read_error, read_response, read_stream
from benchmarks.faults.history import Told
from benchmarks.faults.injector import reset
from benchmarks.faults.world import HEADERS

#: A slow reader takes so much at a time, with such a pause.
SLOW_BYTES = 128 * 1024
SLOW_SECONDS = 0.01


@dataclass
class Turn:
    """One turn of a client's. urls: of the replicas that it may ask, in this order. struck: the fault has come.

    patience: seconds that it waits in all. timeout: of one attempt, if it repeats them.
    """

    wire: Wire
    urls: list[str]
    body: dict[str, Any]
    patience: float
    timeout: float
    struck: asyncio.Event = field(default_factory=asyncio.Event)


ClientKind: TypeAlias = Callable[[Turn], Awaitable[list[Answer]]]


async def waits(turn: Turn) -> list[Answer]:
    """Wait for the whole answer."""
    return [await turn.wire.post(f"{turn.urls[0]}/v1/responses", {**turn.body, "stream": False})]


async def reads_slowly(turn: Turn) -> list[Answer]:
    """Read a stream a little at a time."""
    data = bytearray()
    try:
        async with turn.wire.session.post(f"{turn.urls[0]}/v1/responses", json={**turn.body, "stream": True}) as answer:
            while piece := await answer.content.read(SLOW_BYTES):
                data += piece
                await asyncio.sleep(SLOW_SECONDS)
            if answer.status != 200:
                return [read_error(answer.status, bytes(data))]
    except (aiohttp.ClientError, TimeoutError):
        return [read_stream(bytes(data))]
    return [read_stream(bytes(data))]


async def half_closes(turn: Turn) -> list[Answer]:
    """Close its side once the request is sent, and read what comes."""
    reader, writer = await send(turn, stream=False)
    writer.write_eof()
    data = b""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(turn.patience):
            data = await reader.read(-1)
    writer.close()
    head, _, body = data.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 1"):
        # by which the server finds out whether it is still read
        head, _, body = body.partition(b"\r\n\r\n")
    if not head or not body:
        return [UNHEARD]
    status = int(head.split()[1])
    return [read_response(orjson.loads(body)) if status == 200 else read_error(status, body)]


async def resets(turn: Turn) -> list[Answer]:
    """Reset the connection as soon as some of the answer is there."""
    reader, writer = await send(turn, stream=True)
    data = b""
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(turn.patience):
            while b"output_text.delta" not in data and (piece := await reader.read(4096)):
                data += piece
    reset(writer)
    head, _, body = data.partition(b"\r\n\r\n")
    if head and int(head.split()[1]) != 200:
        return [read_error(int(head.split()[1]), body)]
    return [read_stream(data)]


async def leaves_before_headers(turn: Turn) -> list[Answer]:
    """Close the connection while the model is being asked."""
    _, writer = await send(turn, stream=True)
    await turn.struck.wait()
    writer.close()
    return [Answer(Told.UNKNOWN, "left")]


async def retries_with_key(turn: Turn) -> list[Answer]:
    """Repeat the request with its key at one replica after the other until it is done."""
    return await repeat(turn, lambda _: {"Idempotency-Key": str(turn.body["input"])})


async def retries_without_key(turn: Turn) -> list[Answer]:
    """Repeat the request as OpenAI's clients do."""
    return await repeat(turn, lambda attempt: {"x-stainless-retry-count": str(attempt)})


async def repeat(turn: Turn, headers: Callable[[int], dict[str, str]]) -> list[Answer]:
    """Repeat a request until it is done or time is over; return what came of each attempt."""
    answers: list[Answer] = []
    end = time.monotonic() + turn.patience
    while not answers or (answers[-1].told is not Told.DONE and time.monotonic() < end):
        url = f"{turn.urls[len(answers) % len(turn.urls)]}/v1/responses"
        try:
            async with asyncio.timeout(turn.timeout):
                answers.append(await turn.wire.post(url, {**turn.body, "stream": False}, headers(len(answers))))
        except TimeoutError:
            answers.append(UNHEARD)
        await asyncio.sleep(0.1)
    return answers


async def send(turn: Turn, *, stream: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send the request over a connection of its own."""
    host, _, port = turn.urls[0].removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = orjson.dumps({**turn.body, "stream": stream})
    fields: Mapping[str, str] = {
        **HEADERS,
        "Host": host,
        "Connection": "close",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    writer.write(f"POST /v1/responses HTTP/1.1\r\n{head}\r\n".encode() + body)
    return reader, writer


#: By the words of the table.
CLIENTS: dict[str, ClientKind] = {
    "waits": waits,
    "reads slowly": reads_slowly,
    "half-closes": half_closes,
    "resets": resets,
    "leaves before headers": leaves_before_headers,
    "retries with key": retries_with_key,
    "retries without key": retries_without_key,
}
#: Those that ask again, and then find the model server well.
REPEATING = {"retries with key", "retries without key"}
