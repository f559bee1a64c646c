"""Turn recording: a turn over `/v1/responses` that goes on from no id, looked at while its model server is asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

from proxy.recording.recording import RequestRecording
from storage import partition_of

if TYPE_CHECKING:
    from proxy.protocol.request import TurnRequest
    from proxy.recognition.keys import RequestMarks
    from proxy.recording.recorder import Recorder
    from storage import KnownItem, OpenedTurn

logger = logging.getLogger(__name__)

#: The header that says where a turn is recorded.
CONVERSATION_HEADER = "x-branchline-conversation"
#: Seconds that a turn waits to know where it belongs, where its id has to be known before the model is asked.
PLACING_SECONDS = 0.25


class TurnRecording(RequestRecording):
    """One turn's. What goes wrong with it is not noticed: then the turn is stored by itself."""

    _waiting: tuple[TurnRequest, Mapping[str, KnownItem]] | None = None

    def begin(self, request: TurnRequest, opened: OpenedTurn) -> None:
        """Find out where the turn belongs, once whoever begins it waits for something else. opened: what it found."""
        if source := request.source.subject:
            is_placed = request.source.conversation_id is not None
            conversation_id = source if is_placed else opened.beside
            first = request.items[0] if request.items else None
            self.follow(conversation_id, opened, request.body.get("tools"), first, is_placed=is_placed)
            return
        self._waiting = request, opened.known
        if len(request.items) > 1 or opened.known or self._marks.key or self._marks.retries:
            asyncio.get_running_loop().call_soon(self._start)
        # else the store is not needed for it, and it has until its place is asked for

    async def found(self, *, asked: bool) -> None:
        """Return once it is known where the turn belongs, or it has taken too long.

        asked: the model server has been asked, and has begun to answer. Then a store that can't keep up is waited for
        only shortly; what this process has not come to yet is no reason to give up.
        """
        self._start()
        if not self.is_placed:
            is_short = asked and not self.is_looking
            await self.placed(self._recorder.grace_seconds if is_short else PLACING_SECONDS)

    def _start(self) -> None:
        if self._waiting is None:
            return
        (request, known), self._waiting = self._waiting, None
        try:
            elements = _elements(request, known)
            if elements is not None:
                self.look(elements, request.body.get("tools"), places=frozenset(map(partition_of, known)))
        except Exception:
            logger.exception("a turn's history can't be looked at")


def _elements(request: TurnRequest, known: Mapping[str, KnownItem]) -> list[Any] | str | None:
    """Return a request's input with stored items in the place of those that only refer to them."""
    given = request.body.get("input")
    if not isinstance(given, list):
        return given if isinstance(given, str) else None
    if not known:
        return given
    return [
        orjson.loads(known[item.id].data) if item.body is None and item.id and item.id in known else element
        for element, item in zip(given, request.items, strict=True)
    ]


def recording_of(
    recorder: Recorder, owner: str, headers: Mapping[str, str], request: TurnRequest
) -> TurnRecording | None:
    """Return what records a turn; None where it is not to be recorded, or is in a conversation of the app's own."""
    marks = marks_of(recorder, headers, request)
    return TurnRecording(recorder, owner, marks) if marks is not None else None


def marks_of(recorder: Recorder, headers: Mapping[str, str], request: TurnRequest) -> RequestMarks | None:
    """Return what a turn's request says of itself; None where nothing records it, see `recording_of`."""
    if not recorder.is_on or not (request.stored or recorder.config.store_false):
        return None
    if request.source.subject and not request.stored:
        return None
    if request.source.conversation_id and not recorder.has_made(request.source.conversation_id):
        return None
    return recorder.marks(headers, request.body)
