"""Operations on conversations, items and branches, in the store and in the model."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from random import Random
from typing import TypeVar

from storage import (
    AlreadyThere,
    BranchExists,
    BranchNotFound,
    BranchProtected,
    CursorNotFound,
    Fork,
    Forked,
    ForkPoint,
    ItemNotFound,
    Locked,
    PageRequest,
    StoreError,
)
from tests.storage.builders import EVERYTHING, draft
from tests.storage.model import Branch, Conversation, Partition, Start, compare, last_id, living
from tests.storage.model_driver import OWNERS, Driver, facts_of

T = TypeVar("T")
#: Names for branches: few, so that they are taken at times. '' makes a fork the new MAIN.
NAMES = ("", "", "draft", "idea", "Main", "old", "oldx", "a", "b", "c", "d")
POINTS = tuple(ForkPoint)
#: Names of branches as they are stored.
SPELLING = {"Main": "MAIN"}


class BranchOperations(Driver):
    """Each operation takes the dice that it chooses with."""

    async def create_conversation(self, dice: Random) -> None:
        made, main, owner = draft(), Branch("MAIN"), OWNERS[len(self.conversations) % 2]
        conversation = Conversation(made.id, owner, main, [main])
        partition = self.partitions[conversation.partition] = Partition(owner, conversation)
        kinds = ["user", "assistant", "call", "output"][: dice.randint(0, 4)]
        entries = self.new_entries(conversation.partition, kinds, dice)
        await self.store.conversations.create(owner, made, entries)
        main.items = partition.add(entries, main)
        self.conversations.append(conversation)
        self.touched.add(conversation.partition)

    async def append(self, dice: Random) -> None:
        conversation = self.conversation(dice)
        partition = self.partitions[conversation.partition]
        name = self.pick_branch(conversation, dice)
        branch = conversation.named(name)
        entries = self.entries(conversation.partition, dice)
        call = self.store.items.append(conversation.owner, conversation.id, name, entries)
        if branch is None:
            await self.refused(call, BranchNotFound)
        elif self.unknown_in(partition, entries):
            await self.refused(call, ItemNotFound)
        elif any(partition.find(one.id) in branch.items for one in entries):
            await self.refused(call, AlreadyThere)
        else:
            answer = await call
            items = partition.add(entries, branch)
            assert answer == [item.data for item in items]
            branch.items += items

    async def delete_item(self, dice: Random) -> None:
        conversation = self.conversation(dice)
        partition = self.partitions[conversation.partition]
        name = dice.choice(["", self.pick_branch(conversation, dice)])
        branch = conversation.named(name)
        item_id = self.pick_target(conversation, ForkPoint.AFTER, dice)
        item = partition.find(item_id)
        call = self.store.items.delete(conversation.owner, conversation.id, item_id, branch=name)
        if branch is None:
            await self.refused(call, BranchNotFound)
        elif item is None or not conversation.holds(item) or (name and item not in branch.items):
            await self.refused(call, ItemNotFound)
        else:
            await call
            partition.forget(item)

    async def delete_conversation(self, dice: Random) -> None:
        conversation = self.conversation(dice)
        if sum(one.alive for one in self.conversations) == 1:
            return
        await self.store.conversations.delete(conversation.owner, conversation.id)
        conversation.alive = False

    async def fork(self, dice: Random) -> None:
        conversation = self.conversation(dice)
        partition = self.partitions[conversation.partition]
        source, fork = self.pick_branch(conversation, dice), self.make_fork(conversation, dice)
        entries = self.entries(conversation.partition, dice)
        call = self.store.branches.create(conversation.owner, conversation.id, source, fork, entries)
        starts = partition.starts(source, fork)
        name = SPELLING.get(fork.name, fork.name)
        late: list[type[StoreError]] = []
        if name and not conversation.is_free(name):
            late = [BranchExists]
        elif self.unknown_in(partition, entries):
            late = [ItemNotFound]
        forked = await self.attempt(call, starts, late)
        if forked:
            start = self.start_of(forked, starts)
            branch = Branch(name, start.base, start.branch, last_id(start.base), fork.description, forked=True)
            assert forked.anchor == branch.anchor
            items = partition.add(entries, branch)
            assert forked.items == [item.data for item in items]
            branch.items = branch.items + items
            assert forked.backup == (conversation.add(branch, fork.backup) or None)
            assert facts_of(forked.branch) == branch.facts(conversation.active)
            await self.check_history(conversation, branch)

    def make_fork(self, conversation: Conversation, dice: Random) -> Fork:
        point, name = dice.choice(POINTS), dice.choice(NAMES)
        target = "" if point is ForkPoint.TIP else self.pick_target(conversation, point, dice)
        return Fork(point, target, name, "" if name else "old", dice.choice([None, "why"]))

    async def attempt(
        self, call: Awaitable[T], starts: Sequence[Start | type[StoreError]], late: Sequence[type[StoreError]]
    ) -> T | None:
        """Run a fork; return None where it is refused as it should be. late: refusals of what can be forked."""
        possible = [one for one in starts if not isinstance(one, Start)]
        if len(possible) < len(starts):
            possible += late
        if late or len(possible) == len(starts):
            await self.refused(call, *possible)
            return None
        try:
            return await call
        except tuple(possible):
            return None

    def start_of(self, forked: Forked, starts: Sequence[Start | type[StoreError]]) -> Start:
        """Return what was forked: one that could be. The old MAIN goes by its new name."""
        by_name = {one.branch.name if one.branch else None: one for one in starts if isinstance(one, Start)}
        if forked.backup and "MAIN" in by_name:
            by_name[forked.backup] = by_name.pop("MAIN")
        assert forked.source in by_name
        return by_name[forked.source]

    async def update_branch(self, dice: Random) -> None:
        conversation = self.conversation(dice)
        name = dice.choice(["", self.pick_branch(conversation, dice)])
        new_name = dice.choice([None, "MAIN", *NAMES, "e", "f"])
        description = dice.choice([None, "", "what for"])
        branch = conversation.named(name)
        call = self.store.branches.update(
            conversation.owner, conversation.id, name, new_name=new_name, description=description
        )
        wanted = SPELLING.get(new_name or "", new_name)
        renamed = bool(wanted) and branch is not None and wanted != branch.name
        if branch is None:
            await self.refused(call, BranchNotFound)
        elif renamed and branch.name == "MAIN":
            await self.refused(call, BranchProtected)
        elif wanted and renamed and not conversation.is_free(wanted):
            await self.refused(call, BranchExists)
        else:
            answer = await call
            branch.name = wanted or branch.name
            if description is not None:
                branch.description = description or None
            assert facts_of(answer) == branch.facts(conversation.active)

    async def delete_branch(self, dice: Random) -> None:
        conversation = self.conversation(dice)
        name = self.pick_spare(conversation, dice)
        branch = conversation.named(name)
        call = self.store.branches.delete(conversation.owner, conversation.id, name)
        if branch is None:
            await self.refused(call, BranchNotFound)
        elif branch.name == "MAIN" or branch is conversation.active:
            await self.refused(call, BranchProtected)
        elif branch.holder:
            await self.refused(call, Locked)
        else:
            await call
            conversation.branches.remove(branch)
            branch.alive = False
            await self.settle(conversation.partition)

    async def activate(self, dice: Random) -> None:
        conversation = self.conversation(dice)
        name = self.pick_spare(conversation, dice)
        branch = conversation.named(name)
        call = self.store.branches.activate(conversation.owner, conversation.id, name)
        if branch is None:
            await self.refused(call, BranchNotFound)
        else:
            assert (await call).active_branch == branch.name
            conversation.active = branch

    async def compare_branches(self, dice: Random) -> None:
        conversation = self.conversation(dice)
        names = [self.pick_branch(conversation, dice) for _ in range(2)]
        limit = dice.randint(0, 4)
        first, second = map(conversation.named, names)
        call = self.store.branches.compare(conversation.owner, conversation.id, names[0], names[1], limit)
        if first is None or second is None:
            await self.refused(call, BranchNotFound)
            return
        answer = await call
        ancestor, shared, only_first, only_second = compare(first.items, second.items)
        assert (answer.ancestor, answer.shared) == (ancestor, shared)
        for page, only in ((answer.only_first, only_first), (answer.only_second, only_second)):
            assert (page.items, page.has_more) == (only[:limit], len(only) > limit)

    async def list_at(self, dice: Random) -> None:
        conversation = self.conversation(dice)
        name, at = self.pick_branch(conversation, dice), self.pick_target(conversation, ForkPoint.AT, dice)
        starts = self.partitions[conversation.partition].starts(name, Fork(ForkPoint.AT, at))
        call = self.store.items.list_page(conversation.owner, conversation.id, EVERYTHING, branch=name, at=at)
        if isinstance(starts[0], Start):
            items = (await call).items
            assert items in [living(one.base) for one in starts if isinstance(one, Start)]
        else:
            await self.refused(call, starts[0])

    async def page_branches(self, dice: Random) -> None:
        conversation = self.conversation(dice)
        after, limit, ascending = self.pick_branch(conversation, dice), dice.randint(1, 3), dice.random() < 0.5
        page_request = PageRequest(limit, after or None, ascending)
        call = self.store.branches.list_page(conversation.owner, conversation.id, page_request)
        ordered = conversation.branches if ascending else conversation.branches[::-1]
        start = conversation.named(after) if after else None
        if after and start is None:
            await self.refused(call, CursorNotFound)
            return
        rest = ordered[ordered.index(start) + 1 :] if start else ordered
        page = await call
        assert [one.name for one in page.branches] == [one.name for one in rest[:limit]]
        assert page.has_more == (len(rest) > limit)
