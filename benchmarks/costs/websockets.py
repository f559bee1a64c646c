"""WebSocket connections: what an idle one takes in memory, and what a turn on one costs beside a stream over HTTP.

    python -m benchmarks.websockets [--connections 1000] [--turns 300]

Memory is the proxy's own (VmRSS), divided by the connections: when they are open, and when each has taken one turn.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack

import aiohttp
import orjson

from benchmarks.load import memory_mb
from benchmarks.turns import HEADERS, TEXT, cpu_seconds, free_port, process, ready

#: Connections that take their turn at the same time.
AT_ONCE = 20
CREATE = orjson.dumps({"type": "response.create", "model": "bench", "input": TEXT}).decode()


async def turn(socket: aiohttp.ClientWebSocketResponse) -> None:
    await socket.send_str(CREATE)
    while '"type":"response.completed"' not in (await socket.receive_str())[:100]:
        pass


async def stream(session: aiohttp.ClientSession, url: str) -> None:
    body = {"model": "bench", "input": TEXT, "stream": True}
    async with session.post(f"{url}/v1/responses", json=body, headers=HEADERS) as answer:
        answer.raise_for_status()
        await answer.read()


async def weigh(session: aiohttp.ClientSession, url: str, pid: int, count: int, compress: int) -> tuple[float, float]:
    """Return KB a connection when all are open, and when each has taken a turn."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(socket: aiohttp.ClientWebSocketResponse) -> None:
        async with slots:
            await turn(socket)

    async with AsyncExitStack() as stack:
        before = memory_mb(pid)
        sockets = []
        for _ in range(count):
            socket = session.ws_connect(f"{url}/v1/responses", headers=HEADERS, compress=compress)
            sockets.append(await stack.enter_async_context(socket))
        idle = memory_mb(pid)
        await asyncio.gather(*map(one, sockets))
        used = memory_mb(pid)
    return (idle - before) * 1024 / count, (used - before) * 1024 / count


async def cost(session: aiohttp.ClientSession, url: str, pid: int, turns: int) -> None:
    """Print what turns take one after the other, over HTTP and on one connection."""
    connect = {"WebSocket": 0, "WebSocket, compressed": 15}
    async with AsyncExitStack() as stack:
        sockets = {
            name: await stack.enter_async_context(
                session.ws_connect(f"{url}/v1/responses", headers=HEADERS, compress=bits)
            )
            for name, bits in connect.items()
        }
        for name in ("HTTP stream", *sockets):
            took = []
            before = cpu_seconds(pid)
            for _ in range(turns):
                start = time.perf_counter()
                await (turn(sockets[name]) if name in sockets else stream(session, url))
                took.append((time.perf_counter() - start) * 1000)
            cpu = (cpu_seconds(pid) - before) * 1000 / turns
            p99 = statistics.quantiles(took, n=100)[98]
            print(f"{name:24} p50 {statistics.median(took):6.2f} ms   p99 {p99:6.2f} ms   CPU {cpu:5.2f} ms/turn")


async def serve(stack: ExitStack, session: aiohttp.ClientSession, model: str) -> tuple[str, int]:
    """Start a proxy that has had something to do; return its URL and process id."""
    port, folder = free_port(), stack.enter_context(tempfile.TemporaryDirectory())
    command = ("serve", "--upstream", f"{model}/v1", "--port", str(port), "--data-dir", folder)
    server = stack.enter_context(process("proxy", *command))
    url = f"http://127.0.0.1:{port}"
    await ready(session, url)
    for _ in range(AT_ONCE):
        await stream(session, url)
    return url, server.pid


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=300)
    options = parser.parse_args()
    with ExitStack() as stack:
        port = free_port()
        stack.enter_context(process("benchmarks.model", str(port)))
        model = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await ready(session, model)
            # A process each: memory that one row leaves would be used again by the next.
            for name, compress in (("plain", 0), ("compressed", 15)):
                url, pid = await serve(stack, session, model)
                idle, used = await weigh(session, url, pid, options.connections, compress)
                print(f"{options.connections} connections, {name:12}{idle:6.1f} KB idle{used:8.1f} KB after a turn")
            url, pid = await serve(stack, session, model)
            await cost(session, url, pid, options.turns)


if __name__ == "__main__":
    asyncio.run(main())
