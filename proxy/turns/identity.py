"""Turn identity: the token of a turn's lock, and the ids of its response and items.

A fresh turn mints its ids as it goes. One that was accepted before it runs (in the background, perhaps in another
process and not for the first time) is known by an id already, and gives its items the same ids whenever it is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from proxy.protocol import ids
from storage import new_token, partition_of


@dataclass(slots=True)
class FreshIdentity:
    """A turn that begins here.

    lock_wait_seconds: how long it waits for its branch. looks: it takes no lock. job_token: the right to commit a
    response that was accepted before. created_at: Unix seconds, None for now. partition: where it has to live, '' if
    that follows from what it continues.
    """

    lock_wait_seconds: float
    looks: bool = False
    job_token: str = ""
    created_at: int | None = None
    partition: str = ""

    @classmethod
    def looking(cls) -> FreshIdentity:
        """Return the identity of a turn that is only looked at: without a token the store locks and writes nothing."""
        return cls(lock_wait_seconds=0, looks=True)

    def token(self, response_id: str) -> str:
        """Return a token for the lock of the turn that makes this response; '' to look without one."""
        return "" if self.looks else new_token(response_id)

    def response_id(self, partition: str, *, stored: bool) -> str:
        """Mint the response's id."""
        return ids.new_response_id(partition, stored=stored)

    def item_id(self, item_type: str, partition: str, *, stored: bool) -> str:
        """Mint an item's id."""
        return ids.new_turn_item_id(item_type, partition, stored=stored)


class AcceptedIdentity:
    """A turn that was accepted before it runs. job_token: of its lock, and of the right to commit."""

    def __init__(self, response_id: str, token: str, created_at: int, lock_wait_seconds: float) -> None:
        self._response_id = response_id
        self._minted = 0
        self.job_token = token
        self.created_at = created_at
        self.lock_wait_seconds = lock_wait_seconds
        self.partition = partition_of(response_id)

    def token(self, response_id: str) -> str:
        """Return the token of the lock that was taken when it was accepted."""
        return self.job_token

    def response_id(self, partition: str, *, stored: bool) -> str:
        """Return the id that the caller was told."""
        return self._response_id

    def item_id(self, item_type: str, partition: str, *, stored: bool) -> str:
        """Return the id of the next item: the same in each run."""
        self._minted += 1
        return ids.derived_item_id(item_type, self._response_id, self._minted)


Identity: TypeAlias = FreshIdentity | AcceptedIdentity
