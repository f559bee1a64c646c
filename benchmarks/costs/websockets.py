"""WebSocket connections: what an idle one takes in memory, and what a turn on one costs beside a stream over HTTP.

    python -m benchmarks.costs.websockets [--connections 1000] [--turns 300]

Memory is the proxy's own (VmRSS), divided by the connections: when they are open, and when each has taken one turn.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from contextlib import AsyncExitStack

import aiohttp
import orjson

from benchmarks.performance.target import Target, branchline, model_server
from benchmarks.servers.model import FILLER, order
from benchmarks.wire import HEADERS

#: Connections that take their turn at the same time.
AT_ONCE = 20
TEXT = FILLER + order("websocket", 25)
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


async def weigh(session: aiohttp.ClientSession, server: Target, count: int, compress: int) -> tuple[float, float]:
    """Return KB a connection when all are open, and when each has taken a turn."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(socket: aiohttp.ClientWebSocketResponse) -> None:
        async with slots:
            await turn(socket)

    async with AsyncExitStack() as stack:
        before = server.memory_bytes()
        sockets = []
        for _ in range(count):
            socket = session.ws_connect(f"{server.url}/v1/responses", headers=HEADERS, compress=compress)
            sockets.append(await stack.enter_async_context(socket))
        idle = server.memory_bytes()
        await asyncio.gather(*map(one, sockets))
        used = server.memory_bytes()
    return (idle - before) / 1024 / count, (used - before) / 1024 / count


async def cost(session: aiohttp.ClientSession, server: Target, turns: int) -> None:
    """Print what turns take one after the other, over HTTP and on one connection."""
    connect = {"WebSocket": 0, "WebSocket, compressed": 15}
    async with AsyncExitStack() as stack:
        sockets = {
            name: await stack.enter_async_context(
                session.ws_connect(f"{server.url}/v1/responses", headers=HEADERS, compress=bits)
            )
            for name, bits in connect.items()
        }
        for name in ("HTTP stream", *sockets):
            took = []
            before = server.cpu()
            for _ in range(turns):
                start = time.perf_counter()
                await (turn(sockets[name]) if name in sockets else stream(session, server.url))
                took.append((time.perf_counter() - start) * 1000)
            cpu = server.cpu().since(before).proxy * 1000 / turns
            p99 = statistics.quantiles(took, n=100)[98]
            print(f"{name:24} p50 {statistics.median(took):6.2f} ms   p99 {p99:6.2f} ms   CPU {cpu:5.2f} ms/turn")


async def serve(stack: AsyncExitStack, session: aiohttp.ClientSession, model: str) -> Target:
    """Start a proxy that has had something to do."""
    server = await stack.enter_async_context(branchline(f"{model}/v1"))
    for _ in range(AT_ONCE):
        await stream(session, server.url)
    return server


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=300)
    options = parser.parse_args()
    connector = aiohttp.TCPConnector(limit=0)
    async with AsyncExitStack() as stack, aiohttp.ClientSession(connector=connector) as session:
        model = (await stack.enter_async_context(model_server())).url
        # A process each: memory that one row leaves would be used again by the next.
        for name, compress in (("plain", 0), ("compressed", 15)):
            server = await serve(stack, session, model)
            idle, used = await weigh(session, server, options.connections, compress)
            print(f"{options.connections} connections, {name:12}{idle:6.1f} KB idle{used:8.1f} KB after a turn")
        await cost(session, await serve(stack, session, model), options.turns)


if __name__ == "__main__":
    asyncio.run(main())
