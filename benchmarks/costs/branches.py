"""What an operation on a branch takes in a conversation of 10 items and of 10,000, over the store alone.

    python -m benchmarks.costs.branches [--rounds 300]

A Valkey of its own that keeps nothing, one client, one operation after the other; both lengths take turns, so that a
machine that changes its speed changes it for both. What an operation makes is deleted untimed. Last, in conversations
of 1,000 branches: a page of 100 of them, and one item.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

import orjson

from benchmarks.processes import valkey
from benchmarks.servers.model import FILLER
from proxy.protocol import ids
from storage import (
    Conversation,
    Entry,
    Fork,
    ForkPoint,
    Origin,
    PageRequest,
    Store,
    Unavailable,
    new_partition,
    partition_of,
)

OWNER = "local"
LENGTHS = 10, 10_000
BATCH = 10
BRANCHES = 1000


@dataclass(frozen=True)
class Place:
    """A conversation, and two items in its middle: a user's message and the answer to it."""

    store: Store
    id: str
    question: str
    answer: str

    async def fork(self, fork: Fork, *entries: Entry) -> None:
        await self.store.branches.create(OWNER, self.id, "base", fork, entries)

    async def forget(self, name: str) -> None:
        await self.store.branches.delete(OWNER, self.id, name)


Step: TypeAlias = Callable[[Place], Awaitable[object]]


def message(conversation_id: str, role: str) -> Entry:
    item_id = ids.new_added_item_id("message", partition_of(conversation_id))
    content = [{"type": "input_text", "text": FILLER}]
    item = {"id": item_id, "type": "message", "role": role, "status": "completed", "content": content}
    return Entry(Origin.MINTED, item_id, orjson.dumps(item))


async def nothing(_: Place) -> None:
    """Neither prepare nor clean up."""


def forking(point: ForkPoint, target: str = "answer", *, edited: bool = False) -> tuple[Step, Step, Step]:
    """Return what makes a fork of `base` the new MAIN; the MAIN before it is deleted."""

    async def run(at: Place) -> None:
        entries = [message(at.id, "user")] if edited else []
        await at.fork(Fork(point, getattr(at, target), backup="made"), *entries)

    return nothing, run, lambda at: at.forget("made")


def prepare(at: Place) -> Awaitable[None]:
    return at.fork(Fork(ForkPoint.AFTER, at.answer, name="made"))


#: What is done before, what is timed, what is done after.
OPERATIONS: dict[str, tuple[Step, Step, Step]] = {
    "fork": (nothing, prepare, lambda at: at.forget("made")),
    "edit": forking(ForkPoint.EDIT, "question", edited=True),
    "regenerate": forking(ForkPoint.REPLY),
    "delete item by branch": forking(ForkPoint.WITHOUT),
    "activate": (nothing, lambda at: at.store.branches.activate(OWNER, at.id, "base"), nothing),
    "delete branch": (prepare, lambda at: at.forget("made"), nothing),
    "compare": (nothing, lambda at: at.store.branches.compare(OWNER, at.id, "base", "MAIN", 20), nothing),
}
CROWDED: dict[str, tuple[Step, Step, Step]] = {
    "100 of 1,000 branches": (
        nothing,
        lambda at: at.store.branches.list_page(OWNER, at.id, PageRequest(100, ascending=True)),
        nothing,
    ),
    "read item, 1,000 branches": (nothing, lambda at: at.store.items.read(OWNER, at.id, at.question), nothing),
}


async def make(store: Store, length: int) -> Place:
    """Return a new conversation with a branch `base` of that many items."""
    conversation, _ = await store.conversations.create(
        OWNER, Conversation(ids.new_conversation_id(new_partition()), 0, 0), []
    )
    await store.branches.create(OWNER, conversation.id, "", Fork(ForkPoint.TIP, name="base"), [])
    middle: list[Entry] = []
    for first in range(0, length, BATCH):
        batch = [message(conversation.id, role) for role in ("user", "assistant") * (BATCH // 2)]
        await store.items.append(OWNER, conversation.id, "base", batch)
        if first <= length // 2:
            middle = batch
    return Place(store, conversation.id, middle[4].id, middle[5].id)


async def measure(places: list[Place], steps: tuple[Step, Step, Step], rounds: int) -> list[list[float]]:
    """Return the times that each place took, in ms."""
    before, run, after = steps
    times: list[list[float]] = [[] for _ in places]
    for number in range(rounds + 20):
        for place, took in zip(places, times, strict=True):
            await before(place)
            start = time.perf_counter()
            await run(place)
            if number >= 20:
                took.append((time.perf_counter() - start) * 1000)
            await after(place)
    return times


def report(name: str, times: list[list[float]]) -> None:
    (short, short_p99), (long, long_p99) = (
        (statistics.median(one), statistics.quantiles(one, n=100)[98]) for one in times
    )
    print(f"{name:28}{short:8.3f}{short_p99:8.3f}{long:12.3f}{long_p99:8.3f}{long / short:9.2f}")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    with valkey() as (url, _):
        store = Store.connect(
            url,
            prefix="bench",
            timeout_seconds=30,
            max_connections=1,
            retention_seconds=86_400,
        )
        await wait_for(store)
        places = [await make(store, length) for length in LENGTHS]
        print("ms                          10 items:  p99   10,000 items:  p99    ratio")
        for name, steps in OPERATIONS.items():
            report(name, await measure(places, steps, options.rounds))
        for place in places:
            for number in range(BRANCHES):
                await place.fork(Fork(ForkPoint.AFTER, place.answer, name=f"b{number}"))
        for name, steps in CROWDED.items():
            report(name, await measure(places, steps, options.rounds))
        await store.close()


async def wait_for(store: Store) -> None:
    """Return when the server, which was just started, answers."""
    for _ in range(200):
        try:
            return await store.condition.look()
        except Unavailable:
            await asyncio.sleep(0.05)
    raise TimeoutError("the server does not answer")


if __name__ == "__main__":
    asyncio.run(main())
