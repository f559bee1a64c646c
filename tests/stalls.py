"""What runs a test stands still now and then, as on a machine that others use: with `STALLS=1` in the environment.

The pauses come at random moments of the processor's time that a test takes, rarer the longer it lasts; another number
gives others. A test that fails with them waits for a time, where it should wait for what happens.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator
from random import Random

import pytest

#: Seconds that a pause takes.
SHORTEST, LONGEST = 0.2, 0.7
#: Seconds of a processor before the first pause, at most, and how much longer it is each time until the next.
FIRST_SECONDS, GROWTH = 0.005, 1.7


class Stalls:
    """The pauses of one test. seed: says which."""

    def __init__(self, seed: str) -> None:
        self._dice = Random(seed)
        self._within = FIRST_SECONDS

    def begin(self) -> None:
        """Have the next pause come."""
        signal.signal(signal.SIGPROF, self._stand_still)
        signal.setitimer(signal.ITIMER_PROF, self._dice.uniform(0.1, 1.0) * self._within)
        self._within *= GROWTH

    def end(self) -> None:
        """Let none come any more; one that is due does nothing."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_IGN)

    def _stand_still(self, *_: object) -> None:
        time.sleep(self._dice.uniform(SHORTEST, LONGEST))
        self.begin()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test with its fixtures among pauses."""
    stalls = Stalls(os.environ["STALLS"] + item.nodeid)
    stalls.begin()
    try:
        return (yield)
    finally:
        stalls.end()
