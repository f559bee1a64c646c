"""Streams: what a delta costs, how long it is held up, how soon the first byte comes, what an open stream takes.

Each stream is a stored turn of its own; its deltas are sent at even intervals, and say when they were sent.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import orjson

from benchmarks.performance.load import WrongAnswer, interleaved, question
from benchmarks.performance.statistics import Samples, percentile
from benchmarks.performance.target import Target
from benchmarks.servers.model import delta_text, expected_text
from benchmarks.wire import Connection, connected, together

#: Between the beginnings of two of many streams: what is measured is that they run at once, not that they begin so.
APART_SECONDS = 0.002

_STAMP = re.compile(rb'"delta":\s?"(\d{16}) "')
_COMPLETED = re.compile(rb'^data: ?(\{.*"type":\s?"response\.completed".*\})\r?$', re.MULTILINE)


@dataclass(frozen=True)
class StreamsPlan:
    """How much is done. gaps_us: by how many streams at once, microseconds between two deltas. repeats: by the same.

    for_peers: most streams at once that peers get. openings: how often `opened` streams are begun at once.
    """

    deltas: int = 300
    gaps_us: tuple[tuple[int, int], ...] = ((1, 2_000), (100, 12_000), (1_000, 50_000), (2_000, 100_000))
    repeats: tuple[tuple[int, int], ...] = ((1, 7), (100, 5), (1_000, 3), (2_000, 2))
    for_peers: int = 1_000
    opened: int = 50
    openings: int = 15


class _Listener:
    """One stream, read as it comes. delays in microseconds; first: when the first byte came."""

    def __init__(self) -> None:
        self.delays: list[int] = []
        self.first = 0.0
        self._stamps: list[int] = []
        self._kept = b""

    def take(self, piece: bytes) -> None:
        """Read a piece of the body, cut anywhere."""
        now = time.monotonic_ns() // 1000
        self.first = self.first or time.perf_counter()
        data = self._kept + piece
        end = data.rfind(b"\n\n") + 1
        for match in _STAMP.finditer(data, 0, end):
            stamp = int(match[1])
            self._stamps.append(stamp)
            self.delays.append(now - stamp)
        # the last event is looked at when all is over
        self._kept = data[end:] if b"response.completed" not in data else data

    def check(self, target: Target, tag: str, deltas: int) -> None:
        """Raises WrongAnswer unless every delta came once, in order, and the response says the same."""
        told = "".join(map(delta_text, self._stamps))
        found = _COMPLETED.search(self._kept)
        if found is None or len(self._stamps) != deltas - 1:
            raise WrongAnswer(
                f"{target.name}: {len(self._stamps) + 1} of {deltas} deltas, completed: {found is not None}"
            )
        text = orjson.loads(found[1])["response"]["output"][-1]["content"][0]["text"]
        if not text.startswith(expected_text(tag, 1)) or not text.endswith("]] " + told):
            raise WrongAnswer(f"{target.name}: the deltas of {tag} are not its text, which is {text[:80]!r}")


@dataclass
class Round:
    """What several streams at once took: until their first bytes came, how long each delta was on its way, in all."""

    firsts_ms: list[float]
    delays_us: list[int]
    seconds: float = 0.0


@asynccontextmanager
async def open_used(target: Target, count: int) -> AsyncIterator[list[Connection]]:
    """Open connections, and have each used once: what is measured are streams, not connections."""
    async with connected(target.url, count) as connections:
        for some in range(0, count, 50):
            await together(*(_use(each) for each in connections[some : some + 50]))
        yield connections


async def _use(connection: Connection) -> None:
    await connection.request("GET", "/v1/models")


async def run_streams(
    target: Target, connections: Sequence[Connection], name: str, deltas: int, gap_us: int, apart: float = 0.0
) -> Round:
    """Run a stream a connection, begun so many seconds apart, and check every delta. Raises WrongAnswer."""
    took = Round([], [])

    async def one(number: int, connection: Connection) -> None:
        tag, listener = f"{name}-{number}", _Listener()
        await asyncio.sleep(number * apart)
        body = b'{"model":"bench","stream":true,"input":[%s]}' % question(tag, deltas=deltas, gap_us=gap_us)
        start = time.perf_counter()
        answer = await connection.request("POST", "/v1/responses", body, listener.take)
        if answer.status != 200:
            raise WrongAnswer(f"{target.name}: {answer.status} {answer.body[:300]!r}")
        listener.check(target, tag, deltas)
        took.firsts_ms.append((listener.first - start) * 1000)
        took.delays_us += listener.delays

    start = time.perf_counter()
    await together(*(one(number, connection) for number, connection in enumerate(connections)))
    took.seconds = time.perf_counter() - start
    return took


async def measure_streams(samples: Samples, targets: Sequence[Target], plan: StreamsPlan) -> dict[str, str]:
    """Run so many streams at once, from few to many; returns which targets failed and why.

    Memory is what a server has more than before its first stream, when half the time of the streams is over.
    """
    failed: dict[str, str] = {}
    idle: dict[str, int] = {}
    for count, gap_us in plan.gaps_us:
        left = [
            target
            for target in targets
            if target.name not in failed and (target.must or count <= (plan.for_peers if target.share == 1 else 1))
        ]
        failed |= await interleaved(
            left, dict(plan.repeats)[count], partial(_at_once, samples, plan.deltas, idle, count, gap_us)
        )
    return failed


async def _at_once(
    samples: Samples, deltas: int, idle: dict[str, int], count: int, gap_us: int, target: Target, repeat: int
) -> None:
    await _warm_up(target)
    idle.setdefault(target.name, target.memory_bytes())
    async with open_used(target, count) as connections:
        before = target.cpu()
        name = f"s{count}-{repeat}"
        running = asyncio.ensure_future(run_streams(target, connections, name, deltas, gap_us, APART_SECONDS))
        try:
            await asyncio.wait([running], timeout=deltas * gap_us / 2e6)
            memory = target.memory_bytes() - idle[target.name]
            took = await running
        finally:
            running.cancel()
        used = target.cpu().since(before)
    samples.add(
        "streams",
        str(count),
        target.name,
        repeat,
        delta_us=used.proxy * 1e6 / count / deltas,
        store_us=used.store * 1e6 / count / deltas,
        delay_p50_ms=percentile(took.delays_us, 50) / 1000,
        delay_p99_ms=percentile(took.delays_us, 99) / 1000,
        memory_kib=memory / 1024 / count,
        seconds=took.seconds,
    )


async def measure_first_byte(samples: Samples, targets: Sequence[Target], plan: StreamsPlan) -> dict[str, str]:
    """Open streams at once, on connections that exist; returns which targets failed and why."""

    async def block(target: Target, repeat: int) -> None:
        if repeat == 0:
            await _warm_up(target)
        async with open_used(target, plan.opened) as connections:
            firsts = (await run_streams(target, connections, f"open-{repeat}", 5, 20_000)).firsts_ms
        samples.add(
            "first byte", str(plan.opened), target.name, repeat, p50_ms=percentile(firsts, 50), last_ms=max(firsts)
        )

    return await interleaved(targets, plan.openings, block)


async def _warm_up(target: Target) -> None:
    async with open_used(target, 10) as connections:
        await run_streams(target, connections, "warm", 10, 0)
