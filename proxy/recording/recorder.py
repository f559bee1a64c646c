"""Recorder: what recordings share, one a process: what it remembers, and what is written behind the answers."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from aiohttp.web import AppKey

from proxy.recognition.hints import HintMemory
from proxy.recognition.keys import RequestMarks, read_marks
from proxy.recognition.look import Looker
from proxy.recognition.stream import stream_key
from proxy.recording.claims import Claims
from proxy.recording.followed import EndMemory
from proxy.recording.notes import NoteQueue
from storage import partition_of

if TYPE_CHECKING:
    from proxy.runtime.tasks import Tasks
    from proxy.sealing import Sealer
    from proxy.services import Services

logger = logging.getLogger(__name__)

#: What of an installation's key the digests are made with.
_PURPOSE = "digests of histories"
#: Seconds that a look-up may take longer than the model server. A store that pauses (a disk's, a failover's, a busy
#: machine's) would hold up the turn's commit as well, and a turn that is stored by itself is missed on its line.
LOOK_UP_GRACE_SECONDS = 0.25
#: The same after one that took longer than that, until one has not: such a store can't keep up.
LATE_GRACE_SECONDS = 0.025
#: Keys of digests and ids of conversations that are kept.
MOST_KEYS = 4096
#: Seconds that are given to what waits to be written when the server stops.
LAST_NOTES_SECONDS = 2.0

#: What records turns.
RECORDER: AppKey[Recorder] = AppKey("recorder")


class Recorder:
    """What recordings share.

    memory: what digests lead to, as far as this process has noted it. taken: what its turns are going on from.
    unplaced: turns of which was not found out in time where they belong. unwritten: Chat Completions that were dropped.
    """

    def __init__(self, services: Services) -> None:
        self.services = services
        self.config = services.config.recording
        #: Most bytes of an answer that may come back in a later request.
        self.most_resent_bytes = services.config.server.max_json_bytes
        self.looker = Looker()
        #: Looks at long histories, in a thread, one at a time.
        self.long_looker, self.long_turnstile = Looker(), asyncio.Lock()
        self.memory = HintMemory()
        self._missed = services.telemetry.metrics.recordings_missed_total
        self.notes = NoteQueue(services.store.recognition, self.memory, lambda: self._missed.add("notes"))
        self.ends = EndMemory()
        self.trusts_content = self.config.mode != "keys"
        #: Kept of the last ones that they were asked for, each is again soon: what turns of other conversations cost
        #: is to ask whether theirs is one that recording has made.
        self.stream_key = lru_cache(MOST_KEYS)(self._stream_key)
        self.conversation_id = lru_cache(MOST_KEYS)(self._conversation_id)
        self.has_made = lru_cache(MOST_KEYS)(self._has_made)
        self.taken = Claims()
        self.unplaced = 0
        self._is_late = False

    @asynccontextmanager
    async def serving(self, tasks: Tasks) -> AsyncIterator[Recorder]:
        """Write notes for as long as the context lasts, and what is left of them at its end."""
        async with self.notes.writing(tasks):
            yield self
            await self.notes.settle(LAST_NOTES_SECONDS)

    @property
    def is_on(self) -> bool:
        """Whether anything is recorded at all."""
        return self.config.mode != "off" and bool(self._secret)

    def marks(self, headers: Mapping[str, str], body: Mapping[str, Any]) -> RequestMarks | None:
        """Return what a request says of itself; None if it is not to be recorded."""
        marks = read_marks(headers, body, self.config.keys, self.config.end_users)
        return None if marks.is_off or marks.is_temporary else marks

    def _stream_key(self, owner: str, end_user: str) -> bytes:
        """Return the key of all digests of an owner and an end user."""
        return stream_key(self._secret, owner, end_user)

    def _conversation_id(self, partition: str) -> str:
        """Return the id of the recorded conversation that lives in a partition, or will."""
        digits = hashlib.blake2b(partition.encode(), key=self._secret, digest_size=16, person=b"conversation")
        return f"conv_{digits.hexdigest()}{partition}"

    def _has_made(self, conversation_id: str) -> bool:
        """Whether a conversation is one that recording has made."""
        return conversation_id != "" and conversation_id == self.conversation_id(partition_of(conversation_id))

    @property
    def grace_seconds(self) -> float:
        """How long a look-up may take that has taken longer than the model server."""
        return LATE_GRACE_SECONDS if self._is_late else LOOK_UP_GRACE_SECONDS

    def note_late(self, *, is_placed: bool) -> None:
        """Note that a look-up took longer than that, and longer than the model server. is_placed: it is not missed."""
        self._is_late = True
        if not is_placed:
            self.note_unplaced("the store took longer than the model server")

    def note_looked_up(self, seconds: float) -> None:
        """Note how long a look-up took."""
        if seconds <= LOOK_UP_GRACE_SECONDS:
            self._is_late = False

    def note_unplaced(self, reason: str) -> None:
        """Count a turn that was stored without its conversation; the next one fills it in."""
        self.unplaced += 1
        self._missed.add("turn")
        if self.unplaced == 1:
            logger.warning("a turn was stored by itself, the next one will fill it in: %s", reason)

    def note_unled(self) -> None:
        """Count a turn to which nothing leads: its history was not looked through in time."""
        self._missed.add("notes")

    @cached_property
    def _secret(self) -> bytes:
        try:
            return _derive(self.services.sealer)
        except OSError as error:
            logger.warning("nothing is recorded: the key for it can't be read (%s)", type(error).__name__)
            return b""


def _derive(sealer: Sealer) -> bytes:
    return sealer.derive(_PURPOSE)
