"""`kill -9` of replicas while background responses run: `benchmarks/endurance/`."""

import pytest

from benchmarks.endurance.failover import failover
from tests.processes import launch

RUNS = 20


@pytest.mark.timeout(180)
async def test_every_background_response_ends_whichever_replica_dies(valkey_url: str):
    log = await failover(valkey_url, worlds=4, runs=RUNS, seed=7, launch=launch)
    assert log.faults == []
    assert log.runs == RUNS
    assert log.responses > RUNS
    assert log.resumed > 0
