"""What a background response costs while it waits: memory of the replica and of its Valkey for each.

    python -m benchmarks.costs.waiting [--jobs 1000] [--concurrency 16]

The model server answers nobody, so `concurrency` responses run and wait for it; all others wait in the queue. Each is
made in a conversation of its own, whose lock is renewed all the while.
"""

from __future__ import annotations

import argparse
import asyncio
import time

import aiohttp
from aiohttp import web

from benchmarks.performance.target import Target, branchline
from benchmarks.processes import memory_bytes
from benchmarks.wire import HEADERS

#: Requests that are sent at the same time.
AT_ONCE = 16
#: Seconds over which the CPU of the idle replica is measured.
IDLE_SECONDS = 10.0


async def answer_nobody(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    return web.Response()


async def submit(session: aiohttp.ClientSession, url: str) -> None:
    async with session.post(f"{url}/v1/conversations", json={}) as made:
        conversation = (await made.json())["id"]
    body = {"model": "m", "input": "hello " * 100, "background": True, "conversation": conversation}
    async with session.post(f"{url}/v1/responses", json=body) as answer:
        if (await answer.json())["status"] != "queued":
            raise RuntimeError(await answer.text())


async def fill(session: aiohttp.ClientSession, url: str, count: int) -> float:
    """Begin so many responses; return how many were accepted a second."""
    start = time.perf_counter()
    left = iter(range(count))

    async def client() -> None:
        for _ in left:
            await submit(session, url)

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return count / (time.perf_counter() - start)


async def measure(replica: Target, jobs: int) -> None:
    async with aiohttp.ClientSession(headers=HEADERS) as session:
        await fill(session, replica.url, jobs // 10)
        (store,) = replica.stores
        before = replica.memory_bytes(), memory_bytes(store)
        rate = await fill(session, replica.url, jobs)
        await asyncio.sleep(1)
        after = replica.memory_bytes(), memory_bytes(store)
        used = replica.cpu()
        await asyncio.sleep(IDLE_SECONDS)
        idle = replica.cpu().since(used).proxy / IDLE_SECONDS
    print(f"{jobs} background responses accepted, {rate:.0f} a second, each with a conversation")
    print(
        f"memory of the replica: {(after[0] - before[0]) / jobs / 1024:.1f} kB each, {after[0] / 2**20:.0f} MB in all"
    )
    print(f"memory of its Valkey: {(after[1] - before[1]) / jobs / 1024:.1f} kB each")
    print(f"CPU of the replica while they wait: {idle:.1%}")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=16)
    options = parser.parse_args()
    app = web.Application()
    app.add_routes([web.post("/v1/responses", answer_nobody)])
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    upstream = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    limits = {
        "BRANCHLINE_BACKGROUND_CONCURRENCY": str(options.concurrency),
        "BRANCHLINE_SERVER_SHUTDOWN_TIMEOUT_SECONDS": "0",
    }
    async with branchline(upstream, variables=limits) as replica:
        await measure(replica, options.jobs)
        # those that wait for an answer would hold the replica's end up
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
