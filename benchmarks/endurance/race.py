"""Does a turn ever miss history: each client sends its next one as soon as it has seen `response.completed`.

    python -m benchmarks.endurance.race [--clients 8] [--turns 40]

A conversation a client, streamed, in front of the built-in model, which says how many items it saw.
"""

from __future__ import annotations

import argparse
import asyncio
import re

import aiohttp

from benchmarks.performance.target import branchline
from benchmarks.wire import HEADERS


async def client(session: aiohttp.ClientSession, url: str, turns: int) -> int:
    """Take turns in a new conversation; return how many did not see all that was said before."""
    missed = 0
    async with session.post(f"{url}/v1/conversations") as answer:
        conversation = (await answer.json())["id"]
    body = {"model": "echo", "input": "x", "stream": True, "conversation": conversation}
    for turn in range(turns):
        async with session.post(f"{url}/v1/responses", json=body) as answer:
            async for line in answer.content:
                if line.startswith(b'data: {"type":"response.completed"'):
                    saw = re.search(rb"I saw (\d+) earlier item", line)
                    missed += saw is None or int(saw[1]) != 2 * turn
                    break
    return missed


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--turns", type=int, default=40)
    options = parser.parse_args()
    connector = aiohttp.TCPConnector(limit=0)
    async with branchline("echo") as server, aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:
        missed = sum(
            await asyncio.gather(*(client(session, server.url, options.turns) for _ in range(options.clients)))
        )
    print(f"next turn on seeing response.completed: {missed} of {options.clients * options.turns} turns missed history")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
