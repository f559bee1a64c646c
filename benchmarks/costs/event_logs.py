"""What it costs to keep the events of streams: the same load with `streams.keep = "background"` and with "all".

    python -m benchmarks.costs.event_logs [--clients 32] [--seconds 20]

Closed loop, every turn streamed and stored, each on its own. The two servers take turns in blocks of two seconds, so
that a machine that changes its speed changes it for both. Then one long stream is told again, whole, as fast as it is
read.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from contextlib import AsyncExitStack

import orjson
import uvloop

from benchmarks.performance.streams import open_used, run_streams
from benchmarks.performance.target import Cpu, Target, branchline, model_server
from benchmarks.wire import connected

DELTAS = 25
BLOCK_SECONDS = 2.0
REPLAYS = 20


async def block(target: Target, clients: int, seconds: float) -> tuple[int, float, Cpu]:
    """Load one server for a while; return how many streams it made, how long that was, and what it used."""
    async with open_used(target, clients) as connections:
        before, start = target.cpu(), time.monotonic()
        made = 0
        while time.monotonic() < start + seconds:
            await run_streams(target, connections, f"keep-{made}", DELTAS, 0)
            made += clients
    return made, time.monotonic() - start, target.cpu().since(before)


async def compare(targets: list[Target], clients: int, seconds: float) -> None:
    took: dict[str, list[tuple[int, float, Cpu]]] = {target.name: [] for target in targets}
    for target in targets:
        await block(target, clients, 1.0)
    for _ in range(max(1, round(seconds / BLOCK_SECONDS))):
        for target in targets:
            took[target.name].append(await block(target, clients, BLOCK_SECONDS))
    print(f"{clients} clients, streams of {DELTAS} deltas, {seconds:.0f} s each")
    print(f"{'streams.keep':14}{'streams/s':>10}{'CPU ms each':>13}{'store':>8}")
    rates = []
    for name, blocks in took.items():
        made = sum(each[0] for each in blocks)
        rates.append(made / sum(each[1] for each in blocks))
        proxy, store = (sum(each[2][index] for each in blocks) * 1000 / made for index in (0, 1))
        print(f"{name:14}{rates[-1]:10.0f}{proxy:13.2f}{store:8.2f}")
    print(f"throughput with all events kept: {rates[1] / rates[0]:.3f} of that without")


async def replay(url: str, words: int) -> None:
    """Print the events of a long stream, and how fast it is told again."""
    body = orjson.dumps({"model": "echo", "input": " ".join(["word"] * words), "stream": True})
    took = []
    async with connected(url, 1) as (connection,):
        told = (await connection.request("POST", "/v1/responses", body)).body
        found = re.search(rb'"id":"(resp_\w+)"', told)
        assert found is not None
        for _ in range(REPLAYS):
            start = time.perf_counter()
            again = await connection.request("GET", f"/v1/responses/{found[1].decode()}?stream=true")
            assert again.body == told
            took.append(time.perf_counter() - start)
    seconds = statistics.median(took)
    events = told.count(b"\n\n") - 1
    print(f"{events} events told again: {seconds * 1000:.0f} ms, {len(told) / seconds / 1e6:.0f} MB/s")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(model_server())
        compared = [
            await stack.enter_async_context(
                branchline(f"{model.url}/v1", keep, variables={"BRANCHLINE_STREAMS_KEEP": keep})
            )
            for keep in ("background", "all")
        ]
        echo = await stack.enter_async_context(branchline("echo", variables={"BRANCHLINE_STREAMS_KEEP": "all"}))
        await compare(compared, options.clients, options.seconds)
        await replay(echo.url, 20_000)


if __name__ == "__main__":
    uvloop.run(main())
