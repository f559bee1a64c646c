"""Keyspace: what every part of the store works with: scripts, key names, and how long things are kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from storage.client.channel import Argument
from storage.client.keys import OwnerKeys, PartitionKeys
from storage.client.scripts import Call, Scripts
from storage.errors import Unavailable
from storage.partitions import partition_of
from storage.records import Conversation

#: Digests that one call forgets.
DIGESTS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Portion:
    """The most that one script stores: items, and bytes of them; a single item may have more.

    So many keep the server from everybody else for 1 to 3 ms.
    """

    items: int = 250
    bytes: int = 512 * 1024


class Listings(NamedTuple):
    """Where a turn is noted: keys that end a script's keys, and what it is told of them.

    conversations: how many of them list conversations. most_responses: how many responses the last one keeps, if it
    lists them, else 0.
    """

    keys: Sequence[str] = ()
    conversations: int = 0
    most_responses: int = 0


@dataclass(frozen=True, slots=True)
class Keyspace:
    """One keyspace. prefix: before every key; retention_seconds: a response's time to live.

    conversation_seconds: a conversation's after its last use, 0: for ever. most_conversations: of one owner, 0: any.
    listed_responses: of one owner, the latest; 0: none. portion: what one script stores. counts_bytes: whether it is
    counted what owners have stored; most_bytes: of one owner, 0: any number.
    """

    scripts: Scripts
    prefix: str
    retention_seconds: int
    conversation_seconds: int = 0
    most_conversations: int = 0
    listed_responses: int = 0
    portion: Portion = Portion()
    counts_bytes: bool = False
    most_bytes: int = 0

    def keys(self, some_id: str) -> PartitionKeys:
        """Return the keys of the partition that an id leads to."""
        return self.keys_of(partition_of(some_id))

    def keys_of(self, partition: str) -> PartitionKeys:
        """Return the keys of a partition."""
        return PartitionKeys(self.prefix, partition)

    def owner(self, owner: str) -> OwnerKeys:
        """Return the listings of an owner."""
        return OwnerKeys(self.prefix, owner)

    def touch(self, owner: str, conversation_id: str, project_id: str | None, referrer: str | None) -> Call:
        """Return the call that notes activity in the owner's listings; it goes beside a write, not into it."""
        keys = self.owner(owner).listings(project_id, referrer)
        return self._touch(Listings(keys, len(keys)), conversation_id, "")

    async def move_up(self, owner: str, conversation: Conversation) -> None:
        """Note a conversation's activity in the owner's listings, where that can be noted.

        What it did is done: whoever is told of an error here would take it for undone. Reading a listing puts it right.
        """
        with suppress(Unavailable):
            await self.scripts.run(self.touch(owner, conversation.id, conversation.project_id, conversation.referrer))

    def listings(
        self, owner: str, conversation_id: str, project_id: str | None, referrer: str | None, *, is_stored: bool = True
    ) -> Listings:
        """Return where a turn is noted. conversation_id: that it is in, '' for none. is_stored: its response is."""
        keys = self.owner(owner)
        found = keys.listings(project_id, referrer) if conversation_id else []
        most = self.listed_responses if is_stored else 0
        return Listings([*found, keys.responses] if most else found, len(found), most)

    def touch_response(self, listings: Listings, conversation_id: str, response_id: str) -> Call | None:
        """Return the call that notes a response, and the activity of its conversation, apart from what writes it.

        None where nothing is to be noted.
        """
        return self._touch(listings, conversation_id, response_id) if listings.keys else None

    def _touch(self, listings: Listings, conversation_id: str, response_id: str) -> Call:
        _, conversations, most = listings
        return Call(
            "touch_index", listings.keys, [conversation_id, response_id, conversations, most, self.retention_seconds]
        )

    def reserve(self, owner: str, conversation_id: str) -> Call | None:
        """Return the call that lists a conversation which is about to be made; None where any number may be."""
        if not self.most_conversations:
            return None
        arguments: list[Argument] = [conversation_id, self.most_conversations, self.conversation_seconds * 1000]
        return Call("reserve_index", [self.owner(owner).conversations], arguments, conversation_id)

    def drop(self, owner: str, conversation_id: str, project_id: str | None, referrer: str | None) -> Call:
        """Return the call that takes a conversation out of the owner's listings."""
        return Call("drop_index", self.owner(owner).listings(project_id, referrer), [conversation_id, 0])

    def drop_digests(self, owner: str, partition: str, names: Sequence[str]) -> list[Call]:
        """Return the calls after which digests of an owner do not lead to a partition any more."""
        keys, some = self.owner(owner), range(0, len(names), DIGESTS_AT_ONCE)
        return [
            Call("drop_digests", [keys.digest(one) for one in names[at : at + DIGESTS_AT_ONCE]], [f"{partition}:"])
            for at in some
        ]
