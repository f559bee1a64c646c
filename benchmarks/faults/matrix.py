"""The fault matrix: a model server, a store and a client that misbehave at once, in every combination.

    python -m benchmarks.faults.matrix [--seconds-scale 1.0] [--pairs] [--write]

A cell is one turn in a conversation of its own. The turns of one store fault run at once: all have been opened and the
model has been asked when the store begins to fail; then the model answers, and the commit meets the failing store. What
each client was told is held against what is stored; then its conversation is gone on with, and the servers are counted.
--pairs: only so many cells that each two values meet. --write: put the table into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from benchmarks.faults import store_faults
from benchmarks.faults.cell_clients import CLIENTS, REPEATING, Turn
from benchmarks.faults.cell_table import table, write_table
from benchmarks.faults.census import Census
from benchmarks.faults.clients import Answer, Wire
from benchmarks.faults.expectations import unexpected
from benchmarks.faults.history import Told
from benchmarks.faults.store_faults import StoreFault
from benchmarks.faults.upstream_faults import MEBIBYTE, REFUSES, UPSTREAMS, by_name, model_name
from benchmarks.faults.world import HEADERS, World, running_world

#: Fault of the store → how it is made, and how long it lasts in seconds.
STORES: dict[str, tuple[StoreFault, float]] = {
    "fine": (store_faults.fine, 0.0),
    "paused 3 s": (store_faults.paused, 3.0),
    "paused 7 s": (store_faults.paused, 7.0),
    "killed and back": (store_faults.killed, 2.0),
    "lost between open and commit": (store_faults.lost, 2.0),
    "READONLY": (store_faults.read_only, 2.0),
    "full memory": (store_faults.full_memory, 2.0),
    "full disk": (store_faults.full_disk, 2.0),
    "BUSY": (store_faults.busy, 2.0),
    "NOPERM": (store_faults.no_permission, 2.0),
    "failover": (store_faults.failover, 2.0),
}
UPSTREAM_NAMES = [*UPSTREAMS, REFUSES]
#: Largest answer that the replicas take.
LIMIT_BYTES = 8 * MEBIBYTE
#: Seconds of silence after which the model server has stalled: by default, and at least.
READ_SECONDS = 6.0
LEAST_READ_SECONDS = 2.0
#: What a replica may have of memory beside its answers: the lists of items, the garbage of a busy second.
SPARE_BYTES = 64 * MEBIBYTE
#: Seconds in which all has to be as before.
RECOVERY_SECONDS = 20.0
#: Connections to the store that are opened for large data, and ended later.
SPARE_DESCRIPTORS = 4


@dataclass
class Cell:
    """One combination, and what came of it. stored: keys of its conversation. wrong: what must not be."""

    upstream: str
    store: str
    client: str
    answers: list[Answer] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    conversation: str = ""

    @property
    def key(self) -> str:
        """Its question."""
        return f"{self.upstream}, {self.store}, {self.client}"

    @property
    def told(self) -> str:
        """What its client was told in the end."""
        return self.answers[-1].what if self.answers else "nothing"


def all_cells(stores: Iterable[str]) -> list[Cell]:
    """Return every combination with these stores."""
    return [Cell(upstream, store, client) for store in stores for upstream in UPSTREAM_NAMES for client in CLIENTS]


def covering_cells(stores: Iterable[str]) -> list[Cell]:
    """Return so many that, over all stores, each two values of two dimensions meet."""
    clients, order = list(CLIENTS), list(STORES)
    return [
        Cell(upstream, store, clients[(number + order.index(store)) % len(clients)])
        for store in stores
        for number, upstream in enumerate(UPSTREAM_NAMES)
    ]


def read_seconds(scale: float) -> float:
    """Return the seconds of silence after which the model server has stalled."""
    return max(LEAST_READ_SECONDS, READ_SECONDS * scale)


def settings(scale: float) -> dict[str, str]:
    """Return what the replicas are set to: their defaults, with the store's times multiplied by `scale`."""
    return {
        "TURNS_LOCK_LEASE_SECONDS": str(10 * scale),
        "TURNS_COMMIT_RETRY_SECONDS": str(30 * scale),
        "REDIS_TIMEOUT_SECONDS": str(5 * scale),
        "UPSTREAM_READ_TIMEOUT_SECONDS": str(read_seconds(scale)),
        "UPSTREAM_MAX_RESPONSE_BYTES": str(LIMIT_BYTES),
        "UPSTREAM_MAX_EVENT_BYTES": str(LIMIT_BYTES),
    }


