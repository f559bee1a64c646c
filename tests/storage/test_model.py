"""Random histories of one server, checked step by step against a model in plain Python."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

import pytest
from fakeredis import FakeAsyncRedis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from proxy import ids
from proxy.ids import partition_of
from storage import (
    AlreadyThere,
    CommitMode,
    CommitResult,
    ConversationNotFound,
    Entry,
    ItemNotFound,
    Lease,
    Locked,
    Origin,
    PageRequest,
    ResponseNotFound,
    Store,
    StoreError,
    TurnCommit,
    TurnSource,
)
from tests.storage.builders import EVERYTHING, PREFIX, draft, json_item, texts, texts_of_array
from tests.storage.inspection import find_leaks
from tests.storage.model import Conversation, Item, Partition, Response, Turn, living

T = TypeVar("T")
OWNERS = ("alice", "bob")
#: So that histories go deep rather than wide.
MOST_CONVERSATIONS = 5
#: Ids that clients choose, the same ones in every partition.
CHOSEN = ("msg_a", "msg_b", "msg_c")


#: What a request's entry is: a new item, an id that the client chose, or one of the ids that there are.
KINDS = st.lists(st.sampled_from(["new", "chosen", "known", "reference", "foreign", "unknown"]), max_size=3)
CHOICES = st.lists(st.integers(0, 50), min_size=3, max_size=3)


class Histories(RuleBasedStateMachine):
    """Conversations, responses and running turns of two owners, all operations in any order."""

    conversations = Bundle("conversations")
    responses = Bundle("responses")
    turns = Bundle("turns")

    @initialize(target=conversations)
    def connect(self):
        self.runner = asyncio.Runner()
        self.client = FakeAsyncRedis()
        self.run(self.client.flushall())
        self.store = Store(self.client, prefix=PREFIX, retention_seconds=1_000, partition_of=partition_of)
        self.partitions: dict[str, Partition] = {}
        self.all_conversations: list[Conversation] = []
        self.all_responses: list[Response] = []
        self.counter = 0
        return multiple(*(self.create_conversation(owner, 3) for owner in OWNERS))

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.run(self.store.close())
            self.run(self.client.aclose())
            self.runner.close()

    def run(self, call: Awaitable[T]) -> T:
        async def wait() -> T:
            return await call

        return self.runner.run(wait())

    def refused(self, call: Awaitable[object], *expected: type[StoreError]) -> None:
        with pytest.raises(expected):
            self.run(call)

    # Requests

    def entries(self, partition: str, kinds: Sequence[str], choices: Sequence[int]) -> list[Entry]:
        """Return entries of these kinds; `choices` pick among the ids that there are."""
        entries = []
        everywhere = sorted({item_id for one in self.partitions.values() for item_id in one.known}) or ["msg_none"]
        here = sorted(self.partitions.get(partition, Partition("")).known) or everywhere
        for kind, choice in zip(kinds, choices, strict=False):
            self.counter += 1
            item_id = {
                "new": ids.new_turn_item_id("message", partition, stored=True),
                "chosen": CHOSEN[choice % len(CHOSEN)],
                "foreign": everywhere[choice % len(everywhere)],
                "unknown": f"msg_unknown_{self.counter}",
            }.get(kind, here[choice % len(here)])
            origin = {"new": Origin.MINTED, "reference": Origin.REFERENCE, "unknown": Origin.REFERENCE}
            entries.append(
                Entry(origin.get(kind, Origin.CLIENT), item_id, json_item(item_id, f"{kind} {self.counter}"))
            )
        return entries

    def unknown_in(self, partition: Partition, entries: Sequence[Entry]) -> list[str]:
        return [one.id for one in entries if one.origin is Origin.REFERENCE and not partition.find(one.id)]

    def store_items(self, partition: Partition, entries: Sequence[Entry]) -> list[Item]:
        """Return the items that the entries stand for, in order; unknown references are left out."""
        known_before = {one.id for one in entries if partition.find(one.id)}
        items = []
        for entry in entries:
            item = partition.find(entry.id)
            if entry.origin is Origin.REFERENCE and entry.id not in known_before:
                continue
            if item is None:
                item = partition.known[entry.id] = Item(entry.id, texts([entry.data])[0])
            items.append(item)
        return items

    # Rules

    @precondition(lambda self: len(self.all_conversations) < MOST_CONVERSATIONS)
    @rule(target=conversations, owner=st.sampled_from(OWNERS), number=st.integers(0, 3))
    def start_conversation(self, owner: str, number: int) -> Conversation:
        return self.create_conversation(owner, number)

    def create_conversation(self, owner: str, number: int) -> Conversation:
        made = draft()
        partition = self.partitions[partition_of(made.id)] = Partition(owner, conversation=True)
        entries = self.entries(partition_of(made.id), ["new"] * number, [0] * number)
        self.run(self.store.conversations.create(owner, made, entries))
        conversation = Conversation(made.id, owner, self.store_items(partition, entries))
        self.all_conversations.append(conversation)
        return conversation

    @rule(conversation=conversations, kinds=KINDS, choices=CHOICES)
    def append(self, conversation: Conversation, kinds: Sequence[str], choices: Sequence[int]) -> None:
        partition = self.partitions[conversation.partition]
        entries = self.entries(conversation.partition, kinds, choices)
        call = self.store.items.append(conversation.owner, conversation.id, "", entries)
        if self.unknown_in(partition, entries):
            self.refused(call, ItemNotFound)
        elif any(partition.find(one.id) in conversation.items for one in entries if partition.find(one.id)):
            self.refused(call, AlreadyThere)
        else:
            answer = self.run(call)
            items = self.store_items(partition, entries)
            assert texts(answer) == [item.text for item in items]
            conversation.items += items

    @rule(conversation=conversations, choice=st.integers(0, 50))
    def delete_item(self, conversation: Conversation, choice: int) -> None:
        known = sorted(self.partitions[conversation.partition].known) or ["msg_none"]
        item_id = known[choice % len(known)]
        item = self.partitions[conversation.partition].find(item_id)
        call = self.store.items.delete(conversation.owner, conversation.id, item_id)
        if item is None or item not in conversation.items:
            self.refused(call, ItemNotFound)
        else:
            self.run(call)
            item.alive = False

    @rule(conversation=consumes(conversations))
    def delete_conversation(self, conversation: Conversation) -> None:
        self.run(self.store.conversations.delete(conversation.owner, conversation.id))
        conversation.alive = False

    @rule(target=turns, conversation=conversations)
    def begin_on_conversation(self, conversation: Conversation):
        return self.open_on_conversation(conversation)

    def open_on_conversation(self, conversation: Conversation):
        self.counter += 1
        lease = Lease(conversation.partition, "", f"token {self.counter}")
        call = self.store.turns.open(conversation.owner, TurnSource(conversation.id), lease, 600, [], [])
        if conversation.holder:
            self.refused(call, Locked)
            return multiple()
        opened = self.run(call)
        conversation.holder = lease.token
        assert texts_of_array(opened.history) == living(conversation.items)
        history = list(conversation.items)
        return Turn(conversation.owner, conversation.partition, conversation, opened, history, lease.token)

    @rule(target=turns, response=responses)
    def begin_on_response(self, response: Response) -> Turn:
        return self.open_on_response(response)

    def open_on_response(self, response: Response) -> Turn:
        partition = partition_of(response.id)
        source = TurnSource(previous_response_id=response.id)
        opened = self.run(self.store.turns.open(response.owner, source, Lease(partition, "", "-"), 600, [], []))
        return Turn(response.owner, partition, None, opened, list(response.snapshot), "")

    @rule(target=turns, owner=st.sampled_from(OWNERS))
    def open_on_nothing(self, owner: str) -> Turn:
        partition = ids.new_partition()
        opened = self.run(self.store.turns.open(owner, TurnSource(), Lease(partition, "", "-"), 600, [], []))
        assert opened.history == b""
        return Turn(owner, partition, None, opened, [], "")

    @rule(target=responses, conversation=conversations, kinds=KINDS, choices=CHOICES)
    def take_turn(self, conversation: Conversation, kinds: Sequence[str], choices: Sequence[int]):
        turn = self.open_on_conversation(conversation)
        return self.commit(turn, kinds, choices, 1, failed=False, stored=True) if isinstance(turn, Turn) else turn

    @rule(target=responses, response=responses, kinds=KINDS, choices=CHOICES)
    def continue_chain(self, response: Response, kinds: Sequence[str], choices: Sequence[int]):
        return self.commit(self.open_on_response(response), kinds, choices, 1, failed=False, stored=True)

    @rule(turn=consumes(turns))
    def give_up(self, turn: Turn) -> None:
        self.run(self.store.turns.release(Lease(turn.partition, "MAIN", turn.token)))
        if turn.conversation:
            turn.conversation.holder = ""

    @rule(
        target=responses,
        turn=consumes(turns),
        kinds=KINDS,
        choices=CHOICES,
        outputs=st.integers(0, 2),
        failed=st.booleans(),
        stored=st.booleans(),
    )
    def end(self, turn: Turn, kinds: Sequence[str], choices: Sequence[int], outputs: int, failed: bool, stored: bool):
        return self.commit(turn, kinds, choices, outputs, failed=failed, stored=stored)

    def commit(
        self, turn: Turn, kinds: Sequence[str], choices: Sequence[int], outputs: int, *, failed: bool, stored: bool
    ):
        conversation = turn.conversation
        mode = CommitMode.RECORD if failed else CommitMode.APPEND if conversation else CommitMode.CHAIN
        commit = TurnCommit(
            owner=turn.owner,
            response_id=ids.new_response_id(turn.partition, stored=stored),
            partition=turn.partition,
            mode=mode,
            opened=turn.opened,
            conversation_id=conversation.id if conversation else None,
            token=turn.token,
            stored=stored,
            status="completed",
            body=b"{}",
            inputs=self.entries(turn.partition, kinds, choices),
            outputs=self.entries(turn.partition, ["new"] * outputs, [0] * outputs),
        )
        end = self.run(self.store.turns.commit(commit))
        dropped = mode is CommitMode.APPEND and conversation is not None and not conversation.alive
        assert end is (CommitResult.DROPPED if dropped else CommitResult.OK)
        assert self.run(self.store.turns.commit(commit)) is CommitResult.REPEATED
        if conversation:
            conversation.holder = ""
        appended = mode is CommitMode.APPEND and not dropped
        if not appended and not stored:
            return multiple()
        return self.note_commit(turn, commit, appended)

    def note_commit(self, turn: Turn, commit: TurnCommit, appended: bool):
        partition = self.partitions.setdefault(turn.partition, Partition(turn.owner))
        everything = self.store_items(partition, [*commit.inputs, *commit.outputs])
        cut = len(everything) - len(commit.outputs)
        if appended and turn.conversation:
            turn.conversation.items += everything
        if not commit.stored:
            return multiple()
        partition.responses += 1
        context = [*turn.history, *everything[:cut]]
        snapshot = turn.history if commit.mode is CommitMode.RECORD else [*turn.history, *everything]
        response = Response(commit.response_id, turn.owner, context, everything[cut:], snapshot)
        self.all_responses.append(response)
        return response

    @rule(response=consumes(responses))
    def delete_response(self, response: Response) -> None:
        self.run(self.store.turns.delete_response(response.owner, response.id))
        response.alive = False
        partition = self.partitions[partition_of(response.id)]
        partition.responses -= 1
        if partition.responses == 0 and not partition.conversation:
            del self.partitions[partition_of(response.id)]
            for item in partition.known.values():
                item.alive = False

    @rule(conversation=conversations, response=responses)
    def be_a_stranger(self, conversation: Conversation, response: Response) -> None:
        stranger = OWNERS[1 - OWNERS.index(conversation.owner)]
        page = PageRequest()
        calls: list[Awaitable[object]] = [
            self.store.conversations.read(stranger, conversation.id),
            self.store.conversations.delete(stranger, conversation.id),
            self.store.items.list_page(stranger, conversation.id, page),
            self.store.items.append(stranger, conversation.id, "", self.entries(conversation.partition, ["new"], [0])),
        ]
        for call in calls:
            self.refused(call, ConversationNotFound)
        stranger = OWNERS[1 - OWNERS.index(response.owner)]
        calls = [
            self.store.turns.read_response(stranger, response.id),
            self.store.turns.delete_response(stranger, response.id),
            self.store.turns.list_input(stranger, response.id, page),
        ]
        for call in calls:
            self.refused(call, ResponseNotFound)

    # What must always hold

    @invariant()
    def conversations_agree(self) -> None:
        for conversation in self.all_conversations:
            call = self.store.items.list_page(conversation.owner, conversation.id, EVERYTHING)
            if conversation.alive:
                assert texts(self.run(call).items) == living(conversation.items)
            else:
                self.refused(call, ConversationNotFound)

    @invariant()
    def responses_agree(self) -> None:
        for response in self.all_responses:
            if not response.alive:
                self.refused(self.store.turns.read_response(response.owner, response.id), ResponseNotFound)
                continue
            assert texts(self.run(self.store.turns.read_response(response.owner, response.id)).output) == living(
                response.output
            )
            call = self.store.turns.list_input(response.owner, response.id, EVERYTHING)
            assert texts(self.run(call).items) == living(response.context)
            source = TurnSource(previous_response_id=response.id)
            lease = Lease(partition_of(response.id), "", "-")
            opened = self.run(self.store.turns.open(response.owner, source, lease, 600, [], []))
            assert texts_of_array(opened.history) == living(response.snapshot)

    @invariant()
    def nothing_leaks(self) -> None:
        assert self.run(find_leaks(self.client)) == []


Histories.TestCase.settings = settings(
    max_examples=35,
    stateful_step_count=35,
    deadline=None,
    database=None,
    derandomize=True,
    # shrinking a history takes minutes; run it by hand where a failure needs it
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestHistories = Histories.TestCase
