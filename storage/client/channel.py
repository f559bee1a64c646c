"""Channel: commands to Redis and their replies, pipelined, one exchange a round trip."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from redis import exceptions as redis_errors

Argument: TypeAlias = bytes | str | int | float
Command: TypeAlias = tuple[Argument, ...]


class Transaction(NamedTuple):
    """Commands that the server does without anybody else's in between; they have one reply, the list of theirs.

    One of them that fails has its error in that list, and the others are done all the same. What the server does not
    take as a transaction has that error for its reply.
    """

    commands: Sequence[Command]


ChannelRequest: TypeAlias = Command | Transaction

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


class Channel(Protocol):
    """Sends commands together and returns their replies in order; an error reply is returned, not raised.

    Raises redis-py's ConnectionError and its kin, or TimeoutError when no reply came; those that are Unanswered where
    the commands may have been done.
    """

    #: Whether it leads to a cluster: then it takes no transactions, and slots may move while they are used.
    is_cluster: bool = False

    @abstractmethod
    async def exchange(self, requests: Sequence[ChannelRequest]) -> list[Any]:
        """Send all, read all."""

    async def tags(self) -> list[str]:
        """Return hash tags of keys, so that each server has one."""
        return ["0"]

    async def scan(self, pattern: str) -> AsyncIterator[list[str]]:
        """Yield the names of the keys that match a glob, a batch a round trip; one may come twice.

        What is written meanwhile may be missing. Raises an error reply too.
        """
        cursor: Argument = 0
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


def unfold(requests: Sequence[ChannelRequest]) -> Sequence[Command]:
    """Return requests as the commands that are sent."""
    commands: list[Command] = []
    for request in requests:
        if isinstance(request, Transaction):
            commands += [("MULTI",), *request.commands, ("EXEC",)]
        else:
            commands.append(request)
    return commands


def fold(requests: Sequence[ChannelRequest], replies: list[Any]) -> list[Any]:
    """Return the replies to requests, from those to the commands of `unfold`."""
    if len(replies) == len(requests):
        return replies
    folded, at = [], 0
    for request in requests:
        if isinstance(request, Transaction):
            end = at + 1 + len(request.commands)
            taken, reply = replies[at:end], replies[end]
            if taken[1:] != [b"QUEUED"] * len(request.commands):
                # one that was not even queued says why; EXEC says only that there was such a one
                reply = next((one for one in taken if isinstance(one, Exception)), reply)
            at = end
        else:
            reply = replies[at]
        folded.append(reply)
        at += 1
    return folded
