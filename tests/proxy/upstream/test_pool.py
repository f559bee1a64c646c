"""Connections of turns against a server that does what no server should: raw TCP, scripted to the byte."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict
from yarl import URL

from proxy.upstream.pool import IDLE_SECONDS, Pool, UpstreamAnswer
from tests.depth import examples
from tests.virtual_time import in_virtual_time

Play = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

#: What fails of an exchange, by the names of aiohttp's client.
FAILURES = (aiohttp.ClientError, TimeoutError)
#: Larger than all buffers between two sockets.
HUGE = bytes(range(256)) * (64 * 1024)


class Server:
    """Plays `play(body, reader, writer)` for each request; keeps bodies and heads, and which connections are open.

    reads_bodies: False where `play` reads them itself; then it is given b''.
    """

    def __init__(self, play: Play, *, reads_bodies: bool = True) -> None:
        self._play = play
        self._reads_bodies = reads_bodies
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.open = 0
        self.port = 0

    @asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            await settle()
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until_all_are_closed(self) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: not self.open)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(length) if self._reads_bodies else b""
                self.bodies.append(body)
                await self._play(body, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self.open -= 1
            writer.transport.abort()
            async with self._changed:
                self._changed.notify_all()


def pool_for(
    server: Server, *, silence: float = 30.0, connect: float = 10.0, scheme: str = "http", slots: int = 0
) -> Pool:
    url = URL(f"{scheme}://localhost:{server.port}/v1" if scheme == "https" else f"http://127.0.0.1:{server.port}/v1")
    semaphore = asyncio.Semaphore(slots) if slots else None
    return Pool(url, semaphore, connect_seconds=connect, silence_seconds=silence)


@asynccontextmanager
async def exchanging(play: Play, **options: Any) -> AsyncIterator[tuple[Pool, Server]]:
    async with Server(play).listening() as server:
        pool = pool_for(server, **options)
        try:
            yield pool, server
        finally:
            await pool.close()


def answers(*pieces: bytes) -> Play:
    """Send the pieces for each request, each as soon as the one before has left."""

    async def play(_body: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    return play


def with_length(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = [b"HTTP/1.1 " + status, *headers, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(body: bytes, size: int = 3, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunks
        + b"0"
        + extension
        + b"\r\n"
        + trailers
        + b"\r\n"
    )


async def read(answer: UpstreamAnswer) -> bytes:
    try:
        pieces = []
        while piece := await answer.content.readany():
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        answer.release()


async def ask(pool: Pool, body: bytes = b"{}", headers: dict[str, str] | None = None) -> bytes:
    return await read(await pool.post("/v1/responses", headers or {}, [body]))


async def settle() -> None:
    """Let what is on its way between two ends in this process arrive."""
    for _ in range(20):
        await asyncio.sleep(0)


# What is sent


async def test_a_request_is_framed_once_whatever_its_body():
    async with exchanging(answers(with_length(b"yes"))) as (pool, server):
        await read(
            await pool.post("/v1/responses?a=%20b", {"X-Key": "caf\N{LATIN SMALL LETTER E WITH ACUTE}"}, [b"body"])
        )
    head = f"POST /v1/responses?a=%20b HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: 4\r\n"
    assert server.heads == [head.encode() + b"X-Key: caf\xc3\xa9\r\n\r\n"]
    assert server.bodies == [b"body"]


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/v1", {"X": "a\r\nY: b"}),
        ("/v1", {"X": "a\nY: b"}),
        ("/v1", {"X": "a\rb"}),
        ("/v1", {"X": "a\0b"}),
        ("/v1", {"X\r\nY": "b"}),
        ("/v1", {"X: a\r\nY": "b"}),
        ("/v1", {"X Y": "b"}),
        ("/v1", {"": "b"}),
        ("/v1", {"caf\N{LATIN SMALL LETTER E WITH ACUTE}": "b"}),
        ("/v1", {"Transfer-Encoding": "chunked"}),
        ("/v1", {"content-LENGTH": "1"}),
        ("/v1", {"Host": "elsewhere"}),
        ("/v1", {"Expect": "100-continue"}),
        ("/v1", {"Connection": "upgrade"}),
        # another name than the first, though `lower` makes them one (U+212A is the sign of the kelvin)
        ("/v1", CIMultiDict([("X-Key", "1"), ("X-\u212aey", "2")])),
        ("/v1 HTTP/1.1\r\nX: y", {}),
        ("/v1 x", {}),
        ("/v1\r\n", {}),
        ("http://elsewhere/", {}),
        ("", {}),
    ],
)
async def test_nothing_that_would_end_a_header_or_frame_a_message_is_sent(target: str, headers: Mapping[str, str]):
    async with exchanging(answers(with_length(b"yes"))) as (pool, server):
        for _ in range(2):
            with pytest.raises(ValueError, match="request"):
                await pool.post(target, headers, [b""])
        assert server.connections == 0
        assert await ask(pool, headers={"X": "good"}) == b"yes"


async def test_a_large_body_arrives_whole_at_a_slow_server():
    async def play(_body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = bytearray()
        while len(received) < len(HUGE):
            received += await reader.read(100_000)
            await asyncio.sleep(0)
        writer.write(with_length(b"whole" if bytes(received) == HUGE else b"damaged"))

    async with Server(play, reads_bodies=False).listening() as server:
        pool = pool_for(server)
        assert [await ask(pool, HUGE) for _ in range(2)] == [b"whole"] * 2
        assert server.connections == 1
        await pool.close()


# Early answers


async def test_a_refusal_that_comes_before_the_body_was_sent_is_the_answer_and_ends_the_connection():
    async def play(_body: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(with_length(b"too large", status=b"413 Content Too Large"))
        await asyncio.Event().wait()

    async with Server(play, reads_bodies=False).listening() as server:
        pool = pool_for(server)
        for _ in range(2):
            answer = await pool.post("/v1/responses", {}, [HUGE])
            assert answer.status == 413
            assert await read(answer) == b"too large"
        assert server.connections == 2
        await pool.close()


async def test_a_server_that_refuses_and_closes_without_reading_is_understood():
    async def play(_body: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(with_length(b"too large", b"Connection: close", status=b"413 Content Too Large"))
        await writer.drain()
        writer.write_eof()
        await asyncio.Event().wait()

    async with Server(play, reads_bodies=False).listening() as server:
        pool = pool_for(server)
        assert await ask(pool, HUGE) == b"too large"
        await pool.close()


async def test_a_stream_that_begins_before_the_body_has_arrived_lets_it_arrive():
    async def play(_body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsoon\r\n")
        body = await reader.readexactly(len(HUGE))
        writer.write(b"5\r\nwhole\r\n0\r\n\r\n" if body == HUGE else b"7\r\ndamaged\r\n0\r\n\r\n")

    async with Server(play, reads_bodies=False).listening() as server:
        pool = pool_for(server)
        assert [await ask(pool, HUGE) for _ in range(2)] == [b"soonwhole"] * 2
        assert server.connections == 1
        await pool.close()


# Answers of every frame


REUSED = {
    "length": with_length(b"answer"),
    "chunks": chunked(b"answer"),
    "one chunk": chunked(b"answer", 100),
    "chunk extensions": chunked(b"answer", 2, b';name="a;b";x=1'),
    "trailers": chunked(b"answer", trailers=b"X-Checksum: 1\r\n"),
    "informed before": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    + with_length(b"answer"),
    "many headers": with_length(b"answer", *[b"X-%d: %b" % (n, b"v" * 1000) for n in range(500)]),
    "a long header": with_length(b"answer", b"X: " + b"v" * 32_000),
}
ENDED = {
    "until the end": b"HTTP/1.1 200 OK\r\n\r\nanswer",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nanswer",
    "closing": with_length(b"answer", b"Connection: close"),
}


@pytest.mark.parametrize("pieces", [1, 7, 1000])
@pytest.mark.parametrize("name", [*REUSED, *ENDED])
async def test_an_answer_is_read_whole_and_its_connection_used_again_if_it_can_be(name: str, pieces: int):
    data = {**REUSED, **ENDED}[name]
    step = max(1, len(data) // pieces)
    cut = [data[at : at + step] for at in range(0, len(data), step)]

    async def play(_body: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answers(*cut)(_body, _reader, writer)
        if name in ENDED:
            writer.close()

    async with exchanging(play) as (pool, server):
        assert [await ask(pool, b"%d" % n) for n in range(3)] == [b"answer"] * 3
        assert server.connections == (3 if name in ENDED else 1)
        assert server.bodies == [b"0", b"1", b"2"]


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
@pytest.mark.parametrize("lie", [b"", b"Content-Length: 5", b"Transfer-Encoding: chunked"])
async def test_answers_without_a_body_have_none_whatever_they_say(status: bytes, lie: bytes):
    head = b"\r\n".join(filter(None, [b"HTTP/1.1 " + status, lie])) + b"\r\n\r\n"
    async with exchanging(answers(head)) as (pool, server):
        assert [await ask(pool) for _ in range(2)] == [b""] * 2
        assert server.connections == 1


BROKEN = {
    "other protocol": b"220 mail.example ESMTP\r\n",
    "no status": b"HTTP/1.1 \r\n\r\n",
    "a header too long": with_length(b"answer", b"X: " + b"v" * 33_000),
    "too many headers": with_length(b"answer", *[b"X-%d: v" % n for n in range(600)]),
    "an endless head": b"HTTP/1.1 200 OK\r\nX: " + b"v" * 100_000,
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nX: ",
    "nothing": b"",
    "an informed end": b"HTTP/1.1 100 Continue\r\n\r\n",
    "cut by length": with_length(b"answer")[:-1],
    "cut in a chunk": chunked(b"answer", 6)[:-9],
    "cut between chunks": chunked(b"answer")[:-5],
    "cut before the last line": chunked(b"answer")[:-2],
    "a chunk size that is none": chunked(b"answer").replace(b"3\r\n", b"z\r\n"),
    "a chunk longer than it says": chunked(b"answer").replace(b"3\r\n", b"2\r\n"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_answer_is_a_failure_that_quotes_nothing_and_ends_the_connection(name: str):
    async def play(body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if body == b"good":
            await answers(with_length(b"answer"))(body, reader, writer)
        else:
            await answers(BROKEN[name])(body, reader, writer)
            writer.close()

    async with exchanging(play) as (pool, server):
        assert await ask(pool, b"good") == b"answer"
        with pytest.raises(FAILURES) as failed:
            await ask(pool, b"bad", {"Authorization": "Bearer secret"})
        assert await ask(pool, b"good") == b"answer"
        assert server.bodies == [b"good", b"bad", b"good"]
        assert server.connections == 2
    chain = [failed.value, failed.value.__cause__, failed.value.__context__]
    assert not any(word in f"{error!r} {error}" for error in chain for word in ("secret", "answer", "vvv", "ESMTP"))


async def test_a_body_that_a_reset_ends_is_cut_even_if_it_would_end_with_the_connection():
    async def play(_body: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await writer.drain()
        await read_on.wait()
        # what is unread at the end makes a reset of it
        sock = writer.get_extra_info("socket")
        sock.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    read_on = asyncio.Event()
    async with exchanging(play) as (pool, _):
        answer = await pool.post("/v1/responses", {}, [b""])
        assert await answer.content.readany() == b"half"
        read_on.set()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.readany()
        answer.release()


# Silence


async def test_silence_before_and_inside_an_answer_is_a_timeout_and_ends_the_connection():
    half = with_length(b"answer")[:-3]

    async def play(body: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(half if body == b"half" else b"")
        await _reader.read()

    async with exchanging(play, silence=0.05) as (pool, server):
        for body in (b"none", b"half"):
            with pytest.raises(TimeoutError):
                await ask(pool, body)
        await server.until_all_are_closed()


async def test_an_answer_that_comes_slowly_is_no_silence():
    async def play(_body: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in with_length(b"answer"):
            writer.write(bytes([byte]))
            await asyncio.sleep(0.01)

    async with exchanging(play, silence=0.15) as (pool, _):
        assert await ask(pool) == b"answer"


#: uvloop looks at its timers before it looks at its sockets.
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.mark.parametrize("loop", LOOPS)
def test_what_came_while_this_process_did_not_run_is_no_silence(loop: Callable[[], asyncio.AbstractEventLoop]):
    def stall(server: socket.socket, signal: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(signal)
        server.sendall(with_length(b"answer"))
        time.sleep(0.7)

    async def run() -> None:
        running = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = URL(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
            pool = Pool(url, None, connect_seconds=10.0, silence_seconds=0.5)
            asking = asyncio.ensure_future(ask(pool))
            server, _ = await running.run_in_executor(None, listener.accept)
            signal, other = socket.socketpair()
            with server, signal, other:
                await running.run_in_executor(None, server.recv, 65536)
                # called as what has come is read: timers are next
                running.add_reader(signal, stall, server, signal)
                other.send(b"!")
                assert await asking == b"answer"
                await pool.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


@pytest.mark.parametrize("pauses", [[0.15], [0.07] * 6], ids=["once", "again and again"])
@pytest.mark.parametrize("steps", range(6))
@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_that_was_made_while_this_process_did_not_run_is_in_time(
    loop: Callable[[], asyncio.AbstractEventLoop], steps: int, pauses: list[float]
):
    async def run() -> None:
        async with exchanging(answers(with_length(b"answer")), connect=0.1) as (pool, _):
            asking = asyncio.ensure_future(ask(pool))
            for _ in range(steps):
                await asyncio.sleep(0)
            for pause in pauses:
                time.sleep(pause)  # noqa: ASYNC251 (nothing runs meanwhile)
                await asyncio.sleep(0)
            assert await asking == b"answer"

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


async def test_a_server_that_does_not_take_the_body_is_a_timeout():
    async def play(_body: bytes, _reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with Server(play, reads_bodies=False).listening() as server:
        pool = pool_for(server, silence=0.05)
        with pytest.raises(TimeoutError):
            await ask(pool, HUGE)
        await pool.close()


# Connections kept


async def test_a_connection_that_was_closed_while_idle_is_not_used():
    async def play(body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answers(with_length(body))(body, reader, writer)
        writer.close()

    async with exchanging(play) as (pool, server):
        for body in (b"one", b"two"):
            assert await ask(pool, body) == body
            await server.until_all_are_closed()
            await settle()
        assert server.connections == 2


async def test_a_request_that_a_closing_connection_loses_is_not_repeated():
    async def play(body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if body == b"two":
            writer.close()
        await answers(with_length(body))(body, reader, writer)

    async with exchanging(play) as (pool, server):
        assert await ask(pool, b"one") == b"one"
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await ask(pool, b"two")
        assert await ask(pool, b"three") == b"three"
        assert server.bodies == [b"one", b"two", b"three"]


@pytest.mark.parametrize(
    "stray", [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray", b"HTTP/1.1 200 OK\r\nX: ", b"H", b"\0"]
)
@pytest.mark.parametrize("later", [False, True])
async def test_what_comes_after_an_answer_is_never_taken_for_another(stray: bytes, later: bool):
    async def play(body: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(with_length(body) + (b"" if later else stray))
        if later:
            await idle.wait()
            writer.write(stray)
            idle.clear()

    idle = asyncio.Event()
    async with exchanging(play) as (pool, server):
        for number in range(3):
            if later or stray != b"\0":
                assert await ask(pool, b"%d" % number) == b"%d" % number
            else:
                with pytest.raises(FAILURES):
                    await ask(pool)
            idle.set()
            await settle()
        assert server.connections == 3


@in_virtual_time
async def test_idle_connections_are_closed_before_their_server_would_do_it():
    async with exchanging(answers(with_length(b"yes")), silence=600.0) as (pool, server):
        await asyncio.gather(ask(pool), ask(pool))
        await asyncio.sleep(IDLE_SECONDS / 2)
        await ask(pool)
        assert (server.connections, server.open) == (2, 2)
        await asyncio.sleep(IDLE_SECONDS * 0.75)
        assert server.open == 1
        await asyncio.sleep(IDLE_SECONDS)
        assert server.open == 0
        await ask(pool)
        assert server.connections == 3


async def test_an_answer_that_is_not_read_to_its_end_ends_its_connection():
    async with exchanging(answers(with_length(HUGE))) as (pool, server):
        for _ in range(2):
            answer = await pool.post("/v1/responses", {}, [b""])
            answer.release()
            answer.release()
        await server.until_all_are_closed()
        assert server.connections == 2


async def test_a_reader_who_does_not_come_makes_the_server_wait():
    written = 0

    async def play(_body: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(HUGE) * 4))
        for at in range(0, len(HUGE) * 4, 65536):
            writer.write(HUGE[:65536])
            await writer.drain()
            written = at

    async with exchanging(play, silence=0.05) as (pool, _):
        answer = await pool.post("/v1/responses", {}, [b""])
        while True:
            before = written
            # longer than the silence that would end an exchange whose server is to blame
            await asyncio.sleep(0.1)
            if before == written:
                break
        assert written < len(HUGE) * 2
        assert len(await read(answer)) == len(HUGE) * 4


async def test_the_end_of_an_answer_may_come_after_its_release_and_keeps_the_connection():
    async def play(body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        whole = chunked(body, 100)
        writer.write(whole[:-5])
        await released.wait()
        released.clear()
        await answers(*[bytes([byte]) for byte in whole[-5:]])(body, reader, writer)

    released = asyncio.Event()
    async with exchanging(play) as (pool, server):
        for body in (b"one", b"two"):
            answer = await pool.post("/v1/responses", {}, [body])
            assert await answer.content.readany() == body
            answer.hold(held=True)
            answer.release(ends=True)
            released.set()
            await settle()
        assert server.connections == 1


@pytest.mark.parametrize("rest", [b"", b"4\r\nmore\r\n", b"%x\r\n" % len(HUGE) + HUGE, b"z\r\n"])
def test_an_end_that_does_not_come_soon_is_not_waited_for(rest: bytes):
    async def play(body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked(body, 100)[:-5])
        await released.wait()
        released.clear()
        writer.write(rest)
        await reader.read()

    released = asyncio.Event()

    @in_virtual_time
    async def run() -> None:
        async with exchanging(play, silence=600.0, slots=1) as (pool, server):
            answer = await pool.post("/v1/responses", {}, [b"body"])
            assert await answer.content.readany() == b"body"
            answer.release(ends=True)
            released.set()
            await server.until_all_are_closed()
            # a request that waits for the slot gets it
            again = await pool.post("/v1/responses", {}, [b"again"])
            again.release()

    run()


# Limits and ends


async def test_requests_wait_for_a_slot_and_no_longer_than_for_a_connection():
    gate = asyncio.Event()

    async def play(body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await answers(with_length(body))(body, reader, writer)

    async with exchanging(play, slots=2, connect=0.05) as (pool, server):
        running = [asyncio.create_task(ask(pool, b"%d" % n)) for n in range(2)]
        await settle()
        with pytest.raises(TimeoutError):
            await ask(pool)
        waiting = asyncio.create_task(ask(pool))
        await settle()
        waiting.cancel()
        gate.set()
        assert await asyncio.gather(*running) == [b"0", b"1"]
        assert await asyncio.gather(*(ask(pool, b"%d" % n) for n in range(5))) == [b"%d" % n for n in range(5)]
        assert server.connections == 2


@pytest.mark.parametrize("slots", [0, 1])
async def test_a_request_can_be_cancelled_wherever_it_waits(slots: int):
    async def play(body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0)
        await answers(chunked(body, 1))(body, reader, writer)

    async with exchanging(play, slots=slots) as (pool, server):
        steps, done = 0, False
        while not done:
            task = asyncio.create_task(ask(pool, b"cancelled"))
            for _ in range(steps):
                await asyncio.sleep(0)
            done = task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await ask(pool, b"next%d" % steps) == b"next%d" % steps
            steps += 1
        assert steps > 5
    await server.until_all_are_closed()


async def test_closing_ends_idle_and_running_exchanges_and_leaves_nothing_open():
    async def play(body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if body == b"idle":
            await answers(with_length(body))(body, reader, writer)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nbegun" if body == b"begun" else b"")
            await reader.read()

    before = descriptors()
    tasks = asyncio.all_tasks()
    async with Server(play).listening() as server:
        pool = pool_for(server)
        waiting = asyncio.create_task(ask(pool, b"waiting"))
        begun = await pool.post("/v1/responses", {}, [b"begun"])
        await ask(pool, b"idle")
        assert server.open == 3
        await pool.close()
        await server.until_all_are_closed()
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await waiting
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await read(begun)
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await ask(pool)
        await pool.close()
    await settle()
    assert asyncio.all_tasks() == tasks
    assert descriptors() <= before


def descriptors() -> set[str]:
    """The open files of this process, where the system tells."""
    folder = Path("/proc/self/fd")
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


# Pushed bodies


class Kept:
    """Keeps what it is given; `held`: holds the server after each piece."""

    def __init__(self, answer: UpstreamAnswer, *, leaves_after: int = -1) -> None:
        self._answer = answer
        self._leaves_after = leaves_after
        self.pieces: list[bytes] = []
        self.over: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def data(self, chunk: bytes) -> None:
        assert not self.over.done()
        self.pieces.append(chunk)
        if len(self.pieces) == self._leaves_after:
            self._answer.release()
            self.over.set_result(None)

    def end(self) -> None:
        self.over.set_result(None)

    def failed(self, error: Exception) -> None:
        self.over.set_result(error)


@pytest.mark.parametrize("name", [*REUSED, *ENDED])
async def test_a_pushed_body_arrives_whole_and_ends_once(name: str):
    async def play(body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = {**REUSED, **ENDED}[name]
        await answers(*[data[at : at + 50] for at in range(0, len(data), 50)])(body, reader, writer)
        if name in ENDED:
            writer.close()

    async with exchanging(play) as (pool, server):
        for _ in range(2):
            answer = await pool.post("/v1/responses", {}, [b""])
            kept = Kept(answer)
            answer.consume(kept)
            assert await kept.over is None
            assert b"".join(kept.pieces) == b"answer"
            answer.release()
        assert server.connections == (2 if name in ENDED else 1)


@pytest.mark.parametrize("name", [name for name in BROKEN if name.startswith(("cut", "a chunk"))])
async def test_a_pushed_body_that_breaks_off_fails_once(name: str):
    async def play(body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, end, rest = BROKEN[name].partition(b"\r\n\r\n")
        writer.write(head + end)
        await begun.wait()
        await answers(rest)(body, reader, writer)
        writer.close()

    begun = asyncio.Event()
    async with exchanging(play) as (pool, _):
        answer = await pool.post("/v1/responses", {}, [b""])
        kept = Kept(answer)
        answer.consume(kept)
        begun.set()
        assert isinstance(await kept.over, aiohttp.ClientError)
        answer.release()


async def test_a_pushed_body_that_falls_silent_fails_but_not_while_its_consumer_holds_it():
    async def play(_body: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(with_length(b"answer")[:-3])
        await asyncio.Event().wait()

    async with exchanging(play, silence=0.05) as (pool, _):
        answer = await pool.post("/v1/responses", {}, [b""])
        kept = Kept(answer)
        answer.consume(kept)
        answer.hold(held=True)
        await asyncio.sleep(0.15)
        assert not kept.over.done()
        answer.hold(held=False)
        assert isinstance(await kept.over, TimeoutError)
        answer.release()


async def test_a_held_body_makes_the_server_wait_and_comes_whole_afterwards():
    async def play(_body: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(HUGE))
        for at in range(0, len(HUGE), 65536):
            writer.write(HUGE[at : at + 65536])
            await writer.drain()
        sent.set()

    sent = asyncio.Event()
    async with exchanging(play) as (pool, server):
        answer = await pool.post("/v1/responses", {}, [b""])
        kept = Kept(answer)
        answer.consume(kept)
        answer.hold(held=True)
        for _ in range(200):
            await asyncio.sleep(0)
        assert not sent.is_set()
        held = sum(map(len, kept.pieces))
        for _ in range(50):
            await asyncio.sleep(0)
        assert sum(map(len, kept.pieces)) == held
        answer.hold(held=False)
        assert await kept.over is None
        assert b"".join(kept.pieces) == HUGE
        answer.hold(held=True)
        answer.release()
        # what one exchange held does not hold the next
        assert await ask(pool) == HUGE
        assert server.connections == 1


async def test_a_consumer_may_leave_while_it_is_called():
    async with exchanging(answers(*[chunked(b"answer", 1)[at : at + 6] for at in range(0, 200, 6)])) as (pool, server):
        answer = await pool.post("/v1/responses", {}, [b""])
        kept = Kept(answer, leaves_after=2)
        answer.consume(kept)
        await kept.over
        await server.until_all_are_closed()
        assert len(kept.pieces) == 2
        answer.hold(held=True)


# TLS


def certificate_for(names: Iterable[x509.GeneralName], folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return what a server shows for the names, and the file of the authority to trust: itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName(list(names)), critical=False)
    pem = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = pem.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / "cert.pem").write_bytes(certificate)
    (folder / "key.pem").write_bytes(private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context, folder / "cert.pem"


async def test_tls_is_spoken_with_a_server_whose_name_is_certified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def play(body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answers(with_length(body), *([] if body != b"last" else [b""]))(body, reader, writer)

    tls, authority = certificate_for([x509.DNSName("localhost")], tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    async with Server(play).listening(tls) as server:
        pool = pool_for(server, scheme="https")
        assert [await ask(pool, body) for body in (b"one", HUGE, b"last")] == [b"one", HUGE, b"last"]
        assert server.connections == 1
        await pool.close()
        await server.until_all_are_closed()


@pytest.mark.parametrize("trusted", [False, True])
async def test_tls_is_not_spoken_with_a_server_that_is_not_certified(
    trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    names = [x509.DNSName("elsewhere"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    tls, authority = certificate_for(names, tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    async with Server(answers(with_length(b"answer"))).listening(tls) as server:
        pool = pool_for(server, scheme="https")
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await ask(pool)
        assert server.heads == []
        await pool.close()


async def test_a_server_that_does_not_speak_tls_is_no_connection():
    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        url = URL(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        pool = Pool(url, None, connect_seconds=5.0, silence_seconds=5.0)
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(pool)
        await pool.close()


async def test_a_handshake_that_is_not_answered_ends_in_time_and_leaves_nothing():
    left = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        left.set()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        url = URL(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        pool = Pool(url, None, connect_seconds=0.05, silence_seconds=5.0)
        with pytest.raises(TimeoutError):
            await ask(pool)
        await left.wait()
        await pool.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://upstream.invalid"])
async def test_a_server_that_is_not_there_is_no_connection(url: str):
    pool = Pool(URL(url), None, connect_seconds=5.0, silence_seconds=5.0)
    for _ in range(2):
        with pytest.raises(aiohttp.ClientConnectorError) as failed:
            await ask(pool)
        assert failed.value.strerror
    await pool.close()


# Anything in any order


def _mixed(number: int, kind: str) -> tuple[bytes, bool]:
    """Return what a server sends for an exchange, and whether it closes the connection then."""
    body = b"answer %d;" % number * (number % 3 + 1)
    whole = {
        "length": with_length(body),
        "chunks": chunked(body, 4, b";x=y"),
        "closing": with_length(body, b"Connection: close"),
        "until the end": b"HTTP/1.1 200 OK\r\n\r\n" + body,
        "informed": b"HTTP/1.1 102 Processing\r\n\r\n" + with_length(body),
        "refusal": with_length(body, status=b"500 Oops"),
        "stray after": with_length(body) + with_length(b"stray"),
        "half a stray after": with_length(body) + b"HTTP/1.1 200 OK\r\nContent-",
        "nonsense": b"\0\1\2",
        "cut head": with_length(body)[:20],
        "cut body": with_length(body)[:-2],
        "cut chunks": chunked(body, 4)[:-6],
        "reset": b"",
    }[kind]
    return whole, kind in {"closing", "until the end", "nonsense", "cut head", "cut body", "cut chunks", "reset"}


KINDS = ["length", "chunks", "closing", "until the end", "informed", "refusal", "stray after", "half a stray after"]
KINDS += ["nonsense", "cut head", "cut body", "cut chunks", "reset"]
COMPLETE = {"length", "chunks", "closing", "until the end", "informed", "refusal"}


Exchange = tuple[str, str, int, int]


class Mix:
    """Exchanges to be made: what the server sends, what the client does, when it cancels, in pieces of which size."""

    def __init__(self, exchanges: list[Exchange]) -> None:
        self._exchanges = exchanges

    async def play(self, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kind, _, _, size = self._exchanges[int(body)]
        data, closes = _mixed(int(body), kind)
        # a stray answer comes with the one before: what comes after another request is that one's by all that is known
        size = size if "stray" not in kind else len(data)
        await answers(*[data[at : at + size] for at in range(0, len(data), size)])(body, reader, writer)
        if closes:
            writer.close()

    async def exchange(self, pool: Pool, number: int) -> None:
        """Make one; what arrives whole is its answer, what has to arrive does."""
        kind, action, steps, _ = self._exchanges[number]
        task = asyncio.ensure_future(pool.post("/v1/responses", {}, [b"%d" % number]))
        if action == "cancel":
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
        try:
            answer = await task
            left = action in ("leave", "release")
            got = None if left else await (pushed(answer) if action == "push" else read(answer))
            answer.release(ends=action == "release")
        except (*FAILURES, asyncio.CancelledError):
            assert action == "cancel" or kind not in COMPLETE
        else:
            assert got in (None, b"answer %d;" % number * (number % 3 + 1))


async def pushed(answer: UpstreamAnswer) -> bytes:
    kept = Kept(answer)
    answer.consume(kept)
    error = await kept.over
    answer.release()
    if error is not None:
        raise error
    return b"".join(kept.pieces)


@settings(max_examples=examples(60))
@given(
    exchanges=st.lists(
        st.tuples(
            st.sampled_from(KINDS),
            st.sampled_from(["read", "push", "leave", "cancel", "release"]),
            st.integers(0, 12),
            st.integers(1, 60),
        ),
        min_size=1,
        max_size=12,
    ),
    at_once=st.integers(1, 3),
    loop=st.sampled_from([asyncio.new_event_loop, uvloop.new_event_loop]),
)
def test_no_answer_is_ever_mixed_with_another(
    exchanges: list[Exchange], at_once: int, loop: Callable[[], asyncio.AbstractEventLoop]
):
    async def run() -> None:
        mix = Mix(exchanges)
        async with Server(mix.play).listening() as server:
            pool = pool_for(server)
            async with asyncio.timeout(20):
                for start in range(0, len(exchanges), at_once):
                    numbers = range(start, min(start + at_once, len(exchanges)))
                    await asyncio.gather(*(mix.exchange(pool, number) for number in numbers))
                await pool.close()
                await server.until_all_are_closed()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())
