"""Branches in the store: fork, read, rename, delete, activate, compare. None copies an item."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from storage.client.channel import Argument
from storage.client.keyspace import Keyspace
from storage.client.pieces import ItemPieces, again_if_torn
from storage.client.scripts import Call
from storage.client.staging import Stage
from storage.client.values import place_of, read_chain
from storage.conversations import read_facts
from storage.partitions import partition_of
from storage.quotas import Ledger
from storage.records import Branch, BranchPage, Comparison, Conversation, Entry, Fork, Forked, ItemPage, PageRequest
from storage.views.shapes import MOST_BRANCHES, Graph, GraphBranch

#: Places of deleted items that come with a graph.
MOST_TOMBSTONES = 10_000


def branch_from(described: Sequence[Any]) -> Branch:
    """Return the branch that the scripts' `describe` gives."""
    name, count, created_at, updated_at, active, description, parent, forked_at, forked_from = described
    return Branch(
        name=name.decode(),
        item_count=count,
        created_at=int(created_at) // 1000,
        updated_at=int(updated_at) // 1000,
        is_active=bool(active),
        description=description.decode() or None,
        parent_branch=parent.decode() or None,
        forked_at=int(forked_at) if forked_at else None,
        forked_from_item_id=forked_from.decode() or None,
    )


class Branches:
    """Branches of any owner's conversations; each call names the owner and sees nothing of others."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._scripts = keyspace.scripts
        self._ledger = Ledger(keyspace)
        self._pieces = ItemPieces(keyspace)

    async def create(
        self, owner: str, conversation_id: str, source_branch: str, fork: Fork, entries: Sequence[Entry] = ()
    ) -> Forked:
        """Make a branch, with entries behind what it inherits.

        source_branch: the one that is forked; '' for the one that has the target (the active one, else MAIN, else
        any), or without a target the active one. Raises ConversationNotFound, BranchNotFound, ItemNotFound,
        BranchExists, NotAUserMessage, NotAMessage, NoUserMessage, BytesExceeded.
        """
        fork_arguments = [fork.point.value, fork.target, fork.name, fork.backup, fork.description or ""]
        if entries:
            await self._ledger.require(owner)
        keys, token = self._keyspace.keys(conversation_id), secrets.token_hex(8)
        stage = Stage(self._keyspace, keys, token, entries)
        arguments = [source_branch, *fork_arguments, *stage.arguments]
        call = Call("fork_branch", [*keys.common, *stage.keys], [owner, conversation_id, *arguments], conversation_id)
        facts, described, anchor, source, backup, *items = await stage.run(call)
        if entries:
            await self._ledger.charge(owner, keys.partition, token, stage.size, in_conversation=True)
        await self._keyspace.move_up(owner, read_facts(facts))
        return Forked(
            branch=branch_from(described),
            items=await stage.fill(owner, items),
            anchor=anchor.decode() or None,
            source=source.decode() or None,
            backup=backup.decode() or None,
        )

    async def read(self, owner: str, conversation_id: str, name: str) -> Branch:
        """Return one branch. Raises ConversationNotFound, BranchNotFound."""
        return branch_from((await self._run("read_branch", owner, conversation_id, name))[0])

    async def list_page(self, owner: str, conversation_id: str, page: PageRequest) -> BranchPage:
        """Return a page of the branches in the order in which they were made; page.after is a name.

        Raises ConversationNotFound, CursorNotFound.
        """
        order = "asc" if page.ascending else "desc"
        reply = await self._run("list_branches", owner, conversation_id, page.after or "", page.limit, order)
        active, more, *described = reply
        return BranchPage([branch_from(one) for one in described], bool(more), active.decode())

    async def graph(self, owner: str, conversation_id: str, limit: int = MOST_BRANCHES) -> Graph:
        """Return the branches with their chains, those that were used last; the active one and MAIN always.

        limit: at least 2. Raises ConversationNotFound.
        """
        reply = await self._run("graph_branches", owner, conversation_id, limit, MOST_TOMBSTONES)
        active, more, tombstones, *branches = reply
        places = [place_of(float(score)) for score in tombstones]
        return Graph(active.decode(), [_graph_branch(*one) for one in branches], more, places)

    async def update(
        self,
        owner: str,
        conversation_id: str,
        name: str,
        *,
        new_name: str | None = None,
        description: str | None = None,
    ) -> Branch:
        """Rename or describe a branch; None leaves as it is, an empty description clears it.

        A turn that runs on the branch is not disturbed. Raises ConversationNotFound, BranchNotFound, BranchExists,
        BranchProtected.
        """
        change = "-" if description is None else "=" + description
        facts, branch = await self._run("update_branch", owner, conversation_id, name, new_name or "", change)
        await self._keyspace.move_up(owner, read_facts(facts))
        return branch_from(branch)

    async def delete(self, owner: str, conversation_id: str, name: str) -> None:
        """Delete a branch, and at once what only it reaches in segments of its own.

        Raises ConversationNotFound, BranchNotFound, BranchProtected, Locked.
        """
        facts = (await self._run("delete_branch", owner, conversation_id, name))[0]
        await self._keyspace.move_up(owner, read_facts(facts))

    async def activate(self, owner: str, conversation_id: str, name: str) -> Conversation:
        """Make a branch the active one; return the conversation. Raises ConversationNotFound, BranchNotFound."""
        conversation = read_facts((await self._run("activate_branch", owner, conversation_id, name))[0])
        await self._keyspace.move_up(owner, conversation)
        return conversation

    @again_if_torn
    async def compare(self, owner: str, conversation_id: str, first: str, second: str, limit: int) -> Comparison:
        """Return what two branches share, and up to `limit` items that only the one or the other has.

        Raises ConversationNotFound, BranchNotFound.
        """
        reply = await self._run("compare_branches", owner, conversation_id, first, second, limit)
        ancestor, shared, more_first, only_first, more_second, only_second = reply
        partition, count = partition_of(conversation_id), len(only_first)
        last, *items = await self._pieces.items(owner, partition, [ancestor, *only_first, *only_second])
        return Comparison(
            ancestor=last or None,
            shared=shared,
            only_first=ItemPage(items[:count], bool(more_first)),
            only_second=ItemPage(items[count:], bool(more_second)),
        )

    async def _run(self, script: str, owner: str, conversation_id: str, *arguments: Argument) -> list[Any]:
        head, conversation, branches, _ = self._keyspace.keys(conversation_id).common
        call = Call(script, [head, conversation, branches], [owner, conversation_id, *arguments], conversation_id)
        return await self._scripts.run(call)


def _graph_branch(line: int, name: bytes, chain: bytes, item_count: int, *facts: bytes) -> GraphBranch:
    created_at, updated_at, parent, forked_at, forked_from, description, running = (fact.decode() for fact in facts)
    spans = read_chain(chain)
    return GraphBranch(
        line=line,
        name=name.decode(),
        chain=spans,
        item_count=item_count if item_count >= 0 else sum(stop - start for _, start, stop in spans),
        created_at=int(created_at),
        updated_at=int(updated_at),
        parent=int(parent) if parent else None,
        forked_at=int(forked_at) if forked_at else None,
        forked_from=forked_from or None,
        description=description or None,
        running=running or None,
    )
