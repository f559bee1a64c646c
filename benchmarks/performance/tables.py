"""Tables: what a run measured, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.performance.bars import Bar, bars
from benchmarks.performance.statistics import BARE, DIRECT, OURS, Samples, Spread, ratios, spread, total
from benchmarks.servers.peers import PEERS

#: What stands in a cell that has nothing.
NOTHING = ""
_NOT_MEASURED = "*Not measured in this run.*"


def number(value: float) -> str:
    """Return a number with three digits that mean something."""
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(values: Spread | None) -> str:
    """Return a median with its least and its most, if there are several values."""
    if values is None:
        return NOTHING
    if values.least == values.most:
        return number(values.median)
    return f"{number(values.median)} ({number(values.least)} to {number(values.most)})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are numbers."""
    if not rows:
        return _NOT_MEASURED
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def run_table(description: dict[str, Any]) -> str:
    """Return when and where a run was made."""
    peers = ", ".join(f"{name} {version}" for name, version in description["peers"].items()) or "none"
    rows = [
        ["date", f"{description['date']}, a {description['kind']} run of {description['minutes']} minutes"],
        ["measured", description["measured"]],
        ["machine", f"{description['machine']}; {description['system']}; CPython {description['python']}"],
        ["load average before it", f"{description['load_before']}"],
        ["peers", peers],
        *[["note", note.replace("|", "\\|").replace("\n", " ")] for note in description["notes"]],
    ]
    lines = ["| | |", "|---|---|", *("| " + " | ".join(row) + " |" for row in rows)]
    return "\n".join(lines)


def bars_table(samples: Samples) -> str:
    """Return every bar, what was measured of it, and whether it is met."""
    verdicts = {True: "met", False: "**not met**", None: "not measured"}
    rows = [[bar.name, _limit(bar), cell(bar.measured), verdicts[bar.met]] for bar in bars(samples)]
    return table(["", "bar", "measured", ""], rows)


def _limit(bar: Bar) -> str:
    return f"{'≥' if bar.floor else '≤'} {bar.limit:g}{bar.unit}"


def turns_table(samples: Samples) -> str:
    """Return what turns cost with several clients at once."""
    rows = []
    for kind in samples.cases("turns"):
        bare = samples.of("turns", kind, BARE, "proxy_ms")
        for name in samples.targets("turns", kind):
            proxy = _used(samples.of("turns", kind, name, "proxy_ms"))
            rest = ("p50_ms", "p99_ms", "turns_per_second")
            rows.append(
                [
                    f"{kind}: {name}",
                    _cell(proxy),
                    _cell(_used(samples.of("turns", kind, name, "store_ms"))),
                    cell(ratios(proxy, bare)),
                    *(cell(samples.spread("turns", kind, name, quantity)) for quantity in rest),
                ]
            )
    return table(["", "proxy, CPU ms", "store, CPU ms", "proxy ÷ bare", "p50 ms", "p99 ms", "turns a second"], rows)


def _used(values: dict[int, float]) -> dict[int, float]:
    """Return processor times, none if there was no such process."""
    return values if any(values.values()) else {}


def _cell(values: dict[int, float]) -> str:
    return cell(spread(list(values.values())) if values else None)


def depth_table(samples: Samples) -> str:
    """Return what a turn costs at each depth of a conversation: CPU of proxy and store, and latency."""
    rows = []
    for depth in samples.cases("depth"):
        bare = total(samples, "depth", depth, BARE)
        for name in samples.targets("depth", depth):
            cost = _used(total(samples, "depth", depth, name))
            lost, turns = (sum(samples.of("depth", depth, name, of).values()) for of in ("lost", "turns"))
            rest = ("p50_ms", "p99_ms", "turns_per_second", "alone_p50_ms")
            rows.append(
                [
                    f"{int(depth):,}: {name}",
                    _cell(cost),
                    cell(ratios(cost, bare)),
                    *(cell(samples.spread("depth", depth, name, quantity)) for quantity in rest),
                    f"{lost / turns:.0%} of turns" if lost else "none",
                ]
            )
    head = [
        *("depth", "proxy + store, CPU ms", "÷ bare", "p50 ms", "p99 ms", "turns a second"),
        *("one client alone, p50 ms", "history lost"),
    ]
    return table(head, rows)


