"""Long work beside the event loop: in a thread where it takes long, so that everybody else has their turn meanwhile."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

#: Items from which on work goes to a thread: some 10 ms of it.
MANY = 500
#: Seconds after which a thread lets another one run. Python's own 5 ms are what the event loop would wait each time.
SWITCH_SECONDS = 0.0005


async def beside(items: int, work: Callable[[], Found]) -> Found:
    """Return what `work` gives; it must touch nothing that anybody else changes. items: how many it goes through."""
    if items < MANY:
        return work()
    sys.setswitchinterval(SWITCH_SECONDS)
    return await asyncio.to_thread(work)
