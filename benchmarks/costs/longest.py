"""For how long one owner's large data keeps all others waiting: the longest command of each kind of it.

    python -m benchmarks.costs.longest [--rounds 5] [--mib 8 32]

As Valkey's slow log has it: a background request stored and claimed, an event logged and read, an item imported, a
history read for the first time, a partition copied for a backup; in a Valkey of its own.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson
from redis.asyncio import Redis

from benchmarks.costs.commits import LOGGED, OWNER, draft, entry, longest, spread
from benchmarks.processes import listening, valkey
from proxy.protocol import ids
from storage import (
    ArchivedAppend,
    ArchivedBranch,
    ArchivedItem,
    Conversation,
    EventBatch,
    EventLog,
    EventQuery,
    Job,
    Lease,
    OpenedTurn,
    Store,
    Submission,
    TurnSource,
    new_partition,
    partition_of,
)

#: Bytes of an item of the histories that are read.
ITEM_BYTES = (1_000, 100_000)
#: Bytes and items that one append brings.
APPEND_BYTES, APPEND_ITEMS = 500_000, 250
PAGE_BYTES = 1 << 20
LEASE_SECONDS = 60.0


@dataclass(frozen=True)
class OneItem:
    """What an import reads: a conversation with one item."""

    conversation: Conversation
    item: bytes
    fingerprint: str = "measured"
    lengths: list[int] = field(default_factory=lambda: [1])

    @property
    def branches(self) -> list[ArchivedBranch]:
        return [ArchivedBranch(0, "MAIN", [(0, 0, 1)], [], 1, 1)]

    def appends(self) -> list[ArchivedAppend]:
        return []

    def items(self) -> Iterator[ArchivedItem]:
        yield ArchivedItem(0, 0, self.item, id=orjson.loads(self.item)["id"])


class Bench:
    """A store, and what its server noted of the steps that are done there."""

    def __init__(self, url: str, store: Store, admin: Redis) -> None:
        self.url = url
        self.store = store
        self._admin = admin
        self.found: dict[str, list[float]] = {}

    @asynccontextmanager
    async def step(self, name: str) -> AsyncIterator[None]:
        """Note the longest command of what is done meanwhile."""
        await self._admin.slowlog_reset()
        yield
        self.found.setdefault(name, []).append(await longest(self._admin))


def connect(url: str) -> Store:
    return Store.connect(url, prefix="b", timeout_seconds=60, max_connections=4, retention_seconds=86_400)


async def job(bench: Bench, size: int) -> None:
    """A background response, from its acceptance to its claim."""
    response_id = ids.new_response_id(new_partition(), stored=True)
    facts = {"id": response_id, "object": "response", "created_at": 7, "status": "queued", "error": None, "output": []}
    submission = Submission(OWNER, response_id, "t", orjson.dumps(facts), "x" * size, OpenedTurn(), streamed=False)
    async with bench.step("a job submitted"):
        await bench.store.jobs.submit(submission)
    await bench.store.jobs.join()
    (entry,) = await bench.store.jobs.take("w", 1)
    async with bench.step("a job looked at"):
        await bench.store.jobs.claim(entry, "t1", LEASE_SECONDS, 1000)
    async with bench.step("a job claimed"):
        claimed = await bench.store.jobs.claim(entry, "t2", LEASE_SECONDS)
    assert isinstance(claimed, Job)
    assert len(claimed.job) == size
    async with bench.step("a job failed"):
        await bench.store.jobs.fail(claimed, b"{}")
        await bench.store.jobs.finish(entry)


async def event(bench: Bench, size: int) -> None:
    log = EventLog(OWNER, ids.new_response_id(new_partition(), stored=True))
    batch = EventBatch(0, 1, b"data: " + b"x" * size + b"\n\n")
    async with bench.step("an event logged"):
        await bench.store.events.append(log, batch, ttl_seconds=60, lease_seconds=60, last=True)
    async with bench.step("an event read"):
        page = await bench.store.events.read(EventQuery(OWNER, log.response_id, 0), PAGE_BYTES)
    assert page.batches[0].frames == batch.frames
    async with bench.step("a log copied"):
        async for _ in bench.store.copier.copy():
            pass


async def imported(bench: Bench, size: int) -> None:
    made = draft()
    item = entry(partition_of(made.id), size).data
    async with bench.step("an item imported"):
        await bench.store.archive.restore(OWNER, OneItem(made, item))
    await bench.store.conversations.delete(OWNER, made.id)


async def history(bench: Bench, size: int, item_bytes: int) -> None:
    made, _ = await bench.store.conversations.create(OWNER, draft(), [])
    at_once = min(APPEND_ITEMS, max(1, APPEND_BYTES // item_bytes))
    for _ in range(size // item_bytes // at_once):
        items = [entry(partition_of(made.id), item_bytes) for _ in range(at_once)]
        await bench.store.items.append(OWNER, made.id, "", items)
    store = connect(bench.url)
    source, lease = TurnSource(made.id), Lease(partition_of(made.id), "", "token")
    await store.conversations.read(OWNER, made.id)
    name = f"of {item_bytes} bytes an item"
    async with bench.step(f"a history {name} read"):
        opened = await store.turns.open(OWNER, source, lease, 10.0, [], [])
    assert len(opened.items) == size // item_bytes // at_once * at_once
    async with bench.step(f"a partition {name} copied"):
        async for _ in bench.store.copier.copy():
            pass
    await store.close()
    await bench.store.conversations.delete(OWNER, made.id)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, nargs="*", default=[8, 32])
    options = parser.parse_args()
    with valkey() as (url, _):
        await listening(url.replace("redis://", "http://"))
        async with Redis.from_url(url) as admin:
            await admin.config_set("slowlog-log-slower-than", 0)
            await admin.config_set("slowlog-max-len", LOGGED)
            for mib in options.mib:
                store = connect(url)
                bench = Bench(url, store, admin)
                for _ in range(options.rounds):
                    for step in (job, event, imported):
                        await step(bench, mib << 20)
                    for item_bytes in ITEM_BYTES:
                        await history(bench, mib << 20, item_bytes)
                    await admin.flushall()
                for name, times in bench.found.items():
                    print(f"| {name} | {mib} | {spread(times)} |", flush=True)
                await store.close()


if __name__ == "__main__":
    asyncio.run(main())