def streams_table(samples: Samples) -> str:
    """Return what deltas cost and how long they are held up, by how many streams run at once."""
    rows = []
    for count in samples.cases("streams"):
        bare = samples.of("streams", count, BARE, "delta_us")
        direct = samples.spread("streams", count, DIRECT, "delay_p99_ms")
        for name in samples.targets("streams", count):
            delay = samples.spread("streams", count, name, "delay_p99_ms")
            if name == DIRECT or delay is None:
                continue
            cost = samples.of("streams", count, name, "delta_us")
            added = max(0.0, delay.median - direct.median) if direct else None
            rows.append(
                [
                    f"{int(count):,}: {name}",
                    _cell(cost),
                    cell(ratios(cost, bare)),
                    cell(samples.spread("streams", count, name, "delay_p50_ms")),
                    cell(delay),
                    NOTHING if added is None else number(added),
                    cell(samples.spread("streams", count, name, "memory_kib")) if int(count) >= 100 else NOTHING,
                ]
            )
    head = ["at once", "CPU µs a delta", "÷ bare", "delay p50 ms", "delay p99 ms", "added p99 ms", "KiB a stream"]
    return table(head, rows)


def first_byte_table(samples: Samples) -> str:
    """Return how soon the first byte comes when 50 streams are opened at once."""
    case = "50"
    bare = samples.of("first byte", case, BARE, "p50_ms")
    rows = [
        [
            name,
            cell(samples.spread("first byte", case, name, "p50_ms")),
            cell(ratios(samples.of("first byte", case, name, "p50_ms"), bare)),
            cell(samples.spread("first byte", case, name, "last_ms")),
        ]
        for name in samples.targets("first byte", case)
    ]
    return table(["", "half of them after ms", "÷ bare", "the last after ms"], rows)


def images_table(samples: Samples) -> str:
    """Return what an image of 4 MB costs when it is sent, and when it is part of the history."""
    rows = [
        [
            f"{case}: {name}",
            cell(samples.spread("images", case, name, "proxy_ms")),
            _cell(_used(samples.of("images", case, name, "store_ms"))),
            cell(
                ratios(
                    samples.of("images", case, name, "proxy_ms"),
                    samples.of("images", case, BARE, "proxy_ms"),
                )
            ),
            cell(samples.spread("images", case, name, "p50_ms")),
        ]
        for case in samples.cases("images")
        for name in samples.targets("images", case)
    ]
    return table(["", "proxy, CPU ms", "store, CPU ms", "proxy ÷ bare", "p50 ms"], rows)


def stored_table(samples: Samples) -> str:
    """Return what a turn costs in a store that holds few conversations and in one that holds many."""
    quantities = ("proxy_ms", "store_ms", "p50_ms", "p99_ms")
    rows = [
        [case, *(cell(samples.spread("stored", case, OURS, quantity)) for quantity in quantities)]
        for case in samples.cases("stored")
    ]
    return table(["in the store", "proxy, CPU ms", "store, CPU ms", "p50 ms", "p99 ms"], rows)


def workers_table(samples: Samples) -> str:
    """Return what one worker and two do in a second, and what of it is processor time."""
    rows = [
        [
            f"{case}: {name}",
            cell(samples.spread("workers", case, name, "per_second")),
            cell(samples.spread("workers", case, name, "proxy_ms")),
            cell(samples.spread("workers", case, name, "store_ms")),
            cell(samples.spread("workers", case, name, "load_ms")),
            cell(samples.spread("workers", case, name, "store_rounds")),
            cell(samples.spread("workers", case, name, "store_percent")),
        ]
        for case in samples.cases("workers")
        for name in samples.targets("workers", case)
    ]
    costs = [f"{whose}, CPU ms each" for whose in ("proxies", "store", "load and model server")]
    return table(["", "a second", *costs, "store, rounds each", "store in its rounds, % of the time"], rows)


def peers_table() -> str:
    """Return which peers there are and how each is run."""
    lines = ["| peer | how it is run |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{peer.requirement}` | {peer.set_up} |" for peer in PEERS.values())])
