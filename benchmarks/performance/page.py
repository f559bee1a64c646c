"""The page: the generated sections of `docs/performance.md`, and its pictures, from the data of a run.

A section stands between `<!-- generated: NAME -->` and `<!-- end -->`; what is outside of them is written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.performance import tables
from benchmarks.performance.charts import charts
from benchmarks.performance.statistics import Samples

_DOCS = Path(__file__).parents[2] / "docs"
PAGE = _DOCS / "performance.md"
#: Where data and pictures of a run go.
DATA = _DOCS / "performance"
_SECTION = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def sections(samples: Samples, description: dict[str, Any]) -> dict[str, str]:
    """Return the text of each generated section."""
    return {
        "run": tables.run_table(description),
        "bars": tables.bars_table(samples),
        "peers": tables.peers_table(),
        "turns": tables.turns_table(samples),
        "depth": tables.depth_table(samples),
        "streams": tables.streams_table(samples),
        "first-byte": tables.first_byte_table(samples),
        "images": tables.images_table(samples),
        "stored": tables.stored_table(samples),
        "workers": tables.workers_table(samples),
    }


def filled(page: str, texts: Mapping[str, str]) -> str:
    """Return a page with its generated sections replaced. Raises KeyError if it has one that there is no text for."""
    return _SECTION.sub(lambda match: f"{match[1]}\n{texts[match[2]]}\n\n{match[3]}", page)


def publish(data: Path) -> None:
    """Draw the pictures beside the data of a run, print its bars, and write the page, if they are the page's data."""
    samples = Samples.read(data / "measurements.csv")
    description = json.loads((data / "run.json").read_text())
    if find_spec("matplotlib") is None:
        print("No pictures: matplotlib is not installed (pip install '.[bench]').", file=sys.stderr)
    else:
        from benchmarks.performance.drawing import draw

        for name, chosen in charts(samples).items():
            draw(chosen, data / f"{name}.svg")
    texts = sections(samples, description)
    if data.resolve() == DATA:
        PAGE.write_text(filled(PAGE.read_text("utf-8"), texts), "utf-8")
    print(texts["run"], texts["bars"], sep="\n\n")
