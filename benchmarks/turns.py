"""What a stored turn costs: latency over the upstream itself, CPU over a bare pass-through of the same bytes.

    python -m benchmarks.turns [--turns 200] [--histories 0,100,1000]

Four processes on this machine: a model server that costs nothing, a bare aiohttp pass-through, Branchline with its
embedded Valkey (every commit on disk), and this client, which sends one turn after the other. The targets take turns
in blocks of 20, so that a machine that changes its speed changes it for all. To the model server and the bare proxy
the client sends the whole history itself; Branchline adds it: the upstream reads the same bytes in all three cases.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

BLOCK = 20
TEXT = "The quick brown fox jumps over the lazy dog. " * 9
HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer bench"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield started
    finally:
        started.terminate()
        started.wait(30)


def cpu_seconds(pid: int) -> float:
    """Return the time that a process's threads have run, to the nanosecond (`/proc/PID/stat` knows 10 ms only)."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@dataclass
class Target:
    """Where turns are sent, and what they took. latencies in ms, cpu in seconds."""

    name: str
    url: str
    pid: int
    latencies: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    cpu: float = 0.0
    store_cpu: float = 0.0

    def meter(self) -> tuple[float, float]:
        return cpu_seconds(self.pid), sum(cpu_seconds(child) for child in children(self.pid))


async def ready(session: aiohttp.ClientSession, url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            async with session.get(url):
                return
        except aiohttp.ClientError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)


def message(i: int) -> dict[str, Any]:
    if i % 2 == 0:
        return {
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_text", "text": TEXT}],
        }
    return {
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": TEXT, "annotations": [], "logprobs": []}],
    }


async def new_conversation(session: aiohttp.ClientSession, url: str, history: int) -> str:
    async with session.post(f"{url}/v1/conversations", headers=HEADERS) as answer:
        conversation: str = (await answer.json())["id"]
    for start in range(0, history, 20):
        items = [message(i) for i in range(start, min(start + 20, history))]
        path = f"{url}/v1/conversations/{conversation}/items"
        async with session.post(path, data=orjson.dumps({"items": items}), headers=HEADERS) as answer:
            answer.raise_for_status()
    return conversation


async def turn(session: aiohttp.ClientSession, target: Target, body: bytes) -> None:
    start = time.perf_counter()
    first = 0.0
    async with session.post(f"{target.url}/v1/responses", data=body, headers=HEADERS) as answer:
        async for _ in answer.content.iter_any():
            first = first or time.perf_counter()
        if answer.status != 200:
            raise RuntimeError(f"{target.name} answered {answer.status}")
    target.latencies.append((time.perf_counter() - start) * 1000)
    target.firsts.append((first - start) * 1000)


async def block(session: aiohttp.ClientSession, target: Target, history: int, *, stream: bool) -> None:
    """Send BLOCK turns; a conversation starts the block with `history` items and grows by two a turn."""
    fields = {"model": "bench", "stream": stream}
    bodies: list[bytes] = []
    if target.name == "branchline":
        conversation = await new_conversation(session, target.url, history)
        bodies = [orjson.dumps({**fields, "conversation": conversation, "input": TEXT})] * BLOCK
    else:
        for i in range(BLOCK):
            bodies.append(orjson.dumps({**fields, "input": [message(k) for k in range(history + 2 * i + 1)]}))
    before = target.meter()
    for body in bodies:
        await turn(session, target, body)
    after = target.meter()
    target.cpu += after[0] - before[0]
    target.store_cpu += after[1] - before[1]


def report(title: str, targets: list[Target]) -> None:
    direct, bare, _ = targets
    print(f"\n{title}")
    columns = ("p50 ms", 9), ("p99 ms", 9), ("added p50", 11), ("first byte", 12), ("CPU ms/turn", 13), ("/ bare", 8)
    print(" " * 12 + "".join(f"{name:>{width}}" for name, width in columns) + f"{'store':>8}")
    for target in targets:
        count = len(target.latencies)
        p50 = statistics.median(target.latencies)
        p99 = statistics.quantiles(target.latencies, n=100)[98]
        print(
            f"{target.name:12}{p50:9.2f}{p99:9.2f}{p50 - statistics.median(direct.latencies):11.2f}"
            f"{statistics.median(target.firsts):12.2f}{target.cpu / count * 1000:13.2f}{target.cpu / bare.cpu:8.2f}"
            f"{target.store_cpu / count * 1000:8.2f}"
        )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--histories", default="0,100,1000")
    options = parser.parse_args()
    ports = [free_port() for _ in range(3)]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    with (
        tempfile.TemporaryDirectory() as data,
        process("benchmarks.model", str(ports[0])) as model,
        process("benchmarks.bare", str(ports[1]), urls[0]) as bare,
        process("proxy", "serve", "--port", str(ports[2]), "--upstream", f"{urls[0]}/v1", "--data-dir", data) as ours,
    ):
        async with aiohttp.ClientSession() as session:
            for url in urls:
                await ready(session, url)
            names = [("direct", model), ("bare", bare), ("branchline", ours)]
            for stream in (False, True):
                for history in map(int, options.histories.split(",")):
                    targets = [Target(name, url, one.pid) for (name, one), url in zip(names, urls, strict=True)]
                    for target in targets:
                        await block(session, target, history, stream=stream)
                        target.latencies.clear()
                        target.firsts.clear()
                        target.cpu = target.store_cpu = 0.0
                    for _ in range(options.turns // BLOCK):
                        for target in targets:
                            await block(session, target, history, stream=stream)
                    report(f"history of {history} items, {'streamed' if stream else 'plain'}", targets)


if __name__ == "__main__":
    asyncio.run(main())
