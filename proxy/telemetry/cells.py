"""Metric cells: the numbers that one process counts in, in memory or in a file that another process reads meanwhile.

A cell is a double. A series (one metric with one set of label values) has a row of cells. Where there are several
workers each has two files in a folder of the supervisor's, named by the worker's index: `N.cells`, which is mapped into
memory, and `N.series`, one JSON line a series: the metric's name, its label values, its first cell, how many. What a
worker counted outlives it, also `kill -9`; the next one with its index goes on with its numbers, so that no counter
ever falls.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import orjson

#: Cells of a process: 8 MiB of address space, of which only what is counted in takes memory.
CELLS = 1024 * 1024
_CELL_BYTES = 8

#: A metric's name and the values of its labels, in their order.
Series: TypeAlias = tuple[str, tuple[str, ...]]


class Cells:
    """The cells of this process. values: all of them. Series are added, never taken away."""

    def __init__(self, memory: mmap.mmap | None = None, names: Path | None = None) -> None:
        memory = memory or mmap.mmap(-1, CELLS * _CELL_BYTES)
        self.values = memoryview(memory).cast("d")
        self.series: dict[Series, int] = {}
        self._names = names
        self._next = 0

    @classmethod
    def mapped(cls, folder: Path, index: int) -> Cells:
        """Return the cells of the worker with this index, with what the one before it has counted. Raises OSError."""
        path, names = _paths(folder, index)
        with path.open("a+b") as file:
            file.truncate(CELLS * _CELL_BYTES)
            cells = cls(mmap.mmap(file.fileno(), CELLS * _CELL_BYTES), names)
        lines = _whole_lines(names)
        # a line that a killed worker has not finished must not become part of the next one
        names.write_bytes(b"".join(b"%b\n" % line for line in lines))
        for line in lines:
            name, labels, first, size = orjson.loads(line)
            cells.series[name, tuple(labels)] = first
            cells._next = max(cells._next, first + size)
        return cells

    def take(self, name: str, labels: tuple[str, ...], size: int) -> int:
        """Return the first of the `size` cells of a series, all of it 0 if it is new.

        When all cells are taken what comes after is counted in the first ones of that metric: better one wrong number
        than a turn that fails.
        """
        known = self.series.get((name, labels))
        if known is not None:
            return known
        if self._next + size > CELLS:
            return next((first for (other, _), first in self.series.items() if other == name), CELLS - size)
        first, self._next = self._next, self._next + size
        if self._names is not None:
            with self._names.open("ab") as file:
                file.write(orjson.dumps([name, labels, first, size]) + b"\n")
        self.series[name, labels] = first
        return first


class ReadCells:
    """The cells of another process, as they are now."""

    def __init__(self, folder: Path, index: int) -> None:
        path, names = _paths(folder, index)
        with path.open("rb") as file:
            self.values: Sequence[float] = memoryview(
                mmap.mmap(file.fileno(), CELLS * _CELL_BYTES, access=mmap.ACCESS_READ)
            ).cast("d")
        self.series: Mapping[Series, int] = {
            (name, tuple(labels)): first for name, labels, first, _ in map(orjson.loads, _whole_lines(names))
        }


def indexes_in(folder: Path) -> Iterator[int]:
    """Yield the indexes of all workers that have ever counted there."""
    for path in sorted(folder.glob("*.series")):
        yield int(path.stem)


def _paths(folder: Path, index: int) -> tuple[Path, Path]:
    return folder / f"{index}.cells", folder / f"{index}.series"


def _whole_lines(path: Path) -> list[bytes]:
    """Return the lines of a file without what comes after the last end of a line."""
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
