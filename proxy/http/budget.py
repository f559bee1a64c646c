"""Body budget: how many bytes of request bodies this process holds at a time; who comes when it is spent waits.

Owners are served in turn, each in the order of its coming, and none may have more than a half: so nobody waits for all
that one of them has brought.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque

from aiohttp import web

from proxy.protocol.errors import ServiceUnavailable

#: Seconds that a request waits for room.
WAIT_SECONDS = 10.0
#: Bodies below this many bytes need no room: as many as there are connections are no matter.
FREE_BYTES = 16 * 1024

#: The budget of all requests.
BODY_BUDGET: web.AppKey[BodyBudget] = web.AppKey("body_budget")


class FairRoom:
    """Room that owners share. total: of it. most: that one of them may have, if it has any. message: of refusals.

    Who has no name is one as well, but may have any.
    """

    def __init__(self, total: int, most: int, wait_seconds: float, message: str) -> None:
        self._left = total
        self._most = most
        self._wait_seconds = wait_seconds
        self._message = message
        self._held: Counter[str] = Counter()
        #: Those who wait, by owner; the owner who is next comes first.
        self._waiting: OrderedDict[str, deque[tuple[int, asyncio.Future[None]]]] = OrderedDict()

    async def take(self, owner: str, size: int, wait_seconds: float | None = None) -> None:
        """Take so much room, when it is this owner's turn. wait_seconds: for this one, None for as long as any waits.

        Raises ServiceUnavailable when it was not in time.
        """
        if not self._waiting and size <= self._left and self._may_have(owner, size):
            self._left -= size
            self._held[owner] += size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = size, turn
        self._waiting.setdefault(owner, deque()).append(waiting)
        self._serve()
        try:
            async with asyncio.timeout(self._wait_seconds if wait_seconds is None else wait_seconds):
                await turn
        except BaseException as exc:
            if turn.done() and not turn.cancelled():
                self.give_back(owner, size)
            elif waiting in (queue := self._waiting.get(owner, deque())):
                queue.remove(waiting)
                # those behind it may need less
                self._serve()
            if isinstance(exc, TimeoutError):
                raise ServiceUnavailable(self._message, code="server_busy") from None
            raise

    def give_back(self, owner: str, size: int) -> None:
        """Give room back."""
        self._left += size
        self._held[owner] -= size
        if not self._held[owner]:
            del self._held[owner]
        self._serve()

    def _may_have(self, owner: str, size: int) -> bool:
        held = self._held[owner]
        return not (owner and held) or held + size <= self._most

    def _serve(self) -> None:
        """Give room to those whose turn it is. Nobody overtakes one who waits for it only because others have it."""
        passed = 0
        while passed < len(self._waiting):
            owner, queue = next(iter(self._waiting.items()))
            while queue and queue[0][1].done():
                queue.popleft()
            if not queue:
                del self._waiting[owner]
                continue
            size, turn = queue[0]
            if self._may_have(owner, size):
                if size > self._left:
                    # those that were passed by come first again: they wait longer
                    return
                queue.popleft()
                self._left -= size
                self._held[owner] += size
                turn.set_result(None)
                passed = 0
            else:
                passed += 1
            self._waiting.move_to_end(owner)


class BodyBudget:
    """Room for bodies. total_bytes: of all of them; a single one that is larger takes all there is.

    repairing: is held by the one large body that is repaired at a time, because more would take the processor from
    everybody.
    """

    def __init__(self, total_bytes: int, *, wait_seconds: float = WAIT_SECONDS) -> None:
        self._total = total_bytes
        message = "The server has too much to do with other requests' bodies; please retry."
        self._room = FairRoom(total_bytes, total_bytes // 2, wait_seconds, message)
        self.repairing = asyncio.Lock()

    async def take(self, size: int, owner: str = "", wait_seconds: float | None = None) -> int:
        """Take room for `size` bytes; return what has to be given back. wait_seconds: see `FairRoom.take`.

        Raises ServiceUnavailable when there was none in time.
        """
        if size < FREE_BYTES:
            return 0
        size = min(size, self._total)
        await self._room.take(owner, size, wait_seconds)
        return size

    def give_back(self, size: int, owner: str = "") -> None:
        """Give room back."""
        if size:
            self._room.give_back(owner, size)
