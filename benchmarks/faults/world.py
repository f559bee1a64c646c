"""What the faults are put into: a Valkey, two Branchlines in front of it and a model server, each to be broken."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from benchmarks.faults import census
from benchmarks.faults.census import Census
from benchmarks.faults.injector import Link, link
from benchmarks.faults.model import Answer, Model, running_model
from benchmarks.processes import free_port, listening
from proxy.config.settings import Config
from storage import Store
from storage.embedded import find_binary

HEADERS = {"Authorization": "Bearer faults"}
KEY = "the sealing key of all worlds of faults"
#: Of the replicas' user at the store, whose rights are taken away.
USER, PASSWORD = "app", "any"
START_SECONDS = 30.0


class ValkeyProcess:
    """A Valkey that keeps everything on disk, to be killed, paused and started again. pid: 0 while there is none."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> Redis:
        """Return a client of its administrator."""
        return Redis(port=self.port)

    async def start(self) -> None:
        """Start it with what it had, and wait until it has loaded that."""
        self._launch()
        deadline = time.monotonic() + START_SECONDS
        async with self.client() as client:
            while True:
                with contextlib.suppress(RedisError, OSError):
                    await client.ping()
                    return
                if time.monotonic() > deadline:
                    raise TimeoutError(self.log()[-2000:])
                await asyncio.sleep(0.02)

    def _launch(self) -> None:
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self.folder,
            "save": '""',
            "appendonly": "yes",
            "appendfsync": "always",
            "repl-diskless-sync-delay": "0",
            "user": f"{USER} on >{PASSWORD} ~* &* +@all",
        }
        config = self.folder / "valkey.conf"
        config.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
        with (self.folder / "valkey.log").open("ab") as log:
            # without restore_signals: a file that may grow no more is an error then, not the end
            self._process = subprocess.Popen(
                [str(find_binary()), str(config)], stdout=log, stderr=log, restore_signals=False
            )

    def log(self) -> str:
        """Return what it had to say."""
        return (self.folder / "valkey.log").read_text()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self._process is not None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Kill it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@dataclass
class Replica:
    """A Branchline in a process of its own. link: its way to the store."""

    folder: Path
    link: Link
    variables: Mapping[str, str]
    port: int
    process: BaseProcess | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it and wait until it listens."""
        self.process = census.start(["--port", str(self.port)], self.variables, self.folder)
        await listening(self.url)

    def kill(self) -> None:
        """Kill it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process.close()
            self.process = None

    async def count(self) -> Census:
        """Count what it has. Raises OSError while it does not run."""
        if self.process is None or self.process.pid is None:
            raise ProcessLookupError
        return await census.count(self.process.pid, self.folder)


@dataclass
class World:
    """A store, two replicas in front of it, and a model server behind them. standby: has all that the store has."""

    store: ValkeyProcess
    replicas: list[Replica]
    model: Model
    model_link: Link
    standby: ValkeyProcess | None = None

    @property
    def urls(self) -> list[str]:
        return [replica.url for replica in self.replicas]

    @asynccontextmanager
    async def opened_store(self) -> AsyncIterator[Store]:
        """Give the store itself, past all that is broken."""
        async with opened_store(self.store.url) as store:
            yield store


@asynccontextmanager
async def opened_store(url: str) -> AsyncIterator[Store]:
    """Give the store that the replicas have at that server."""
    store = Store.connect(
        url, prefix=Config().redis.prefix, timeout_seconds=30, max_connections=4, retention_seconds=2_592_000
    )
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def running_world(
    folder: Path, settings: Mapping[str, str], answers: dict[str, Answer] | None = None, *, orphan: bool = False
) -> AsyncIterator[World]:
    """Run a world. settings: environment variables of replicas, without `BRANCHLINE_`. answers: of the model.

    orphan: with a third replica, behind which there is no model server.
    """
    async with AsyncExitStack() as stack:
        store = ValkeyProcess(folder)
        stack.callback(store.kill)
        await store.start()
        model = await stack.enter_async_context(running_model(answers))
        model_link = await stack.enter_async_context(link(model.port))
        world = World(store, [], model, model_link)
        stack.callback(_kill_store, world)
        for number, port in enumerate([model_link.port, model_link.port, free_port()][: 3 if orphan else 2]):
            store_link = await stack.enter_async_context(link(store.port))
            url = f"redis://{USER}:{PASSWORD}@127.0.0.1:{store_link.port}"
            upstream = f"http://127.0.0.1:{port}/v1"
            world.replicas.append(replica(folder / f"replica-{number}", store_link, url, upstream, settings))
            stack.callback(world.replicas[-1].kill)
        await asyncio.gather(*(one.start() for one in world.replicas))
        yield world


def _kill_store(world: World) -> None:
    # whichever it is by then
    world.store.kill()
    if world.standby is not None:
        world.standby.kill()


def replica(folder: Path, store_link: Link, redis_url: str, upstream: str, settings: Mapping[str, str]) -> Replica:
    """Return a replica that is not started yet."""
    folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BRANCHLINE_")}
    own = {"REDIS_URL": redis_url, "UPSTREAM_URL": upstream, "SEALING_KEY": KEY, **settings}
    variables = {**kept, **{f"BRANCHLINE_{name}": value for name, value in own.items()}}
    return Replica(folder, store_link, variables, free_port())
