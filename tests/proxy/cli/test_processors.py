from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.cli.processors import worker_count

USABLE = len(os.sched_getaffinity(0))


@pytest.fixture
def quota(tmp_path: Path) -> Path:
    return tmp_path / "cpu.max"


def test_a_number_is_taken_at_its_word(quota: Path):
    quota.write_text("50000 100000\n")
    assert worker_count(7, quota) == 7


@pytest.mark.parametrize(
    ("allowed", "count"),
    [
        ("max 100000\n", USABLE),
        ("50000 100000\n", 1),
        ("100000 100000\n", 1),
        ("110000 100000\n", min(2, USABLE)),
        (f"{USABLE + 1}00000 100000\n", USABLE),
        ("what is this", USABLE),
    ],
)
def test_auto_is_what_this_process_may_use(quota: Path, allowed: str, count: int):
    assert worker_count("auto", quota) == USABLE
    quota.write_text(allowed)
    assert worker_count("auto", quota) == count
