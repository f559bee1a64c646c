"""What runs the model beside a store: calls, requests made of the ids that there are, and comparisons.

All that an operation chooses is thrown with its own dice, so a history that fails can be cut down step by step.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from random import Random

import orjson
import pytest

from proxy.protocol import ids
from storage import Branch as StoredBranch
from storage import (
    CallMark,
    ConversationNotFound,
    Entry,
    Fork,
    ForkPoint,
    ItemNotFound,
    Lease,
    OpenedTurn,
    Origin,
    ResponseNotFound,
    Store,
    StoreError,
    TurnSource,
    partition_of,
)
from tests.storage.builders import EVERYTHING
from tests.storage.model import Branch, Conversation, Item, Partition, Response, Start, Turn, living, shown

OWNERS = ("alice", "bob")
#: Ids that clients choose, the same ones in every partition.
CHOSEN = ("msg_a", "msg_b", "msg_c")
#: What a request's entry is: a new item, an id that the client chose, or one of the ids that there are.
NEW = ("user", "assistant", "call", "output", "system")
KINDS = (*NEW, "user", "call", "chosen", "known", "known", "reference", "reference", "foreign")
LEASE_SECONDS = 600


def facts_of(branch: StoredBranch) -> tuple[object, ...]:
    """Return what the store says of a branch, times left out."""
    forked = branch.forked_at is not None
    facts = (branch.name, branch.item_count, branch.is_active, branch.description)
    return *facts, branch.parent_branch, forked, branch.forked_from_item_id


class Driver:
    """A store and its model. touched: partitions that the last operation had to do with.

    padding: characters that the text of every second item has more.
    """

    def __init__(self, store: Store, padding: int = 0) -> None:
        self.store = store
        self.padding = padding
        self.partitions: dict[str, Partition] = {}
        self.conversations: list[Conversation] = []
        self.responses: list[Response] = []
        self.turns: list[Turn] = []
        self.touched: set[str] = set()
        self.calls: list[str] = []
        self.counter = 0
        #: Ids that the input of the turn names that was opened last. Every other one names none.
        self.asked: list[str] = []

    async def refused(self, call: Awaitable[object], *expected: type[StoreError]) -> None:
        with pytest.raises(expected):
            await call

    # Requests

    def conversation(self, dice: Random) -> Conversation:
        """Return one that lives, most often the same one: so its history gets long."""
        there = [one for one in self.conversations if one.alive]
        conversation = dice.choice([there[0], there[0], *there])
        self.touched.add(conversation.partition)
        return conversation

    def new_item(self, kind: str, item_id: str, dice: Random) -> tuple[bytes, str]:
        """Return the bytes and the mark of an item. `output` answers one of the calls that were made before."""
        self.counter += 1
        text = f"{kind} {self.counter}" + "." * (self.padding if self.counter % 2 else 0)
        if kind == "call":
            self.calls.append(f"call_{self.counter}")
            data = {"id": item_id, "type": "function_call", "call_id": f"call_{self.counter}", "text": text}
            return orjson.dumps(data), f"+call_{self.counter}"
        if kind == "output":
            call_id = dice.choice(self.calls[-6:] or ["call_unknown"])
            data = {"id": item_id, "type": "function_call_output", "call_id": call_id, "text": text}
            return orjson.dumps(data), f"-{call_id}"
        role = kind if kind in NEW else "user"
        return orjson.dumps({"id": item_id, "type": "message", "role": role, "text": text}), ""

    def new_entries(self, partition: str, kinds: Iterable[str], dice: Random) -> list[Entry]:
        """Return entries of these kinds."""
        entries = []
        everywhere = [item_id for one in self.partitions.values() for item_id in one.known] or ["msg_none"]
        here = list(self.partitions[partition].known) if partition in self.partitions else everywhere
        for kind in kinds:
            by_kind = {
                "chosen": (Origin.CLIENT, dice.choice(CHOSEN)),
                "known": (Origin.CLIENT, dice.choice(here[-12:] or ["msg_none"])),
                "foreign": (Origin.CLIENT, dice.choice(everywhere)),
                "reference": (Origin.REFERENCE, dice.choice(here[-12:] or ["msg_none"])),
            }
            minted = Origin.MINTED, ids.new_turn_item_id("message", partition, stored=True)
            origin, item_id = by_kind.get(kind, minted)
            data, mark = self.new_item("call" if kind == "chosen" and dice.random() < 0.3 else kind, item_id, dice)
            if origin is Origin.REFERENCE:
                entries.append(Entry(origin, item_id, b""))
            else:
                entries.append(Entry(origin, item_id, data, CallMark.parse(mark)))
        return entries

    def entries(self, partition: str, dice: Random) -> list[Entry]:
        """Return up to three entries of any kind."""
        return self.new_entries(partition, dice.choices(KINDS, k=dice.randint(0, 3)), dice)

    def unknown_in(self, partition: Partition, entries: Sequence[Entry]) -> list[str]:
        return [one.id for one in entries if one.origin is Origin.REFERENCE and not partition.find(one.id)]

    def pick_target(self, conversation: Conversation, point: ForkPoint, dice: Random) -> str:
        """Return the id of an item, of AT also of a response; now and then one that is on no branch, or unknown."""
        partition = self.partitions[conversation.partition]
        if point is ForkPoint.AT and partition.responses and dice.random() < 0.6:
            return dice.choice(list(partition.responses))
        branch = dice.choice(conversation.branches)
        where = dice.choice([list(partition.known.values()), *[branch.items] * 3, branch.borrowed])
        return dice.choice(where).id if where else "msg_none"

    def pick_branch(self, conversation: Conversation, dice: Random) -> str:
        """Return the name of a branch; now and then '' for the active one, another spelling of MAIN, or an unknown."""
        names = [one.name for one in conversation.branches[-6:]] * 3
        return dice.choice([*names, "", "", "main", "nowhere"])

    def pick_spare(self, conversation: Conversation, dice: Random) -> str:
        """Return the name of a branch that is neither MAIN nor active, where there is one; else of any."""
        spare = [one.name for one in conversation.branches if one.name != "MAIN" and one is not conversation.active]
        return dice.choice(spare) if spare and dice.random() < 0.8 else self.pick_branch(conversation, dice)

    # Turns

    def open(self, owner: str, source: TurnSource, partition: str, token: str) -> Awaitable[OpenedTurn]:
        here = list(self.partitions.get(partition, Partition("")).known)
        self.asked = [] if self.asked else [*here[-4:], "msg_unknown"]
        lease, calls = Lease(partition, "", token), [*self.calls[-2:], "call_unknown"]
        return self.store.turns.open(owner, source, lease, LEASE_SECONDS, self.asked, calls)

    def check_opened(self, partition: str, opened: OpenedTurn, history: Sequence[Item]) -> None:
        """Compare what a turn was opened with."""
        here = self.partitions.get(partition, Partition(""))
        assert opened.history == b",".join(shown(history))
        assert opened.pending - here.unsure == here.waiting(history)
        expected = {}
        for item in [one for one in here.known.values() if one.id in self.asked]:
            elsewhere = self.partitions.get(partition_of(item.id))
            # a deleted conversation's item that was brought again is there twice
            seen = next((one for one in history if one.alive and one.id == item.id), None)
            if seen:
                expected[item.id] = (seen.data, True)
            elif here.find(item.id):
                expected[item.id] = (item.data, False)
            elif elsewhere and elsewhere.owner == here.owner and elsewhere.find(item.id):
                expected[item.id] = (elsewhere.known[item.id].data, False)
        assert {one: (found.data, found.in_history) for one, found in opened.known.items()} == expected

    async def release(self, turn: Turn) -> None:
        """Give a turn's lock back, or let it run out."""
        await self.store.turns.release(Lease(turn.partition, turn.opened.lock, turn.token))
        turn.unlock()

    # What was freed

    async def settle(self, name: str) -> None:
        """Learn which items of a partition are gone that nothing had any more; all others must be there."""
        partition = self.partitions[name]
        asked = [one.id for one in partition.known.values() if one.alive]
        lease = Lease(name, "", "-")
        known = (await self.store.turns.open(partition.owner, TurnSource(), lease, LEASE_SECONDS, asked, [])).known
        needed = self.needed(name)
        for item in partition.known.values():
            if item.alive and (item.id not in known or known[item.id].data != item.data):
                assert item not in needed
                partition.forget(item, freed=True)

    def needed(self, name: str) -> set[Item]:
        """Return what a branch, a response or a running turn reads."""
        partition = self.partitions[name]
        lists = [branch.items for branch in partition.conversation.branches] if partition.conversation else []
        for response in partition.responses.values():
            lists += [response.context, response.output, response.snapshot]
        lists += [turn.history for turn in self.turns if turn.partition == name and turn.is_pinned]
        return {item for items in lists for item in items}

    # Comparisons

    async def check(self) -> None:
        """Compare everything in the touched partitions, and look at every key."""
        touched, self.touched = self.touched, set()
        for conversation in self.conversations:
            if conversation.partition in touched:
                await self.check_conversation(conversation)
        for response in self.responses:
            if partition_of(response.id) in touched:
                await self.check_response(response)
        report = await self.store.auditor.audit()
        assert report.complaints == []
        assert report.garbage["listing entries"] == 0

    async def check_conversation(self, conversation: Conversation) -> None:
        owner, store = conversation.owner, self.store
        if not conversation.alive:
            await self.refused(store.items.list_page(owner, conversation.id, EVERYTHING), ConversationNotFound)
            await self.refused(store.branches.list_page(owner, conversation.id, EVERYTHING), ConversationNotFound)
            return
        page = await store.branches.list_page(owner, conversation.id, EVERYTHING)
        expected = [one.facts(conversation.active) for one in conversation.branches]
        assert [facts_of(one) for one in page.branches] == expected
        assert page.active_branch == conversation.active.name
        assert (await store.conversations.read(owner, conversation.id)).active_branch == conversation.active.name
        for branch in conversation.branches:
            items = await store.items.list_page(owner, conversation.id, EVERYTHING, branch=branch.name)
            assert items.items == living(branch.items)

    async def check_response(self, response: Response) -> None:
        responses, owner = self.store.responses, response.owner
        if not response.alive:
            await self.refused(responses.read(owner, response.id), ResponseNotFound)
            return
        assert (await responses.read(owner, response.id)).output == living(response.output)
        assert (await responses.list_input(owner, response.id, EVERYTHING)).items == living(response.context)
        partition = partition_of(response.id)
        opened = await self.open(owner, TurnSource(previous_response_id=response.id), partition, "-")
        self.check_opened(partition, opened, response.snapshot)

    async def check_at_last(self) -> None:
        """Compare everything, and what turns would see on each branch."""
        for turn in self.turns:
            await self.release(turn)
        self.touched = set(self.partitions)
        await self.check()
        for conversation in self.conversations:
            if conversation.alive:
                await self.check_forks(conversation)
                for branch in conversation.branches:
                    await self.check_history(conversation, branch)

    async def check_forks(self, conversation: Conversation) -> None:
        """Compare what a fork at any item or response would inherit, of which branch, and the calls that wait there."""
        store, owner, partition = self.store, conversation.owner, self.partitions[conversation.partition]
        lines = {one.line: one.name for one in (await store.branches.graph(owner, conversation.id)).branches}
        for target in [*partition.known, *partition.responses]:
            fork = Fork(ForkPoint.AT, target, name="unused")
            source, looking = TurnSource(conversation.id, fork=fork), Lease(conversation.partition, "", "")
            call = store.turns.open(owner, source, looking, LEASE_SECONDS, [], [])
            possible = [one for one in partition.starts("", fork) if isinstance(one, Start)]
            if not possible:
                await self.refused(call, ItemNotFound)
                continue
            opened = await call
            expected = [
                (b",".join(shown(one.base)), partition.waiting(one.base), one.branch.name if one.branch else None)
                for one in possible
            ]
            waiting = set(opened.pending - partition.unsure)
            assert (opened.history, waiting, lines.get(opened.line)) in expected

    async def check_history(self, conversation: Conversation, branch: Branch) -> None:
        """Compare what a turn on a branch would see."""
        source = TurnSource(conversation.id, branch=branch.name)
        opened = await self.open(conversation.owner, source, conversation.partition, "check")
        self.check_opened(conversation.partition, opened, branch.items)
        await self.store.turns.release(Lease(conversation.partition, opened.lock, "check"))
        branch.fence += 1
