"""Barrier: commands behind a write that are answered once so many replicas have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis import exceptions as redis_errors

from storage.client.channel import Command, Unanswered, Unconfirmed
from storage.client.keys import probe_key

#: How many commands a barrier is.
BARRIER_COMMANDS = 2


class TooFewReplicas(Unanswered, redis_errors.ConnectionError):
    """Fewer replicas than wanted said in time that they have it; the primary has it."""


@dataclass(frozen=True, slots=True)
class Barrier:
    """What is asked for behind writes. prefix: of all keys. replicas: how many have to have them.

    on_disk: in their append-only files, and in the primary's. wait_ms: how long they may take.
    """

    prefix: str
    replicas: int
    on_disk: bool
    wait_ms: int

    def commands(self, tag: str) -> list[Command]:
        """Return the commands that follow writes on the same connection. tag: leads to that server.

        WAIT counts from the connection's own last write. A repeat of a write changes nothing, and a connection that is
        new has written nothing: so the barrier begins with a write of its own, that is gone at once.
        """
        wait: Command = ("WAIT", self.replicas, self.wait_ms)
        if self.on_disk:
            wait = ("WAITAOF", 1, self.replicas, self.wait_ms)
        return [("SET", probe_key(self.prefix, tag), "", "PX", 1), wait]

    def check(self, replies: Sequence[Any]) -> None:
        """Look at the replies to `commands`. Raises TooFewReplicas or Unconfirmed."""
        for reply in replies:
            if isinstance(reply, Exception):
                raise Unconfirmed(*reply.args) from reply
        local, copies = (1, replies[-1]) if not self.on_disk else replies[-1]
        if copies < self.replicas or not local:
            raise TooFewReplicas(f"{copies} of {self.replicas} replicas have it")
