"""Mixed load with faults for as long as asked: what came of it, and what the servers took, over time.

    python -m benchmarks.soak --minutes 20 [--clients 8] [--seed 1] [--every 30]

The load, the faults and what is checked are those of `benchmarks.faults.consistency`. Each line: seconds since the
beginning, writes that were acknowledged, those that were refused or not heard of, conversations that were checked,
what was lost or doubled or otherwise wrong, conversations that could not be gone on with, and of each replica memory,
descriptors and asyncio tasks (`-` while it is down; one that was killed begins anew).
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from benchmarks.faults.consistency import SETTINGS, Log, Run, clients_of, report
from benchmarks.faults.history import Told
from benchmarks.faults.world import Replica, World, running_world
from benchmarks.processes import memory_bytes

MEBIBYTE = 1024 * 1024
HEAD = (
    "seconds    done refused unheard checked  lost doubled other stuck | store MiB | replicas: MiB, descriptors, tasks"
)


def kinds(log: Log) -> dict[str, int]:
    """Count what was wrong by what it means for who was told otherwise."""
    found = dict.fromkeys(("lost", "doubled", "other", "stuck"), 0)
    for wrong in log.wrong:
        if "is lost" in wrong or "can't be read" in wrong:
            found["lost"] += 1
        elif " times" in wrong or "was refused and is there" in wrong:
            found["doubled"] += 1
        elif "stuck" in wrong:
            found["stuck"] += 1
        else:
            found["other"] += 1
    return found


async def counted(replica: Replica) -> str:
    try:
        census = await replica.count()
    except OSError:
        return "-"
    return f"{census.memory_bytes / MEBIBYTE:.0f}, {census.descriptors}, {census.tasks}"


async def line(world: World, log: Log, seconds: float) -> str:
    """Return how things stand."""
    wrong = kinds(log)
    store = memory_bytes(world.store.pid) / MEBIBYTE if world.store.pid else 0
    replicas = "; ".join([await counted(one) for one in world.replicas])
    counts = [log.outcomes[Told.DONE], log.outcomes[Told.REFUSED], log.outcomes[Told.UNKNOWN], log.conversations]
    return (
        f"{seconds:7.0f} {counts[0]:7} {counts[1]:7} {counts[2]:7} {counts[3]:7} {wrong['lost']:5} "
        f"{wrong['doubled']:7} {wrong['other']:5} {wrong['stuck']:5} | {store:9.0f} | {replicas}"
    )


async def tell(world: World, run: Run, every: float) -> None:
    """Print a line every so many seconds."""
    began = time.monotonic()
    print(HEAD, flush=True)
    while True:
        print(await line(world, run.log, time.monotonic() - began), flush=True)
        await asyncio.sleep(every)


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, default=30.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="branchline-soak-") as folder:
        async with running_world(Path(folder), SETTINGS) as world, clients_of(world, options.seed) as run:
            telling = asyncio.create_task(tell(world, run, options.every))
            await run.work(options.clients, options.minutes * 60)
            telling.cancel()
            print(await line(world, run.log, options.minutes * 60))
    report(run.log)
    return 1 if run.log.wrong else 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
