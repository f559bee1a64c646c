"""A cluster of scripted servers: its slots move, its nodes fail and redirect as a script says."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, auto
from types import TracebackType
from typing import Self

from redis.asyncio import ConnectionPool, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

from storage.client.cluster.topology import Address, Topology
from tests.storage.client.scripted import REFUSALS, Act, Peer, ScriptedServer, reply_to

SLOTS = 16384
NODES = 3


class Step(Enum):
    """What a node does about a command besides what a single server does. Nothing of it does the command."""

    TRYAGAIN = auto()
    CLUSTERDOWN = auto()
    MOVED = auto()  # its slot goes to the next node
    ASK = auto()  # the next node has the key already
    FAILOVER = auto()  # the node's slots go to the next one, and all its connections end


#: Acts that do the command.
DOES = [act for act in Act if act not in REFUSALS]


class ScriptedCluster:
    """Nodes that share one script and a mind about whose a slot is. done: how often each command was done.

    asked: when nodes were asked for the slots, in the loop's time, and which.
    """

    def __init__(self, acts: Iterable[Act | Step] = (), cuts: Sequence[int] = ()) -> None:
        self.acts: Iterator[Act | Step] = itertools.chain(acts, itertools.repeat(Act.BULK))
        self.owners = [slot * NODES // SLOTS for slot in range(SLOTS)]
        self.done: Counter[bytes] = Counter()
        self.asked: list[tuple[float, int]] = []
        self.nodes = [ScriptedNode(self, number, cuts) for number in range(NODES)]
        self._stack = contextlib.AsyncExitStack()

    @property
    def open_peers(self) -> list[Peer]:
        """The connections that are not closed."""
        return [peer for node in self.nodes for peer in node.open_peers]

    def topology(self, *, timeout_seconds: float, named: Sequence[int] = range(NODES)) -> Topology:
        """Return what a URL that names these nodes comes to."""

        def pool_of(address: Address) -> ConnectionPool:
            return ConnectionPool(
                connection_class=UnixDomainSocketConnection,
                path=str(self.nodes[address[1]].path),
                socket_connect_timeout=timeout_seconds,
                retry=Retry(NoBackoff(), 0),
                driver_info=None,
            )

        return Topology([("node", number) for number in named], pool_of, timeout_seconds=timeout_seconds)

    def tag_at(self, number: int) -> str:
        """Return a hash tag of a slot that a node has."""
        return next(tag for tag in map(str, itertools.count()) if self.owners[key_slot(tag.encode())] == number)

    def give(self, slots: Iterable[int], number: int) -> None:
        """Move slots to a node."""
        for slot in slots:
            self.owners[slot] = number

    def note_question(self, number: int) -> None:
        """Take note that a node is asked for the slots."""
        self.asked.append((asyncio.get_running_loop().time(), number))

    async def __aenter__(self) -> Self:
        for node in self.nodes:
            await self._stack.enter_async_context(node)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()


class ScriptedNode(ScriptedServer):
    """A node; with ASKING it does any command that it is asked for."""

    def __init__(self, cluster: ScriptedCluster, number: int, cuts: Sequence[int]) -> None:
        super().__init__(cuts=cuts)
        self._cluster = cluster
        self._number = number

    def do(self, command: list[bytes], peer: Peer) -> tuple[Act, bytes]:
        asked, peer.is_asking = peer.is_asking, command[0] == b"ASKING"
        if peer.is_mute:
            if command[0] == b"ECHO" and (asked or self._owns(command[1])):
                self._cluster.done[command[1]] += 1
            return Act.NEVER, b""
        match command[0]:
            case b"ASKING":
                return Act.BULK, b"+OK\r\n"
            case b"WAIT":
                return Act.BULK, b":1\r\n"
            case b"CLUSTER":
                return Act.BULK, self._tell_slots()
        if not (asked or self._owns(command[1])):
            return Act.BULK, self._redirect(b"MOVED", command[1], self._cluster.owners[key_slot(command[1])])
        if command[0] == b"SET":
            return Act.BULK, b"+OK\r\n"
        return self._echo(command[1], peer, next(self._cluster.acts), asked=asked)

    def _echo(self, argument: bytes, peer: Peer, act: Act | Step, *, asked: bool) -> tuple[Act, bytes]:
        peer.heard.append(argument)
        after = (self._number + 1) % NODES
        owners = self._cluster.owners
        match act:
            case Step.MOVED:
                self._cluster.give([key_slot(argument)], after)
                return Act.BULK, self._redirect(b"MOVED", argument, after)
            case Step.ASK if not asked:
                return Act.BULK, self._redirect(b"ASK", argument, after)
            case Step.FAILOVER:
                self._cluster.give([slot for slot in range(SLOTS) if owners[slot] == self._number], after)
                self.cut_all()
                return Act.CLOSE, b""
            case Step():
                name = Step.CLUSTERDOWN if act is Step.CLUSTERDOWN else Step.TRYAGAIN
                return Act.BULK, b"-%s %s\r\n" % (name.name.encode(), argument)
        if act in DOES:
            self._cluster.done[argument] += 1
        return act, reply_to(act, argument)

    def _owns(self, key: bytes) -> bool:
        return self._cluster.owners[key_slot(key)] == self._number

    def _redirect(self, how: bytes, key: bytes, target: int) -> bytes:
        return b"-%s %d node:%d\r\n" % (how, key_slot(key), target)

    def _tell_slots(self) -> bytes:
        self._cluster.note_question(self._number)
        told, first = [], 0
        for owner, slots in itertools.groupby(self._cluster.owners):
            last = first + sum(1 for _ in slots) - 1
            told.append(b"*3\r\n:%d\r\n:%d\r\n*3\r\n$4\r\nnode\r\n:%d\r\n$1\r\n%d\r\n" % (first, last, owner, owner))
            first = last + 1
        return b"*%d\r\n%s" % (len(told), b"".join(told))
