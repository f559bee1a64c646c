"""The fault matrix: which cells there are, what is expected of them, and the table."""

from itertools import product
from pathlib import Path

import pytest

from benchmarks.faults.cell_clients import CLIENTS
from benchmarks.faults.cell_table import BEGIN, END, table, write_table
from benchmarks.faults.clients import Answer
from benchmarks.faults.expectations import BY_STORE, BY_UPSTREAM, unexpected
from benchmarks.faults.history import Told
from benchmarks.faults.matrix import STORES, UPSTREAM_NAMES, Cell, all_cells, covering_cells


def test_the_cells_of_the_suite_have_every_two_values_together():
    cells = covering_cells(STORES)
    assert {(cell.upstream, cell.store) for cell in cells} == set(product(UPSTREAM_NAMES, STORES))
    assert {(cell.upstream, cell.client) for cell in cells} == set(product(UPSTREAM_NAMES, CLIENTS))
    assert {(cell.store, cell.client) for cell in cells} == set(product(STORES, CLIENTS))
    assert len(cells) * len(CLIENTS) == len(all_cells(STORES))


def test_something_is_expected_of_every_cell():
    assert BY_UPSTREAM.keys() == set(UPSTREAM_NAMES)
    assert BY_STORE.keys() == STORES.keys()


@pytest.mark.parametrize(
    ("upstream", "store", "client", "told"),
    [
        ("fine", "paused 7 s", "waits", ["failed server_error"]),
        ("fine", "fine", "resets", ["500 internal_error"]),
        ("429", "NOPERM", "reads slowly", ["503 store_permission_denied"]),
        ("fine", "fine", "waits", ["cut off"]),
        ("stalls", "BUSY", "retries with key", ["504 upstream_timeout", "409 request_in_progress"]),
    ],
)
def test_what_must_not_be_told_is_red(upstream: str, store: str, client: str, told: list[str]):
    assert len(unexpected(upstream, store, client, told)) == 1


@pytest.mark.parametrize(
    ("upstream", "store", "client", "told"),
    [
        ("fine", "paused 7 s", "waits", ["completed"]),
        ("refuses", "full memory", "waits", ["507 insufficient_storage"]),
        ("100 MB", "fine", "resets", ["cut off"]),
        ("stalls", "BUSY", "retries with key", ["504 upstream_timeout", "completed"]),
    ],
)
def test_what_may_be_told_is_not(upstream: str, store: str, client: str, told: list[str]):
    assert unexpected(upstream, store, client, told) == []


def test_the_table_has_a_row_a_store_and_model_server_and_its_place_in_the_page(tmp_path: Path):
    cells = [Cell("429", "BUSY", client) for client in ("waits", "resets")]
    cells[0].answers, cells[0].stored = [Answer(Told.DONE, "completed")], ["a", "re:a"]
    cells[1].wrong = ["it is stored as …"]
    text = table(cells, ["waits", "resets", "half-closes"])
    assert text.splitlines()[2:] == ["| BUSY | 429 | completed + | **wrong**: nothing |  |"]
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_table(text, page)
    assert page.read_text() == f"before\n{BEGIN}\n{text}\n{END}\nafter\n"
    page.write_text("no place")
    with pytest.raises(ValueError, match="no place for the table"):
        write_table(text, page)
