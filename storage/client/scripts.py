"""The Lua scripts: loaded from `lua/`, called by name, their refusals and Redis's own errors translated here only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from redis import exceptions as redis_errors

from storage.client.channel import Argument, Channel, Command
from storage.errors import REFUSALS, StoreError, Unavailable

#: Script → what is put before it. Not every script pays for what it doesn't use.
PRELUDES: dict[str, tuple[str, ...]] = {
    "create_conversation": ("common", "branch", "append"),
    "read_conversation": ("common",),
    "update_conversation": ("common",),
    "delete_conversation": ("common", "retention"),
    "append_items": ("common", "branch", "append"),
    "list_items": ("common", "branch"),
    "read_item": ("common",),
    "delete_item": ("common", "branch"),
    "resolve_items": ("common",),
    "fork_branch": ("common", "branch", "append"),
    "read_branch": ("common", "branch"),
    "list_branches": ("common", "branch"),
    "update_branch": ("common", "branch"),
    "delete_branch": ("common", "branch"),
    "activate_branch": ("common", "branch"),
    "compare_branches": ("common", "branch"),
    "open_turn": ("common", "branch"),
    "commit_turn": ("common", "branch", "append"),
    "append_events": (),
    "claim_events": (),
    "read_events": ("common",),
    "submit_response": ("common",),
    "claim_job": ("common", "job"),
    "renew_job": (),
    "return_job": ("common", "job"),
    "fail_job": ("common", "job"),
    "check_job": (),
    "cancel_response": ("common", "job"),
    "enqueue_job": (),
    "join_queue": (),
    "reclaim_jobs": (),
    "keep_jobs": (),
    "finish_job": (),
    "read_response": ("common",),
    "delete_response": ("common", "job"),
    "sweep_survey": ("common",),
    "sweep_segment": ("common", "branch"),
    "sweep_index": ("common", "branch"),
    "read_clock": ("common",),
    "identify_conversation": (),
    "export_begin": ("common",),
    "export_appends": ("common",),
    "export_items": ("common",),
    "import_begin": ("common", "import"),
    "import_branches": ("common", "import"),
    "import_items": ("common", "import"),
    "import_appends": ("common", "import"),
    "import_finish": ("common", "import"),
    "release_turn": (),
    "renew_lease": (),
    "touch_index": (),
    "drop_index": (),
    "correct_index": (),
    "list_index": (),
    "purge_partition": ("common",),
    "claim_key": (),
    "keep_key": (),
    "answer_key": (),
    "free_key": (),
}

#: Scripts after which a conversation lives on: for its whole time after its use, else what is new for what is left.
PROLONGING = {
    "create_conversation": True,
    "update_conversation": True,
    "append_items": True,
    "delete_item": True,
    "fork_branch": True,
    "update_branch": True,
    "delete_branch": True,
    "activate_branch": True,
    "open_turn": True,
    "commit_turn": True,
    "import_finish": True,
    "sweep_segment": False,
}
_PROLONGED = """local function run()
{script}
end
local reply = run()
if reply[1] == 'ok' then
  prolong({used})
end
return reply
"""

#: Redis's answers that mean "not now": the server is up but can't do what it was asked.
_NOT_NOW = ("OOM", "READONLY", "MISCONF", "NOREPLICAS", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY")


#: The same where redis-py has a class for the answer and takes its code off.
_NOT_NOW_ERRORS = (
    redis_errors.ClusterDownError,
    redis_errors.OutOfMemoryError,
    redis_errors.ReadOnlyError,
    redis_errors.TryAgainError,
)
#: All that redis-py raises; the cluster client has a tree of its own.
CLIENT_ERRORS = (TimeoutError, OSError, redis_errors.RedisError, redis_errors.RedisClusterException)


class Call(NamedTuple):
    """One call of a script. subject: the id that a refusal is about when the script names none."""

    script: str
    keys: Sequence[str]
    arguments: Sequence[Argument]
    subject: str = ""


class Script(NamedTuple):
    """A script's whole text and the hash that Redis knows it by."""

    source: str
    sha: str


@cache
def load_scripts(conversation_seconds: int = 0) -> dict[str, Script]:
    """Return every script by name, its preludes before it.

    conversation_seconds: how long a conversation is kept after its last use; 0: for ever.
    """
    files = {file.name: file for folder in (resources.files("storage") / "lua").iterdir() for file in folder.iterdir()}
    loaded = {}
    for name, preludes in PRELUDES.items():
        if name in PROLONGING:
            preludes = (*preludes, "retention")
        *parts, script = [files[f"{part}.lua"].read_text("utf-8") for part in (*preludes, name)]
        if name in PROLONGING:
            script = _PROLONGED.format(script=script, used=str(PROLONGING[name]).lower())
        if "retention" in preludes:
            parts = [f"local CONVERSATION_SECONDS = {conversation_seconds}", *parts]
        source = "\n".join([*parts, script])
        loaded[name] = Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
    return loaded


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
            replies = await self._channel.exchange([self._command(call) for call in calls])
            for i, reply in enumerate(replies):
                if isinstance(reply, redis_errors.NoScriptError):
                    (replies[i],) = await self._channel.exchange([self._whole_command(calls[i])])
                if isinstance(replies[i], Exception):
                    raise replies[i]
        except CLIENT_ERRORS as error:
            raise translate_error(error) from error
        return replies

    def _command(self, call: Call) -> Command:
        return ("EVALSHA", self._scripts[call.script].sha, len(call.keys), *call.keys, *call.arguments)

    def _whole_command(self, call: Call) -> Command:
        """Return the call for a server that has lost its scripts, or never had them."""
        return ("EVAL", self._scripts[call.script].source, len(call.keys), *call.keys, *call.arguments)


def _unwrap(reply: list[Any], call: Call) -> list[Any]:
    refusal = REFUSALS.get(reply[0])
    if refusal is None:
        return reply if reply[0] != b"ok" else reply[1:]
    named = reply[1] if len(reply) > 1 and isinstance(reply[1], bytes) else b""
    raise refusal(named.decode("utf-8", "replace") or call.subject)
