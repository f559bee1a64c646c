"""What the page's reads take in a conversation of 5,000 items, and in one of 200 branches, over the store alone.

    python -m benchmarks.costs.views [--rounds 200]

A Valkey of its own that keeps nothing, one client, one screen after the other. A screen's reads go out together, so
each line is what one round trip or two take, with the decoding of what comes back. Bar: half a second a screen.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from benchmarks.costs.branches import OWNER, make, message, wait_for
from benchmarks.processes import valkey
from storage import Fork, ForkPoint, Store, WatchedBranch, WindowRequest

#: Items of the one conversation, branches of the other, and items that each of these has for itself.
ITEMS = 5_000
BRANCHES = 200
OWN_ITEMS = 4
#: Seconds that a screen may take.
BAR_SECONDS = 0.5


async def make_forest(store: Store) -> tuple[str, str]:
    """Return the id of a conversation of many branches, each forked from the one before, and its newest branch."""
    place = await make(store, 20)
    fork_at, parent = place.answer, "base"
    for number in range(BRANCHES):
        entries = [message(place.id, role) for role in ("user", "assistant") * (OWN_ITEMS // 2)]
        fork = Fork(ForkPoint.AFTER, fork_at, name=f"b{number}")
        await store.branches.create(OWNER, place.id, parent, fork, entries)
        # of each ten branches one is the child of the one before, and so ever deeper
        if number % 10 == 0:
            fork_at, parent = entries[1].id, fork.name
    return place.id, parent


async def timed(run: Callable[[], Awaitable[object]], rounds: int) -> list[float]:
    """Return what a screen took each time, in ms."""
    times = []
    for number in range(rounds + 10):
        start = time.perf_counter()
        await run()
        if number >= 10:
            times.append((time.perf_counter() - start) * 1000)
    return times


def screens(store: Store, conversation_id: str, branch: str, middle: str) -> dict[str, Callable[[], Awaitable[object]]]:
    """Return what each screen of a conversation reads. middle: an item in its middle."""

    async def conversation(wanted: WindowRequest) -> None:
        await asyncio.gather(
            store.conversations.read(OWNER, conversation_id),
            store.branches.graph(OWNER, conversation_id),
            store.items.window(OWNER, conversation_id, wanted),
        )

    async def branches() -> None:
        _, graph = await asyncio.gather(
            store.conversations.read(OWNER, conversation_id), store.branches.graph(OWNER, conversation_id)
        )
        spans = [span for one in graph.branches for span in one.chain][:1000]
        await store.items.excerpts(OWNER, conversation_id, spans)

    async def search() -> None:
        after = None
        while True:
            scan = await store.items.scan(OWNER, conversation_id, after)
            if (after := scan.after) is None:
                return

    return {
        "conversation at its tip": lambda: conversation(WindowRequest(branch)),
        "around an item": lambda: conversation(WindowRequest(branch, around=middle)),
        "branches": branches,
        "search through all of it": search,
        "a look of 100 watchers": lambda: store.watching.look([WatchedBranch(OWNER, conversation_id, branch)] * 100),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    with valkey() as (url, _):
        store = Store.connect(url, prefix="bench", timeout_seconds=30, max_connections=1, retention_seconds=86_400)
        await wait_for(store)
        long = await make(store, ITEMS)
        forest, deepest = await make_forest(store)
        first = (await store.items.window(OWNER, forest, WindowRequest(deepest, limit=1))).items[0].id
        places = {f"{ITEMS:,} items": (long.id, "base", long.answer), f"{BRANCHES} branches": (forest, deepest, first)}
        print("ms                                                 median     p99")
        slow = 0
        for name, place in places.items():
            for screen, run in screens(store, *place).items():
                times = await timed(run, options.rounds)
                worst = statistics.quantiles(times, n=100)[98]
                slow += worst > BAR_SECONDS * 1000
                print(f"{name:16}{screen:32}{statistics.median(times):8.2f}{worst:8.2f}")
        await store.close()
    raise SystemExit(1 if slow else 0)


if __name__ == "__main__":
    asyncio.run(main())