class Column:
    """All turns of one fault of the store. scale: of its times."""

    def __init__(self, world: World, wire: Wire, cells: Sequence[Cell], scale: float) -> None:
        self._world, self._wire, self._cells, self._scale = world, wire, cells, scale
        self._read_seconds, self._lease_seconds = read_seconds(scale), 10 * scale
        self._patience = 30 * scale + self._read_seconds + RECOVERY_SECONDS

    async def run(self) -> None:
        """Take the turns, and check what came of them."""
        fault, seconds = STORES[self._cells[0].store]
        if fault is store_faults.failover:
            await store_faults.add_standby(self._world)
        for cell in self._cells:
            cell.conversation = await self._new_conversation()
        before = await self._count_all()
        self._world.model.gate.clear()
        struck = asyncio.Event()
        early = [cell for cell in self._cells if cell.upstream != REFUSES]
        turns = [asyncio.create_task(self._take(cell, struck)) for cell in early]
        await self._until_asked(early)
        async with fault(self._world):
            turns += [asyncio.create_task(self._take(cell, struck)) for cell in self._cells if cell not in early]
            struck.set()
            await asyncio.sleep(0.05)
            self._world.model.gate.set()
            await asyncio.sleep(seconds * self._scale)
        await asyncio.gather(*turns)
        await asyncio.gather(*(self._check(cell) for cell in self._cells))
        await self._compare_counts(before)
        async with self._world.opened_store() as store:
            for complaint in (await store.auditor.audit()).complaints:
                self._cells[0].wrong.append(f"fsck: {complaint}")

    async def _take(self, cell: Cell, struck: asyncio.Event) -> None:
        model = model_name(cell.upstream, once=cell.client in REPEATING)
        body = {"model": model, "input": cell.key, "conversation": cell.conversation}
        turn = Turn(self._wire, self._urls(cell), body, self._patience, self._read_seconds * 1.5, struck)
        try:
            async with asyncio.timeout(self._patience + 10):
                cell.answers = await CLIENTS[cell.client](turn)
        except TimeoutError:
            cell.wrong.append("its client was told nothing for ever")

    def _urls(self, cell: Cell) -> list[str]:
        *two, orphan = self._world.urls
        if cell.upstream != REFUSES:
            return two
        return [orphan, *two] if cell.client in REPEATING else [orphan]

    async def _new_conversation(self) -> str:
        while True:
            async with self._wire.session.post(f"{self._world.urls[0]}/v1/conversations", json={}) as answer:
                # the machine may pause for as long as the store may take
                if answer.status != 503:
                    return str((await answer.json())["id"])

    async def _until_asked(self, cells: Sequence[Cell]) -> None:
        """Wait until the model has been asked all; the gate keeps it from answering."""
        deadline = time.monotonic() + self._read_seconds / 2
        while not all(self._world.model.calls[cell.key] for cell in cells):
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(0.01)

    # --- what came of it ------------------------------------------------------------------------------------------

    async def _check(self, cell: Cell) -> None:
        """Hold what the client was told against what is stored, and go on with its conversation."""
        await self._go_on(cell)
        url = self._world.urls[1]
        stored = await self._wire.surely(url, cell.conversation, RECOVERY_SECONDS)
        cell.stored = stored[:-2]
        whole = [cell.key, f"re:{cell.key}"]
        if cell.stored not in ([], whole):
            cell.wrong.append(f"it is stored as {cell.stored}")
        told = {answer.told for answer in cell.answers}
        if Told.DONE in told and not cell.stored:
            cell.wrong.append(f"it was told as {cell.told} and is not stored")
        if told == {Told.REFUSED} and cell.stored:
            cell.wrong.append(f"it was told as {cell.told} and is stored")
        cell.wrong += unexpected(cell.upstream, cell.store, cell.client, [answer.what for answer in cell.answers])
        done = cell.answers[-1] if cell.answers else None
        if done is not None and done.response_id and done.told is Told.DONE:
            response = await self._wire.get(f"{url}/v1/responses/{done.response_id}")
            if response is None or response["status"] != done.what:
                cell.wrong.append("its response can't be read as it was told")

    async def _go_on(self, cell: Cell) -> None:
        """Take a turn in its conversation: its lock is free at once, or with its lease where the store was away."""
        body = {"model": "any", "input": "go on", "conversation": cell.conversation}
        deadline = time.monotonic() + (0.75 * self._lease_seconds if cell.store == "fine" else RECOVERY_SECONDS)
        while True:
            answer = await self._wire.post(f"{self._world.urls[0]}/v1/responses", body)
            if answer.told is Told.DONE:
                return
            if time.monotonic() > deadline:
                cell.wrong.append(f"its conversation can't be gone on with: {answer.what}")
                return
            await asyncio.sleep(0.05)

    async def _count_all(self) -> list[Census]:
        return [await replica.count() for replica in self._world.replicas]

    async def _compare_counts(self, before: list[Census]) -> None:
        """Every replica has no more tasks, descriptors and memory than before, as soon as all turns are over."""
        large = sum(cell.upstream in {"never ends", "100 MB"} for cell in self._cells)
        deadline = time.monotonic() + RECOVERY_SECONDS
        while grown := self._grown(before, await self._count_all(), large):
            if time.monotonic() > deadline:
                self._cells[0].wrong += grown
                return
            await asyncio.sleep(0.1)

    def _grown(self, before: list[Census], after: list[Census], large: int) -> list[str]:
        grown = []
        for number, (old, new) in enumerate(zip(before, after, strict=True)):
            if new.tasks > old.tasks:
                grown.append(f"replica {number} has {new.tasks} tasks, and had {old.tasks}")
            if new.descriptors > old.descriptors + SPARE_DESCRIPTORS:
                grown.append(f"replica {number} has {new.descriptors} descriptors, and had {old.descriptors}")
            if new.peak_bytes > old.peak_bytes + SPARE_BYTES + large * 3 * LIMIT_BYTES:
                grown.append(f"replica {number} took {(new.peak_bytes - old.peak_bytes) // MEBIBYTE} MiB more")
        return grown


