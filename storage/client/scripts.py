"""Script calls: Lua scripts called by name, their refusals and redis-py's errors translated here only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis import exceptions as redis_errors

from storage.client.channel import Argument, Channel, ChannelRequest, Command, Transaction
from storage.client.library import load_scripts
from storage.errors import REFUSALS, StoreError, Unavailable

#: Redis's answers that mean "not now": the server is up but can't do what it was asked.
_NOT_NOW = (
    "OOM",
    "READONLY",
    "MISCONF",
    "NOREPLICAS",
    "LOADING",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "BUSY",
    "UNBLOCKED",
)

#: The same where redis-py has a class for the answer and takes its code off.
_NOT_NOW_ERRORS = (
    redis_errors.ClusterDownError,
    redis_errors.OutOfMemoryError,
    redis_errors.ReadOnlyError,
    redis_errors.TryAgainError,
)
#: All that redis-py raises; the cluster client has a tree of its own.
CLIENT_ERRORS = (TimeoutError, OSError, redis_errors.RedisError, redis_errors.RedisClusterException)

#: What a key is called that there never is, behind the first key of a script that names further keys itself. While a
#: slot moves to another node of a cluster, a node does what all declared keys are there for, and a script that only
#: finds out what it touches would fail in its midst, at the first key that has gone already. With a declared key that
#: is nowhere, both nodes refuse it as a whole (TRYAGAIN), until the slot has moved.
ABSENT = ":absent"


class Call(NamedTuple):
    """One call of a script. subject: the id that a refusal is about when the script names none.

    reads: commands that read what lies where the script has looked, with nobody's write in between; not for channels
    without transactions. Their replies, a list, come after the script's.
    """

    script: str
    keys: Sequence[str]
    arguments: Sequence[Argument]
    subject: str = ""
    reads: Sequence[Command] = ()


def translate_error(error: Exception) -> StoreError:
    """Return what a redis-py exception means for a caller: `Unavailable`, with a reason that has no credentials.

    An answer that only a fault of our own can cause (a wrong type, a script error) is raised as it is.
    """
    if isinstance(error, redis_errors.ResponseError) and not isinstance(error, _NOT_NOW_ERRORS):
        if not str(error).startswith(_NOT_NOW):
            raise error
        return Unavailable(str(error).partition(" ")[0])
    return Unavailable(type(error).__name__)


class Scripts:
    """Calls scripts over one channel."""

    def __init__(self, channel: Channel, conversation_seconds: int = 0) -> None:
        self._channel = channel
        self._scripts = load_scripts(conversation_seconds)

    @property
    def take_reads(self) -> bool:
        """Whether calls may have reads."""
        return not self._channel.is_cluster

    async def run(self, call: Call) -> list[Any]:
        """Run one script in one round trip and return its reply from the second element on.

        Raises the StoreError that the script's first element names, or Unavailable.
        """
        return _unwrap((await self._exchange([call]))[0], call)

    async def run_all(self, calls: Sequence[Call]) -> list[list[Any] | StoreError]:
        """Run several scripts in one round trip (one a node on a cluster); each gives its reply or its refusal.

        Raises Unavailable if Redis could not be reached.
        """
        results: list[list[Any] | StoreError] = []
        for reply, call in zip(await self._exchange(calls), calls, strict=True):
            try:
                results.append(_unwrap(reply, call))
            except StoreError as refusal:
                results.append(refusal)
        return results

    async def _exchange(self, calls: Sequence[Call]) -> list[Any]:
        if not calls:
            return []
        try:
            replies = await self._channel.exchange([self._request(call) for call in calls])
            for i, call in enumerate(calls):
                error = _error_in(replies[i], call)
                if isinstance(error, redis_errors.NoScriptError):
                    (replies[i],) = await self._channel.exchange([self._request(call, whole=True)])
                    error = _error_in(replies[i], call)
                if error is not None:
                    raise error
        except CLIENT_ERRORS as error:
            raise translate_error(error) from error
        return replies

    def _request(self, call: Call, *, whole: bool = False) -> ChannelRequest:
        """Return the call as it is sent. whole: for a server that has lost its scripts, or never had them."""
        script, keys = self._scripts[call.script], call.keys
        if script.names_keys and self._channel.is_cluster:
            keys = [*keys, keys[0] + ABSENT]
        name, text = ("EVAL", script.source) if whole else ("EVALSHA", script.sha)
        command = (name, text, len(keys), *keys, *call.arguments)
        return Transaction((command, *call.reads)) if call.reads else command


def _error_in(reply: Any, call: Call) -> Exception | None:
    """Return what the script of a call failed with, else one of its reads; None if nothing failed."""
    if isinstance(reply, Exception):
        return reply
    return next((part for part in reply if isinstance(part, Exception)), None) if call.reads else None


def _unwrap(reply: list[Any], call: Call) -> list[Any]:
    if call.reads:
        reply = [*reply[0], reply[1:]]
    refusal = REFUSALS.get(reply[0])
    if refusal is None:
        return reply if reply[0] != b"ok" else reply[1:]
    named = reply[1] if len(reply) > 1 and isinstance(reply[1], bytes) else b""
    raise refusal(named.decode("utf-8", "replace") or call.subject)
