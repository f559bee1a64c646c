"""One turn: open, prepare, ask the upstream, relay, commit, and only then the last event.

    open ──── one round trip: owner, branch or previous response, lock, history, references
    prepare   what is known, what is new; refused here, nothing was changed
    generate  upstream → relay → client; ends in an Outcome, whatever happens
    settle    one round trip: items and response written, lock released; then the terminal event

`leave` may come at any time, when the client goes or the server stops: it only ever ends `generate`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import hdrs

from proxy.compaction.automatic import Compaction
from proxy.context.input import Prepared, output_entries, prepare
from proxy.protocol import ids, sse
from proxy.protocol.errors import ApiError, BadGateway, GatewayTimeout
from proxy.protocol.errors import Unavailable as ServerUnavailable
from proxy.protocol.request import Revised
from proxy.relay import MalformedEvent, Outcome, Ownership, Relay
from proxy.streams.event_log import keeps_events, logged
from proxy.turns.continuation import Ending, ending_of
from proxy.turns.model_call import Question
from proxy.turns.opening import FIRST_PAUSE, LONGEST_PAUSE, Identity, Opening, partition_for
from proxy.upstream.client import read_response
from storage import (
    CommitMode,
    CommitResult,
    Committed,
    Conflict,
    Lease,
    OpenedTurn,
    StoreError,
    TurnCommit,
    Unavailable,
    new_partition,
    partition_of,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import aiohttp
    from aiohttp import web

    from proxy.auth.caller import Caller
    from proxy.delivery import Delivery
    from proxy.protocol.request import TurnRequest
    from proxy.services import Services
    from proxy.upstream.call import Inbound

logger = logging.getLogger(__name__)


class Turn:
    """A single turn, from a checked request to the end of its answer. Its ids repeat if its identity does."""

    def __init__(
        self,
        services: Services,
        caller: Caller,
        request: TurnRequest,
        inbound: Inbound,
        delivery: Delivery,
        identity: Identity | None = None,
    ) -> None:
        self._services = services
        self._config = services.config
        self._caller = caller
        self._request = request
        self._inbound = inbound
        self._identity = identity
        #: Whether an ordinary turn's events are kept, for a client that comes back to it.
        self._resumable = identity is None and keeps_events(services.config, request)
        self._ends_on_leave = services.config.turns.on_disconnect != "finish" and not self._resumable
        self._minted = 0
        self.delivery = delivery
        #: What the upstream calls this request, for the log.
        self.upstream_request_id = "-"
        #: Called with the response's id before the upstream is.
        self.on_identified: Callable[[str], Awaitable[None]] | None = None
        self._partition = partition_of(identity.response_id) if identity else partition_for(request)
        self._lease: Lease | None = None
        self._opened = OpenedTurn()
        self._prepared = Prepared([], b"")
        self._committed = Committed(CommitResult.OK)
        self._question: Question
        self._outcome: Outcome | None = None
        self._response_id = ""
        self._relay: Relay
        self._leaving = False
        self._stopping = False
        self._abandoned = False
        self._generating: asyncio.Task[Any] | None = None

    async def run(self) -> web.StreamResponse:
        """Carry the turn out and return the response, which for a stream has been sent already.

        Raises ApiError or StoreError when the turn is refused or fails before its first byte; then nothing is kept.
        """
        await self._open()
        try:
            self._prepare()
            if self.on_identified is not None:
                await self.on_identified(self._response_id)
            async with AsyncExitStack() as stack:
                if self._resumable:
                    events = logged(self._services, self._caller.owner, self._response_id, self.delivery)
                    self.delivery = await stack.enter_async_context(events)
                outcome = await self._generate(stack)
                return await self._settle(outcome)
        finally:
            await self._release()

    def leave(self, *, stopping: bool = False) -> None:
        """Note that the client has gone, or (stopping) that the server has to end; see `turns.on_disconnect`."""
        if not stopping:
            self.delivery.gone = True
        if not self._ends_on_leave and not stopping:
            return
        self._leaving = True
        self._stopping = self._stopping or stopping
        if self._generating is not None:
            self._generating.cancel()

    @property
    def response_id(self) -> str:
        """The response's id, '' before the turn was opened."""
        return self._response_id

    @property
    def status(self) -> str:
        """How the turn ended, from when the client is told; '' if nothing is kept of it."""
        return self._outcome.status if self._outcome else ""

    @property
    def ending(self) -> Ending | None:
        """What another turn can go on from, from when the client is told; None if this one came to no good end."""
        return ending_of(self._request, self._opened, self._prepared, self._outcome)

    def abandon(self) -> None:
        """End the turn and keep nothing of it: somebody else has decided how it ends, or will run it again."""
        self._abandoned = self._leaving = True
        if self._generating is not None:
            self._generating.cancel()

    # --- open -----------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        request, source = self._request, self._request.source
        if source.subject or request.item_ids:
            token = self._identity.token if self._identity else secrets.token_hex(8)
            lease = Lease(self._partition, "", token)
            opening = Opening(self._services, self._caller.owner, request, lease, self._lock_wait_seconds)
            self._opened = await opening.open(lambda: self._leaving)
            self._lease = replace(lease, lock=self._opened.lock) if self._opened.lock else None
        if self._lease is not None:
            self._services.leases.hold(self._lease)
        elif not source.previous_response_id and not self._identity and not self._knows_partition():
            self._partition = new_partition()
        if self._opened.model and not request.model:
            self._request = replace(request, body={**request.body, "model": self._opened.model})
        minted = ids.new_response_id(self._partition, stored=request.stored)
        self._response_id = self._identity.response_id if self._identity else minted

    @property
    def _lock_wait_seconds(self) -> float:
        return self._identity.lock_wait_seconds if self._identity else self._config.turns.lock_wait_seconds

    def _knows_partition(self) -> bool:
        """Whether the partition that the input's ids name is one of this owner's: the turn may live there too."""
        return any(partition_of(known) == self._partition for known in self._opened.known)

    def _prepare(self) -> None:
        check = self._config.turns.check_tool_calls
        compaction = self._compaction = Compaction(self._services, self._caller, self._request, self._inbound)
        self._question = Question(self._services, self._caller, compaction.request, self._inbound)
        self._prepared = prepare(self._request, self._opened, self._new_item_id, check_calls=check)
        compaction.open(self._opened, self._prepared)
        self._relay = Relay(
            Ownership.of(
                self._request.body,
                self._request.source,
                response_id=self._response_id,
                created_at=self._identity.created_at if self._identity else int(time.time()),
                store=self._request.stored,
                new_item_id=self._new_item_id,
                branch=self._opened.branch,
            )
        )

    def _new_item_id(self, item_type: str) -> str:
        if self._identity:
            self._minted += 1
            return ids.derived_item_id(item_type, self._identity.response_id, self._minted)
        return ids.new_turn_item_id(item_type, self._partition, stored=self._request.stored)

    # --- generate -------------------------------------------------------------------------------------------------

    async def _generate(self, stack: AsyncExitStack) -> Outcome | None:
        """Return how the answer ended; None if nothing of it is to be kept."""
        if self._leaving:
            return self._interrupted()
        if not self._request.generate:
            return self._relay.complete({"object": "response", "output": [], "usage": {}})
        task = self._generating = asyncio.current_task()
        keeps = self._keeps_items or self._request.remembered
        try:
            if (outcome := await self._compaction.run(stack, self._relay, self.delivery)) is not None:
                return outcome
            answer = await self._question.ask(stack, *self._compaction.view, keeps=keeps)
            self.upstream_request_id = answer.headers.get("x-request-id", "-")
            self.delivery.keep_headers(self._question.headers_of(answer))
            return await self._relay_answer(answer)
        except asyncio.CancelledError:
            if not self._leaving or task is None:
                raise
            task.uncancel()
            return self._interrupted()
        except ApiError as failure:
            if not self.delivery.started:
                raise
            return self._relay.fail("server_error", failure.message)
        finally:
            self._generating = None

    async def _relay_answer(self, answer: aiohttp.ClientResponse) -> Outcome | None:
        untold = not answer.headers.get(hdrs.CONTENT_TYPE)
        if answer.content_type == "text/event-stream" or (untold and self._request.stream):
            return await self._relay_stream(answer)
        outcome = self._relay.complete(await read_response(answer, self._services.upstream.max_response_bytes))
        if self._request.stream:
            await self.delivery.send(self._relay.replay(outcome))
        return outcome

    async def _relay_stream(self, answer: aiohttp.ClientResponse) -> Outcome | None:
        relay = self._relay
        try:
            async for events in self._question.events(answer):
                frames = b"".join([relay.feed(event) for event in events])
                if frames and self._request.stream and not await self.delivery.send(frames) and self._ends_on_leave:
                    return self._interrupted()
                if relay.outcome is not None:
                    return relay.outcome
        except MalformedEvent:
            return relay.fail("server_error", "The upstream sent an event that can't be read.")
        except sse.EventTooLarge:
            return relay.fail("server_error", "The upstream sent an event that is too large.")
        except (BadGateway, GatewayTimeout) as failure:
            return relay.fail("server_error", failure.message)
        return relay.fail("server_error", "The upstream ended its stream before the response was complete.")

    def _interrupted(self) -> Outcome | None:
        """Return what there is of an answer that was broken off here; None to keep nothing.

        A client that was sent nothing of the answer asks again (the SDKs do so by themselves after a timeout): with
        its input kept, the conversation would have it twice.
        """
        if self._abandoned:
            return None
        waits = self._stopping and (self._resumable or not self.delivery.gone)
        if waits and not self._request.stream:
            raise ServerUnavailable("The server is stopping.", code="server_stopping")
        if not waits and (self._config.turns.on_disconnect == "discard" or not self.delivery.started):
            return None
        outcome = self._relay.interrupt()
        return outcome if outcome.items or waits else None

    # --- settle ---------------------------------------------------------------------------------------------------

    async def _settle(self, outcome: Outcome | None) -> web.StreamResponse:
        """Write the outcome down, then tell the client: whoever sees the end can build on it."""
        if outcome is None:
            return await self.delivery.finish_stream()
        await self.delivery.secure()
        outcome = self._outcome = await self._commit(outcome)
        beside = await self._describe()
        if not self._request.stream:
            answer = outcome.response if beside is None else {**beside, "response": outcome.response}
            return self.delivery.json_response(orjson.dumps(answer))
        if not self.delivery.started:
            await self.delivery.send(self._relay.replay(outcome))
        await self.delivery.send(self._relay.closing(outcome, beside))
        return await self.delivery.finish_stream()

    async def _describe(self) -> dict[str, Any] | None:
        """Return what the answer says beside the response."""
        describe, done, source = self._request.describe, self._committed, self._request.source
        if describe is None:
            return None
        if done.result is CommitResult.REPEATED and source.conversation_id and source.fork:
            # the answer to the commit was lost, and with it what it had done
            try:
                branch = await self._services.store.branches.read(
                    self._caller.owner, source.conversation_id, self._opened.branch
                )
                done = replace(done, branch=branch, backup=source.fork.backup)
            except StoreError:
                logger.warning("turn %s: what it did to the branches can't be read", self._response_id)
        item = self._prepared.entries[0].data if self._prepared.entries else None
        return describe(Revised(done.branch, done.backup, self._opened.anchor, item))

    @property
    def _keeps_items(self) -> bool:
        return self._request.keeps_items(append_unstored=self._config.conversations.append_unstored)

    def _mode(self, outcome: Outcome) -> CommitMode | None:
        """Where the outcome goes; None: nowhere."""
        if not self._keeps_items:
            return None
        if outcome.status not in {"completed", "incomplete"} or (self._leaving and not outcome.items):
            return CommitMode.RECORD if self._request.stored else None
        if not self._request.source.conversation_id:
            return CommitMode.CHAIN
        fork = self._request.source.fork
        if fork is None:
            return CommitMode.APPEND
        return CommitMode.FORK if fork.name else CommitMode.PROMOTE

    async def _commit(self, outcome: Outcome) -> Outcome:
        """Write until it is written or `turns.commit_retry_seconds` are over; return what the client is told."""
        give_up = time.monotonic() + self._config.turns.commit_retry_seconds
        pause = FIRST_PAUSE
        while (mode := self._mode(outcome)) is not None:
            try:
                self._committed = await self._services.store.turns.commit(self._to_commit(outcome, mode))
            except Conflict:
                logger.warning("turn %s lost its lock and the branch moved on", self._response_id)
                outcome = self._relay.fail(
                    "conversation_conflict", "The conversation was changed by another turn; this one was not added."
                )
                if mode is CommitMode.RECORD:
                    # the partition itself is somebody else's: no other commit can succeed either
                    return outcome
            except Unavailable:
                if time.monotonic() + pause > give_up:
                    logger.error("turn %s could not be saved: the store can't be reached", self._response_id)  # noqa: TRY400
                    return self._relay.fail(
                        "server_error", "The answer could not be saved: the store can't be reached."
                    )
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                self._let_go()
                break
        return outcome

    def _to_commit(self, outcome: Outcome, mode: CommitMode) -> TurnCommit:
        body = {key: value for key, value in outcome.response.items() if key != "output"}
        return TurnCommit(
            owner=self._caller.owner,
            response_id=self._response_id,
            partition=self._partition,
            mode=mode,
            opened=self._opened,
            conversation_id=self._request.source.conversation_id,
            token=self._lease.token if self._lease else "",
            stored=self._request.stored,
            status=outcome.status,
            body=orjson.dumps(body),
            inputs=[*(self._request.before.tail if self._request.before else ()), *self._prepared.entries],
            outputs=output_entries(outcome.items, self._request.exempt_tools),
            model=self._request.model,
            fork=self._request.source.fork,
            job_token=self._identity.token if self._identity else "",
        )

    def _let_go(self) -> None:
        """Forget the lock: the commit released it."""
        if self._lease is not None:
            self._services.leases.forget(self._lease)
            self._lease = None

    async def _release(self) -> None:
        """Give the lock back if the turn ended without a commit."""
        lease = self._lease
        self._let_go()
        if lease is not None:
            try:
                await self._services.store.turns.release(lease)
            except Unavailable:
                logger.warning("lock of a failed turn is left to its lease: the store can't be reached")
