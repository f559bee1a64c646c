"""Many clients at once on one conversation and all its branches, at random; then everything they were told is checked.

    python -m benchmarks.endurance.storm [--clients 32] [--seconds 60] [--seed 1]

Two Branchlines share one Valkey; each request goes to either. Clients append, take turns (plain and streamed), fork,
edit, regenerate, delete items and branches, activate, rename, compare, list and read, while a sweep runs over and over.
Some branches a client has for itself: of those it knows each item. On the others it knows what must not be lost.
At the end: every answered write is where it belongs, once and in its order, counts are right, and the auditor of the
store finds nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

import aiohttp

from benchmarks.endurance.storm_client import Client
from benchmarks.endurance.storm_log import Log, Wire
from benchmarks.endurance.storm_verdict import judge
from benchmarks.processes import free_port, listening, process, valkey
from proxy.config.settings import Config
from storage import Store

Sweep = Callable[[], Awaitable[object]]


async def storm(
    urls: list[str], *, clients: int, seconds: float, seed: int, sweep: Sweep, least: int = 0, least_said: int = 0
) -> Log:
    """Let clients loose on a new conversation, check what is left of it, and return what happened.

    least: they go on until each operation was done so often, however slow the machine is; least_said: and until so
    much was said.
    """
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers={"Authorization": "Bearer storm"}) as session:
        log = Log()
        wire = Wire(session, urls, log, seed)
        root = {"type": "message", "role": "user", "content": "root"}
        _, made = await wire.call("POST", "/v1/conversations", {"items": [root]})
        wire = replace(wire, path=f"/v1/conversations/{made['id']}")
        end = time.monotonic() + seconds

        def is_over() -> bool:
            is_enough = min(log.done.values(), default=0) >= least and len(log.said) >= least_said
            return is_enough and time.monotonic() >= end

        workers = [Client(wire, number, seed) for number in range(clients)]
        await asyncio.gather(_keep_sweeping(sweep, log, is_over), *(worker.work(is_over) for worker in workers))
        await judge(wire, {name: kept for worker in workers for name, kept in worker.own.items()})
    return log


async def _keep_sweeping(sweep: Sweep, log: Log, is_over: Callable[[], bool]) -> None:
    while not is_over():
        await sweep()
        log.done["sweep"] += 1
        await asyncio.sleep(0.05)


def report(log: Log, seconds: float) -> None:
    """Print what was done and what was wrong."""
    total = sum(log.done.values())
    print(f"{total} operations, {total / seconds:.0f} a second")
    for name, count in sorted(log.done.items()):
        print(f"  {name:24}{count:8}")
    print("refused: " + ", ".join(f"{code} {count}" for code, count in sorted(log.refused.items())))
    print("at the end: " + ", ".join(f"{count} {name}" for name, count in log.found.items()))
    print(f"{len(log.faults)} faults")
    for fault, count in Counter(log.faults).most_common(50):
        print(f"  {count} x {fault}")


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    ports = free_port(), free_port()
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    serve = ("proxy", "serve", "--upstream", "echo", "--redis")
    with (
        valkey() as (url, _),
        process(*serve, url, "--port", str(ports[0])),
        process(*serve, url, "--port", str(ports[1])),
    ):
        for one in urls:
            await listening(one)
        store = Store.connect(
            url,
            prefix=Config().redis.prefix,
            timeout_seconds=30,
            max_connections=4,
            retention_seconds=2_592_000,
        )
        chosen = {"clients": options.clients, "seconds": options.seconds, "seed": options.seed}
        log = await storm(urls, sweep=store.sweeper.sweep_all, **chosen)
        audited = await store.auditor.audit()
        await store.sweeper.sweep_all()
        left = (await store.auditor.audit()).garbage
        await store.close()
    log.faults += [f"the auditor: {complaint}" for complaint in audited.complaints]
    log.faults += [f"not swept: {count} {name}" for name, count in left.items() if count]
    report(log, options.seconds)
    return 1 if log.faults else 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
