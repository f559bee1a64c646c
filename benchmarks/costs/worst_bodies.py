"""What the worst bodies that the limits allow do to others: the longest turns of one caller while another sends them.

    python -m benchmarks.costs.worst_bodies [--seconds 10] [--kind "many items"] [--most 3.0] [--transport websocket]
                                            [--apart]

One caller takes turns in a conversation, one after the other with a short pause, with nobody else there and then beside
another who sends one body after the other, each kind in its turn. A lease that is lost is an error of the turn. The
server and its store are processes of their own; so is the client that sends the bodies, as one of these:

http         a request that is answered
websocket    a message of a WebSocket
background   a request that is answered at once and made later; the next is sent when it is over
history      a request as small as any that goes on with a conversation that holds the body

apart: the bodies go to another server with a store of its own, on the same machine. What turns suffer then, the machine
does to them: two servers, a store or two, the model server and two clients share its processors.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias, cast

import aiohttp
import orjson

from benchmarks.performance.target import Target, branchline
from benchmarks.processes import cpu_seconds
from benchmarks.wire import HEADERS, MessageReader
from proxy.config.settings import Config

#: Seconds between the end of a turn and the next.
PAUSE_SECONDS = 0.01
LIMITS = Config()
#: What a transport puts before a body.
_BEFORE_BYTES = 64
_MOST_BYTES, _MOST_ELEMENTS = LIMITS.server.max_json_bytes - _BEFORE_BYTES, LIMITS.server.max_json_elements
_MOST_ITEMS = LIMITS.turns.max_input_items
_MOST_OF_A_TOOL = LIMITS.turns.max_settings_bytes - 256


def _filled(head: bytes, filler: bytes, tail: bytes) -> bytes:
    """Return as much of a filler between head and tail as a body may have."""
    return head + filler * ((_MOST_BYTES - len(head) - len(tail)) // len(filler)) + tail


def _items(content: bytes, count: int = _MOST_ITEMS) -> bytes:
    item = b'{"role":"user","content":"%b"}' % content
    return b'{"model":"m","input":[' + b",".join([item] * count) + b"]}"


def _tool(name: bytes) -> bytes:
    return b'{"model":"m","input":"a","tools":[{"type":"custom","name":"%b"}]}' % name


#: By what is bad about them; all are within the default limits, or have to be read to find out that they are not.
BODIES: dict[str, Callable[[], bytes]] = {
    "many items": lambda: _items(b"a"),
    "many items, many bytes": lambda: _items(b"a" * (_MOST_BYTES // _MOST_ITEMS - 64)),
    "one long text": lambda: _filled(b'{"model":"m","input":"', b"a", b'"}'),
    "one long text of escapes": lambda: _filled(b'{"model":"m","input":"', rb"\u00e9", b'"}'),
    "one long text of commas": lambda: _filled(b'{"model":"m","input":"', b",", b'"}'),
    "one long tool": lambda: _tool(b"a" * _MOST_OF_A_TOOL),
    "one tool that is too long": lambda: _tool(b"a" * (_MOST_BYTES - 256)),
    "half surrogates": lambda: _filled(b'{"model":"m","input":"', rb"\ud83d", b'"}'),
    "no UTF-8": lambda: _filled(b'{"model":"m","input":"', b"\xff", b'"}'),
    "long integers": lambda: _filled(b'{"model":"m","input":"a","x":[', b"123456789012345678901234567890,", b"1]}"),
    "many elements": lambda: b'{"model":"m","input":"a","tools":[' + b",".join([b"{}"] * (_MOST_ELEMENTS - 9)) + b"]}",
    "too many elements": lambda: _filled(b'{"model":"m","input":"a","tools":[', b"{},", b"{}]}"),
    "not JSON": lambda: _filled(b'{"model":"m","input":"', b"a", b""),
}


class _Model(asyncio.Protocol):
    """A connection to a model server that reads nothing of what it is asked: it must not be what is measured."""

    def __init__(self) -> None:
        self._reader = MessageReader(self._nothing, self._nothing, self._answer)
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)

    def _nothing(self, _: bytes) -> None:
        pass

    def _answer(self) -> None:
        part = {"type": "output_text", "text": "hello", "annotations": []}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
        body = orjson.dumps({"id": "resp_1", "object": "response", "status": "completed", "output": [message]})
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._transport.write(head % len(body) + body)


@asynccontextmanager
async def running_model() -> AsyncIterator[str]:
    """Run such a model server; gives its base URL."""
    server = await asyncio.get_running_loop().create_server(_Model, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


@dataclass(frozen=True)
class Times:
    """Durations of turns, in seconds. sent: bodies beside them. errors: turns that were not completed.

    serving, store: processor time of the process that serves and of the store, a turn, in seconds.
    """

    seconds: list[float]
    sent: int = 0
    errors: int = 0
    serving: float = 0.0
    store: float = 0.0

    def part(self, share: float) -> float:
        """Return the duration that this share of the turns did not exceed."""
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(share * len(self.seconds)))]


async def take_turns(target: Target, seconds: float) -> Times:
    """Take turns in a conversation for so long."""
    times: list[float] = []
    errors = 0
    async with aiohttp.ClientSession(headers=HEADERS) as session:
        async with session.post(f"{target.url}/v1/conversations", json={}) as made:
            conversation = (await made.json())["id"]
        end = time.monotonic() + seconds
        serving, store = _cpu_of(target)
        while time.monotonic() < end:
            begun = time.perf_counter()
            body = {"model": "m", "input": "hi", "conversation": conversation}
            async with session.post(f"{target.url}/v1/responses", json=body) as answer:
                told = await answer.json()
            if told.get("status") != "completed":
                errors += 1
                print(str(told)[:300], file=sys.stderr)
            times.append(time.perf_counter() - begun)
            await asyncio.sleep(PAUSE_SECONDS)
        serving, store = (after - before for after, before in zip(_cpu_of(target), (serving, store), strict=True))
    return Times(times, 0, errors, serving / len(times), store / len(times))


def _cpu_of(target: Target) -> tuple[float, float]:
    """Return the processor time of the process that serves, without those beside it, and of the store."""
    return cpu_seconds(target.proxies[0]), sum(map(cpu_seconds, target.stores))


#: Sends a body once and returns how it was answered, or waits for something.
Send: TypeAlias = Callable[[], Awaitable[object]]


@contextmanager
def sending(target: Target, kind: str, transport: str) -> Iterator[tuple[Send, Callable[[], int]]]:
    """Send bodies from another process meanwhile; gives what waits for its start, and what stops it."""
    arguments = [sys.executable, "-m", __spec__.name, "--send", kind, "--to", target.url, "--transport", transport]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sender:

        def stop() -> int:
            out, _ = sender.communicate("stop\n")
            return len(out.split()) - 1

        assert sender.stdout is not None
        yield partial(asyncio.to_thread, sender.stdout.readline), stop
        sender.kill()


@asynccontextmanager
async def over_http(session: aiohttp.ClientSession, url: str, body: bytes) -> AsyncIterator[Send]:
    """Give what sends a body as a request."""

    async def once() -> object:
        async with session.post(url, data=body) as answer:
            await answer.read()
            return answer.status

    yield once


@asynccontextmanager
async def over_websocket(session: aiohttp.ClientSession, url: str, body: bytes) -> AsyncIterator[Send]:
    """Give what sends a body as a message."""
    message = b'{"type":"response.create",' + body[1:]
    ends = {"error", "response.completed", "response.failed", "response.incomplete"}
    async with session.ws_connect(url, max_msg_size=0) as socket:

        async def once() -> object:
            await socket.send_bytes(message)
            while (told := orjson.loads(await socket.receive_str()))["type"] not in ends:
                pass
            return told["type"]

        yield once


@asynccontextmanager
async def in_background(session: aiohttp.ClientSession, url: str, body: bytes) -> AsyncIterator[Send]:
    """Give what sends a body to be answered later, and waits for that."""
    later = b'{"background":true,' + body[1:]

    async def once() -> object:
        async with session.post(url, data=later) as answer:
            made = await answer.json()
            if answer.status != 200:
                return answer.status
        while made.get("status") in ("queued", "in_progress"):
            await asyncio.sleep(0.05)
            async with session.get(f"{url}/{made['id']}") as answer:
                made = await answer.json()
        return made.get("status")

    yield once


@asynccontextmanager
async def after_history(session: aiohttp.ClientSession, url: str, body: bytes) -> AsyncIterator[Send]:
    """Give what goes on after a body that was stored before."""
    async with session.post(url, data=body) as answer:
        before = (await answer.json()).get("id")
    small = orjson.dumps({"model": "m", "input": "hi", "previous_response_id": before})
    async with over_http(session, url, small) as once:
        yield once


TRANSPORTS = {"http": over_http, "websocket": over_websocket, "background": in_background, "history": after_history}


async def send(kind: str, transport: str, url: str) -> None:
    """Send one body after the other until a line comes; print how each is answered."""
    headers = {"Authorization": "Bearer another", "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        TRANSPORTS[transport](session, f"{url}/v1/responses", BODIES[kind]()) as once,
    ):
        print("ready", flush=True)
        stopping = asyncio.ensure_future(asyncio.to_thread(sys.stdin.readline))
        while not stopping.done():
            print(await once(), flush=True)


async def measure(
    kinds: list[str], transport: str, seconds: float, *, is_apart: bool
) -> dict[str, tuple[Times, Times]]:
    """Return the turns without and with each kind of body; those without just before."""
    found = {}
    async with AsyncExitStack() as held:
        url = await held.enter_async_context(running_model())
        target = await held.enter_async_context(branchline(url))
        suffers = await held.enter_async_context(branchline(url)) if is_apart else target
        await take_turns(target, 2.0)
        for kind in kinds:
            alone = await take_turns(target, seconds)
            with sending(suffers, kind, transport) as (ready, stop):
                await ready()
                beside = await take_turns(target, seconds)
                found[kind] = alone, replace(beside, sent=await asyncio.to_thread(stop))
                print(_line(kind, *found[kind]), flush=True)
    return found


def _line(kind: str, alone: Times, beside: Times) -> str:
    ratio = beside.part(0.99) / alone.part(0.99)
    p99, p50 = (f"{1000 * alone.part(part):.1f} | {1000 * beside.part(part):.1f}" for part in (0.99, 0.5))
    serving, store = (
        f"{1000 * getattr(alone, name):.1f} | {1000 * getattr(beside, name):.1f}" for name in ("serving", "store")
    )
    return f"| {kind} | {beside.sent} | {p50} | {p99} | {ratio:.1f} | {beside.errors} | {serving} | {store} |"


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--kind", action="append", choices=list(BODIES))
    parser.add_argument("--most", type=float, default=3.0)
    parser.add_argument("--transport", choices=list(TRANSPORTS), default="http")
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--send", choices=list(BODIES), help=argparse.SUPPRESS)
    parser.add_argument("--to", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.send:
        await send(options.send, options.transport, options.to)
        return 0
    print(
        "| body | sent | median alone, ms | beside | p99 alone, ms | beside | ratio | errors "
        "| serving, CPU ms a turn alone | beside | store, CPU ms a turn alone | beside |"
    )
    print("|---" * 12 + "|", flush=True)
    found = await measure(options.kind or list(BODIES), options.transport, options.seconds, is_apart=options.apart)
    worst = max(beside.part(0.99) / alone.part(0.99) for alone, beside in found.values())
    failed = worst > options.most or any(beside.errors for _, beside in found.values())
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
