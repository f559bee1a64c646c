"""A run's values, made up."""

from benchmarks.performance.statistics import Samples

#: By kind of turn: the bare relay's CPU, our proxy's, our store's, and a peer's in all.
TURNS = {
    "single": (0.2, 0.4, 0.1, 0.3),
    "conversation": (0.2, 0.5, 0.2, 2.0),
    "chain": (0.2, 0.8, 0.2, 2.0),
}


def invented(repeats: int = 3) -> Samples:
    """A whole run, each repetition a tenth slower than the one before."""
    samples = Samples()
    for repeat in range(repeats):
        invent_turns(samples, repeat)
        invent_streams(samples, repeat)
        for case in ("100,000 conversations", "100 conversations"):
            turn(samples, "stored", case, "branchline", repeat, 1.0, 0.2)
        for workers, rate in (("2 workers", 170.0), ("1 worker", 100.0)):
            samples.add("workers", "streams", workers, repeat, per_second=rate, proxy_ms=1.0, store_ms=0.1)
    return samples


def invent_turns(samples: Samples, repeat: int) -> None:
    """Turns of each kind and at three depths."""
    slow = 1 + repeat / 10
    for kind, (bare, proxy, store, peer) in TURNS.items():
        for name, own, kept in (("smg", peer, 0.0), ("branchline", proxy, store), ("bare", bare, 0.0)):
            turn(samples, "turns", kind, name, repeat, own * slow, kept * slow)
    for depth in ("1", "300", "1000"):
        for name, own in (("bare", 1.0), ("branchline", 1.5), ("smg", 0.5), ("agentic-api", 20.0)):
            lost = 7.0 if name == "smg" and depth != "1" else 0.0
            turn(samples, "depth", depth, name, repeat, own, 0.0, lost=lost, alone_p50_ms=1 + int(depth) / 1000)


def invent_streams(samples: Samples, repeat: int) -> None:
    """Streams, one and many at once."""
    for count in ("1", "1000", "2000"):
        for name, cost in (("direct", 0.0), ("bare", 20.0), ("branchline", 22.0)):
            delays = {"delay_p50_ms": 1.0, "delay_p99_ms": 5.0 + cost}
            samples.add("streams", count, name, repeat, delta_us=cost, memory_kib=50.0, **delays)
    for name, first in (("bare", 10.0), ("branchline", 14.0)):
        samples.add("first byte", "50", name, repeat, p50_ms=first, last_ms=20.0)


def turn(
    samples: Samples, measure: str, case: str, name: str, repeat: int, proxy: float, store: float, **more: float
) -> None:
    """Add a block of ten turns."""
    latencies = {"p50_ms": 4.0, "p99_ms": 9.0, "turns_per_second": 1234.5}
    own = {"proxy_ms": proxy, "store_ms": store, "turns": 10.0, "lost": 0.0}
    samples.add(measure, case, name, repeat, **{**latencies, **own, **more})
