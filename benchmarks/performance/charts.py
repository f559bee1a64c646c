"""Charts: what of a run is drawn, as numbers; `drawing` makes pictures of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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

    @property
    def shows(self) -> bool:
        """Return whether there is anything in it."""
        return bool(self.lines)


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

    @property
    def shows(self) -> bool:
        """Return whether there is anything in it."""
        return bool(self.groups)


def charts(samples: Samples) -> dict[str, list[Lines | Stacks]]:
    """Return the charts of each file; those without anything to show are left out."""

    def lines(measure: str, quantity: str) -> tuple[Line, ...]:
        return _lines(samples, measure, lambda case, name: samples.of(measure, case, name, quantity))

    cost = _lines(samples, "depth", partial(total, samples, "depth"))
    depth, count = "turns of the conversation", "streams at once"
    made: dict[str, list[Lines | Stacks]] = {
        "turns": [_turns(samples)],
        "depth": [
            Lines("CPU of a turn, 16 clients", depth, "ms, proxy + store", cost),
            Lines("latency of a turn, one client", depth, "p50 ms", lines("depth", "alone_p50_ms")),
        ],
        "streams": [
            Lines("CPU of a delta", count, "µs", lines("streams", "delta_us"), linear=True),
            Lines("delay of a delta", count, "p99 ms", lines("streams", "delay_p99_ms")),
        ],
    }
    return {name: drawn for name, drawn in made.items() if all(one.shows for one in drawn)}


def _turns(samples: Samples) -> Stacks:
    groups = {}
    for kind in samples.cases("turns"):
        stacks = [_stack(samples, kind, name) for name in samples.targets("turns", kind) if name != DIRECT]
        ours = next((one.proxy + one.store for one in stacks if one.target == OURS), 0.0)
        groups[kind] = tuple(one for one in stacks if not ours or one.proxy + one.store <= MOST_TIMES * ours)
    return Stacks("CPU of a turn, 16 clients", "ms", groups)


def _stack(samples: Samples, kind: str, name: str) -> Stack:
    proxy, store = (samples.spread("turns", kind, name, quantity) for quantity in ("proxy_ms", "store_ms"))
    return Stack(name, proxy.median if proxy else 0.0, store.median if store else 0.0)


def _lines(samples: Samples, measure: str, values: Callable[[str, str], dict[int, float]]) -> tuple[Line, ...]:
    """Return a line a server; a server has no point where it has no value but 0."""
    lines = []
    for name in samples.targets(measure):
        found = ((case, list(values(case, name).values())) for case in samples.cases(measure))
        if points := tuple(Point(float(case), spread(each)) for case, each in found if any(each)):
            lines.append(Line(name, points))
    return tuple(lines)
