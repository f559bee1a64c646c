"""Processes of a measurement: what gives way to others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.processes import give_way

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/autogroup").exists(), reason="this kernel does not share processors out by session"
)


@pytest.mark.parametrize("is_own", [True, False])
def test_a_process_gives_way_to_other_sessions_too_if_the_session_is_its_own(is_own: bool):
    before = Path("/proc/self/autogroup").read_text()
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=is_own) as other:
        give_way(other.pid, 5)
        assert os.getpriority(os.PRIO_PROCESS, other.pid) == 5
        assert Path(f"/proc/{other.pid}/autogroup").read_text().endswith(" nice 5\n") == is_own
        other.communicate(b"\n")
    assert Path("/proc/self/autogroup").read_text() == before
