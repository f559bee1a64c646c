"""Items in the store: append, list, read, delete, find by id."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import groupby

from storage.client.channel import Argument
from storage.client.keyspace import Keyspace, flatten
from storage.client.scripts import Call
from storage.conversations import read_facts
from storage.envelope import open_envelope, unwrap, unwrap_all
from storage.errors import StoreError
from storage.partitions import new_edition, partition_of
from storage.records import Conversation, Entry, ItemPage, KnownItem, PageRequest

#: Seconds that a repeat of the same append is recognised.
COMMIT_MARKER_SECONDS = 120


def page_arguments(page: PageRequest) -> list[Argument]:
    """Return a page as list_items takes it."""
    return [page.after or "", page.limit, "asc" if page.ascending else "desc"]


class Items:
    """Items of any owner's conversations; each call names the owner and sees nothing of others."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._scripts = keyspace.scripts

    async def append(
        self, owner: str, conversation_id: str, branch: str, entries: Sequence[Entry], most_items: int = 0
    ) -> list[bytes]:
        """Append entries to a branch ('' = the active one), all or none; return the items as stored.

        most_items: that the branch may have then; 0: any number. Raises ConversationNotFound, BranchNotFound,
        ItemNotFound, AlreadyThere, HistoryFull.
        """
        keys = self._keyspace.keys(conversation_id)
        arguments = [owner, conversation_id, branch, COMMIT_MARKER_SECONDS, most_items, *flatten(entries)]
        call = Call("append_items", [*keys.common, keys.commit(secrets.token_hex(8))], arguments, conversation_id)
        facts, *items = await self._scripts.run(call)
        await self._touch(owner, read_facts(facts))
        return unwrap_all(items)

    async def list_page(
        self, owner: str, conversation_id: str, page: PageRequest, *, branch: str = "", at: str = ""
    ) -> ItemPage:
        """Return a page of a branch, as it is or as it was `at` an item (inclusive) or a response.

        Raises ConversationNotFound, BranchNotFound, ItemNotFound (for `at`), CursorNotFound.
        """
        keys = self._keyspace.keys(conversation_id)
        arguments: list[Argument] = [owner, "branch", conversation_id, branch, *page_arguments(page), at]
        call = Call("list_items", [*keys.common, keys.response("")], arguments, conversation_id)
        more, items = await self._scripts.run(call)
        return ItemPage(unwrap_all(items), bool(more))

    async def read(self, owner: str, conversation_id: str, item_id: str) -> bytes:
        """Return one item of a conversation, from any branch. Raises ConversationNotFound, ItemNotFound."""
        return unwrap((await self._scripts.run(self._call("read_item", owner, conversation_id, item_id)))[0])

    async def delete(self, owner: str, conversation_id: str, item_id: str, *, branch: str = "") -> Conversation:
        """Remove one item for good, from all branches and snapshots; return the conversation.

        branch: that it must lie on, if any. Raises ConversationNotFound, BranchNotFound, ItemNotFound.
        """
        reply = await self._scripts.run(
            self._call("delete_item", owner, conversation_id, item_id, branch, new_edition())
        )
        conversation = read_facts(reply[0])
        await self._touch(owner, conversation)
        return conversation

    async def resolve(
        self, owner: str, item_ids: Sequence[str], here: Sequence[str] = (), partition: str = ""
    ) -> dict[str, KnownItem]:
        """Return those of the items that the owner has, by id, from whatever partitions they are in: one trip.

        here: ids that are looked for in `partition` too, whatever partition they name; what is there counts.
        """
        if not (item_ids or here):
            return {}
        calls, groups = self.resolve_calls(owner, item_ids)
        if here:
            calls.append(Call("resolve_items", self._keyspace.keys_of(partition).common, [owner, *here]))
            groups.append(list(here))
        return collect(groups, await self._scripts.run_all(calls))

    def resolve_calls(self, owner: str, item_ids: Sequence[str]) -> tuple[list[Call], list[list[str]]]:
        """Return one resolve_items call a partition, and the ids that each asks for."""
        ordered = sorted(set(item_ids), key=partition_of)
        groups = [list(group) for _, group in groupby(ordered, key=partition_of)]
        calls = [Call("resolve_items", self._keyspace.keys(group[0]).common, [owner, *group]) for group in groups]
        return calls, groups

    async def _touch(self, owner: str, conversation: Conversation) -> None:
        touch = self._keyspace.touch(owner, conversation.id, conversation.project_id, conversation.referrer)
        await self._scripts.run(touch)

    def _call(self, script: str, owner: str, conversation_id: str, *arguments: str) -> Call:
        keys = self._keyspace.keys(conversation_id).common
        return Call(script, keys, [owner, conversation_id, *arguments], conversation_id)


def collect(groups: Sequence[Sequence[str]], replies: Sequence[list[bytes] | StoreError]) -> dict[str, KnownItem]:
    """Return id → item from the replies to resolve_calls; unknown ids are left out, of two answers the last counts."""
    known = {}
    for group, reply in zip(groups, replies, strict=True):
        if isinstance(reply, StoreError):
            raise reply
        for item_id, element in zip(group, reply, strict=True):
            if element:
                data, note = open_envelope(element)
                known[item_id] = KnownItem(data, note=note)
    return known
