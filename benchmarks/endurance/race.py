"""Many clients at once: turns a second, and whether any turn misses what came before it.

    python -m benchmarks.load [--clients 32] [--seconds 15]

Closed loop, a conversation a client, a new one after 20 turns; the same load on the bare pass-through and on the model
server itself. Then the same against the built-in model, which says how much history it saw: each client sends its
next turn as soon as it has seen `response.completed`, and every turn must have seen all earlier ones.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from benchmarks.turns import HEADERS, TEXT, cpu_seconds, free_port, message, process, ready

TURNS = 20


async def client(session: aiohttp.ClientSession, url: str, stop: float, took: list[float], *, stateful: bool) -> None:
    while time.monotonic() < stop:
        body: dict[str, Any] = {"model": "bench", "input": TEXT}
        if stateful:
            async with session.post(f"{url}/v1/conversations", headers=HEADERS) as answer:
                body["conversation"] = (await answer.json())["id"]
        for i in range(TURNS):
            if not stateful:
                body["input"] = [message(k) for k in range(2 * i + 1)]
            start = time.perf_counter()
            async with session.post(f"{url}/v1/responses", data=orjson.dumps(body), headers=HEADERS) as answer:
                answer.raise_for_status()
                await answer.read()
            took.append((time.perf_counter() - start) * 1000)
            if time.monotonic() > stop:
                return


async def load(url: str, clients: int, seconds: float, *, stateful: bool) -> tuple[float, float, float]:
    """Return turns a second, p50 and p99 in ms."""
    took: list[float] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        stop = time.monotonic() + seconds
        await asyncio.gather(*(client(session, url, stop, took, stateful=stateful) for _ in range(clients)))
    return len(took) / seconds, statistics.median(took), statistics.quantiles(took, n=100)[98]


async def race(url: str, clients: int, turns: int) -> tuple[int, int]:
    """Return how many turns were taken and how many did not see all turns before them."""

    async def one(session: aiohttp.ClientSession) -> int:
        missed = 0
        async with session.post(f"{url}/v1/conversations", headers=HEADERS) as answer:
            conversation = (await answer.json())["id"]
        for i in range(turns):
            body = {"model": "echo", "input": "x", "stream": True, "conversation": conversation}
            async with session.post(f"{url}/v1/responses", json=body, headers=HEADERS) as answer:
                async for line in answer.content:
                    if line.startswith(b'data: {"type":"response.completed"'):
                        saw = re.search(rb"I saw (\d+) earlier item", line)
                        missed += saw is None or int(saw[1]) != 2 * i
                        break
        return missed

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        missed = await asyncio.gather(*(one(session) for _ in range(clients)))
    return clients * turns, sum(missed)


def memory_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args()
    ports = [free_port() for _ in range(4)]
    model, bare, ours, echo = (f"http://127.0.0.1:{port}" for port in ports)
    with ExitStack() as stack:
        folders = [stack.enter_context(tempfile.TemporaryDirectory()) for _ in range(2)]
        direct = stack.enter_context(process("benchmarks.model", str(ports[0])))
        passing = stack.enter_context(process("benchmarks.bare", str(ports[1]), model))
        serve = ("proxy", "serve", "--upstream")
        branchline = stack.enter_context(
            process(*serve, f"{model}/v1", "--port", str(ports[2]), "--data-dir", folders[0])
        )
        stack.enter_context(process(*serve, "echo", "--port", str(ports[3]), "--data-dir", folders[1]))
        async with aiohttp.ClientSession() as session:
            for url in (model, bare, ours, echo):
                await ready(session, url)
        print(f"{options.clients} clients, {options.seconds:.0f} s each")
        targets = ("direct", model, direct), ("bare", bare, passing), ("branchline", ours, branchline)
        for name, url, server in targets:
            before = cpu_seconds(server.pid)
            rate, p50, p99 = await load(url, options.clients, options.seconds, stateful=url == ours)
            cpu = (cpu_seconds(server.pid) - before) / rate / options.seconds * 1000
            print(f"{name:12}{rate:8.0f} turns/s   p50 {p50:7.1f} ms   p99 {p99:7.1f} ms   CPU {cpu:6.2f} ms/turn")
        print(f"branchline's memory afterwards: {memory_mb(branchline.pid):.0f} MB")
        turns, missed = await race(echo, 8, 40)
        print(f"next turn on seeing response.completed: {missed} of {turns} turns missed history")


if __name__ == "__main__":
    asyncio.run(main())
