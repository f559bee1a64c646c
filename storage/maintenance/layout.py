"""Layout: the version of how everything is stored, noted in the store itself; what is older is migrated.

A store that notes none is of layout 0: so was everything before 0.2. A newer one than this code knows is refused before
anything of it is read: what is new there would be lost or misread.

A migration is a step from one layout to the next. It may be broken off and begun anew at any point, also by another
process, and one process does it at a time while the others wait. Servers of the older version must not run meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from storage.client.channel import Argument, Channel
from storage.client.keys import layout_key
from storage.client.keyspace import Keyspace
from storage.client.scripts import Call, Scripts
from storage.errors import UnsupportedLayout

_log = logging.getLogger(__name__)

#: Seconds for which one process has the right to migrate; it has it anew with each call of `keep`.
LEASE_SECONDS = 30.0
#: Seconds between two looks at whether another process is done.
MIGRATION_PAUSE_SECONDS = 0.2

#: A step: gets the store's channel and names, and what it has to await every few seconds.
Migration: TypeAlias = Callable[[Channel, Keyspace, Callable[[], Awaitable[None]]], Awaitable[None]]


async def note_only(channel: Channel, keyspace: Keyspace, keep: Callable[[], Awaitable[None]]) -> None:
    """From 0 to 1: nothing is laid out anew, it is only noted from here on."""


async def note_pieces(channel: Channel, keyspace: Keyspace, keep: Callable[[], Awaitable[None]]) -> None:
    """From 1 to 2: items may lie in pieces from here on, which older versions would take for damaged ones."""


#: The step from each layout to the next; so there are as many as the newest layout says.
MIGRATIONS: Sequence[Migration] = (note_only, note_pieces)


class Layout:
    """The layout of one store. migrations: from the first layout to the one that this code works with."""

    def __init__(self, channel: Channel, keyspace: Keyspace, migrations: Sequence[Migration] = MIGRATIONS) -> None:
        self._channel = channel
        self._keyspace = keyspace
        self._migrations = migrations
        # the store's own may wait for what is found out here
        self._scripts = Scripts(channel)
        self._key = layout_key(keyspace.prefix)
        self._opening = asyncio.Lock()
        #: What was said of it last, so that it is said once.
        self._problem = ""

    @property
    def newest(self) -> int:
        """The layout that this code works with."""
        return len(self._migrations)

    async def open(self, writer: str) -> None:
        """See to it that the store has the newest layout. writer: what people know this program by.

        Raises UnsupportedLayout, whose text says why and what to do, or Unavailable.
        """
        token = secrets.token_hex(8)
        while True:
            version, by, standing = await self._claim(token)
            match standing:
                case "current":
                    return
                case "newer":
                    raise UnsupportedLayout(
                        f"has layout {version}, which {by or 'another program'} wrote; {writer} knows layouts up to"
                        f" {self.newest}: run what wrote it, or restore a backup from before"
                    )
                case "restoring":
                    raise UnsupportedLayout("holds half a backup: restore it again")
                case "busy":
                    await asyncio.sleep(MIGRATION_PAUSE_SECONDS)
                case _:
                    await self._migrate(version, writer, token)

    def open_later(self, writer: str) -> None:
        """Have the first call of a script, and each until it worked, do what `open` does before."""

        async def open_first() -> None:
            async with self._opening:
                if self._keyspace.scripts.is_guarded:
                    try:
                        await self.open(writer)
                    except UnsupportedLayout as exc:
                        self._complain(exc.subject)
                        raise
                    self._keyspace.scripts.guard(None)

        self._keyspace.scripts.guard(open_first)

    def _complain(self, problem: str) -> None:
        if problem != self._problem:
            _log.error("the store %s", problem)
            self._problem = problem

    async def _migrate(self, version: int, writer: str, token: str) -> None:
        async def keep() -> None:
            await self._claim(token)

        await self._migrations[version](self._channel, self._keyspace, keep)
        await self._scripts.run(Call("note_layout", [self._key], [version + 1, writer, token]))
        _log.debug("the store went from layout %d to %d", version, version + 1)

    async def _claim(self, token: str) -> tuple[int, str, str]:
        arguments: list[Argument] = [self.newest, token, round(LEASE_SECONDS * 1000)]
        version, by, standing = await self._scripts.run(Call("claim_layout", [self._key], arguments))
        return version, by.decode(), standing.decode()
