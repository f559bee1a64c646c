"""Processes of a measurement: what gives way to others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.processes import giving_way

AUTOGROUPS = Path("/proc/self/autogroup")


@pytest.mark.skipif(not AUTOGROUPS.exists(), reason="this kernel does not share processors out by session")
def test_who_gives_way_does_so_to_other_sessions_too():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as other:
        session = Path(f"/proc/{other.pid}/autogroup")
        with giving_way([other.pid], 5):
            assert session.read_text().endswith(" nice 5\n")
        assert session.read_text().endswith(" nice 0\n")
        assert os.getpriority(os.PRIO_PROCESS, other.pid) == 5
        other.communicate(b"\n")
