"""What commands print: text, on a terminal with tables and colours, or with `--json` one JSON value a line."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

#: Characters that a column of a table has at least, if there is that much in it.
NARROW = 10
#: Blanks between two columns.
GAP = 2


class Terminal:
    """Where a command's results go: standard output. as_json: `--json` was given.

    What is meant for people's eyes only (a question, what was done before Ctrl-C) goes to standard error.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        # no markup, no emoji codes, no guessing what is a number: what is printed is somebody's text
        self._console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)

    @property
    def is_terminal(self) -> bool:
        """Whether people look at it, and not a file or another program."""
        return self._console.is_terminal

    def report(self, text: str, facts: Mapping[str, Any]) -> None:
        """Print one result: its text, or its facts."""
        if self.as_json:
            self.record(facts)
        else:
            print(text, flush=True)

    def say(self, text: str) -> None:
        """Print what explains a result; nothing with `--json`."""
        if not self.as_json:
            print(text, flush=True)

    def draw(self, drawing: RenderableType) -> None:
        """Print styled text; without its colours where they can't be shown."""
        self._console.print(drawing)

    def record(self, facts: Mapping[str, Any]) -> None:
        """Print a JSON object in a line."""
        sys.stdout.write(orjson.dumps(facts).decode() + "\n")
        sys.stdout.flush()

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
        """Print rows: on a terminal as a table, else a line each with tabs between the cells."""
        if not self.is_terminal:
            for row in rows:
                print("\t".join(" ".join(str(cell).split("\t")) for cell in row))
            return
        shown = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
        widths = [max(len(name), *(row[i].cell_len for row in shown)) for i, name in enumerate(columns)]
        # what is narrow stays whole, and so do ids, which are copied; the others share what is left
        long = [i for i, name in enumerate(columns) if widths[i] > NARROW and name != "ID"]
        left = self._console.width - sum(width + GAP for i, width in enumerate(widths) if i not in long)
        for i in sorted(long, key=widths.__getitem__):
            widths[i] = min(widths[i], max(NARROW, left // len(long) - GAP))
            left -= widths[i] + GAP
            long = long[1:]
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name, width in zip(columns, widths, strict=True):
            table.add_column(name, overflow="ellipsis", no_wrap=True, width=width)
        for row in shown:
            table.add_row(*row)
        # a terminal that is too narrow for that wraps the lines itself
        Console(width=max(self._console.width, sum(widths) + GAP * len(widths))).print(table)


@contextmanager
def telling_when_interrupted(describe: Any) -> Iterator[None]:
    """Print on standard error what `describe()` says, if Ctrl-C ends the block."""
    import asyncio

    try:
        yield
    except asyncio.CancelledError:
        print(f"branchline: interrupted; {describe()}", file=sys.stderr)
        raise
