"""Turns whose answer is kept for whoever asks again: under the client's key, or because nobody took it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from proxy.auth.caller import CALLER
from proxy.http.keys import CONFIG, KEY_HEADER, REQUEST_ID, STORE
from proxy.http.middleware import RUNNING
from proxy.idempotency.answers import EVENT_STREAM, answer_lost, replayed, restate
from proxy.idempotency.keys import HELD_KEY, IDEMPOTENCY_KEYS
from proxy.protocol.errors import InProgress
from proxy.runtime.tasks import Backoff
from proxy.telemetry.telemetry import TELEMETRY
from proxy.turns.observer import AnsweredBefore, TurnResult
from proxy.turns.opening import FIRST_PAUSE, LONGEST_PAUSE
from storage import Conflict, HeavyHistory, KeptAnswer, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.http.delivery import HttpDelivery
    from proxy.idempotency.keys import HeldKey
    from proxy.protocol.request import TurnRequest
    from proxy.turns.options import TurnOptions
    from storage import KeyClaim, Reason

logger = logging.getLogger(__name__)

#: OpenAI's clients number their attempts at one request, from 0.
RETRY_COUNT = "x-stainless-retry-count"
_RETRY = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)
#: Longest that a retry waits for whoever may have stored an earlier attempt when the store failed, in seconds.
SETTLING_SECONDS = 2 * LONGEST_PAUSE
#: How a turn ends that has an answer.
_ANSWERED = frozenset({"completed", "incomplete"})


class Recording:
    """A sink that keeps a turn's frames as its answer. limit: bytes; what is longer is not kept."""

    def __init__(self, limit: int) -> None:
        self._room = limit
        self._frames: list[bytes] = []

    @property
    def frames(self) -> bytes | None:
        """All frames so far; None if they were too many."""
        return b"".join(self._frames) if self._room >= 0 else None

    def push(self, frames: bytes) -> bool:
        """Keep whole frames."""
        self._room -= len(frames)
        if self._room >= 0:
            self._frames.append(frames)
        else:
            self._frames.clear()
        return True

    async def caught_up(self) -> None:
        """Return: it always keeps up."""

    async def secure(self) -> None:
        """Do nothing: what is kept is kept once the turn has ended."""


class KeyedAnswer:
    """Observes a turn whose request holds an idempotency key: keeps its answer, or leaves the key to the next request.

    recording: its frames, if it is streamed.
    """

    needs_id = True

    def __init__(self, request: web.Request, held: HeldKey, recording: Recording | None) -> None:
        self._held = held
        self._recording = recording
        self._request_id = request[REQUEST_ID]
        self._error_format = request.app[CONFIG].errors.format

    def begun(self) -> None:
        """Take the key over from the request: what becomes of it is decided when the turn ends."""
        self._held.handed_over = True

    async def identified(self, response_id: str, may_repeat: Callable[[], bool]) -> None:
        """Note which response the key stands for. Raises InProgress if the key was lost.

        Raises AnsweredBefore if whoever held the key before has stored its response after all: the lock of its branch
        was free only then.
        """
        await self._held.note(response_id)
        if (answer := await self._held.answer_before()) is not None:
            raise AnsweredBefore(answer)

    def moved(self, response_id: str) -> None:
        """Nothing changes: the id was known before."""

    async def storing(self, attempt: int) -> None:
        """Raise Conflict if the key was lost while the store was away: another request may carry it out by now."""
        if attempt and not await self._held.is_held(""):
            raise Conflict(KEY_HEADER)

    def left(self) -> None:
        """Nothing changes: the answer is kept all the same."""

    async def ended(self, end: TurnResult | BaseException) -> None:
        """Keep the answer, or a refusal that every repeat would meet."""
        if isinstance(end, AnsweredBefore):
            await self._held.keep(end.answer)
        elif isinstance(end, HeavyHistory):
            # the request goes on, here or in another process
            self._held.handed_over = False
        elif isinstance(end, BaseException):
            await self._held.fail(end, self._request_id, self._error_format)
        elif end.status in _ANSWERED:
            await self._held.keep(_answer_of(end, self._recording))
        else:
            await self._held.release()


