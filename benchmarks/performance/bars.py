"""Bars: what is asked of Branchline's speed, and whether a run shows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.performance.statistics import BARE, NO_PEERS, OURS, UNRECORDED, Samples, Spread, ratios, spread, total


@dataclass(frozen=True)
class Bar:
    """One demand. measured: None if the run did not measure it. floor: the limit is the least, not the most."""

    name: str
    limit: float
    measured: Spread | None
    floor: bool = False
    unit: str = ""

    @property
    def met(self) -> bool | None:
        """Return whether the median holds it; None if nothing was measured."""
        if self.measured is None:
            return None
        return self.measured.median >= self.limit if self.floor else self.measured.median <= self.limit


def bars(samples: Samples) -> list[Bar]:
    """Return all demands with what a run measured of them."""
    return [*_turns(samples), *_peers(samples), *_streams(samples), *_stored(samples), *_workers(samples)]


def _turns(samples: Samples) -> Iterator[Bar]:
    limits = {"single": (2.0, 0.75), "conversation": (2.7, 0.9), "chain": (2.7, 0.9)}
    names = {"single": "stored single turn", "conversation": "conversation, 40 turns", "chain": "chain, 40 turns"}
    # they were set before there was recording
    for target, how in ((OURS, ""), (UNRECORDED, ", recording off")):
        for kind, (proxy, store) in limits.items():
            bare = samples.of("turns", kind, BARE, "proxy_ms")
            ours = samples.of("turns", kind, target, "proxy_ms")
            yield Bar(f"{names[kind]}{how}: proxy ÷ bare relay, CPU", proxy, ratios(ours, bare))
            ours = samples.of("turns", kind, target, "store_ms")
            yield Bar(f"{names[kind]}{how}: Valkey ÷ bare relay, CPU", store, ratios(ours, bare))
    shallow, deep = (samples.of("depth", depth, OURS, "alone_p50_ms") for depth in ("1", "1000"))
    yield Bar("turn at depth 1,000 ÷ at depth 1, one client, latency p50", 1.5, ratios(deep, shallow))


def peers(samples: Samples, measure: str, case: str) -> list[str]:
    """Return the peers that a case has values of and that lost no history in it."""
    found = [name for name in samples.targets(measure, case) if name not in NO_PEERS]
    return [name for name in found if not any(samples.of(measure, case, name, "lost").values())]


def _peers(samples: Samples) -> Iterator[Bar]:
    cases = (
        ("turns", "conversation", 0.55, "conversation, 40 turns: proxy + store ÷ the best peer, CPU"),
        ("depth", "300", 0.2, "turn at depth 300: proxy + store ÷ the best peer that sends all of it, CPU"),
    )
    for measure, case, limit, name in cases:
        costs = {peer: total(samples, measure, case, peer) for peer in peers(samples, measure, case)}
        best = min(costs.values(), key=lambda values: spread(list(values.values())).median, default={})
        yield Bar(name, limit, ratios(total(samples, measure, case, OURS), best))


def _streams(samples: Samples) -> Iterator[Bar]:
    for count in samples.cases("streams") or ["100"]:
        ours, bare = (samples.of("streams", count, name, "delta_us") for name in (OURS, BARE))
        at_once = f"{int(count):,} stream{'s' * (count != '1')} at once"
        yield Bar(f"a delta, {at_once}, the turn included: proxy ÷ bare relay, CPU", 1.05, ratios(ours, bare))
    ours, bare = (samples.of("first byte", "50", name, "p50_ms") for name in (OURS, BARE))
    yield Bar("first byte of 50 streams opened at once ÷ bare relay, p50", 1.5, ratios(ours, bare))
    memory = samples.spread("streams", "2000", OURS, "memory_kib")
    yield Bar("2,000 streams at once, no error: memory of each", 60.0, memory, unit=" KiB")


def _stored(samples: Samples) -> Iterator[Bar]:
    few, many = [*samples.cases("stored"), "", ""][:2]
    names = {"cpu": "CPU", "p50_ms": "latency p50"}
    for quantity, name in names.items():
        over, under = (
            total(samples, "stored", case, OURS) if quantity == "cpu" else samples.of("stored", case, OURS, quantity)
            for case in (many, few)
        )
        yield Bar(f"turn with {many or '100,000 conversations'} stored ÷ with 100, {name}", 1.1, ratios(over, under))


def _workers(samples: Samples) -> Iterator[Bar]:
    for case, name in (("streams", "streams of 300 deltas a second"), ("turns", "conversation turns a second")):
        one, two = (samples.of("workers", case, target, "per_second") for target in ("1 worker", "2 workers"))
        yield Bar(f"2 workers ÷ 1 on two cores, {name}", 1.6, ratios(two, one), floor=True)
