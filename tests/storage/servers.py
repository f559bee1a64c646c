"""Real and stubborn servers for tests that break them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from benchmarks.processes import free_ports
from storage.embedded import find_binary


@dataclass
class OwnServer:
    """A real server that a test has for itself. url: its unix socket."""

    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """Kill it at once."""
        self.process.kill()
        self.process.wait(10)


@contextlib.contextmanager
def run_valkey(
    *options: str, config: Path | None = None, password: str | None = None, binary: Path | None = None
) -> Iterator[OwnServer]:
    """Run a real server with further command line options. Nothing it holds is kept.

    config: its configuration file, which a Sentinel writes too. password: of its default user. binary: a server other
    than Branchline's own.
    """
    folder = Path(tempfile.mkdtemp(prefix="branchline-test-"))
    address = folder / "valkey.sock"
    program = [str(binary or find_binary()), *([str(config)] if config else [])]
    command = [*program, "--port", "0", "--unixsocket", str(address), "--save", "", "--appendonly", "no"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--dir", str(folder), *options], stdout=log, stderr=log)
    server = OwnServer(f"unix://{address}", process)
    try:
        _wait_until_ready(address, folder / "log", password)
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class SentinelWorld:
    """A primary, its replicas and a Sentinel of the service `main`. replicas, sentinel: their ports."""

    primary: OwnServer
    replicas: list[int]
    sentinel: int

    @property
    def url(self) -> str:
        """What a client connects to."""
        return f"redis+sentinel://127.0.0.1:{self.sentinel}/main"


@contextlib.contextmanager
def run_sentinel(folder: Path, *, replicas: int = 1) -> Iterator[SentinelWorld]:
    """Run a primary, so many replicas and a Sentinel that knows of them all."""
    port, sentinel, *others = free_ports(replicas + 2)
    local = ("--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0")
    config = folder / "sentinel.conf"
    config.write_text(
        f"sentinel monitor main 127.0.0.1 {port} 1\nsentinel down-after-milliseconds main 1000\n"
        "sentinel failover-timeout main 4000\n"
    )
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(run_valkey(*local, "--port", str(port)))
        for other in others:
            stack.enter_context(run_valkey(*local, "--port", str(other), "--replicaof", f"127.0.0.1 {port}"))
        # so that Sentinel hears of the replicas when it asks for the first time
        with Redis(port=port) as client:
            while client.info("replication")["connected_slaves"] < replicas:
                time.sleep(0.01)
        stack.enter_context(run_valkey("--port", str(sentinel), "--bind", "127.0.0.1", "--sentinel", config=config))
        with Redis(port=sentinel) as client:
            while len(client.sentinel_slaves("main")) < replicas:
                time.sleep(0.01)
        yield SentinelWorld(primary, others, sentinel)


@contextlib.contextmanager
def run_cluster_node(
    *options: str, binary: Path | None = None, certificate: Path | None = None
) -> Iterator[tuple[int, int]]:
    """Run a node of a cluster, which has no slots and knows no others; give its port, and that for other nodes.

    options: further ones of its command line. binary: as `run_valkey` has it. certificate: it speaks nothing but TLS.
    """
    port, bus = free_ports(2)
    # in memory where that can be: whatever happens to a slot is written to disk at once
    memory = Path("/dev/shm")
    listening = ["--bind", "127.0.0.1", "--cluster-port", str(bus)]
    if certificate is None:
        listening += ["--port", str(port)]
    else:
        listening += [*tls_options(port, certificate), "--tls-cluster", "yes", "--tls-replication", "yes"]
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        clustered = ("--cluster-enabled", "yes", "--cluster-config-file", f"{folder}/nodes.conf")
        with run_valkey(*listening, *clustered, *options, binary=binary):
            yield port, bus


def tls_options(port: int, certificate: Path) -> list[str]:
    """Return what has a server listen with TLS. certificate: its own with its key, and whom it trusts."""
    shown = [option for name in ("cert", "key", "ca-cert") for option in (f"--tls-{name}-file", str(certificate))]
    return ["--tls-port", str(port), "--tls-auth-clients", "no", *shown]


def _wait_until_ready(address: Path, log: Path, password: str | None) -> None:
    deadline = time.monotonic() + 20
    with Redis(unix_socket_path=str(address), password=password) as client:
        while True:
            try:
                client.ping()
                return
            except RedisConnectionError:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)


@contextlib.asynccontextmanager
async def answer_always(reply: bytes) -> AsyncIterator[str]:
    """Run a server that answers every command after a connection's set-up with `reply`, or never if that is empty.

    Gives its URL.
    """
    tasks: set[asyncio.Task[None]] = set()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(_answer(reader, writer, reply)))

    folder = Path(tempfile.mkdtemp(prefix="branchline-test-"))
    server = await asyncio.start_unix_server(serve, folder / "stubborn.sock")
    try:
        yield f"unix://{folder / 'stubborn.sock'}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        shutil.rmtree(folder, ignore_errors=True)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: bytes) -> None:
    with contextlib.closing(writer):
        while command := await read_command(reader):
            if command[0] == b"HELLO":
                writer.write(b"%1\r\n+proto\r\n:3\r\n")
            elif command[0] == b"CLIENT":
                writer.write(b"+OK\r\n")
            else:
                writer.write(reply)


async def read_command(reader: asyncio.StreamReader) -> list[bytes]:
    """Return the next command of a client, nothing at its end."""
    head = await reader.readline()
    if not head:
        return []
    parts = []
    for _ in range(int(head[1:])):
        size = int((await reader.readline())[1:])
        parts.append((await reader.readexactly(size + 2))[:-2])
    return parts
