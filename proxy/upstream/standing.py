"""Standing: whether a model server is asked in its turn, or after the others for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Failures in a row after which a server is passed over, and for how many seconds.
MAX_FAILURES = 3
PASSED_OVER_SECONDS = 10.0


class Standing:
    """How one model server has fared lately, in this process. clock: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._passed_over_until = 0.0

    @property
    def is_good(self) -> bool:
        """Whether it is asked in its turn."""
        return self._failures < MAX_FAILURES or self._clock() >= self._passed_over_until

    @property
    def is_bad(self) -> bool:
        """Whether it has failed so often, and not worked since."""
        return self._failures >= MAX_FAILURES

    def note(self, *, worked: bool) -> bool:
        """Note how a request ended; return whether the server is passed over from now on.

        Once its time is over one more failure is enough.
        """
        if worked:
            self._failures = 0
            return False
        was_good = self.is_good
        self._failures += 1
        if not was_good or self._failures < MAX_FAILURES:
            return False
        self._passed_over_until = self._clock() + PASSED_OVER_SECONDS
        return True
