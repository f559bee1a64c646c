"""The table of the fault matrix, and its place in the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- matrix: written by benchmarks.faults.matrix -->", "<!-- /matrix -->"


class Row(Protocol):
    """What the table needs of a cell."""

    upstream: str
    store: str
    client: str
    stored: list[str]
    wrong: list[str]

    @property
    def told(self) -> str: ...


def table(cells: Sequence[Row], clients: Sequence[str]) -> str:
    """Return the cells as Markdown: a row a store and model server, a column a client.

    A cell has what the client was told in the end, a `+` for each time that its turn is stored, and **wrong** if
    anything was.
    """
    places = {(cell.store, cell.upstream, cell.client): _text(cell) for cell in cells}
    lines = ["| store | model server | " + " | ".join(clients) + " |", "|---|---|" + "---|" * len(clients)]
    for store, upstream in dict.fromkeys((cell.store, cell.upstream) for cell in cells):
        row = [places.get((store, upstream, client), "") for client in clients]
        lines.append("| " + " | ".join([store, upstream, *row]) + " |")
    return "\n".join(lines)


def _text(cell: Row) -> str:
    told = cell.told + " +" * (len(cell.stored) // 2)
    return f"**wrong**: {told}" if cell.wrong else told


def write_table(text: str, page: Path = PAGE) -> None:
    """Put the table between its marks. Raises ValueError if the page does not have them."""
    whole = page.read_text("utf-8")
    before, mark, rest = whole.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"{page} has no place for the table")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")
