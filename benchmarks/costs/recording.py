"""What recording costs: the same turns with `recording.mode` on and off, side by side.

    python -m benchmarks.costs.recording [REPEATS]

Apps resend their histories, of 1, 10, 100 and 1,000 items; for each block the processor time of proxy and store a turn,
and how long a turn took (p50). Of the turns without a history each asks something else, or (`equal`) all ask the same
and get the same answer, so that one digest leads to all of them. Then what a conversation of 100 turns takes in the
store: resent each time, and kept by its id.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import aiohttp
from redis.asyncio import Redis

from benchmarks.performance.target import Target, branchline, model_server
from benchmarks.processes import valkey
from benchmarks.servers.model import order

#: What a block is called, items that each of its requests brings, and its turns. Of `equal` ones all ask the same.
EQUAL = "1 equal"
BLOCKS = {"1": (1, 200), EQUAL: (1, 200), "10": (10, 60), "100": (100, 40), "1000": (1000, 16)}
HEADERS = {"Authorization": "Bearer sk-benchmark"}
WORDS = "a question about the weather in Rome and what to wear there "


class Block(NamedTuple):
    """One block. cpu: seconds of proxy and store a turn. p50: seconds."""

    proxy: float
    store: float
    p50: float


def message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


class App:
    """An app that keeps its history itself."""

    def __init__(
        self, http: aiohttp.ClientSession, target: Target, name: str, depth: int, *, is_equal: bool = False
    ) -> None:
        self._http, self._url, self._name, self._depth = http, f"{target.url}/v1/responses", name, depth
        self._is_equal = is_equal
        self._turns = self._asked = 0
        self.history: list[dict[str, Any]] = []

    def begin(self) -> None:
        """Begin a conversation that has a past, of which nothing is stored."""
        self._turns += 1
        self.history = [
            message("assistant" if number % 2 else "user", f"{self._name} {self._turns} {number} {WORDS}")
            for number in range(self._depth - 1)
        ]

    @property
    def _tag(self) -> str:
        return order("equal" if self._is_equal else f"{self._name}-{self._asked}")

    async def turn(self, **fields: Any) -> float:
        """Take a turn; return how long it took."""
        self._asked += 1
        self.history.append(message("user", f"{WORDS} {self._tag}"))
        started = time.perf_counter()
        body = {"model": "m", "input": self.history, **fields}
        async with self._http.post(self._url, json=body, headers=HEADERS) as response:
            answer = await response.json()
            assert response.status == 200, answer
        taken = time.perf_counter() - started
        self.history.append(message("assistant", answer["output"][0]["content"][0]["text"]))
        return taken


async def block(http: aiohttp.ClientSession, target: Target, kind: str, name: str, turns: int) -> Block:
    """Take turns one after the other; those with a history go on in one conversation."""
    depth, _ = BLOCKS[kind]
    app = App(http, target, name, depth, is_equal=kind == EQUAL)
    app.begin()
    if depth > 1:
        await app.turn()
    before, taken = target.cpu(), []
    for _ in range(turns):
        if depth == 1:
            app.begin()
        taken.append(await app.turn())
    # what is written behind the answers counts too
    await asyncio.sleep(0.1)
    used = target.cpu().since(before)
    return Block(used.proxy / turns, used.store / turns, statistics.median(taken))


async def measure(repeats: int) -> None:
    """Print a line a depth: on against off."""
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(model_server())
        http = await stack.enter_async_context(aiohttp.ClientSession())
        targets = {
            mode: await stack.enter_async_context(
                branchline(f"{model.url}/v1", mode, variables={"BRANCHLINE_RECORDING_MODE": mode})
            )
            for mode in ("off", "on")
        }
        print("  items  proxy µs off    on  ratio   store µs off   on   cpu ratio   p50 µs off     on  ratio")
        for kind, (_, turns) in BLOCKS.items():
            found: dict[str, list[Block]] = {"off": [], "on": []}
            for repeat in range(repeats + 1):
                for mode in ("off", "on") if repeat % 2 else ("on", "off"):
                    name = f"{mode}-{kind.replace(' ', '-')}-{repeat}"
                    one = await block(http, targets[mode], kind, name, turns if repeat else 5)
                    if repeat:
                        found[mode].append(one)
            off, on = (
                Block(*(statistics.median(values) * 1e6 for values in zip(*found[mode], strict=True)))
                for mode in ("off", "on")
            )
            cpu = (on.proxy + on.store) / (off.proxy + off.store)
            print(
                f"{kind:>7}  {off.proxy:12.0f} {on.proxy:5.0f} {on.proxy / off.proxy:6.2f}  {off.store:13.0f}"
                f" {on.store:4.0f}  {cpu:9.2f}  {off.p50:12.0f} {on.p50:6.0f} {on.p50 / off.p50:6.3f}"
            )
    await sizes()


async def sizes() -> None:
    """Print what a conversation of 100 turns takes in the store, resent and by its id."""
    taken = {}
    for way in ("by id", "resent"):
        async with AsyncExitStack() as stack:
            url, _ = stack.enter_context(valkey())
            model = await stack.enter_async_context(model_server())
            target = await stack.enter_async_context(
                branchline(f"{model.url}/v1", variables={"BRANCHLINE_REDIS_URL": url})
            )
            http = await stack.enter_async_context(aiohttp.ClientSession())
            app = App(http, target, "sized", 1)
            fields: dict[str, Any] = {}
            if way == "by id":
                async with http.post(f"{target.url}/v1/conversations", json={}, headers=HEADERS) as response:
                    fields["conversation"] = (await response.json())["id"]
            for _ in range(100):
                if fields:
                    app.history = []
                await app.turn(**fields)
            await asyncio.sleep(0.5)
            client = await stack.enter_async_context(Redis.from_url(url))
            keys = await client.keys("*")
            taken[way] = sum([await client.memory_usage(key, samples=0) or 0 for key in keys])
    ratio = taken["resent"] / taken["by id"]
    print(f"100 turns take {taken['by id']} bytes by id, {taken['resent']} resent: {ratio:.2f}")


if __name__ == "__main__":
    asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
