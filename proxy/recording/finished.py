"""Finished turns, as they are handed over to be recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from storage import Entry

#: Gives the entries of each of some elements of a request, by their indexes.
Brings = Callable[[Sequence[int]], list[list[Entry]]]


@dataclass(slots=True)
class RecordedAnswer:
    """One answer: the response's id, state and object without its output; what it says, and that as entries."""

    response_id: str
    status: str
    body: bytes
    items: Sequence[dict[str, Any]]
    outputs: Sequence[Entry]


@dataclass(slots=True)
class FinishedTurn:
    """What a turn ended with. brings: its input, of so many elements (count).

    others: further answers to it, each of which gets a branch. job_token: of a response that was accepted before.
    is_delivered: the client got all of it.
    """

    answer: RecordedAnswer
    brings: Brings
    model: str = ""
    stored: bool = True
    job_token: str = ""
    is_delivered: bool = True
    count: int = 0
    others: Sequence[RecordedAnswer] = ()
