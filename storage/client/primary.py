"""Primary: which server a service's Sentinels say is the primary, and the news that another one takes over.

From the moment on at which a failover begins the old primary is not asked any more: what it acknowledges then is lost.
It keeps its connections open and takes writes for as long as 10 s, until Sentinel makes a replica of it. So every
connection is dropped at once, and new ones wait for the end of the failover.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio import Redis
from redis.asyncio.sentinel import SentinelConnectionPool

from storage.client.followed import Followed

#: Seconds that Sentinels get to answer once one has.
OTHERS_SECONDS = 0.5
#: Seconds that a failover may take of which no end is heard.
LONGEST_FAILOVER_SECONDS = 15.0
#: Seconds between two questions which server it is, for news that were missed.
ASK_SECONDS = 2.0
#: Seconds until a Sentinel that can't be heard is tried again.
LISTEN_AGAIN_SECONDS = 1.0

_BEGINS, _ABORTED, _SWITCHED = "+failover-state-*", "-failover-abort-*", "+switch-master"

_log = logging.getLogger(__name__)


class Primary(Followed):
    """The primary of one service."""

    def __init__(self, pool: SentinelConnectionPool) -> None:
        super().__init__()
        self._sentinels: list[Redis] = pool.sentinel_manager.sentinels
        self._service: str = pool.service_name
        self._known: tuple[str, int] | None = None
        #: The Sentinels that can't be heard, and why.
        self._deaf: dict[Redis, Exception] = {}
        self._is_settled = asyncio.Event()
        self._is_settled.set()

    async def address(self) -> tuple[str, int]:
        """Return host and port, as the Sentinel with the latest news has it; after a failover that has begun.

        Raises redis-py's ConnectionError: no Sentinel answers, or knows of a primary that is up.
        """
        await self._is_settled.wait()
        return await self._ask()

    def reached(self, host: str) -> None:
        """Sentinel knows where it leads."""

    async def follow(self) -> None:
        """Listen to all Sentinels; once none can be heard the last one's failure is raised, as redis-py has it."""
        self._deaf = {}
        tasks = [asyncio.create_task(self._ask_again())]
        tasks += [asyncio.create_task(self._listen_on(sentinel)) for sentinel in self._sentinels]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- asking -----------------------------------------------------------------------------------------------------

    async def _ask(self) -> tuple[str, int]:
        asking = {asyncio.create_task(_state(sentinel, self._service)) for sentinel in self._sentinels}
        states: list[dict[str, Any]] = []
        waiting: set[asyncio.Task[dict[str, Any] | None]] = asking
        try:
            while waiting and not states:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                states += [state for task in done if (state := task.result())]
            if waiting:
                done, _ = await asyncio.wait(waiting, timeout=OTHERS_SECONDS)
                states += [state for task in done if (state := task.result())]
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        if not states:
            raise redis_errors.ConnectionError(f"no Sentinel knows of a primary for {self._service}")
        latest = max(states, key=lambda state: int(state["config-epoch"]))
        return latest["ip"], int(latest["port"])

    async def _ask_again(self) -> None:
        while True:
            await asyncio.sleep(ASK_SECONDS)
            changes = self.changes
            try:
                address = await self._ask()
            except redis_errors.RedisError:
                continue
            if changes != self.changes or not self._is_settled.is_set():
                # the answer may be older than the news
                continue
            if self._known is not None and address != self._known:
                self._switch(address)
            self._known = address

    # --- listening --------------------------------------------------------------------------------------------------

    async def _listen_on(self, sentinel: Redis) -> None:
        """Listen to one for as long as any of them can be heard."""
        while True:
            try:
                await self._listen(sentinel)
            except (redis_errors.RedisError, OSError) as error:
                self._deaf[sentinel] = error
                if len(self._deaf) == len(self._sentinels):
                    raise
            await asyncio.sleep(LISTEN_AGAIN_SECONDS)

    async def _listen(self, sentinel: Redis) -> None:
        async with sentinel.pubsub() as news:
            await news.psubscribe(_BEGINS, _ABORTED, _SWITCHED)
            async for message in news.listen():
                self._deaf.pop(sentinel, None)
                if message["type"] == "pmessage":
                    self._hear(message["pattern"].decode(), message["data"].decode())

    def _hear(self, pattern: str, text: str) -> None:
        if self._service != _service_of(text.split()):
            return
        match pattern:
            case "+switch-master":
                host, port = text.split()[3:5]
                self._switch((host, int(port)))
            case "-failover-abort-*":
                self._settle()
            case _ if self._is_settled.is_set():
                _log.warning("a failover of %s begins", self._service)
                self._is_settled.clear()
                asyncio.get_running_loop().call_later(LONGEST_FAILOVER_SECONDS, self._settle)
                self._change()

    def _switch(self, address: tuple[str, int]) -> None:
        if address != self._known:
            _log.warning("the primary of %s is another server now", self._service)
        self._known = address
        self._change()
        self._settle()

    def _settle(self) -> None:
        self._is_settled.set()


async def _state(sentinel: Redis, service: str) -> dict[str, Any] | None:
    """Return what a Sentinel knows of the primary; None if it can't tell, or that is down."""
    try:
        state: Any = await sentinel.sentinel_master(service)
    except (redis_errors.RedisError, OSError):
        return None
    return state if state["is_master"] and not (state["is_sdown"] or state["is_odown"]) else None


def _service_of(words: list[str]) -> str:
    """Return which service an event is about: `SERVICE old new`, `master SERVICE …`, or `… @ SERVICE …`."""
    if "@" in words:
        return words[words.index("@") + 1]
    return words[1] if words[0] == "master" else words[0]
