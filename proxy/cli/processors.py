"""Processors: how many processes `server.workers` asks for here."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Literal

#: What a container may use of the processors (cgroup v2): microseconds in each period, or `max`, and the period.
QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")


def worker_count(setting: int | Literal["auto"], quota_file: Path = QUOTA_FILE) -> int:
    """Return how many workers there shall be; `auto`: one for each processor that this process may use."""
    if setting != "auto":
        return setting
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(usable, _quota(quota_file))))


def _quota(file: Path) -> float:
    """Return how many processors' time the container has; infinity without a limit."""
    try:
        allowed, period = file.read_text().split()
        return int(allowed) / int(period)
    except (OSError, ValueError):
        # no cgroup of version 2, or `max`
        return math.inf