class AbandonedAnswer:
    """Observes a turn without a key: if its client does not wait for the end, the answer is kept for its retry.

    delivery: the client's side. recording: see KeyedAnswer.
    """

    needs_id = False

    def __init__(
        self,
        request: web.Request,
        turn_request: TurnRequest,
        delivery: HttpDelivery,
        options: TurnOptions,
        recording: Recording | None,
    ) -> None:
        self._request = request
        self._turn_request = turn_request
        self._options = options
        self._delivery = delivery
        self._recording = recording
        self._response_id = ""
        self._end: TurnResult | None = None
        self._is_settled = self._is_looking = False
        self._marking: asyncio.Task[HeldKey | None] | None = None
        self._not_marked: Reason | None = None

    def begun(self) -> None:
        """Nothing to do yet."""

    async def identified(self, response_id: str, may_repeat: Callable[[], bool]) -> None:
        """Note the id, for the case that the client leaves.

        A retry looks once more for an answer: an earlier attempt may have been stored since the first look, and can't
        be any more now that this one has the branch. Raises AnsweredBefore, InProgress, Unavailable.
        """
        self._response_id = response_id
        retry = Retry.of(self._request, self._turn_request, self._options)
        if retry is None:
            return
        # a mark of its own would take the place of what it looks for
        self._is_looking = True
        found = await retry.find_again(may_repeat)
        self._is_looking = False
        if found is not None:
            self._is_settled = True
            raise AnsweredBefore(*found)
        if self._delivery.gone:
            self._mark_once()

    def moved(self, response_id: str) -> None:
        """Note the new id."""
        self._response_id = response_id

    async def storing(self, attempt: int) -> None:
        """See that a retry will know of what is stored for a client that has gone. Raises Unavailable."""
        if self._is_lost() and await self._mark_once() is None and (reason := self._not_marked) is not None:
            self._marking = self._not_marked = None
            raise Unavailable(_name_of(self._request, self._turn_request), reason)

    def left(self) -> None:
        """Let a retry know that the first attempt still runs; keep its answer if it has just ended.

        A client that leaves between the end of its turn and the answer is told of here after `ended`.
        """
        if self._delivery.delivered or self._is_looking:
            return
        if self._end is None:
            self._mark_once()
            return
        settling = asyncio.create_task(self._settle(self._end))
        running = self._request.app[RUNNING]
        running.add(settling)
        settling.add_done_callback(running.discard)

    async def ended(self, end: TurnResult | BaseException) -> None:
        """Keep what was stored, if the client has gone by now."""
        # never the error itself, whose traceback leads back to the turn
        self._end = end if isinstance(end, TurnResult) else TurnResult(self._response_id)
        if self._is_lost():
            await self._settle(self._end)

    async def _settle(self, end: TurnResult) -> None:
        """Put what was stored, if anything was, in the place of the mark, once."""
        if self._is_settled:
            return
        self._is_settled = True
        is_kept = end.status in _ANSWERED and self._turn_request.stored
        if not is_kept and self._marking is None:
            return
        held = await self._mark_once()
        # the store may have gone away again since it has taken the answer
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE, self._request.app[CONFIG].turns.commit_retry_seconds)
        while held is None and is_kept and self._not_marked is not None and await backoff.pause():
            held = await self._mark()
        if held is None:
            return
        if is_kept:
            await held.keep(_answer_of(end, self._recording))
        else:
            await held.release()

    def _mark_once(self) -> asyncio.Task[HeldKey | None]:
        if self._marking is None:
            self._marking = asyncio.create_task(self._mark())
        return self._marking

    async def _mark(self) -> HeldKey | None:
        """Let a retry know that the first attempt still runs, and forget any earlier answer to the same request."""
        keys, name = self._request.app[IDEMPOTENCY_KEYS], _name_of(self._request, self._turn_request)
        self._not_marked = None
        try:
            held = await keys.seize(self._request[CALLER].owner, name, keys.config.retry_minutes * 60)
        except Unavailable as away:
            self._not_marked = away.reason
            logger.warning("a turn whose client has gone is not noted for its retry: the store can't be reached")
            return None
        try:
            if self._response_id:
                await held.note(self._response_id)
        except (Unavailable, InProgress) as reason:
            # a mark that is not given up would be renewed for ever
            self._not_marked = reason.reason if isinstance(reason, Unavailable) else None
            logger.warning("a turn whose client has gone is not noted for its retry: %s", type(reason).__name__)
            await held.release()
            return None
        return held

    def _is_lost(self) -> bool:
        if self._delivery.delivered:
            return False
        transport = self._request.transport
        return self._delivery.gone or transport is None or transport.is_closing()


@dataclass(slots=True)
class AnswerKeeping:
    """What keeps a turn's answer for whoever asks again: an observer of the turn and a sink of its frames, if any.

    client_left: the client has gone already, while its request was read.
    """

    observer: KeyedAnswer | AbandonedAnswer | None = None
    recording: Recording | None = None
    client_left: bool = False


