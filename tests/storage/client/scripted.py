"""A Redis server that misbehaves as a script says, on a unix socket, in the event loop of its client."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import Self

import hiredis

READ_BYTES = 1 << 20
#: Into at most so many pieces, and the rest, what the server says at a time is cut.
MOST_CUTS = 8


class Act(Enum):
    """What the server does when a command comes. Every reply has the command's argument in it."""

    BULK = auto()
    NESTED = auto()
    MAP = auto()
    ERROR = auto()
    LONG = auto()
    PUSHED = auto()  # after a push message
    LATE = auto()  # after LATE_SECONDS
    NEVER = auto()  # and none to what comes after it on this connection
    CLOSE = auto()  # before the reply
    CUT = auto()  # in the middle of the reply
    TWICE = auto()  # one reply more than there should be
    GARBAGE = auto()  # no reply, but not RESP either
    READONLY = auto()
    LOADING = auto()
    NOREPLICAS = auto()
    UNBLOCKED = auto()


#: What a healthy server does.
HEALTHY = (Act.BULK, Act.NESTED, Act.MAP, Act.ERROR, Act.LONG, Act.PUSHED)
REFUSALS = (Act.READONLY, Act.LOADING, Act.NOREPLICAS, Act.UNBLOCKED)
#: More than the client waits for a reply.
LATE_SECONDS = 7.0
LONG_BYTES = 5 << 18


def _bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


def reply_to(act: Act, argument: bytes) -> bytes:
    """The bytes of a reply."""
    match act:
        case Act.NESTED:
            return b"*3\r\n:1\r\n*1\r\n" + _bulk(argument) + b"_\r\n"
        case Act.MAP:
            return b"%1\r\n+it\r\n" + _bulk(argument)
        case Act.ERROR:
            return b"-ERR %s\r\n" % argument
        case Act.LONG:
            return _bulk(argument.ljust(LONG_BYTES))
        case Act.PUSHED:
            return b">2\r\n+invalidate\r\n" + _bulk(b"pushed") + _bulk(argument)
        case Act.TWICE:
            return 2 * _bulk(argument)
        case Act.GARBAGE:
            return b"garbage\r\n"
        case Act.READONLY | Act.LOADING | Act.NOREPLICAS | Act.UNBLOCKED:
            return b"-%s %s\r\n" % (act.name.encode(), argument)
        case Act.NEVER | Act.CLOSE:
            return b""
        case _:
            return _bulk(argument)


@dataclass
class Peer:
    """A connection's state. heard: arguments of its commands, in order. pieces: how many reads they came by.

    is_asking: whether the command before was ASKING.
    """

    heard: list[bytes]
    is_asking: bool = False
    pieces: int = 0
    is_mute: bool = False
    is_open: bool = True


class ScriptedServer:
    """Answers HELLO; then does an act a command, `ECHO argument`, healthily once the script is over.

    What it says at a time is cut into pieces of so many bytes, over and over. peers: every connection that was made.
    """

    def __init__(self, acts: Iterable[Act] = (), cuts: Sequence[int] = ()) -> None:
        self.acts: Iterator[Act] = itertools.chain(acts, itertools.repeat(Act.BULK))
        self.peers: list[Peer] = []
        #: Whether it reads what comes.
        self.reads = asyncio.Event()
        self.reads.set()
        self._cuts = itertools.cycle(cuts)
        self._folder = Path(tempfile.mkdtemp(prefix="branchline-test-"))
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def path(self) -> Path:
        """Its socket."""
        return self._folder / "scripted.sock"

    @property
    def url(self) -> str:
        """What a client connects to."""
        return f"unix://{self.path}"

    @property
    def heard(self) -> Counter[bytes]:
        """How often each argument came."""
        return Counter(argument for peer in self.peers for argument in peer.heard)

    @property
    def open_peers(self) -> list[Peer]:
        """The connections that are not closed."""
        return [peer for peer in self.peers if peer.is_open]

    async def start(self) -> None:
        """Listen; once more after `stop`, too."""
        self._server = await asyncio.start_unix_server(self._accept, self.path, limit=READ_BYTES)

    async def stop(self) -> None:
        """Close everything, as a server does that ends."""
        self._server.close()
        tasks = list(self._tasks)
        self.cut_all()
        await asyncio.gather(*tasks, return_exceptions=True)

    def cut_all(self) -> None:
        """End every connection."""
        for task, writer in self._tasks.items():
            task.cancel()
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        shutil.rmtree(self._folder)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks[task] = writer
        task.add_done_callback(self._tasks.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer([])
        self.peers.append(peer)
        commands = hiredis.Reader()
        is_served = True
        try:
            while is_served and await self.reads.wait() and (data := await reader.read(READ_BYTES)):
                peer.pieces += 1
                commands.feed(data)
                is_served = await self._answer(commands, peer, writer)
        except ConnectionError:
            pass
        finally:
            peer.is_open = False
            writer.transport.abort()
            # one iteration of the loop later its socket is closed
            await asyncio.sleep(0)

    async def _answer(self, commands: hiredis.Reader, peer: Peer, writer: asyncio.StreamWriter) -> bool:
        """Do an act for each command that is there; False if the connection is to be closed."""
        replies = b""
        is_served = True
        while is_served and (command := commands.gets()):
            if command[0] == b"HELLO":
                replies += b"%1\r\n+proto\r\n:3\r\n"
                continue
            act, reply = self.do(command, peer)
            if act is Act.LATE:
                await self._send(replies, writer)
                replies = b""
                await asyncio.sleep(LATE_SECONDS)
            is_served = act not in (Act.CLOSE, Act.CUT)
            peer.is_mute = act is Act.NEVER
            replies += reply[: len(reply) // 2] if act is Act.CUT else reply
        await self._send(replies, writer)
        return is_served

    def do(self, command: list[bytes], peer: Peer) -> tuple[Act, bytes]:
        """Return what is done about a command, and what is said of it."""
        peer.heard.append(command[1])
        act = Act.NEVER if peer.is_mute else next(self.acts)
        return act, reply_to(act, command[1])

    async def _send(self, replies: bytes, writer: asyncio.StreamWriter) -> None:
        for size in itertools.islice(self._cuts, MOST_CUTS):
            if size < len(replies):
                writer.write(replies[:size])
                replies = replies[size:]
                # so that the client reads what is there
                await asyncio.sleep(0.001)
        if replies:
            writer.write(replies)
        await writer.drain()
