"""A proxy in front of a Redis server whose answers can get lost on the way."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.roundtrips import RoundTripCounter


class LossyProxy(RoundTripCounter):
    """Cuts the connection instead of passing on the next answer once `lose_next_answer` was called.

    lost: how many answers were lost.
    """

    def __init__(self, server_socket: Path) -> None:
        super().__init__(server_socket)
        self.lost = 0
        self._to_lose = 0
        self._to_pass = 0

    def lose_next_answer(self, times: int = 1) -> None:
        """Lose the next answers of the server, set-up included: the commands were done, but nobody hears of it."""
        self._to_lose = times

    def lose_answer_after(self, passed: int) -> None:
        """Lose one answer, after so many others have come through."""
        self._to_lose, self._to_pass = 1, passed

    async def _send_reply(self, client: asyncio.StreamWriter, reply: bytes) -> None:
        if self._to_lose and self._to_pass:
            self._to_pass -= 1
        elif self._to_lose:
            self._to_lose -= 1
            self.lost += 1
            client.transport.abort()
            raise ConnectionAbortedError
        await super()._send_reply(client, reply)
