"""Streams: what a delta costs, how long it is held up, how soon the first byte comes, what an open stream takes.

Each stream is a stored turn of its own; its deltas are sent at even intervals, and say when they were sent.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from benchmarks.performance.load import BLOCK_SECONDS, WrongAnswer, interleaved, question
from benchmarks.performance.statistics import Samples, percentile
from benchmarks.performance.target import Target
from benchmarks.servers.model import delta_text, expected_text
from benchmarks.wire import Connection, WireError

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


async def open_used(target: Target, count: int) -> list[Connection]:
    """Open connections, and have each used once: what is measured are streams, not connections."""
    connections = [await Connection.open(target.url) for _ in range(count)]
    for some in range(0, count, 50):
        warm = (each.request("GET", "/v1/models") for each in connections[some : some + 50])
        await asyncio.gather(*warm)
    return connections


async def run_streams(target: Target, connections: Sequence[Connection], name: str, deltas: int, gap_us: int) -> Round:
    """Run a stream a connection, all at once, and check every delta. Raises WrongAnswer."""
    took = Round([], [])

    async def one(number: int, connection: Connection) -> None:
        tag, listener = f"{name}-{number}", _Listener()
        body = b'{"model":"bench","stream":true,"input":[%s]}' % question(tag, deltas=deltas, gap_us=gap_us)
        start = time.perf_counter()
        answer = await connection.request("POST", "/v1/responses", body, listener.take)
        if answer.status != 200:
            raise WrongAnswer(f"{target.name}: {answer.status} {answer.body[:300]!r}")
        listener.check(target, tag, deltas)
        took.firsts_ms.append((listener.first - start) * 1000)
        took.delays_us += listener.delays

    start = time.perf_counter()
    await asyncio.gather(*(one(number, connection) for number, connection in enumerate(connections)))
    took.seconds = time.perf_counter() - start
    return took


async def measure_streams(samples: Samples, targets: Sequence[Target], plan: StreamsPlan) -> dict[str, str]:
    """Run so many streams at once, from few to many; returns which targets failed and why.

    Memory is what a server has more than before its first stream, when half the time of the streams is over.
    """
    failed: dict[str, str] = {}
    idle: dict[str, int] = {}
    for count, gap_us in plan.gaps_us:

        async def block(target: Target, repeat: int, count: int = count, gap_us: int = gap_us) -> None:
            if not target.must and count > (plan.for_peers if target.share == 1 else 1):
                return
            await _warm_up(target)
            idle.setdefault(target.name, target.memory_bytes())
            connections = await open_used(target, count)
            before = target.cpu()
            running = asyncio.create_task(run_streams(target, connections, f"s{count}-{repeat}", plan.deltas, gap_us))
            await asyncio.wait([running], timeout=plan.deltas * gap_us / 2e6)
            memory = target.memory_bytes() - idle[target.name]
            took = await running
            used = target.cpu().since(before)
            for connection in connections:
                connection.close()
            samples.add(
                "streams",
                str(count),
                target.name,
                repeat,
                delta_us=used.proxy * 1e6 / count / plan.deltas,
                store_us=used.store * 1e6 / count / plan.deltas,
                delay_p50_ms=percentile(took.delays_us, 50) / 1000,
                delay_p99_ms=percentile(took.delays_us, 99) / 1000,
                memory_kib=memory / 1024 / count,
                seconds=took.seconds,
            )

        repeats = dict(plan.repeats)[count]
        failed |= await interleaved([one for one in targets if one.name not in failed], repeats, block)
    return failed


async def measure_first_byte(samples: Samples, targets: Sequence[Target], plan: StreamsPlan) -> dict[str, str]:
    """Open streams at once, on connections that exist; returns which targets failed and why."""

    async def block(target: Target, repeat: int) -> None:
        if repeat == 0:
            await _warm_up(target)
        connections = await open_used(target, plan.opened)
        took = await run_streams(target, connections, f"open-{repeat}", 5, 20_000)
        for connection in connections:
            connection.close()
        firsts = took.firsts_ms
        samples.add(
            "first byte", str(plan.opened), target.name, repeat, p50_ms=percentile(firsts, 50), last_ms=max(firsts)
        )

    return await interleaved(targets, plan.openings, block)


async def _warm_up(target: Target) -> None:
    connections = await open_used(target, 10)
    try:
        async with asyncio.timeout(BLOCK_SECONDS):
            await run_streams(target, connections, "warm", 10, 0)
    except WireError as exc:
        raise WrongAnswer(f"{target.name}: {exc}") from exc
    finally:
        for connection in connections:
            connection.close()
