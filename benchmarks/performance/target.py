"""What is measured: a server that turns are sent to, and the processes that it consists of."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from redis import Redis

from benchmarks.performance.statistics import BARE, DIRECT, OURS
from benchmarks.processes import (
    children,
    command,
    cpu_seconds,
    free_port,
    listening,
    memory_bytes,
    process,
    until,
)
from storage.embedded.data_dir import SOCKET

#: Names of processes that keep state for others.
_STORES = ("valkey-server", "redis-server")


class Memory(Enum):
    """How a server remembers what was said before."""

    CONVERSATION = "conversation"
    CHAIN = "chain"


class Cpu(NamedTuple):
    """Seconds of processor time that a server has used so far: its own, and its store's if that is a process apart."""

    proxy: float
    store: float

    def since(self, before: Cpu) -> Cpu:
        """Return what was used between two readings."""
        return Cpu(self.proxy - before.proxy, self.store - before.store)


class Rounds(NamedTuple):
    """What a store's only working thread did: how often it went round its loop, and how many seconds that took.

    In a round it does all commands that have come, writes them to the disk, waits for that, and then answers.
    """

    cycles: int
    seconds: float

    def since(self, before: Rounds) -> Rounds:
        """Return what was done between two readings."""
        return Rounds(self.cycles - before.cycles, self.seconds - before.seconds)


@dataclass(frozen=True)
class Target:
    """A server that listens.

    remembers: what it can do; for anything else the client sends the whole history. share: the part of the work that a
    server so slow is given. must: a wrong answer ends the run; others' are counted. store_socket: its embedded store's.
    """

    name: str
    url: str
    proxies: tuple[int, ...]
    stores: tuple[int, ...] = ()
    remembers: frozenset[Memory] = frozenset()
    share: float = 1.0
    must: bool = False
    store_socket: Path | None = None

    def store_rounds(self) -> Rounds:
        """Ask the embedded store for what its loop did so far. Raises ValueError for a server without one."""
        if self.store_socket is None:
            raise ValueError(f"{self.name} has no embedded store")
        with Redis(unix_socket_path=str(self.store_socket)) as store:
            told = store.info("stats")
        return Rounds(told["eventloop_cycles"], told["eventloop_duration_sum"] / 1e6)

    def cpu(self) -> Cpu:
        """Read the kernel's clocks of its processes."""
        return Cpu(sum(map(cpu_seconds, self.proxies)), sum(map(cpu_seconds, self.stores)))

    def memory_bytes(self) -> int:
        """Return the memory of its processes, without the store's."""
        return sum(map(memory_bytes, self.proxies))


def family(pid: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return a process with all that it has started, and apart from them those that are stores."""
    found: list[int] = [pid]
    stores: list[int] = []
    for one in found:
        for child in children(one):
            name = Path(f"/proc/{child}/comm").read_text().strip()
            (stores if name in _STORES else found).append(child)
    return tuple(found), tuple(stores)


class Model(NamedTuple):
    """The scripted model server, which listens at a URL without `/v1`."""

    url: str
    pid: int

    @property
    def direct(self) -> Target:
        """The same as a target: what is measured without a proxy. Its own processor time does not count."""
        return Target(DIRECT, self.url, (), must=True)


@asynccontextmanager
async def model_server() -> AsyncIterator[Model]:
    """Run the scripted model server."""
    port = free_port()
    with process("benchmarks.servers.model", str(port)) as started:
        url = f"http://127.0.0.1:{port}"
        await listening(url, started)
        yield Model(url, started.pid)


@asynccontextmanager
async def bare_relay(model: str) -> AsyncIterator[Target]:
    """Run the bare relay in front of a model server."""
    port = free_port()
    with process("benchmarks.servers.bare", str(port), model) as started:
        url = f"http://127.0.0.1:{port}"
        await listening(url, started)
        yield Target(BARE, url, (started.pid,), must=True)


@asynccontextmanager
async def branchline(
    upstream: str,
    name: str = OURS,
    workers: int = 1,
    variables: Mapping[str, str] | None = None,
    clone: Path | None = None,
) -> AsyncIterator[Target]:
    """Run Branchline as it comes, with its embedded Valkey, which has every commit on disk before it answers.

    upstream: `http://HOST:PORT/v1` or `echo`. variables: settings that differ, `BRANCHLINE_…`. clone: of another state
    of it, which is run instead of this one.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        options = ["--upstream", upstream, "--port", str(port), "--data-dir", folder]
        if workers != 1:
            options += ["--workers", str(workers)]
        with command(sys.executable, "-m", "proxy", "serve", *options, variables=variables, folder=clone) as started:
            url = f"http://127.0.0.1:{port}"
            await listening(url, started)
            # one worker is the process itself, more have a supervisor above them
            await until(lambda: len(family(started.pid)[0]) >= (1 if workers == 1 else workers + 1))
            yield Target(
                name, url, *family(started.pid), frozenset(Memory), must=True, store_socket=Path(folder, SOCKET)
            )
