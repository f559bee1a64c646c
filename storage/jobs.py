"""Jobs: responses that were accepted and are run later, by whichever worker takes them from the queue.

Each owner has a list of those that wait. The queue is one Redis stream with one consumer group: of tickets, one a job.
Whoever takes a ticket draws the job of the owner whose turn it is; it stays until the response is over. The truth about
a response is its record (job.lua): who may run it is decided there, under a lease. A record always has a job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis import exceptions as redis_errors

from storage.client.channel import Argument, Channel
from storage.client.keys import QueueKeys
from storage.client.keyspace import Keyspace
from storage.client.scripts import Call, translated
from storage.client.staging import BRING_ATTEMPTS, bring_pieces
from storage.client.values import join_calls
from storage.errors import Conflict, StoreError, Unavailable, Unstaged
from storage.items import COMMIT_MARKER_SECONDS
from storage.records import OpenedTurn

#: The consumer group of all workers.
GROUP = "workers"
#: Seconds after which an entry whose response was never written down is taken for lost.
GRACE_SECONDS = 60
#: Seconds without a word after which a worker that has no entries is forgotten.
FORGET_SECONDS = 3600
#: Where the job is among the arguments of a submission.
JOB_AT = 2
#: Owners whose jobs are counted: the server does nothing else meanwhile.
MOST_SURVEYED = 10_000


class WaitingJobs(NamedTuple):
    """How many jobs wait for a worker. since: Unix time of the oldest, in seconds; 0: none waits."""

    jobs: int
    since: float


@dataclass(frozen=True, slots=True)
class Submission:
    """A response that is accepted. token: of its branch's lock, and of the right to run it.

    body: Response object without `output`; it begins with id, object, created_at, status and error, in this order.
    job: what it takes to run it, opaque. opened: what the turn will continue, as it is now. streamed: its events will
    be kept.
    """

    owner: str
    response_id: str
    token: str
    body: bytes
    job: str
    opened: OpenedTurn
    streamed: bool


class JobEntry(NamedTuple):
    """An entry of the queue, and the job that was drawn for it. queued_ms: since when that waited, ms of Unix time.

    owner: '' for an entry that was queued before there were tickets: it names its response itself.
    """

    id: str
    response_id: str
    queued_ms: int
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """A response that the worker with this token runs now. attempt: from 1. waited_seconds: since it was accepted."""

    entry: JobEntry
    owner: str
    token: str
    job: str
    attempt: int
    waited_seconds: float


@dataclass(frozen=True, slots=True)
class LargeJob:
    """A response whose job has more bytes than whoever asked for it takes. size: of them."""

    size: int


@dataclass(frozen=True, slots=True)
class Busy:
    """A response that somebody else runs, or that is not there yet (0 seconds)."""

    seconds: float


class Jobs:
    """Jobs of any owner, and their queue. channel: for what waits on the server, so that nothing else waits for it."""

    def __init__(self, keyspace: Keyspace, channel: Channel, *, timeout_seconds: float) -> None:
        self._keyspace = keyspace
        self._scripts = keyspace.scripts
        self._channel = channel
        self._keys = QueueKeys(keyspace.prefix)
        self._queue = self._keys.tickets
        #: How long the server may keep a worker waiting for entries.
        self._block_ms = max(1, round(timeout_seconds * 600))

    # --- responses ------------------------------------------------------------------------------------------------

    async def submit(self, submission: Submission, most_waiting: int = 0) -> None:
        """Queue a response and write it down; one round trip, two where an owner may have only so many that wait, and
        before it one for each piece of a job that is more than one command takes.

        Raises QueueFull, Conflict, Unavailable: then it will not run. Where it is unknown whether it was written, the
        caller must not promise it.
        """
        owner, response_id = submission.owner, submission.response_id
        queue = [self._keys.tickets, self._keys.owners, self._keys.waiting(owner)]
        calls = [Call("enqueue_job", queue, [owner, response_id, most_waiting]), self._submit_call(submission)]
        if (touch := self._keyspace.touch_response(owner, response_id)) is not None:
            calls.append(touch)
        # the job first: a record without one would never be run
        batches = [calls] if not most_waiting else [calls[:1], calls[1:]]
        await self._bring(submission)
        for batch in batches:
            for reply in await self._scripts.run_all(batch):
                if isinstance(reply, Conflict | Unstaged):
                    await self._scripts.run(self._withdraw_call(owner, response_id))
                if isinstance(reply, Unstaged):
                    raise Unavailable("what was staged is gone")
                if isinstance(reply, StoreError):
                    raise reply

    def _is_staged(self, submission: Submission) -> bool:
        return len(submission.job) > self._keyspace.portion.bytes

    async def _bring(self, submission: Submission) -> None:
        """Bring a job that is more than one command takes, in pieces. Raises Unavailable."""
        if not self._is_staged(submission):
            return
        key = self._keyspace.keys(submission.response_id).staged(submission.token)
        for _ in range(BRING_ATTEMPTS):
            if await bring_pieces(self._keyspace, key, submission.job.encode(), 0):
                return
        raise Unavailable("what was staged is gone")

    def _submit_call(self, submission: Submission) -> Call:
        response_id, opened = submission.response_id, submission.opened
        keys = self._keyspace.keys(response_id)
        arguments: list[Argument] = [
            submission.owner,
            submission.body,
            submission.job,
            submission.token,
            opened.lock,
            opened.chain,
            join_calls(sorted(opened.pending)),
            self._keyspace.retention_seconds,
            int(submission.streamed),
        ]
        written = [*keys.common, keys.response(response_id), keys.commit(response_id)]
        if self._is_staged(submission):
            size = len(submission.job)
            written += [keys.staged(submission.token), keys.job(response_id)]
            arguments[JOB_AT] = ""
            arguments += [-(-size // self._keyspace.portion.bytes), size]
        return Call("submit_response", written, arguments, response_id)

    def _withdraw_call(self, owner: str, response_id: str) -> Call:
        return Call("withdraw_job", [self._keys.owners, self._keys.waiting(owner)], [owner, response_id])

    async def enqueue(self, owner: str, response_id: str) -> None:
        """Put a response that is written down already at the end of the queue. Raises Unavailable."""
        queue = [self._keys.tickets, self._keys.owners, self._keys.waiting(owner)]
        await self._scripts.run(Call("enqueue_job", queue, [owner, response_id, 0]))

    async def cancel(self, owner: str, response_id: str) -> bool:
        """End a response as cancelled if it is not over; False for one that was made while its client waited.

        Raises ResponseNotFound, Unavailable.
        """
        keys = self._keyspace.keys(response_id)
        call = Call("cancel_response", [keys.head, keys.response(response_id)], [owner], response_id)
        reply, _ = await self._scripts.run_all([call, self._withdraw_call(owner, response_id)])
        if isinstance(reply, StoreError):
            raise reply
        return bool(reply[0])

    # --- the worker's side ----------------------------------------------------------------------------------------

    async def claim(
        self, entry: JobEntry, token: str, lease_seconds: float, most_bytes: int = 0
    ) -> Job | Busy | LargeJob | None:
        """Take a response to run it under a new token; None if it is over or gone. Raises Unavailable.

        most_bytes: of its job as it was submitted, 0 for any number; one with more is not taken.
        """
        keys = self._keyspace.keys(entry.response_id)
        reply = await self._scripts.run(
            Call(
                "claim_job",
                [keys.head, keys.response(entry.response_id), keys.commit(entry.response_id)],
                [
                    token,
                    round(lease_seconds * 1000),
                    GRACE_SECONDS * 1000,
                    entry.queued_ms,
                    COMMIT_MARKER_SECONDS,
                    most_bytes,
                ],
            )
        )
        if reply[0] == b"large":
            return LargeJob(reply[1])
        if reply[0] == b"gone":
            return None
        if reply[0] == b"busy":
            return Busy(reply[1] / 1000)
        owner, job, pieces, attempt, waited = reply
        if pieces and (job := await self._read_job(entry.response_id, token, pieces)) is None:
            return await self.claim(entry, token, lease_seconds, most_bytes)
        return Job(entry, owner.decode(), token, job.decode(), attempt, waited / 1000)

    async def _read_job(self, response_id: str, token: str, count: int) -> bytes | None:
        """Return a job that lies in pieces, b'' if they are lost; None if another attempt runs it, or it is over."""
        keys = self._keyspace.keys(response_id)
        names = [keys.response(response_id), keys.job(response_id)]
        pieces: list[bytes] = []
        for number in range(count):
            # one at a time: others come between two of them
            (piece,) = await self._scripts.run(Call("read_job", names, [token, number]))
            if not isinstance(piece, bytes):
                return None if piece == 0 else b""
            pieces.append(piece)
        return b"".join(pieces)

    async def renew(
        self, jobs: Sequence[Job], lease_seconds: float, *, worker: str = "", waiting: Sequence[JobEntry] = ()
    ) -> list[bool]:
        """Keep what is being run; False for each that no longer is to be. One round trip.

        worker: its entries are kept too, so that nobody takes them over, and those that are `waiting` to be claimed
        there; '' leaves them. Raises Unavailable.
        """
        calls = [
            Call(
                "renew_job",
                [self._keyspace.keys(job.entry.response_id).response(job.entry.response_id)],
                [job.token, round(lease_seconds * 1000)],
            )
            for job in jobs
        ]
        entries = [*(job.entry for job in jobs), *waiting]
        if worker and entries:
            calls.append(Call("keep_jobs", [self._queue], [GROUP, worker, *(entry.id for entry in entries)]))
        replies = await self._scripts.run_all(calls)
        return [not isinstance(reply, StoreError) and bool(reply[0]) for reply in replies[: len(jobs)]]

    async def give_back(self, job: Job, new_token: str, lease_seconds: float) -> bool:
        """Let somebody else run it at once, as if this attempt had not been. False: it was not ours any more.

        new_token: nobody's; its branch stays locked for so long. Raises Unavailable.
        """
        keys = self._keyspace.keys(job.entry.response_id)
        arguments: list[Argument] = [job.token, new_token, round(lease_seconds * 1000)]
        call = Call("return_job", [keys.head, keys.response(job.entry.response_id)], arguments)
        (returned,) = await self._scripts.run(call)
        return bool(returned)

    async def fail(self, job: Job, error: bytes) -> bool:
        """End it as failed. error: JSON object. False: it was not ours any more. Raises Unavailable."""
        keys = self._keyspace.keys(job.entry.response_id)
        call = Call("fail_job", [keys.head, keys.response(job.entry.response_id)], [job.token, error])
        (failed,) = await self._scripts.run(call)
        return bool(failed)

    async def is_over(self, response_id: str) -> bool:
        """Tell whether a response is terminal or gone. Raises Unavailable."""
        (unfinished,) = await self._scripts.run(
            Call("check_job", [self._keyspace.keys(response_id).response(response_id)], [])
        )
        return not unfinished

    # --- the queue ------------------------------------------------------------------------------------------------

    async def take(self, worker: str, limit: int) -> list[JobEntry]:
        """Wait for entries, at most `limit`; after a while without any return none. Raises Unavailable."""
        with translated():
            entries = await self._take(worker, limit)
        return await self._draw(entries)

    async def _draw(self, entries: Sequence[JobEntry]) -> list[JobEntry]:
        """Return entries with the jobs that are drawn for them; without those for which nothing waits."""
        tickets = [entry.id for entry in entries if not entry.response_id]
        if not tickets:
            return list(entries)
        keys = [self._queue, self._keys.owners, self._keys.drawn]
        (flat,) = await self._scripts.run(Call("draw_jobs", keys, [GROUP, *tickets]))
        drawn = dict(zip(tickets, zip(flat[::2], flat[1::2], strict=True), strict=True))
        found = []
        for entry in entries:
            owner, job = drawn.get(entry.id, (b"", b""))
            if job:
                queued_ms, _, response_id = job.decode().partition(":")
                found.append(JobEntry(entry.id, response_id, int(queued_ms), owner.decode()))
            elif entry.response_id:
                found.append(entry)
        return found

    async def _take(self, worker: str, limit: int) -> list[JobEntry]:
        wait = ("COUNT", limit, "BLOCK", self._block_ms)
        reply = await self._send("XREADGROUP", "GROUP", GROUP, worker, *wait, "STREAMS", self._queue, ">")
        if not isinstance(reply, redis_errors.ResponseError):
            return _entries(reply)
        if not str(reply).startswith("NOGROUP"):
            raise reply
        # nothing was ever queued: a queue that nobody uses leaves no key
        first = await self._send("XREAD", "COUNT", 1, "BLOCK", self._block_ms, "STREAMS", self._queue, "0-0")
        if isinstance(first, redis_errors.ResponseError):
            raise first
        if first:
            await self.join()
        return []

    async def join(self) -> None:
        """Get ready to take entries, if there is a queue, and forget workers that are long gone. Raises Unavailable."""
        await self._scripts.run(Call("join_queue", [self._queue], [GROUP, FORGET_SECONDS * 1000]))

    async def reclaim(self, worker: str, idle_seconds: float, limit: int) -> list[JobEntry]:
        """Take over entries whose worker gave no sign of life for so long. Raises Unavailable."""
        arguments: list[Argument] = [GROUP, worker, round(idle_seconds * 1000), limit]
        (entries,) = await self._scripts.run(Call("reclaim_jobs", [self._queue], arguments))
        return await self._draw([_entry(entry) for entry in entries])

    async def survey(self) -> WaitingJobs:
        """Return how many jobs wait for a worker, and since when the oldest does. Raises Unavailable."""
        call = Call("survey_queue", [self._queue, self._keys.owners], [MOST_SURVEYED])
        count, oldest_ms = await self._scripts.run(call)
        return WaitingJobs(count, oldest_ms / 1000)

    async def finish(self, entry: JobEntry) -> None:
        """Take an entry out of the queue: its response is over. Raises Unavailable."""
        await self._scripts.run(Call("finish_job", [self._queue, self._keys.drawn], [GROUP, entry.id]))

    async def requeue(self, entry: JobEntry) -> None:
        """Put a job back, for the next worker. Raises Unavailable."""
        keys = [self._queue, self._keys.owners, self._keys.waiting(entry.owner), self._keys.drawn]
        job = f"{entry.queued_ms}:{entry.response_id}" if entry.owner else entry.response_id
        await self._scripts.run(Call("requeue_job", keys, [GROUP, entry.id, entry.owner, job]))

    async def close(self) -> None:
        """Close the queue's own connection."""
        await self._channel.close()

    async def _send(self, *command: Any) -> Any:
        (reply,) = await self._channel.exchange([command])
        return reply


def _entries(reply: Any) -> list[JobEntry]:
    """Return the entries of XREADGROUP's reply: nothing, a list of streams, or (RESP3) a map of them."""
    if not reply:
        return []
    streams = reply.values() if isinstance(reply, dict) else [entries for _, entries in reply]
    return [_entry(entry) for entries in streams for entry in entries]


def _entry(entry: Any) -> JobEntry:
    entry_id, fields = entry
    queued_at = entry_id.decode()
    return JobEntry(queued_at, fields[1].decode(), int(queued_at.partition("-")[0]))
