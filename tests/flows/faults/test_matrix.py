"""A model server, a store and a client that misbehave at once: every two faults, `benchmarks/faults/matrix.py`."""

from pathlib import Path

import pytest

from benchmarks.faults.matrix import STORES, covering_cells, run_matrix

#: Of the store's times: a pause of 7 s, longer than one command may take, is one of 1.4 s.
SCALE = 0.2
WORLDS = 3


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts what processes have through /proc")
@pytest.mark.timeout(180)
async def test_what_clients_are_told_is_what_is_stored_and_nothing_is_left_behind(tmp_path: Path):
    cells = covering_cells(STORES)
    await run_matrix(tmp_path, cells, SCALE, WORLDS)
    assert [(cell.key, wrong) for cell in cells for wrong in cell.wrong] == []
    assert all(cell.answers for cell in cells)
