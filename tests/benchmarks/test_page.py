import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.performance import page, tables
from benchmarks.performance.charts import Lines, Stacks, charts
from benchmarks.performance.statistics import Samples, Spread
from tests.benchmarks.runs import invented

RUN: dict[str, Any] = {
    "date": "2026-11-30 10:00 UTC",
    "kind": "full",
    "minutes": 19.5,
    "measured": "Branchline 0.1, commit abc",
    "machine": "2 processors, Some CPU",
    "system": "Linux 6.1",
    "python": "3.11.7",
    "load_before": 0.1,
    "peers": {"smg": "1.13.0"},
    "notes": ["litellm was left out: no network | none\nat all"],
}


def rows(table: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {row[0]: row[1:] for row in cells}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.1234, "0.12"), (9.999, "10.00"), (12.34, "12.3"), (99.94, "99.9"), (1234.5, "1,234")],
)
def test_numbers_have_the_digits_that_mean_something(value: float, text: str):
    assert tables.number(value) == text


def test_a_cell_has_the_spread_if_there_is_one():
    assert tables.cell(Spread(2.0, 1.0, 3.0)) == "2.00 (1.00 to 3.00)"
    assert tables.cell(Spread(2.0, 2.0, 2.0)) == "2.00"
    assert tables.cell(None) == ""


def test_tables_show_what_was_measured():
    samples = invented()
    turns = rows(tables.turns_table(samples))
    assert turns["conversation: branchline"][:3] == ["0.55 (0.50 to 0.60)", "0.22 (0.20 to 0.24)", "2.50"]
    assert turns["conversation: bare"][1] == ""
    assert rows(tables.bars_table(samples))["chain, 40 turns: proxy ÷ bare relay, CPU"] == [
        "≤ 2.7",
        "4.00",
        "**not met**",
    ]
    depth = rows(tables.depth_table(samples))
    assert depth["300: smg"][-1] == "70% of turns"
    assert depth["1: smg"][-1] == "none"
    assert "1,000: direct" not in rows(tables.streams_table(samples))
    assert rows(tables.streams_table(samples))["1,000: branchline"] == ["22.0", "1.10", "1.00", "27.0", "22.0", "50.0"]


def test_the_run_says_what_it_left_out_in_one_line():
    assert "litellm was left out: no network \\| none at all" in tables.run_table(RUN)


def test_every_table_has_as_many_cells_in_each_row():
    texts = page.sections(invented(), RUN)
    for text in texts.values():
        lines = text.replace("\\|", "").splitlines()
        assert len({line.count("|") for line in lines}) == 1


def test_what_was_not_measured_is_said():
    texts = page.sections(Samples(), RUN)
    assert texts["turns"] == texts["streams"] == texts["images"] == "*Not measured in this run.*"


def test_the_page_has_each_section_once_and_is_written_anew_without_growing():
    text = page.PAGE.read_text("utf-8")
    texts = page.sections(invented(), RUN)
    assert sorted(re.findall(r"<!-- generated: ([\w-]+) -->", text)) == sorted(texts)
    once = page.filled(text, texts)
    assert page.filled(once, texts) == once
    assert all(section in once for section in texts.values())


def test_the_page_belongs_to_the_data_beside_it():
    samples = Samples.read(page.DATA / "measurements.csv")
    bars = tables.bars_table(samples)
    assert bars in page.PAGE.read_text("utf-8")


def test_charts_have_the_medians_and_leave_out_what_would_hide_the_rest():
    samples = invented()
    for repeat in range(3):
        samples.add("turns", "single", "litellm", repeat, proxy_ms=20.0, store_ms=0.0)
    made = charts(samples)
    assert list(made) == ["turns", "depth", "streams"]
    (turns,) = made["turns"]
    assert isinstance(turns, Stacks)
    assert [stack.target for stack in turns.groups["single"]] == ["bare", "branchline", "smg"]
    ours = turns.groups["conversation"][1]
    assert (ours.target, round(ours.proxy, 6), round(ours.store, 6)) == ("branchline", 0.55, 0.22)
    cost, delay = made["streams"]
    assert isinstance(cost, Lines)
    assert isinstance(delay, Lines)
    assert [line.target for line in cost.lines] == ["bare", "branchline"]
    assert [line.target for line in delay.lines] == ["direct", "bare", "branchline"]
    assert [point.x for point in cost.lines[0].points] == [1.0, 1000.0, 2000.0]
    assert charts(Samples()) == {}


def test_the_same_charts_give_the_same_picture(tmp_path: Path):
    drawing = pytest.importorskip(
        "benchmarks.performance.drawing", reason="needs the extra `bench`", exc_type=ImportError
    )
    for name, made in charts(invented()).items():
        first, second = tmp_path / f"{name}.svg", tmp_path / f"{name}-again.svg"
        drawing.draw(made, first)
        drawing.draw(made, second)
        assert first.read_bytes() == second.read_bytes()
        assert b">branchline</text>" in first.read_bytes()
