"""Room for what is new: what the store takes while its disk or its memory comes to an end.

Redis falls over, or refuses deletions too, once there is nothing left. So new things are refused before that, while
what has begun is still written down, and deletions go on; at the very end nothing is written any more.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from storage.errors import Reason, Unavailable

#: Of the memory that a server may use, what is kept free: a share, and at most so many bytes.
MEMORY_RESERVE_SHARE = 0.25
MAX_MEMORY_RESERVE_BYTES = 64 * 1024 * 1024
#: Bytes of memory that a byte of what is written takes at most.
MEMORY_FACTOR = 2
#: Share of the least free space from which on nothing is written any more.
LAST_SHARE = 1 / 8

#: Scripts that begin something new. What a turn writes belongs to what has begun; its opening is asked by `Condition`.
_BEGIN = frozenset(
    {
        "append_items",
        "create_conversation",
        "fork_branch",
        "import_begin",
        "import_items",
        "restore_part",
        "submit_response",
        "update_branch",
        "update_conversation",
    }
)
#: Scripts that write nothing.
_ONLY_READ = frozenset(
    {
        "check_job",
        "compare_branches",
        "copy_key",
        "copy_partition",
        "excerpt_items",
        "export_appends",
        "export_begin",
        "export_items",
        "find_digests",
        "find_id",
        "graph_branches",
        "identify_conversation",
        "identify_server",
        "list_branches",
        "list_index",
        "list_items",
        "locate_item",
        "probe_writes",
        "read_branch",
        "read_clock",
        "read_conversation",
        "read_events",
        "read_head",
        "read_item",
        "read_layout",
        "read_history",
        "read_job",
        "read_piece",
        "read_pulse",
        "read_response",
        "resolve_items",
        "survey_queue",
        "scan_items",
        "summarize_response",
        "weigh_key",
        "window_items",
    }
)


class Shortage(IntEnum):
    """How little is left."""

    NONE = 0
    NOTHING_NEW = 1
    NOTHING = 2


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk that a server writes to. folder: any on it. min_free_bytes: below that nothing new is begun."""

    folder: Path
    min_free_bytes: int

    def shortage(self) -> Shortage:
        """Look at how much is free. Raises OSError."""
        free = shutil.disk_usage(self.folder).free
        if free >= self.min_free_bytes:
            return Shortage.NONE
        return Shortage.NOTHING_NEW if free >= self.min_free_bytes * LAST_SHARE else Shortage.NOTHING


class Room:
    """Whether there is room for what a script does.

    shortage, of: what was found out last, and what of. left_bytes: of memory until nothing new is begun; what is
    written until the next look is taken off.
    """

    def __init__(self) -> None:
        self.shortage = Shortage.NONE
        self.of = ""
        self.left_bytes = math.inf

    def admit(self, script: str, arguments: Sequence[Sized | float]) -> None:
        """Raise Unavailable for a script that takes what is not there."""
        if self.left_bytes < math.inf and script not in _ONLY_READ:
            size = sum(len(one) if isinstance(one, Sized) else 1 for one in arguments)
            self.left_bytes -= MEMORY_FACTOR * size
            if self.left_bytes < 0 and self.shortage is Shortage.NONE:
                self.shortage, self.of = Shortage.NOTHING_NEW, "memory"
        if self.shortage is Shortage.NONE:
            return
        if script in _BEGIN or (self.shortage is Shortage.NOTHING and script not in _ONLY_READ):
            raise self.refusal()

    def refusal(self) -> Unavailable:
        """Return what is told about it."""
        return Unavailable(f"no {self.of}", Reason.FULL)


def memory_left(used_bytes: int, max_bytes: int) -> float:
    """Return how many bytes a server may take until nothing new is begun. max_bytes: 0 for no limit."""
    reserve = min(max_bytes * MEMORY_RESERVE_SHARE, MAX_MEMORY_RESERVE_BYTES)
    return max_bytes - reserve - used_bytes if max_bytes else math.inf
