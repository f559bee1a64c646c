"""A model server, a store and a client that misbehave at once: each fault, in a deep run every two of them.

All three with each other: `benchmarks/faults/matrix.py`.
"""

from pathlib import Path

import pytest

from benchmarks.faults.cell_clients import CLIENTS
from benchmarks.faults.matrix import STORES, UPSTREAM_NAMES, covering_cells, run_matrix
from tests.depth import DEEP

#: Of the store's times: a pause of 7 s, longer than one command may take, is one of 1.4 s.
SCALE = 0.2
WORLDS = 3


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts what processes have through /proc")
@pytest.mark.timeout(180)
async def test_what_clients_are_told_is_what_is_stored_and_nothing_is_left_behind(tmp_path: Path):
    cells = covering_cells(STORES)[:: 1 if DEEP else 5]
    assert {cell.upstream for cell in cells} == {*UPSTREAM_NAMES}
    assert ({cell.store for cell in cells}, {cell.client for cell in cells}) == ({*STORES}, {*CLIENTS})
    await run_matrix(tmp_path, cells, SCALE, WORLDS)
    assert [(cell.key, wrong) for cell in cells for wrong in cell.wrong] == []
    assert all(cell.answers for cell in cells)
