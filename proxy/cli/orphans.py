"""Orphans: what a container's first process has to do for processes whose parents have died."""

from __future__ import annotations

import os


class OrphanReaper:
    """Takes note of the end of children that nobody here has started; else they would stay as zombies.

    What was started here is reaped by the event loop as soon as it ends. So a child that is still not reaped when it is
    looked for a second time was handed to this process by the system.
    """

    def __init__(self) -> None:
        self._seen: int | None = None

    def reap(self) -> None:
        """Look for ended children and reap those that were there the last time."""
        while (ended := _ended_child()) is not None and ended == self._seen:
            os.waitpid(ended, os.WNOHANG)
        self._seen = ended


def _ended_child() -> int | None:
    """Return the id of a child that has ended and was not reaped; None where the system can't say (macOS)."""
    if not hasattr(os, "waitid"):
        return None
    try:
        result = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return result.si_pid if result is not None else None
