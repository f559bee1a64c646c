"""Connection cache: the unstored responses of one WebSocket that a later turn on it can go on from. Pure.

The store knows nothing of them, and they are gone with the connection.
"""

from __future__ import annotations

from collections import OrderedDict

from proxy.turns.continuation import Continuation


class ContinuationCache:
    """The latest response of each lane, where it is not stored. max_bytes: of all of them; the oldest goes first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = self._room = max_bytes
        self._latest: OrderedDict[str, tuple[str, Continuation]] = OrderedDict()

    def find(self, response_id: str) -> Continuation | None:
        """Return what a response ended with, if it is the latest of any lane."""
        return next((kept for known, kept in self._latest.values() if known == response_id), None)

    def is_named_in(self, data: bytes) -> bool:
        """Tell whether a message names any of them, in which place ever."""
        return any(known.encode() in data for known, _ in self._latest.values())

    def keep(self, lane: str, response_id: str, latest: Continuation | None) -> None:
        """Put a response in the place of the lane's latest. latest: None if the store has it."""
        self._drop(lane)
        if latest is None or latest.size > self._max_bytes:
            return
        self._latest[lane] = (response_id, latest)
        self._room -= latest.size
        while self._room < 0:
            self._drop(next(iter(self._latest)))

    def forget(self, lane: str, response_id: str) -> None:
        """Drop a response if it is the latest of this lane; other lanes keep theirs."""
        if lane in self._latest and self._latest[lane][0] == response_id:
            self._drop(lane)

    def _drop(self, lane: str) -> None:
        if dropped := self._latest.pop(lane, None):
            self._room += dropped[1].size
