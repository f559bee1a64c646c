"""Replicated channel: exchanges that are over once replicas have what they wrote.

It has a connection of its own: the barrier holds up what comes behind it, for as long as the replicas take. What comes
meanwhile goes together, in one exchange behind which one barrier stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from storage.client.barrier import BARRIER_COMMANDS, Barrier
from storage.client.channel import Channel, Command, Unanswered


class ReplicatedChannel(Channel):
    """One server, or the primary that Sentinel names, or a node of a cluster.

    channel: leads there, and is closed with this one. some_tag: gives a hash tag whose slot the server has.
    """

    def __init__(self, channel: Channel, barrier: Barrier, some_tag: Callable[[], str] = lambda: "0") -> None:
        self._channel = channel
        self._barrier = barrier
        self._some_tag = some_tag
        self._waiting: list[tuple[Sequence[Command], asyncio.Future[list[Any]]]] = []
        self._task: asyncio.Task[None] | None = None

    async def exchange(self, requests: Sequence[Command]) -> list[Any]:
        """Send all, read all, wait for the replicas, unless all were refused.

        Raises TooFewReplicas and Unconfirmed too: the primary has done it then.
        """
        if not requests:
            return []
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((requests, future))
        if self._task is None:
            self._task = asyncio.create_task(self._go())
        return await future

    async def _go(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                await self._go_once([one for one in waiting if not one[1].done()])
        finally:
            self._task = None

    async def _go_once(self, waiting: Sequence[tuple[Sequence[Command], asyncio.Future[list[Any]]]]) -> None:
        if not waiting:
            return
        together = [request for requests, _ in waiting for request in requests]
        missing: Unanswered | None = None
        try:
            replies = await self._channel.exchange([*together, *self._barrier.commands(self._some_tag())])
        except Exception as error:
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
            return
        try:
            self._barrier.check(replies[-BARRIER_COMMANDS:])
        except Unanswered as error:
            missing = error
        first = 0
        for requests, future in waiting:
            own = replies[first : first + len(requests)]
            first += len(requests)
            if future.done():
                continue
            if missing is None or all(isinstance(reply, Exception) for reply in own):
                future.set_result(own)
            else:
                future.set_exception(missing)

    async def close(self) -> None:
        """Close the connection; what is under way fails."""
        await self._channel.close()
