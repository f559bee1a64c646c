"""Statistics of a run: what was measured, one value a block of work, and what is said of it."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import NamedTuple

#: The model server with nothing before it, the bare relay.
DIRECT, BARE = "direct", "bare"
#: Ourselves: as it comes, without recording, and another state of it.
OURS, UNRECORDED, BEFORE = "branchline", "branchline, recording off", "branchline before"
#: All that is no peer, in the order of the tables.
NO_PEERS = (DIRECT, BARE, OURS, UNRECORDED, BEFORE)


@dataclass(frozen=True, order=True)
class Sample:
    """One value: of which measurement and case of it, of which server, in which repetition, of what."""

    measure: str
    case: str
    target: str
    repeat: int
    quantity: str
    value: float


class Spread(NamedTuple):
    """Several values of one thing."""

    median: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """Return the middle and the ends of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the least value that so many percent of at least one value do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def _amount(case: str) -> int:
    """Return the number that a case begins with, 0 if it begins with none."""
    digits = case.partition(" ")[0].replace(",", "")
    return int(digits) if digits.isdigit() else 0


class Samples:
    """All values of a run, by what they are of."""

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self._all: list[Sample] = list(samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def add(self, measure: str, case: str, target: str, repeat: int, **quantities: float) -> None:
        """Note what one block of work took."""
        self._all += [Sample(measure, case, target, repeat, name, value) for name, value in quantities.items()]

    def cases(self, measure: str) -> list[str]:
        """Return the cases of a measurement: those with a number by that, others in the order of the run."""
        cases = dict.fromkeys(one.case for one in self._all if one.measure == measure)
        return sorted(cases, key=_amount)

    def targets(self, measure: str, case: str | None = None) -> list[str]:
        """Return the servers that a measurement, or a case of it, has values of, the yardsticks and ourselves first."""
        chosen = {one.target for one in self._all if one.measure == measure and case in (None, one.case)}
        return sorted(chosen, key=lambda name: (NO_PEERS.index(name) if name in NO_PEERS else len(NO_PEERS), name))

    def of(self, measure: str, case: str, target: str, quantity: str) -> dict[int, float]:
        """Return the values by repetition."""
        key = (measure, case, target, quantity)
        return {one.repeat: one.value for one in self._all if (one.measure, one.case, one.target, one.quantity) == key}

    def spread(self, measure: str, case: str, target: str, quantity: str) -> Spread | None:
        """Return the spread over all repetitions; None if there is none."""
        values = self.of(measure, case, target, quantity)
        return spread(list(values.values())) if values else None

    def write(self, path: Path) -> None:
        """Write all as CSV."""
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([field.name for field in fields(Sample)])
            writer.writerows([*astuple(one)[:-1], f"{one.value:.6g}"] for one in self._all)

    @classmethod
    def read(cls, path: Path) -> Samples:
        """Read what `write` wrote."""
        with path.open(newline="") as file:
            return cls(
                Sample(**{**row, "repeat": int(row["repeat"]), "value": float(row["value"])})  # type: ignore[arg-type]
                for row in csv.DictReader(file)
            )


def total(samples: Samples, measure: str, case: str, target: str) -> dict[int, float]:
    """Return the processor time of a turn, proxy and store together, by repetition; in ms."""
    proxy, store = (samples.of(measure, case, target, quantity) for quantity in ("proxy_ms", "store_ms"))
    return {repeat: value + store[repeat] for repeat, value in proxy.items()}


def ratios(over: dict[int, float], under: dict[int, float]) -> Spread | None:
    """Return the spread of one thing ÷ another of the same repetition, so that a slow minute is in both.

    Where no repetition has both: of the medians. None if there is nothing to compare.
    """
    if pairs := [value / under[repeat] for repeat, value in over.items() if under.get(repeat)]:
        return spread(pairs)
    if not over or not any(under.values()):
        return None
    one = statistics.median(over.values()) / statistics.median(under.values())
    return Spread(one, one, one)
