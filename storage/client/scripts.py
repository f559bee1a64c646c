"""Script calls: Lua scripts called by name, their refusals and redis-py's errors translated here only."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

from redis import exceptions as redis_errors

from storage.client.barrier import TooFewReplicas
from storage.client.channel import Argument, Channel, Command, Unanswered, Unconfirmed
from storage.client.library import load_scripts
from storage.errors import REFUSALS, Reason, StoreError, Unavailable
from storage.room import Room

logger = logging.getLogger(__name__)

#: redis-py's classes → what they come down to; the first that fits counts.
_CLASSES: dict[type[Exception] | tuple[type[Exception], ...], Reason] = {
    (
        redis_errors.AuthenticationError,
        redis_errors.AuthenticationWrongNumberOfArgsError,
        redis_errors.AuthorizationError,
        redis_errors.NoPermissionError,
    ): Reason.NO_PERMISSION,
    (redis_errors.BusyLoadingError, redis_errors.MasterDownError): Reason.LOADING,
    TooFewReplicas: Reason.REPLICAS,
    redis_errors.ReadOnlyError: Reason.READ_ONLY,
    redis_errors.OutOfMemoryError: Reason.FULL,
    redis_errors.TryAgainError: Reason.BUSY,
    (
        TimeoutError,
        OSError,
        redis_errors.ConnectionError,
        redis_errors.TimeoutError,
        redis_errors.ClusterDownError,
        redis_errors.InvalidResponse,
    ): Reason.AWAY,
}
#: The same for answers that redis-py has no class for, by how they begin.
_ANSWERS = {
    "OOM": Reason.FULL,
    "READONLY": Reason.READ_ONLY,
    "NOREPLICAS": Reason.REPLICAS,
    "MISCONF": Reason.READ_ONLY,
    "UNBLOCKED": Reason.READ_ONLY,
    "MASTERDOWN": Reason.LOADING,
    "CLUSTERDOWN": Reason.AWAY,
    "BUSY": Reason.BUSY,
    "TRYAGAIN": Reason.BUSY,
    "ACL failure in script": Reason.NO_PERMISSION,
    "The user executing the script can't": Reason.NO_PERMISSION,
}
#: Redis 6 quotes what a command in a script met.
_QUOTED = re.compile(r"^Error running script .*?-(?=[A-Z]+ )", re.DOTALL)
_NO_SPACE = "No space left on device"
_CODE = re.compile(r"[A-Z]+\b")
#: All that a channel raises.
CLIENT_ERRORS = (TimeoutError, OSError, redis_errors.RedisError)

#: What a key is called that there never is, behind the first key of a script that names further keys itself. While a
#: slot moves to another node of a cluster, a node does what all declared keys are there for, and a script that only
#: finds out what it touches would fail in its midst, at the first key that has gone already. With a declared key that
#: is nowhere, both nodes refuse it as a whole (TRYAGAIN), until the slot has moved.
ABSENT = ":absent"


#: Scripts whose effect a client is told of: what they write has to be with replicas first, where that is asked for.
_ACKNOWLEDGED = frozenset(
    {
        "activate_branch",
        "append_items",
        "cancel_response",
        "commit_turn",
        "create_conversation",
        "delete_branch",
        "delete_conversation",
        "delete_item",
        "delete_response",
        "fork_branch",
        "import_finish",
        "note_restore",
        # as a question whether they follow
        "probe_writes",
        "record_turn",
        "submit_response",
        "update_branch",
        "update_conversation",
    }
)


#: Told of each call: its script, when it was sent (by `time.perf_counter`), and what came of it: `OK`, `REFUSED` (the
#: answer was that nothing is done), `UNAVAILABLE`.
Watcher: TypeAlias = Callable[[str, float, str], None]
OK, REFUSED, UNAVAILABLE = "ok", "refused", "unavailable"


class Call(NamedTuple):
    """One call of a script. subject: the id that a refusal is about when the script names none."""

    script: str
    keys: Sequence[str]
    arguments: Sequence[Argument]
    subject: str = ""


def translate_error(error: Exception, *, unsure: bool = False) -> Unavailable:
    """Return what a redis-py exception means for a caller, without credentials.

    unsure: whether something may have been done whatever the exception says. An answer that says nothing to us is
    logged, and may come from the middle of a script.
    """
    is_unanswered = isinstance(error, Unanswered)
    if isinstance(error, Unconfirmed) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    reason = _reason_of(error)
    if reason is Reason.UNKNOWN:
        # what others than the server say may hold anything
        text = error if isinstance(error, redis_errors.ResponseError) else ""
        logger.error("the store answered with an error: %s: %s", type(error).__name__, text)
    in_a_script = reason is Reason.UNKNOWN or str(error).startswith("ACL failure")
    return Unavailable(_name_of(error), reason, unsure=unsure or in_a_script or is_unanswered)


@contextmanager
def translated() -> Iterator[None]:
    """Raise Unavailable for whatever redis-py raises meanwhile."""
    try:
        yield
    except CLIENT_ERRORS as error:
        raise translate_error(error) from error


def _reason_of(error: Exception) -> Reason:
    text = _QUOTED.sub("", str(error))
    if text.startswith("MISCONF") and _NO_SPACE in text:
        return Reason.FULL
    for classes, reason in _CLASSES.items():
        if isinstance(error, classes):
            return reason
    return next((reason for begin, reason in _ANSWERS.items() if text.startswith(begin)), Reason.UNKNOWN)


def _name_of(error: Exception) -> str:
    """Return Redis's code where redis-py knows none, else the name of redis-py's class."""
    code = _CODE.match(_QUOTED.sub("", str(error)))
    if type(error) is redis_errors.ResponseError and code:
        return "NOPERM" if code[0] == "ACL" else code[0]
    return next(one.__name__ for one in type(error).__mro__ if not issubclass(one, Unanswered))


class Scripts:
    """Calls scripts over one channel. room: for what they do.

    replicated: the channel for those that a client is told of, where that is another one.
    """

    def __init__(self, channel: Channel, conversation_seconds: int = 0, replicated: Channel | None = None) -> None:
        self._channel = channel
        #: Whether calls that go out together may reach different servers, in any order.
        self.is_cluster = channel.is_cluster
        self._replicated = replicated or channel
        self.room = Room()
        self._scripts = load_scripts(conversation_seconds)
        self._check: Callable[[], Awaitable[None]] | None = None
        self._watcher: Watcher | None = None

    @property
    def is_guarded(self) -> bool:
        """Whether something comes before the next call."""
        return self._check is not None

    def watch(self, watcher: Watcher | None) -> None:
        """Have `watcher` told of each call that was sent; None: no more."""
        self._watcher = watcher

    def guard(self, check: Callable[[], Awaitable[None]] | None) -> None:
        """Have `check` done before each call, which is not made if it raises; None: no more."""
        self._check = check

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
        if self._check is not None:
            await self._check()
        channel, requests = self._channel, []
        for call in calls:
            self.room.admit(call.script, call.arguments)
            if call.script in _ACKNOWLEDGED:
                channel = self._replicated
            requests.append(self._request(call))
        replies: list[Any] = []
        began = perf_counter()
        try:
            replies = await channel.exchange(requests)
            for i, reply in enumerate(replies):
                if not isinstance(reply, Exception):
                    continue
                if isinstance(reply, redis_errors.NoScriptError):
                    (replies[i],) = await channel.exchange([self._request(calls[i], whole=True)])
                if isinstance(replies[i], Exception):
                    raise replies[i]
        except CLIENT_ERRORS as error:
            # what goes together is not one: another call may have been carried out
            unsure = any(not isinstance(reply, Exception) for reply in replies)
            self._tell(calls, began)
            raise translate_error(error, unsure=unsure) from error
        self._tell(calls, began, replies)
        return replies

    def _tell(self, calls: Sequence[Call], began: float, replies: Sequence[Any] = ()) -> None:
        """Tell the watcher of calls that were sent together; without replies, the store is not available."""
        if self._watcher is None:
            return
        for place, call in enumerate(calls):
            refused_or_done = REFUSED if replies and replies[place][0] in REFUSALS else OK
            self._watcher(call.script, began, refused_or_done if replies else UNAVAILABLE)

    def _request(self, call: Call, *, whole: bool = False) -> Command:
        """Return the call as it is sent. whole: for a server that has lost its scripts, or never had them."""
        script, keys = self._scripts[call.script], call.keys
        if script.names_keys and self._channel.is_cluster:
            keys = [*keys, keys[0] + ABSENT]
        name, text = ("EVAL", script.source) if whole else ("EVALSHA", script.sha)
        return (name, text, len(keys), *keys, *call.arguments)


def _unwrap(reply: list[Any], call: Call) -> list[Any]:
    refusal = REFUSALS.get(reply[0])
    if refusal is None:
        return reply if reply[0] != b"ok" else reply[1:]
    named = reply[1] if len(reply) > 1 and isinstance(reply[1], bytes) else b""
    raise refusal(named.decode("utf-8", "replace") or call.subject)