async def run_matrix(folder: Path, cells: Sequence[Cell], scale: float, worlds: int = 1) -> None:
    """Run cells, in each world a fault of the store after the other; what came of each is noted in it."""
    columns = _columns(cells)
    parts = [[cell for column in columns[number::worlds] for cell in column] for number in range(worlds)]
    folders = [folder / str(number) for number in range(worlds)]
    for one in folders:
        one.mkdir()
    await asyncio.gather(*(_run_in_a_world(one, part, scale) for one, part in zip(folders, parts, strict=True)))


async def _run_in_a_world(folder: Path, cells: Sequence[Cell], scale: float) -> None:
    async with running_world(folder, settings(scale), by_name(), orphan=True) as world, _wire() as wire:
        await _warm_up(world, wire, max(len(column) for column in _columns(cells)))
        for column in _columns(cells):
            await Column(world, wire, column, scale).run()


@asynccontextmanager
async def _wire() -> AsyncIterator[Wire]:
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS, timeout=timeout) as session:
        yield Wire(session)


def _columns(cells: Sequence[Cell]) -> list[list[Cell]]:
    stores = dict.fromkeys(cell.store for cell in cells)
    return [[cell for cell in cells if cell.store == store] for store in stores]


async def _warm_up(world: World, wire: Wire, count: int) -> None:
    """Have each replica answer so many at once: what it keeps open from then on is not what faults have left."""
    body = {"model": "fine", "input": "warm up", "stream": True}
    await asyncio.gather(*(wire.post(f"{url}/v1/responses", body) for url in world.urls[:2] for _ in range(count)))


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds-scale", type=float, default=1.0)
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--store", action="append", choices=list(STORES))
    parser.add_argument("--worlds", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    stores = options.store or list(STORES)
    cells = covering_cells(stores) if options.pairs else all_cells(stores)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="branchline-matrix-") as folder:
        await run_matrix(Path(folder), cells, options.seconds_scale, options.worlds)
    text = table(cells, list(CLIENTS))
    if options.write:
        write_table(text)
    print(text)
    wrong = [f"{cell.key}: {one}" for cell in cells for one in cell.wrong]
    print(f"{len(cells)} cells in {time.monotonic() - began:.0f} s, {len(wrong)} wrong", *wrong, sep="\n  ")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
