"""Stored values: how the scripts write what has several parts, read and written here in the same way.

The constants are those of `lua/lib/common.lua`, under the same names.
"""

from __future__ import annotations

from collections.abc import Iterable

from storage.records import Chain

#: Between call ids in a list of them.
CALL_BREAK = "\x1e"
#: Between the fields of a journal entry, and of the partition's note of an import.
FIELD_BREAK = "\x1f"
#: What a partition's own key is called, without which nothing is found there.
PARTITION_KEY = "partition"
#: Offsets that a segment has room for: a place counts as segment * SEGMENT_SPACE + offset in scores.
SEGMENT_SPACE = 2**30


def join_calls(calls: Iterable[str]) -> str:
    """Return call ids as one text."""
    return CALL_BREAK.join(calls)


def split_calls(text: str) -> list[str]:
    """Return the call ids of such a text."""
    return [call for call in text.split(CALL_BREAK) if call]


def score_of(segment: int, offset: int) -> int:
    """Return the score of a place in the journal and among the tombstones."""
    return segment * SEGMENT_SPACE + offset


def place_of(score: float) -> tuple[int, int]:
    """Return the segment and the offset that a score stands for."""
    return divmod(int(score), SEGMENT_SPACE)


def read_chain(text: bytes) -> Chain:
    """Return the spans of a closed chain."""
    spans = [span.split(b":") for span in text.split(b",") if span]
    return [(int(segment), int(start), int(stop)) for segment, start, stop in spans]
