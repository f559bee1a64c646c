"""Watching in the store: how branches stand that somebody looks at, and what a watcher asks of a turn that runs.

Nothing is published and nobody is called: watchers look, and turns find marks where they look anyway. What a turn that
nobody watches pays is nothing: its token names its response, and whether somebody watches is read with its lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

from storage.client.channel import Argument
from storage.client.keyspace import Keyspace
from storage.client.scripts import Call
from storage.errors import StoreError
from storage.views.shapes import Pulse, WatchedBranch

#: Seconds for which a conversation counts as watched after that was noted.
WATCHED_SECONDS = 30.0
#: Branches that are looked at in one round trip.
MOST_WATCHED = 100


class StopResult(Enum):
    """What became of the wish that a turn ends."""

    NOT_RUNNING = 0  #: it does not run on that branch, or not any more
    MARKED = 1  #: the process that runs it will find out
    QUEUED = 2  #: it waits for a worker: it can be cancelled


class Watching:
    """Watched conversations of any owner; each call names the owner and sees nothing of others."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._scripts = keyspace.scripts

    async def look(self, watched: Sequence[WatchedBranch]) -> list[Pulse | None]:
        """Return how branches stand; None where there is no such conversation. One round trip.

        watched: at most `MOST_WATCHED`. Raises Unavailable.
        """
        calls = []
        for one in watched:
            keys = self._keyspace.keys(one.conversation_id)
            names = [keys.head, keys.conversation, keys.branches]
            calls.append(Call("read_pulse", names, [one.owner, one.conversation_id, one.branch], one.conversation_id))
        return [
            None if isinstance(reply, StoreError) else _pulse(reply) for reply in await self._scripts.run_all(calls)
        ]

    async def mark(self, watched: Sequence[tuple[str, str]]) -> None:
        """Note for `WATCHED_SECONDS` that conversations are watched: turns that begin there keep their events.

        watched: owners and ids; those that are not there are left out. One round trip. Raises Unavailable.
        """
        calls = []
        for owner, conversation_id in watched:
            keys = self._keyspace.keys(conversation_id)
            names = [keys.head, keys.conversation, keys.watched]
            life = int(WATCHED_SECONDS * 1000)
            calls.append(Call("mark_watched", names, [owner, conversation_id, life], conversation_id))
        await self._scripts.run_all(calls)

    async def stop(self, owner: str, conversation_id: str, branch: str, response_id: str, seconds: float) -> StopResult:
        """Have the turn that makes a response end with what it has, whichever process runs it.

        branch: on which it runs, or which it will make; '' for the active one. seconds: that the wish lasts. Raises
        ConversationNotFound, Unavailable.
        """
        keys = self._keyspace.keys(conversation_id)
        names = [keys.head, keys.conversation, keys.branches]
        arguments: list[Argument] = [owner, conversation_id, branch, response_id, int(seconds * 1000)]
        holds, waits = await self._scripts.run(Call("mark_stop", names, arguments, conversation_id))
        return StopResult(holds + waits)


def _pulse(told: Sequence[Any]) -> Pulse:
    """Return what read_pulse tells."""
    updated_at, active_branch, title, branches, segment, offset, running, is_kept = told
    return Pulse(
        updated_at=int(updated_at),
        active_branch=active_branch.decode(),
        title=title.decode() or None,
        branch_count=branches,
        tip=(segment, offset) if segment >= 0 else None,
        running=running.decode() or None,
        followable=bool(is_kept),
    )
