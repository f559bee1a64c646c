"""Clients on two replicas while the store, the model server, connections and replicas fail: `benchmarks/faults/`."""

from pathlib import Path

import pytest

from benchmarks.faults.consistency import FAULTS, SETTINGS, Log, clients_of
from benchmarks.faults.history import Told
from benchmarks.faults.world import running_world

#: With the checks at the end the test takes 20 s.
SECONDS = 15
CLIENTS = 4


def is_enough(log: Log) -> bool:
    """Whether so much has happened that it says something."""
    return len(log.broken) >= len(FAULTS) // 2 and log.outcomes[Told.DONE] > 20 and log.reads > 0


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts what processes have through /proc")
@pytest.mark.timeout(120)
async def test_one_order_explains_all_that_clients_were_told_while_everything_breaks(tmp_path: Path):
    async with running_world(tmp_path, SETTINGS) as world, clients_of(world, seed=11) as run:
        await run.work(CLIENTS, SECONDS, is_enough)
    assert run.log.wrong == []
    assert is_enough(run.log)
