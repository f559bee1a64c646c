"""Channel: commands to Redis and their replies, pipelined, one exchange a round trip."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol, TypeAlias

from redis import exceptions as redis_errors

#: Bytes of an argument from which on it is not copied into its command.
UNCOPIED_BYTES = 1 << 20


class Uncopied:
    """An argument of so many bytes that it is sent as it is, between the pieces of its command."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)


Argument: TypeAlias = bytes | str | int | float | Uncopied
Command: TypeAlias = tuple[Argument, ...]


def uncopied(data: bytes) -> Argument:
    """Return bytes as an argument: large ones are not copied."""
    return data if len(data) < UNCOPIED_BYTES else Uncopied(data)


#: Keys that the server looks at in one step of a scan.
SCAN_COUNT = 1000


class Unanswered(Exception):
    """Commands were sent, and no reply came: whether they were done is not known."""


class NoAnswerInTime(Unanswered, TimeoutError):
    """The time for the reply is over."""


class AnswerLost(Unanswered, redis_errors.ConnectionError):
    """The connection broke."""


class GarbledAnswer(Unanswered, redis_errors.InvalidResponse):
    """What came is no reply at all."""


class Unconfirmed(Unanswered, redis_errors.ResponseError):
    """What was to confirm the commands was refused; `__cause__` is the error reply."""


class Channel(Protocol):
    """Sends commands together and returns their replies in order; an error reply is returned, not raised.

    Raises redis-py's ConnectionError and its kin, or TimeoutError when no reply came; those that are Unanswered where
    the commands may have been done.
    """

    #: Whether it leads to a cluster: then slots may move while they are used.
    is_cluster: bool = False

    @abstractmethod
    async def exchange(self, requests: Sequence[Command]) -> list[Any]:
        """Send all, read all."""

    async def tags(self) -> list[str]:
        """Return hash tags of keys, so that each server has one."""
        return ["0"]

    async def scan(self, pattern: str) -> AsyncIterator[list[str]]:
        """Yield the names of the keys that match a glob, a batch a round trip; one may come twice.

        What is written meanwhile may be missing. Raises an error reply too.
        """
        cursor: bytes | int = 0
        while True:
            (reply,) = await self.exchange([("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT)])
            if isinstance(reply, Exception):
                raise reply
            cursor, keys = reply
            if keys:
                yield [key.decode() for key in keys]
            if int(cursor) == 0:
                return

    @abstractmethod
    async def close(self) -> None:
        """Close what is open."""
