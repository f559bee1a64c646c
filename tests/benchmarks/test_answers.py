"""How much memory a large answer takes, in a server of its own: less than its bounds, which are what was reached."""

from __future__ import annotations

import pytest

from benchmarks.costs.answers import measure

MEGABYTES = 40


@pytest.mark.parametrize(("form", "most"), [("json", 2.4)])
async def test_a_large_answer_takes_no_more_than_so_many_times_its_size(form: str, most: float):
    assert await measure(form, MEGABYTES * 1_000_000) < most
