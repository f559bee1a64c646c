"""Charts: what of a run is drawn, as numbers; `drawing` makes pictures of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.performance.statistics import DIRECT, OURS, Samples, Spread, spread, total

#: What costs more than so many times what we cost is left out of a chart whose axis begins at 0.
MOST_TIMES = 6.0


class Point(NamedTuple):
    """A place on the x axis and the values there."""

    x: float
    y: Spread


@dataclass(frozen=True)
class Line:
    """The points of one server."""

    target: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Lines:
    """A chart of lines, both axes logarithmic unless `linear`, which is of y."""

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    linear: bool = False


@dataclass(frozen=True)
class Stack:
    """One bar: a server's own part, and its store's on top."""

    target: str
    proxy: float
    store: float


@dataclass(frozen=True)
class Stacks:
    """A chart of bars in groups."""

    title: str
    y: str
    groups: dict[str, tuple[Stack, ...]]


def charts(samples: Samples) -> dict[str, list[Lines | Stacks]]:
    """Return the charts of each file; those without anything to show are left out."""
    made: dict[str, list[Lines | Stacks]] = {
        "turns": [_turns(samples)],
        "depth": [
            _depth(samples, "CPU of a turn, 16 clients", "ms, proxy + store"),
            _depth(samples, "latency of a turn, one client", "p50 ms"),
        ],
        "streams": [_streams(samples, "CPU of a delta", "µs", "delta_us"), _streams(samples, "delay", "p99 ms", "")],
    }
    return {
        name: all_of
        for name, all_of in made.items()
        if all(one.groups if isinstance(one, Stacks) else one.lines for one in all_of)
    }


def _turns(samples: Samples) -> Stacks:
    groups = {}
    for kind in samples.cases("turns"):
        stacks = [_stack(samples, kind, name) for name in samples.targets("turns", kind)]
        ours = next((one.proxy + one.store for one in stacks if one.target == OURS), 0.0)
        groups[kind] = tuple(one for one in stacks if not ours or one.proxy + one.store <= MOST_TIMES * ours)
    return Stacks("CPU of a turn, 16 clients", "ms", groups)


def _stack(samples: Samples, kind: str, name: str) -> Stack:
    proxy, store = (samples.spread("turns", kind, name, quantity) for quantity in ("proxy_ms", "store_ms"))
    return Stack(name, proxy.median if proxy else 0.0, store.median if store else 0.0)


def _depth(samples: Samples, title: str, y: str) -> Lines:
    def values(depth: str, name: str) -> Iterable[float]:
        if "CPU" in title:
            return total(samples, "depth", depth, name).values()
        return samples.of("depth", depth, name, "alone_p50_ms").values()

    return Lines(title, "turns of the conversation", y, _lines(samples, "depth", values))


def _streams(samples: Samples, title: str, y: str, quantity: str) -> Lines:
    def values(count: str, name: str) -> Iterable[float]:
        if quantity and name == DIRECT:
            return ()
        return samples.of("streams", count, name, quantity or "delay_p99_ms").values()

    return Lines(title, "streams at once", y, _lines(samples, "streams", values), linear=bool(quantity))


def _lines(samples: Samples, measure: str, values: Callable[[str, str], Iterable[float]]) -> tuple[Line, ...]:
    lines = []
    for name in samples.targets(measure):
        found = ((case, list(values(case, name))) for case in samples.cases(measure))
        points = tuple(Point(float(case), spread(each)) for case, each in found if each)
        if points:
            lines.append(Line(name, points))
    return tuple(lines)
