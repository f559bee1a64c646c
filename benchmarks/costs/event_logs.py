"""What it costs to keep the events of streams: the same load with `streams.keep = "background"` and with "all".

    python -m benchmarks.streams [--clients 32] [--seconds 20]

Closed loop, every turn streamed and stored, a conversation a client and a new one after 20 turns. The two servers take
turns in blocks of two seconds, so that a machine that changes its speed changes it for both. Then one long stream is
told again, whole, as fast as it is read.
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

from benchmarks.turns import HEADERS, TEXT, Target, free_port, process, ready

TURNS = 20
BLOCK_SECONDS = 2.0
REPLAYS = 20


async def client(session: aiohttp.ClientSession, target: Target, stop: float) -> None:
    while time.monotonic() < stop:
        async with session.post(f"{target.url}/v1/conversations", headers=HEADERS) as answer:
            conversation = (await answer.json())["id"]
        body = {"model": "bench", "input": TEXT, "stream": True, "conversation": conversation}
        for _ in range(TURNS):
            start = time.perf_counter()
            async with session.post(f"{target.url}/v1/responses", json=body, headers=HEADERS) as answer:
                answer.raise_for_status()
                await answer.read()
            target.latencies.append((time.perf_counter() - start) * 1000)
            if time.monotonic() > stop:
                return


async def block(session: aiohttp.ClientSession, target: Target, clients: int, seconds: float) -> float:
    """Load one server for a while; return how long that was."""
    before, start = target.meter(), time.monotonic()
    await asyncio.gather(*(client(session, target, start + seconds) for _ in range(clients)))
    after = target.meter()
    target.cpu += after[0] - before[0]
    target.store_cpu += after[1] - before[1]
    return time.monotonic() - start


async def replay(session: aiohttp.ClientSession, url: str, words: int) -> tuple[int, int, float]:
    """Return the bytes and events of a long stream, and the seconds that telling it again takes."""
    body: dict[str, Any] = {"model": "echo", "input": " ".join(["word"] * words), "stream": True}
    async with session.post(f"{url}/v1/responses", json=body, headers=HEADERS) as answer:
        told = await answer.read()
    found = re.search(rb'"id":"(resp_\w+)"', told)
    assert found is not None
    took = []
    for _ in range(REPLAYS):
        start = time.perf_counter()
        async with session.get(f"{url}/v1/responses/{found[1].decode()}?stream=true", headers=HEADERS) as answer:
            assert await answer.read() == told
        took.append(time.perf_counter() - start)
    return len(told), told.count(b"\n\n") - 1, statistics.median(took)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    model_port, *ports = (free_port() for _ in range(4))
    model = f"http://127.0.0.1:{model_port}"
    with ExitStack() as stack:
        stack.enter_context(process("benchmarks.model", str(model_port)))
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in ports]
        targets = []
        for keep, upstream, port, folder in zip(
            ("background", "all", "all"), (f"{model}/v1", f"{model}/v1", "echo"), ports, folders, strict=True
        ):
            config = folder / "config.toml"
            config.write_text(f'[streams]\nkeep = "{keep}"\n')
            serve = ("proxy", "serve", "--config", str(config), "--upstream", upstream, "--port", str(port))
            started = stack.enter_context(process(*serve, "--data-dir", str(folder / "data")))
            targets.append(Target(keep, f"http://127.0.0.1:{port}", started.pid))
        *compared, echo = targets
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            for target in targets:
                await ready(session, target.url)
            await measure(session, compared, options.clients, options.seconds)
            size, events, took = await replay(session, echo.url, 20_000)
            print(f"{events} events told again: {took * 1000:.0f} ms, {size / took / 1e6:.0f} MB/s")


async def measure(session: aiohttp.ClientSession, targets: list[Target], clients: int, seconds: float) -> None:
    took = dict.fromkeys([target.name for target in targets], 0.0)
    for target in targets:
        await block(session, target, clients, 1.0)
        target.latencies.clear()
        target.cpu = target.store_cpu = 0.0
    for _ in range(max(1, round(seconds / BLOCK_SECONDS))):
        for target in targets:
            took[target.name] += await block(session, target, clients, BLOCK_SECONDS)
    print(f"{clients} clients, streams of 25 deltas, {seconds:.0f} s each")
    print(f"{'streams.keep':14}{'turns/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'CPU ms/turn':>13}{'store':>8}")
    for target in targets:
        count = len(target.latencies)
        print(
            f"{target.name:14}{count / took[target.name]:9.0f}{statistics.median(target.latencies):9.1f}"
            f"{statistics.quantiles(target.latencies, n=100)[98]:9.1f}{target.cpu / count * 1000:13.2f}"
            f"{target.store_cpu / count * 1000:8.2f}"
        )
    off, on = (len(target.latencies) / took[target.name] for target in targets)
    print(f"throughput with all events kept: {on / off:.3f} of that without")


if __name__ == "__main__":
    asyncio.run(main())