def keep_answer(
    request: web.Request, turn_request: TurnRequest, delivery: HttpDelivery, options: TurnOptions
) -> AnswerKeeping:
    """Return what keeps the answer of a turn where somebody may ask for it again."""
    config, held = request.app[CONFIG].idempotency, request.get(HELD_KEY)
    if held is None and not config.retry_minutes:
        return AnswerKeeping()
    recording = None
    if turn_request.stream and (held is not None or options.describe):
        # what an answer says beside its response can't be made anew from the store
        recording = Recording(config.max_answer_bytes)
    if held is not None:
        return AnswerKeeping(KeyedAnswer(request, held, recording), recording, held.left)
    return AnswerKeeping(AbandonedAnswer(request, turn_request, delivery, options, recording), recording)


class Retry:
    """A further attempt, by its number, at a request that came without a key. Made by `of`."""

    def __init__(self, request: web.Request, turn_request: TurnRequest, options: TurnOptions) -> None:
        self._request = request
        self._turn_request = turn_request
        self._options = options
        self._name = _name_of(request, turn_request)

    @classmethod
    def of(cls, request: web.Request, turn_request: TurnRequest, options: TurnOptions) -> Retry | None:
        """Return what the request is a retry as; None if it is none, or they are not minded."""
        count = request.headers.get(RETRY_COUNT)
        if not count or HELD_KEY in request or not _RETRY.fullmatch(count):
            return None
        return cls(request, turn_request, options) if request.app[CONFIG].idempotency.retry_minutes else None

    async def find(self) -> tuple[KeptAnswer, KeyClaim] | None:
        """Return the answer that an earlier attempt did not wait for, and what it is kept under; None if there is none.

        Waits while that attempt still runs. Raises InProgress, Unavailable.
        """
        request = self._request
        return await request.app[IDEMPOTENCY_KEYS].find(request[CALLER].owner, self._name, self._restate)

    async def find_again(self, may_repeat: Callable[[], bool]) -> tuple[KeptAnswer, KeyClaim] | None:
        """Look once more, now that nothing can come between; raises as `find`.

        Where the history ends as if an earlier attempt had been stored, whoever stored that is given time to say so:
        the store may have failed just then.
        """
        found = await self.find()
        if found is None and may_repeat():
            backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE, SETTLING_SECONDS)
            while found is None and await backoff.pause():
                found = await self.find()
        return found

    async def _restate(self, response_id: str) -> KeptAnswer | None:
        request = self._request
        answer = await restate(request.app[STORE], request[CALLER].owner, response_id, self._turn_request.body)
        if answer is not None and self._options.describe is not None:
            raise answer_lost(response_id)
        return answer


async def find_lost_answer(
    request: web.Request, turn_request: TurnRequest, options: TurnOptions
) -> web.Response | None:
    """Deliver, to a client's retry, the answer that its earlier attempt did not wait for; None if there is none.

    Waits while that attempt still runs. Raises InProgress, Unavailable.
    """
    retry = Retry.of(request, turn_request, options)
    found = await retry.find() if retry is not None else None
    return await deliver_again(request, *found) if found is not None else None


async def deliver_again(request: web.Request, answer: KeptAnswer, claim: KeyClaim | None) -> web.Response:
    """Deliver an answer that was kept, and forget it once it has been. claim: see `AnsweredBefore`."""
    request.app[TELEMETRY].metrics.repeats_total.add("retry")
    response = replayed(answer)
    await response.prepare(request)
    await response.write_eof()
    if claim is not None and request.transport is not None and not request.transport.is_closing():
        await request.app[IDEMPOTENCY_KEYS].drop(claim)
    return response


async def note_submission(request: web.Request, response_id: str, *, streamed: bool) -> None:
    """Tie a request's key, if it has one, to the response that it has put into the background.

    A stream's answer is that response's log, from its beginning. Raises InProgress if the key was lost.
    """
    held = request.get(HELD_KEY)
    if held is None:
        return
    if streamed:
        held.handed_over = True
        await held.keep(KeptAnswer(200, EVENT_STREAM, None, response_id))
    else:
        await held.note(response_id)


def _answer_of(end: TurnResult, recording: Recording | None) -> KeptAnswer:
    if end.body is not None:
        return KeptAnswer(200, "application/json", end.body, end.response_id)
    return KeptAnswer(200, EVENT_STREAM, recording.frames if recording else None, end.response_id)


def _name_of(request: web.Request, turn_request: TurnRequest) -> str:
    body = orjson.dumps(turn_request.body, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(b"retry\0%b\0%b" % (request.rel_url.raw_path_qs.encode(), body)).hexdigest()
