"""Pursuit: one command that a node of a cluster did not do, followed to the node that does it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from redis import exceptions as redis_errors

from storage.client.barrier import TooFewReplicas
from storage.client.channel import Command, NoAnswerInTime, Unanswered, Unconfirmed
from storage.client.cluster.topology import NAMELESS, Address, Topology
from storage.client.pipelined import refuses

#: Seconds that a command is sent again and again while its slot is nobody's, or no node has all of its keys.
UNSETTLED_SECONDS = 0.4
#: Seconds between two times: at first, and at most. Who is told where to go goes there at once, the first time.
REDIRECT_PAUSE_SECONDS = 0.01
LONGEST_REDIRECT_PAUSE_SECONDS = 0.1

#: All that an exchange raises.
EXCHANGE_ERRORS = (TimeoutError, OSError, redis_errors.RedisError)
#: Answers that nothing was done, as the slot is elsewhere, on its way, or nobody's. MOVED is a kind of ASK to redis-py.
_NOT_HERE = (redis_errors.AskError, redis_errors.TryAgainError, redis_errors.ClusterDownError)


@dataclass(frozen=True, slots=True)
class FailedExchange:
    """What an exchange raised, in place of each of its replies."""

    error: Exception


#: Sends a command to a node, after ASKING if that is True, and returns its reply, be it an error, or FailedExchange.
SendCommand: TypeAlias = Callable[[Address | None, Command, bool], Awaitable[Any]]


def is_open(outcome: Any) -> bool:
    """Tell whether a command may still be done, elsewhere or later. outcome: a reply, or FailedExchange."""
    if isinstance(outcome, FailedExchange):
        error = outcome.error
        if isinstance(error, Unconfirmed):
            return isinstance(error.__cause__, _NOT_HERE)
        # a connection that breaks or can't be made, or that leads to a replica
        is_passing = isinstance(error, (redis_errors.ConnectionError, redis_errors.ReadOnlyError))
        return is_passing and not isinstance(error, TooFewReplicas)
    return isinstance(outcome, _NOT_HERE) or (isinstance(outcome, Exception) and refuses(outcome))


class Pursuit:
    """One command. home: says which node has its slot, as far as is known. deadline: in the loop's time."""

    def __init__(
        self,
        topology: Topology,
        command: Command,
        home: Callable[[], Address | None],
        send: SendCommand,
        deadline: float,
    ) -> None:
        self._topology = topology
        self._command = command
        self._home = home
        self._send = send
        self._deadline = deadline
        self._pause = 0.0
        #: Whether it was sent once more after a failure, and the failure after which it may have been done.
        self._is_repeated = False
        self._lost: Unanswered | None = None

    async def follow(self, address: Address | None, outcome: Any) -> Any:
        """Return what becomes of it at last: a reply, or FailedExchange.

        outcome: what has become of it at the node of this address.
        """
        patient_until = asyncio.get_running_loop().time() + UNSETTLED_SECONDS
        is_sent = False
        try:
            async with asyncio.timeout_at(self._deadline):
                while is_open(outcome):
                    step = await self._next(address, outcome, patient_until)
                    if step is None:
                        break
                    address, asking = step
                    is_sent = True
                    outcome = await self._send(address, self._command, asking)
                    is_sent = False
        except TimeoutError as error:
            # what was being sent may not have been: that is not found out
            outcome = FailedExchange(NoAnswerInTime() if is_sent else error)
        return self._end(outcome)

    async def _next(
        self, address: Address | None, outcome: Any, patient_until: float
    ) -> tuple[Address | None, bool] | None:
        """Return where to send it next, and whether after ASKING; None: nowhere."""
        if isinstance(outcome, FailedExchange) or refuses(outcome):
            return await self._after_failure(address, outcome)
        if asyncio.get_running_loop().time() >= patient_until:
            return None
        if isinstance(outcome, redis_errors.AskError) and address is not None:
            target = (address[0] if outcome.host in NAMELESS else outcome.host, outcome.port)
            is_asked_only = not isinstance(outcome, redis_errors.MovedError)
            if not is_asked_only:
                self._topology.move(outcome.slot_id, target)
            await self._wait()
            return target, is_asked_only
        if isinstance(outcome, redis_errors.ClusterDownError):
            self._topology.refresh(address)
        self._pause = self._pause or REDIRECT_PAUSE_SECONDS
        await self._wait()
        return self._home(), False

    async def _after_failure(self, address: Address | None, outcome: Any) -> tuple[Address | None, bool] | None:
        """Have the others asked where the slot is, unless that is known to be elsewhere by now, and go there, once."""
        if self._is_repeated:
            return None
        self._is_repeated = True
        if isinstance(outcome, FailedExchange) and isinstance(outcome.error, Unanswered):
            self._lost = outcome.error
        # where a barrier was refused, other slots are not where they should be
        if self._home() == address or isinstance(self._lost, Unconfirmed):
            # what is known counts where nobody can tell more
            with suppress(*EXCHANGE_ERRORS):
                await self._topology.refreshed(address)
        return self._home(), False

    async def _wait(self) -> None:
        await asyncio.sleep(self._pause)
        self._pause = min(max(2 * self._pause, REDIRECT_PAUSE_SECONDS), LONGEST_REDIRECT_PAUSE_SECONDS)

    def _end(self, outcome: Any) -> Any:
        if self._lost is not None and isinstance(outcome, (Exception, FailedExchange)):
            # refused now, but done then perhaps
            self._lost.__cause__ = outcome.error if isinstance(outcome, FailedExchange) else outcome
            return FailedExchange(self._lost)
        if isinstance(outcome, redis_errors.AskError):
            return redis_errors.TryAgainError("the slot is on its way from node to node")
        return outcome
