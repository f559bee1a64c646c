"""Turn options: how a turn is run, beside what its request says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxy.recording.turn import TurnRecording
    from proxy.turns.continuation import Continuation
    from proxy.turns.identity import Identity
    from storage import Branch, HistoryLimit


@dataclass(frozen=True)
class Revised:
    """What a turn has done to its conversation's branches. branch: the one it made, None if it made none.

    backup: what the old MAIN is called now. anchor: id of the last item that the branch inherited. item: the first
    that it brought, as stored.
    """

    branch: Branch | None
    backup: str | None
    anchor: str | None
    item: bytes | None


@dataclass(slots=True)
class TurnOptions:
    """How a turn is run.

    identity: what it is known by, None for one that begins here. continuation: what the previous response ended with,
    where that is not in the store. describe: returns what the answer says beside the response; None where the answer is
    the response. generate: whether the model is asked at all. remembered: what comes after it may go on from it even
    if it is not stored. resumable: its events are kept, so that it runs on for a client that comes back. recording: of
    a turn that goes on from no id, None where it is stored by itself. most_history: how much of it is read here; what
    has more ends with HeavyHistory, before anything is done, so that it can be given to another process.
    """

    identity: Identity | None = None
    continuation: Continuation | None = None
    describe: Callable[[Revised], dict[str, Any]] | None = None
    generate: bool = True
    remembered: bool = False
    resumable: bool = False
    recording: TurnRecording | None = None
    most_history: HistoryLimit | None = None
