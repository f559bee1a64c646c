"""In a process of its own: here other tests' children would be in the way."""

from __future__ import annotations

import sys

from tests.processes import capture, environment

SCRIPT = """
import os, subprocess, sys
from proxy.cli.orphans import OrphanReaper

reaper = OrphanReaper()
reaper.reap()
ours = subprocess.Popen(["sleep", "60"])
for _ in range(2):
    if (child := os.fork()) == 0:
        os._exit(3)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
zombies = []
for _ in range(4):
    reaper.reap()
    zombies.append(os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None)
print(zombies, ours.poll())
ours.kill()
reaper.reap()
print(ours.wait())
"""


def test_what_is_still_there_at_the_second_look_is_reaped():
    told = capture([sys.executable, "-c", SCRIPT], environment())
    assert told.stderr == ""
    # the first of two is seen, reaped while the second is seen, that one is reaped
    assert told.stdout == "[True, True, False, False] None\n-9\n"
