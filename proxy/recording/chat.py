"""Chat recording: Chat Completions as they went by, taken down after their last byte.

tap      keeps the bytes of a request and its answer while they pass, within limits
queue    what is over waits for its turn; what does not fit is dropped, and the next request fills it in
writer   reads question and answer as items (`chat_exchange`), and records them like any turn
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp.web import AppKey

from proxy.chat.read import message_items
from proxy.recording.chat_exchange import ChatExchange
from proxy.recording.recording import RequestRecording
from storage import Conflict, Reason, Unavailable, new_partition

if TYPE_CHECKING:
    from proxy.recording.finished import FinishedTurn
    from proxy.recording.recorder import Recorder
    from proxy.runtime.tasks import Tasks

logger = logging.getLogger(__name__)

#: What records Chat Completions.
CHAT_RECORDER: AppKey[ChatRecorder] = AppKey("chat_recorder")

#: Seconds that what waits gets to be written when the server stops.
LAST_WRITES_SECONDS = 5.0
#: Seconds that a look-up may take behind an answer.
LOOK_UP_SECONDS = 10.0
#: Bytes from which on a completion is read in a thread: some 10 ms of it.
LARGE_BYTES = 1024 * 1024
#: What a request says that is to be stored, in whatever way.
_STORE = b'"store"'


@dataclass(slots=True)
class ChatTap:
    """One request and its answer, as bytes. They are read when all is over. room: bytes that are kept at most.

    sign: what a request has somewhere that may have to be recorded, b"" if any may.
    """

    owner: str
    #: Not shown: credentials are among them.
    headers: Mapping[str, str] = field(repr=False)
    room: int
    sign: bytes = b""
    asked: list[bytes] = field(default_factory=list, repr=False)
    answered: list[bytes] = field(default_factory=list, repr=False)
    #: Content-Encoding of the answer.
    coding: str = ""
    is_answer: bool = False
    is_delivered: bool = False
    #: The server that answers, as makers of items are noted.
    upstream: str = ""
    size: int = 0

    def ask(self, data: bytes) -> None:
        """Take what goes to the model server."""
        self._take(self.asked, data)

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Take the head of the answer; of a refusal nothing is kept, nor of what is not to be recorded."""
        is_coded = self.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity")
        self.is_answer = 200 <= status < 300 and (is_coded or self.sign in b"".join(self.asked))
        self.coding = headers.get("Content-Encoding", "").strip().lower()

    def answer(self, data: bytes) -> None:
        """Take what goes to the client."""
        if self.is_answer:
            self._take(self.answered, data)

    @property
    def fits(self) -> bool:
        """Whether it was not too large."""
        return self.size <= self.room

    def _take(self, pieces: list[bytes], data: bytes) -> None:
        self.size += len(data)
        if self.fits:
            pieces.append(data)
        else:
            self.asked.clear()
            self.answered.clear()


class ChatRecorder:
    """Records Chat Completions, one after the other. dropped: how many were not, because too many waited."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._limits = recorder.config
        self._missed = recorder.services.telemetry.metrics.recordings_missed_total
        self._waiting: deque[ChatTap] = deque()
        self._waiting_bytes = 0
        #: What is being written, of the first that waits.
        self._begun: tuple[RequestRecording, FinishedTurn] | None = None
        self._has_some = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.dropped = 0

    @asynccontextmanager
    async def serving(self, tasks: Tasks) -> AsyncIterator[ChatRecorder]:
        """Write for as long as the context lasts, and what is left at its end."""
        async with tasks.steady("recording of chat completions", self._write, logger, vital=False):
            yield self
            if not await self.settle(LAST_WRITES_SECONDS):
                logger.warning("%d chat completions are not recorded: the store is away", len(self._waiting))

    def tap(self, owner: str, headers: Mapping[str, str]) -> ChatTap | None:
        """Return what takes down a request; None if nothing of that kind is recorded."""
        if not self._recorder.is_on:
            return None
        return ChatTap(owner, headers, self._limits.max_bytes, b"" if self._limits.chat == "all" else _STORE)

    def put(self, tap: ChatTap) -> None:
        """Have what was taken down recorded, if it is to be. It is over, or was broken off."""
        if not tap.is_answer:
            return
        if not tap.fits:
            self._drop("it is larger than recording.max_bytes")
        elif len(self._waiting) >= self._limits.max_waiting:
            self._drop("recording.max_waiting are waiting")
        elif self._waiting_bytes + tap.size > self._limits.max_waiting_bytes:
            self._drop("recording.max_waiting_bytes are waiting")
        else:
            self._waiting.append(tap)
            self._waiting_bytes += tap.size
            self._has_some.set()
            self._idle.clear()

    async def settle(self, seconds: float) -> bool:
        """Return whether all is written, after so many seconds at most."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def _drop(self, reason: str) -> None:
        self.dropped += 1
        self._missed.add("chat")
        if self.dropped == 1:
            logger.warning("a chat completion is not recorded, the next request will fill it in: %s", reason)

    async def _write(self) -> None:
        await self._has_some.wait()
        tap = self._waiting[0]
        try:
            await self._record(tap)
        except Unavailable:
            # it stays the first, and what was to be written is written again as it is: it may be there already
            raise
        except BaseException:
            self._take_first()
            raise
        self._take_first()

    def _take_first(self) -> None:
        if self._begun is not None:
            self._begun[0].release()
            self._begun = None
        self._waiting_bytes -= self._waiting.popleft().size
        if not self._waiting:
            self._has_some.clear()
            self._idle.set()

    async def _record(self, tap: ChatTap) -> None:
        begun = self._begun = self._begun or await self._begin(tap)
        if begun is None:
            return
        recording, turn = begun
        try:
            if not await recording.record(turn):
                self._drop("what it goes on from is gone")
        except Conflict:
            self._drop("somebody else has its place")

    async def _begin(self, tap: ChatTap) -> tuple[RequestRecording, FinishedTurn] | None:
        """Return what is to be written, and where; None if nothing is. Raises Unavailable."""
        found = await asyncio.to_thread(_read, tap) if tap.size >= LARGE_BYTES else _read(tap)
        if found is None or not self._is_wanted(found.request):
            return None
        marks = self._recorder.marks(tap.headers, found.request)
        if marks is None:
            return None
        recording = RequestRecording(self._recorder, tap.owner, marks)
        try:
            recording.look(found.messages, found.tools, message_items)
            await recording.placed(LOOK_UP_SECONDS)
            partition = recording.settle(new_partition(), is_fresh=True)
            if recording.is_hopeless:
                self._drop("its history can't be looked at")
                return None
            if not recording.is_placed:
                raise Unavailable("a look-up", Reason.AWAY)
            turn = found.turn(partition, tap.upstream, is_delivered=tap.is_delivered)
        except BaseException:
            recording.release()
            raise
        return recording, turn

    def _is_wanted(self, request: Mapping[str, Any]) -> bool:
        store = request.get("store")
        if store is False:
            return self._limits.store_false
        return store is True or self._limits.chat == "all"


def _read(tap: ChatTap) -> ChatExchange | None:
    asked, answered = b"".join(tap.asked), b"".join(tap.answered)
    coding = tap.headers.get("Content-Encoding", "").strip().lower()
    return ChatExchange.read((asked, coding), (answered, tap.coding), tap.room)
