"""Followed: what every way of following a server has: who wants to know that it is another one now."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable


class Followed(ABC):
    """A server that may be another one later. Channels that talk to it are told by `on_change`'s callbacks."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []
        #: Counts the changes: an address that was asked for before one is not to be used.
        self.changes = 0

    def on_change(self, callback: Callable[[], None]) -> None:
        """Have `callback` called whenever it is about to be another server, or is one."""
        self._callbacks.append(callback)

    @abstractmethod
    async def address(self) -> tuple[str, int]:
        """Return host and port to connect to. Raises redis-py's ConnectionError."""

    @abstractmethod
    async def follow(self) -> None:
        """Find out about changes, for ever. Raises redis-py's errors, and OSError."""

    @abstractmethod
    def reached(self, host: str) -> None:
        """Take note of the IP address that a connection was made to."""

    def _change(self) -> None:
        self.changes += 1
        for callback in self._callbacks:
            callback()
