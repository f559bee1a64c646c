"""Hub: whoever watches conversations or their list in this process, and what the store is asked for all of them.

One task looks at all watched branches twice a second, in one round trip, another at the watched lists. Who watches
waits until what it was shown has changed. That a conversation is watched is noted in the store, so that turns that
begin there keep their events, in whichever process they run.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from aiohttp.web import AppKey

from proxy.protocol.errors import ServiceUnavailable, TooManyRequests
from storage import MOST_WATCHED, WATCHED_SECONDS, ConversationNotFound, Pulse, WatchedBranch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.protocol.errors import ApiError
    from proxy.runtime.tasks import Tasks
    from storage import Store

logger = logging.getLogger(__name__)

#: Seconds between two looks at watched branches, and at watched lists of conversations.
WATCH_SECONDS = 0.5
LIST_SECONDS = 2.0
#: Watchers of one owner, and of all, in one process.
MOST_OF_OWNER = 32
MOST_WATCHERS = 1000
#: Seconds after which a watcher that was not let in may ask again.
WATCH_RETRY_SECONDS = 5
#: Failures that are remembered until somebody asks for them.
MOST_FAILURES = 1000

#: Newest conversations of an owner: ids, and when each was used, in ms.
Listing = Sequence[tuple[str, int]]
_Seen = TypeVar("_Seen")

#: Whoever watches something.
HUB: AppKey[Hub] = AppKey("hub")


class Stopping(Exception):
    """The server stops: who watches goes on at another one."""


@dataclass(eq=False)
class Sighting(Generic[_Seen]):
    """What somebody watches. now: as it was seen last. number: of that, from 1; watchers: how many wait for another."""

    now: _Seen
    number: int = 1
    watchers: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def see(self, now: _Seen) -> None:
        """Take what it is like now, and wake those who wait if that is new."""
        if now != self.now:
            self.now = now
            self.number += 1
            self.wake()

    def wake(self) -> None:
        """Wake those who wait."""
        self.changed.set()
        self.changed = asyncio.Event()


class Hub:
    """All watchers of this process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._branches: dict[WatchedBranch, Sighting[Pulse | None]] = {}
        self._lists: dict[str, Sighting[Listing]] = {}
        self._of_owner = Counter[str]()
        self._has_branches = asyncio.Event()
        self._has_lists = asyncio.Event()
        self._failures: OrderedDict[str, ApiError] = OrderedDict()
        #: No more is watched.
        self.stopped = False

    @asynccontextmanager
    async def serving(self, tasks: Tasks) -> AsyncIterator[Hub]:
        """Look for as long as the context lasts."""
        rounds = (
            ("watched conversations", WATCH_SECONDS, self._look, self._has_branches),
            ("marks of watched conversations", WATCHED_SECONDS / 3, self._mark, self._has_branches),
            ("watched lists of conversations", LIST_SECONDS, self._list, self._has_lists),
        )
        async with AsyncExitStack() as stack:
            for name, seconds, work, when in rounds:
                await stack.enter_async_context(tasks.periodic(name, seconds, work, logger, when=when))
            try:
                yield self
            finally:
                self.stop()

    @property
    def watcher_count(self) -> int:
        """How many watch."""
        return self._of_owner.total()

    @property
    def is_looking(self) -> bool:
        """Whether the store is asked for anything."""
        return self._has_branches.is_set() or self._has_lists.is_set()

    def stop(self) -> None:
        """Break off whoever watches, now and from now on."""
        self.stopped = True
        for branch in self._branches.values():
            branch.wake()
        for listing in self._lists.values():
            listing.wake()

    @asynccontextmanager
    async def watch(self, branch: WatchedBranch) -> AsyncIterator[Sighting[Pulse | None]]:
        """Give how a branch stands, kept up to date while the context lasts; None once its conversation is gone.

        Raises ConversationNotFound, Unavailable, TooManyRequests, ServiceUnavailable.
        """
        with self._admitted(branch.owner):
            # from now on turns keep their events, before it is known what runs
            place = (branch.owner, branch.conversation_id)
            _, (pulse,) = await asyncio.gather(self._store.watching.mark([place]), self._store.watching.look([branch]))
            if pulse is None:
                raise ConversationNotFound(branch.conversation_id)
            watched = self._branches.setdefault(branch, Sighting(pulse))
            watched.see(pulse)
            with _attended(self._branches, branch, watched, self._has_branches):
                yield watched

    @asynccontextmanager
    async def watch_list(self, owner: str) -> AsyncIterator[Sighting[Listing]]:
        """Give the newest conversations of an owner, kept up to date while the context lasts.

        Raises Unavailable, TooManyRequests, ServiceUnavailable.
        """
        with self._admitted(owner):
            newest = await self._store.conversations.newest(owner)
            watched = self._lists.setdefault(owner, Sighting(newest))
            watched.see(newest)
            with _attended(self._lists, owner, watched, self._has_lists):
                yield watched

    def note_failure(self, response_id: str, error: ApiError) -> None:
        """Remember why a turn of this process came to nothing: no response says so."""
        self._failures[response_id] = error
        if len(self._failures) > MOST_FAILURES:
            self._failures.popitem(last=False)

    def failure(self, response_id: str) -> ApiError | None:
        """Return why a turn came to nothing, if that is remembered."""
        return self._failures.get(response_id)

    @contextmanager
    def _admitted(self, owner: str) -> Iterator[None]:
        if self.stopped:
            raise ServiceUnavailable("The server is stopping.", code="server_stopping")
        if self._of_owner[owner] >= MOST_OF_OWNER:
            raise TooManyRequests(
                "You watch as many conversations at a time as are allowed.", retry_after_seconds=WATCH_RETRY_SECONDS
            )
        if self.watcher_count >= MOST_WATCHERS:
            raise ServiceUnavailable("This server has as many watchers as it takes.", code="too_many_watchers")
        self._of_owner[owner] += 1
        try:
            yield
        finally:
            self._of_owner[owner] -= 1
            if not self._of_owner[owner]:
                del self._of_owner[owner]

    async def _look(self) -> None:
        branches = list(self._branches)
        parts = [branches[i : i + MOST_WATCHED] for i in range(0, len(branches), MOST_WATCHED)]
        # they leave in one write
        for part, pulses in zip(parts, await asyncio.gather(*map(self._store.watching.look, parts)), strict=True):
            for branch, pulse in zip(part, pulses, strict=True):
                if (watched := self._branches.get(branch)) is not None:
                    watched.see(pulse)

    async def _mark(self) -> None:
        await self._store.watching.mark(list({(one.owner, one.conversation_id) for one in self._branches}))

    async def _list(self) -> None:
        owners = list(self._lists)
        for owner, newest in zip(
            owners, await asyncio.gather(*map(self._store.conversations.newest, owners)), strict=True
        ):
            if (watched := self._lists.get(owner)) is not None:
                watched.see(newest)


_Name = TypeVar("_Name")


@contextmanager
def _attended(
    everything: dict[_Name, Sighting[_Seen]], name: _Name, watched: Sighting[_Seen], has_any: asyncio.Event
) -> Iterator[None]:
    """Count one more who watches; what nobody watches any more is forgotten."""
    watched.watchers += 1
    has_any.set()
    try:
        yield
    finally:
        watched.watchers -= 1
        if not watched.watchers:
            del everything[name]
        if not everything:
            has_any.clear()
