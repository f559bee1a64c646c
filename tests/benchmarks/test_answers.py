"""How much memory a large answer takes, in a server of its own: less than its bounds, which are what was reached."""

from __future__ import annotations

import pytest

from benchmarks.costs.answers import FORMS, measure

MEGABYTES = 40


@pytest.mark.parametrize("form", list(FORMS))
async def test_a_large_answer_takes_hardly_more_than_twice_its_size(form: str):
    assert await measure(form, MEGABYTES * 1_000_000) < 2.5
