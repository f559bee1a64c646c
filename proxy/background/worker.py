"""Background worker: takes responses from the queue and runs them, at most so many at a time.

    take, reclaim ── entries of the queue, new ones and those of workers that died
    claim            the record decides who runs it; a lease, a new token, an attempt
    run              a turn without a client; its commit needs the token
    finish           when the response is over its entry goes

One task looks after all that run: every `BEAT_SECONDS` one round trip renews their leases and finds out which were
cancelled. A replica that stops gives back what it can't finish; one that dies is noticed by its leases.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import orjson
from aiohttp.web import AppKey

from proxy.auth.caller import Caller
from proxy.background.job import BackgroundJob
from proxy.background.run import Run
from proxy.delivery import Unattended
from proxy.http.handover import MOST_HISTORY
from proxy.protocol.errors import ApiError, ServiceUnavailable
from proxy.protocol.store_errors import from_store_error
from proxy.recording.turn import TurnRecording
from proxy.runtime.tasks import Tasks
from proxy.sealing import Unsealable
from proxy.streams.event_log import EventLogWriter
from proxy.telemetry.lines import TurnLine
from proxy.telemetry.records import GIVEN_BACK
from proxy.turns.identity import AcceptedIdentity
from proxy.turns.observer import OnceOpen
from proxy.turns.options import TurnOptions
from proxy.turns.running import LAST_WORDS_SECONDS
from proxy.turns.turn import Turn
from storage import EventLog, HeavyHistory, Job, JobEntry, LargeJob, StoreError, Unavailable, new_token, partition_of

if TYPE_CHECKING:
    from proxy.http.budget import BodyBudget
    from proxy.http.queue import LargeQueue
    from proxy.recording.recorder import Recorder
    from proxy.services import Services

logger = logging.getLogger(__name__)

#: See `Worker.elsewhere`.
RunElsewhere: TypeAlias = Callable[[JobEntry], Awaitable[bool]]

#: Seconds between two looks after what runs: a cancelled response ends within these.
BEAT_SECONDS = 0.5
#: Seconds that a response waits for its branch if that was lost meanwhile.
LOCK_WAIT_SECONDS = 60.0
#: Seconds to wait before a response is asked for again that is busy, or not there yet.
CLAIM_PAUSES = (0.02, 0.1, 0.5)

#: Bytes of a sealed request from which on it is large: a third more than it has itself.
LARGE_JOB_BYTES = 350_000

_SERVER_ERROR = "server_error"

#: Runs background responses.
WORKER: AppKey[Worker] = AppKey("worker")


class Worker:
    """Runs background responses of all owners."""

    def __init__(self, services: Services, recorder: Recorder, budget: BodyBudget) -> None:
        self._services = services
        self._recorder = recorder
        self._budget = budget
        self._jobs = services.store.jobs
        self._config = services.config.background
        self._lease_seconds = services.leases.seconds
        #: This worker's name in the queue.
        self.name = secrets.token_hex(8)
        self._slots = asyncio.Semaphore(self._config.concurrency)
        self._runs: dict[str, tuple[Run, asyncio.Task[None]]] = {}
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._has_runs = asyncio.Event()
        #: Has an entry with a large request run in another process, and waits for its end there; returns False if
        #: nobody takes it. None where all are run here.
        self.elsewhere: RunElsewhere | None = None
        #: Where all that is run here waits for its turn; None where only what is small should be.
        self.queue: LargeQueue | None = None
        self._has_joined = False
        #: When this worker's entries of the queue were kept last, in monotonic seconds.
        self._kept_at = 0.0
        #: What takes entries from the queue, until nothing more is to be begun.
        self._taking = AsyncExitStack()

    @asynccontextmanager
    async def serving(self, tasks: Tasks) -> AsyncIterator[Worker]:
        """Work for as long as the context lasts; `drain` it first."""
        beat_seconds = min(BEAT_SECONDS, self._lease_seconds / 3)
        take = tasks.steady("queue of background responses", self._take, logger)
        reclaim = tasks.periodic("take-over of background responses", self._lease_seconds, self._reclaim, logger)
        beat = tasks.periodic("renewal of background responses", beat_seconds, self._beat, logger, when=self._has_runs)
        try:
            async with beat, self._taking as taking:
                await taking.enter_async_context(take)
                await taking.enter_async_context(reclaim)
                yield self
        finally:
            left = [task for _, task in self._runs.values()]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def drain(self, timeout_seconds: float | None) -> None:
        """Take nothing more, let finish what runs, then give the rest back to the other replicas.

        timeout_seconds: None, for as long as it takes.
        """
        await self._taking.aclose()
        unclaimed = [(run, task) for run, task in self._runs.values() if run.job is None and not run.is_elsewhere]
        for _, task in unclaimed:
            task.cancel()
        await asyncio.gather(*(self._requeue(run.entry) for run, _ in unclaimed))
        if self._runs:
            logger.info("waiting for %d background responses", len(self._runs))
            await asyncio.wait([task for _, task in self._runs.values()], timeout=timeout_seconds)
        left = list(self._runs.values())
        await asyncio.gather(*(self._give_back(run) for run, _ in left))
        if left:
            await asyncio.wait([task for _, task in left], timeout=LAST_WORDS_SECONDS)

    # --- entries --------------------------------------------------------------------------------------------------

    async def _take(self) -> None:
        if not self._has_joined:
            await self._jobs.join()
            self._has_joined = True
        await self._has_room.wait()
        self._begin(await self._jobs.take(self.name, self._room))

    async def _reclaim(self) -> None:
        await self._has_room.wait()
        entries = await self._jobs.reclaim(self.name, self._lease_seconds, self._room)
        for entry in entries:
            if entry.response_id not in self._runs:
                logger.warning("background response %s is taken over: its worker has died", entry.response_id)
                self._services.telemetry.metrics.background_runs_total.add("taken_over")
        self._begin(entries)

    @property
    def _room(self) -> int:
        return max(1, self._config.concurrency - len(self._runs))

    def _begin(self, entries: list[JobEntry]) -> None:
        for entry in entries:
            if entry.response_id not in self._runs:
                run = Run(entry)
                task = asyncio.create_task(self._work(run))
                self._runs[entry.response_id] = run, task
                task.add_done_callback(partial(self._end, entry.response_id))
        if self._runs:
            self._has_runs.set()
        if len(self._runs) >= self._config.concurrency:
            self._has_room.clear()

    def _end(self, response_id: str, task: asyncio.Task[None]) -> None:
        del self._runs[response_id]
        self._has_room.set()
        if not self._runs:
            self._has_runs.clear()
        if not task.cancelled() and (error := task.exception()):
            logger.error("background response %s ended with an error", response_id, exc_info=error)

    # --- one response -----------------------------------------------------------------------------------------------

    async def _work(self, run: Run) -> None:
        try:
            async with self._slots, AsyncExitStack() as held:
                run.most_history = MOST_HISTORY if self.elsewhere is not None else None
                run.job = await self._claim(run, held)
                if run.job is not None and not await self._carry_out(run, run.job):
                    run.job = await self._claim_again(run, run.job, held)
                    if run.job is not None:
                        await self._carry_out(run, run.job)
            if run.job is None or not await self._jobs.is_over(run.entry.response_id):
                return
            await self._jobs.finish(run.entry)
        except Unavailable:
            # whoever takes the entry over finds out how far this came
            logger.warning("background response %s is left to its lease: no store", run.entry.response_id)

    async def take_over(self, entry: JobEntry) -> None:
        """Run an entry that another process has taken from the queue; return when that has ended."""
        self._begin([entry])
        _, task = self._runs[entry.response_id]
        await asyncio.wait([task])

    async def _claim(self, run: Run, held: AsyncExitStack) -> Job | None:
        """Return the response of an entry to run it here; None if it is over, or was left to others.

        held: what it takes of this process until it is over.
        """
        entry, most = run.entry, LARGE_JOB_BYTES if self.queue is None else 1
        for pause in (*CLAIM_PAUSES, 0.0):
            claimed = await self._jobs.claim(entry, new_token(entry.response_id), self._lease_seconds, most)
            if claimed is None:
                await self._jobs.finish(entry)
                return None
            if isinstance(claimed, Job):
                return claimed
            if isinstance(claimed, LargeJob):
                if await self._run_elsewhere(run):
                    return None
                await self._admit(run, claimed.size, held)
                most = 0
                continue
            await asyncio.sleep(min(claimed.seconds, self._lease_seconds) + pause)
        return None

    async def _claim_again(self, run: Run, job: Job, held: AsyncExitStack) -> Job | None:
        """Have a response with a large history run in another process; return it if it has to be run here after all."""
        logger.info("background response %s has a large history, which is for another process", job.entry.response_id)
        run.job, run.most_history = None, None
        given_back = await self._jobs.give_back(job, new_token(job.entry.response_id), self._lease_seconds)
        return await self._claim(run, held) if given_back and not await self._run_elsewhere(run) else None

    async def _run_elsewhere(self, run: Run) -> bool:
        """Have an entry run in another process; False if nobody is there who does."""
        if self.elsewhere is not None:
            run.is_elsewhere = True
            if await self.elsewhere(run.entry):
                return True
            run.is_elsewhere = False
        return False

    async def _admit(self, run: Run, size: int, held: AsyncExitStack) -> None:
        """Wait until there is room for a large request, and then for its turn, for as long as one may be queued."""
        owner, longest = run.entry.owner, self._config.max_queue_seconds
        try:
            room = await self._budget.take(size, owner, longest)
            held.callback(self._budget.give_back, room, owner)
            if self.queue is not None:
                run.place = await self.queue.enter(owner, longest)
                held.callback(run.place.leave)
        except ServiceUnavailable as refusal:
            run.refusal = refusal

    async def _carry_out(self, run: Run, job: Job) -> bool:
        """Run a claimed response; a failure that is not the store's ends it. False: its history is too large here."""
        try:
            if run.refusal is not None:
                await self._fail_with(job, run.refusal)
            elif refusal := self._refusal(job):
                await self._fail(job, _SERVER_ERROR, refusal)
            elif content := await self._open(job):
                await self._run_turn(run, job, content)
        except HeavyHistory:
            return False
        except Unavailable:
            raise
        except StoreError as refused:
            await self._fail_with(job, from_store_error(refused))
        except ApiError as refused:
            await self._fail_with(job, refused)
        except Exception:
            logger.exception("background response %s failed", job.entry.response_id)
            await self._fail(job, _SERVER_ERROR, "The server had an error while processing your request.")
        return True

    def _refusal(self, job: Job) -> str | None:
        """Return why a response is not run any more."""
        limit = self._config.max_attempts
        if job.attempt > limit:
            return f"The servers that made this response stopped before its end, {limit} times; it was given up."
        if job.attempt == 1 and job.waited_seconds > self._config.max_queue_seconds:
            return "This response waited too long for a server to make it; it was given up."
        return None

    async def _open(self, job: Job) -> BackgroundJob | None:
        """Return what it takes to run a response; None if that was left to a replica that has its key."""
        response_id = job.entry.response_id
        try:
            return BackgroundJob.open(self._services.sealer, job.owner, response_id, job.job)
        except (Unsealable, OSError) as error:
            logger.warning("background response %s can't be opened here: %s", response_id, type(error).__name__)
        if job.waited_seconds > self._config.max_queue_seconds:
            await self._fail(job, _SERVER_ERROR, "No server has the key that this response was queued with.")
        else:
            await self._jobs.give_back(job, new_token(response_id), self._lease_seconds)
        return None

    async def _run_turn(self, run: Run, job: Job, content: BackgroundJob) -> None:
        services, response_id = self._services, job.entry.response_id
        request = content.read()
        async with AsyncExitStack() as stack:
            sinks = []
            if request.stream:
                log = EventLogWriter(services, EventLog(job.owner, response_id, job.token))
                sinks.append(await stack.enter_async_context(log))
            call = services.model_call(Caller(job.owner, content.credentials), content.inbound)
            record, tracing = call.record, services.telemetry.tracing
            record.mode, record.began = "background", time.perf_counter()
            record.trace = tracing.begin(content.inbound.headers, linked=True) if tracing is not None else None
            run.record = record
            identity = AcceptedIdentity(response_id, job.token, content.created_at, LOCK_WAIT_SECONDS)
            recording = None
            if content.marks is not None:
                recording = TurnRecording(self._recorder, job.owner, content.marks, partition_of(response_id))
            options = TurnOptions(identity=identity, recording=recording, most_history=run.most_history)
            observers = [OnceOpen(run.place.leave)] if run.place is not None else []
            turn = Turn(services, call, request, Unattended(), options, sinks=sinks, observers=observers)
            logger.info("background response %s begins, attempt %d", response_id, job.attempt)
            with record.collecting():
                await run.carry_out(turn)
            seconds = time.perf_counter() - record.began
            text = f"background response {response_id} ran for {seconds:.1f} s"
            logger.info(TurnLine(text, text, "", seconds * 1000, call.upstream_request_id, record))

    async def _fail_with(self, job: Job, error: ApiError) -> None:
        told = error.to_dict()
        await self._fail(job, told["code"] or (_SERVER_ERROR if error.status >= 500 else told["type"]), error.message)

    async def _fail(self, job: Job, code: str, message: str) -> None:
        logger.info("background response %s failed: %s", job.entry.response_id, code)
        await self._jobs.fail(job, orjson.dumps({"code": code, "message": message}))

    # --- all of them ------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        keeps = time.monotonic() - self._kept_at >= self._lease_seconds / 3
        await self._look_after(self.name if keeps else "")
        if keeps:
            self._kept_at = time.monotonic()

    async def _look_after(self, worker: str) -> None:
        """Renew what runs and end what is not wanted any more. worker: its entries are kept too, unless ''."""
        runs = [(run, run.job) for run, _ in self._runs.values() if run.job is not None]
        for run, _ in runs:
            run.watch(time.monotonic())
        waiting = [run.entry for run, _ in self._runs.values() if run.job is None and not run.is_elsewhere]
        jobs = [job for _, job in runs]
        wanted = await self._jobs.renew(jobs, self._lease_seconds, worker=worker, waiting=waiting)
        for (run, _), is_wanted in zip(runs, wanted, strict=True):
            if not (is_wanted or run.abandoned):
                run.abandon()

    async def _give_back(self, run: Run) -> None:
        try:
            token = new_token(run.entry.response_id)
            if run.job is not None and await self._jobs.give_back(run.job, token, self._lease_seconds):
                logger.info("background response %s is given back", run.entry.response_id)
                run.give_up(GIVEN_BACK)
                run.abandon()
                await self._jobs.requeue(run.entry)
        except Unavailable:
            logger.warning("background response %s is left to its lease: no store", run.entry.response_id)
        run.abandon()

    async def _requeue(self, entry: JobEntry) -> None:
        try:
            await self._jobs.requeue(entry)
        except Unavailable:
            logger.warning("background response %s is left to its lease: no store", entry.response_id)
