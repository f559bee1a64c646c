"""Operations on turns and responses, in the store and in the model."""

from __future__ import annotations

from collections.abc import Awaitable
from random import Random

from proxy.protocol import ids
from storage import (
    BranchExists,
    BranchNotFound,
    CommitMode,
    CommitResult,
    Committed,
    ConversationNotFound,
    Fork,
    ForkPoint,
    Locked,
    PageRequest,
    ResponseNotFound,
    StoreError,
    TurnCommit,
    TurnSource,
    new_partition,
    partition_of,
)
from tests.storage.model import Branch, Partition, Response, Start, Turn, last_id, shown
from tests.storage.model_branches import SPELLING, BranchOperations
from tests.storage.model_driver import OWNERS, facts_of


class TurnOperations(BranchOperations):
    """Each operation takes the dice that it chooses with."""

    async def begin_on_branch(self, dice: Random) -> Turn | None:
        conversation = self.conversation(dice)
        name = self.pick_branch(conversation, dice)
        branch = conversation.named(name)
        token = self.new_token()
        call = self.open(conversation.owner, TurnSource(conversation.id, branch=name), conversation.partition, token)
        if branch is None or branch.holder:
            await self.refused(call, Locked if branch else BranchNotFound)
            return None
        opened = await call
        branch.take(token)
        turn = Turn(conversation.owner, conversation.partition, opened, list(branch.items), token, conversation)
        turn.branch, turn.fence = branch, branch.fence
        assert opened.branch == branch.name
        return self.start(turn)

    async def begin_fork(self, dice: Random) -> Turn | None:
        conversation = self.conversation(dice)
        fork, name = self.make_fork(conversation, dice), self.pick_branch(conversation, dice)
        token = self.new_token()
        source = TurnSource(conversation.id, branch=name, fork=fork)
        call = self.open(conversation.owner, source, conversation.partition, token)
        starts = self.partitions[conversation.partition].starts(name, fork)
        wanted = SPELLING.get(fork.name, fork.name)
        late: list[type[StoreError]] = []
        if wanted and conversation.named(wanted):
            late = [BranchExists]
        elif wanted in conversation.reserved if wanted else conversation.main.holder:
            late = [Locked]
        opened = await self.attempt(call, starts, late)
        if opened is None:
            return None
        possible = [one for one in starts if isinstance(one, Start)]
        possible = [one for one in possible if b",".join(shown(one.base)) == opened.history]
        turn = Turn(conversation.owner, conversation.partition, opened, possible[0].base, token, conversation)
        turn.fork, turn.starts = fork, possible
        assert (opened.branch, opened.anchor) == (wanted or "MAIN", last_id(turn.history))
        if wanted:
            conversation.reserved[wanted] = token
        else:
            turn.branch = conversation.main
            turn.branch.take(token)
        return self.start(turn)

    async def begin_on_response(self, dice: Random) -> Turn | None:
        there = [one for one in self.responses if one.alive]
        if not there:
            return None
        response = dice.choice(there)
        partition = partition_of(response.id)
        opened = await self.open(response.owner, TurnSource(previous_response_id=response.id), partition, "-")
        return self.start(Turn(response.owner, partition, opened, list(response.snapshot)))

    async def begin_on_nothing(self, dice: Random) -> Turn:
        owner, partition = dice.choice(OWNERS), new_partition()
        return self.start(Turn(owner, partition, await self.open(owner, TurnSource(), partition, "-"), []))

    def new_token(self) -> str:
        self.counter += 1
        return f"token {self.counter}"

    def start(self, turn: Turn) -> Turn:
        self.check_opened(turn.partition, turn.opened, turn.history)
        self.turns.append(turn)
        self.touched.add(turn.partition)
        return turn

    async def take_turn(self, dice: Random) -> None:
        begin = dice.choice([self.begin_on_branch, self.begin_on_branch, self.begin_fork, self.begin_on_response])
        turn = await begin(dice)
        if turn:
            await self.commit(turn, dice, failed=False, stored=True)

    async def take_chain(self, dice: Random) -> None:
        """Run turns outside of conversations, each after the last one; most often several."""
        turn = await self.begin_on_nothing(dice)
        for _ in range(dice.choice([1, 3, 4])):
            await self.commit(turn, dice, failed=False, stored=True)
            response = self.responses[-1]
            await self.check_response(response)
            opened = await self.open(
                turn.owner, TurnSource(previous_response_id=response.id), turn.partition, self.new_token()
            )
            turn = self.start(Turn(turn.owner, turn.partition, opened, list(response.snapshot)))
        self.turns.remove(turn)

    def running(self, dice: Random) -> Turn | None:
        if not self.turns:
            return None
        turn = dice.choice(self.turns)
        self.touched.add(turn.partition)
        return turn

    async def give_up(self, dice: Random) -> None:
        turn = self.running(dice)
        if turn:
            await self.release(turn)
            self.turns.remove(turn)

    async def lose_lock(self, dice: Random) -> None:
        """Let a lock run out; now and then another turn takes it in between."""
        turn = self.running(dice)
        if turn:
            await self.release(turn)
            branch, chat = turn.branch, turn.conversation
            if branch and branch.alive and not branch.holder and chat and chat.alive and dice.random() < 0.5:
                await self.check_history(chat, branch)

    async def end(self, dice: Random) -> None:
        turn = self.running(dice)
        if turn:
            await self.commit(turn, dice, failed=dice.random() < 0.2, stored=dice.random() < 0.8)

    async def commit(self, turn: Turn, dice: Random, *, failed: bool, stored: bool) -> None:
        self.turns.remove(turn)
        outputs = dice.choice([[], ["assistant"], ["assistant"], ["call"], ["assistant", "call"]])
        commit = TurnCommit(
            owner=turn.owner,
            response_id=ids.new_response_id(turn.partition, stored=stored),
            partition=turn.partition,
            mode=turn.mode(failed=failed),
            opened=turn.opened,
            conversation_id=turn.conversation.id if turn.conversation else None,
            token=turn.token,
            stored=stored,
            status="completed",
            body=b"{}",
            inputs=self.entries(turn.partition, dice),
            outputs=self.new_entries(turn.partition, outputs, dice),
            fork=turn.fork,
        )
        result = turn.result(commit.mode)
        if not isinstance(result, CommitResult):
            await self.refused(self.store.turns.commit(commit), result)
            return
        committed = await self.store.turns.commit(commit)
        assert committed.result is result
        assert (await self.store.turns.commit(commit)).result is CommitResult.REPEATED
        turn.unlock()
        if result is CommitResult.DROPPED:
            turn.history = [item for item in turn.history if not item.freed]
        self.note_commit(turn, commit, committed)

    def note_commit(self, turn: Turn, commit: TurnCommit, committed: Committed) -> None:
        recorded = commit.mode is CommitMode.RECORD
        appended = committed.result is CommitResult.OK and turn.conversation is not None and not recorded
        if not appended and not commit.stored:
            return
        partition = self.partitions.setdefault(turn.partition, Partition(turn.owner))
        branch = self.make_line(turn, committed) if committed.branch else turn.branch if appended else None
        everything = partition.add([*commit.inputs, *commit.outputs], branch)
        cut = len(everything) - len(commit.outputs)
        if branch:
            branch.items = branch.items + [one for one in everything if one not in branch.items]
        if branch and committed.branch and turn.conversation and turn.fork:
            assert committed.backup == (turn.conversation.add(branch, turn.fork.backup) or None)
            assert facts_of(committed.branch) == branch.facts(turn.conversation.active)
        if commit.stored:
            context = [*turn.history, *everything[:cut]]
            snapshot = turn.history if recorded else [*turn.history, *everything]
            response = Response(commit.response_id, turn.owner, context, everything[cut:], snapshot)
            partition.responses[response.id] = response
            self.responses.append(response)

    def make_line(self, turn: Turn, committed: Committed) -> Branch:
        """Return the branch that a turn has made, as a child of one that it may have come from."""
        assert committed.branch
        parent = turn.starts[0].branch
        if len(turn.starts) > 1:
            by_name = {one.branch.name: one.branch for one in turn.starts if one.branch and one.branch.alive}
            parent = by_name.get(committed.branch.parent_branch or "")
        return Branch(turn.opened.branch, list(turn.history), parent, turn.opened.anchor, forked=True)

    async def delete_response(self, dice: Random) -> None:
        there = [one for one in self.responses if one.alive]
        if not there:
            return
        response = dice.choice(there)
        await self.store.responses.delete(response.owner, response.id)
        response.alive = False
        name = partition_of(response.id)
        self.touched.add(name)
        partition = self.partitions[name]
        del partition.responses[response.id]
        if not partition.responses and not partition.conversation:
            del self.partitions[name]
            for item in partition.known.values():
                partition.forget(item, freed=True)

    async def sweep(self, dice: Random) -> None:
        await self.store.sweeper.sweep_all()
        for name, partition in self.partitions.items():
            self.touched.add(name)
            if partition.conversation and partition.conversation.alive:
                await self.settle(name)
        garbage = (await self.store.auditor.audit()).garbage
        # of a commit that was refused an entry is left, which goes when the list is read
        del garbage["response entries"]
        assert +garbage == {}

    async def be_a_stranger(self, dice: Random) -> None:
        conversation = self.conversation(dice)
        stranger, page = OWNERS[1 - OWNERS.index(conversation.owner)], PageRequest()
        new = self.new_entries(conversation.partition, ["user"], dice)
        fork, name = Fork(ForkPoint.TIP, name="stolen"), conversation.branches[-1].name
        branches, chat = self.store.branches, conversation.id
        calls: list[Awaitable[object]] = [
            self.store.conversations.read(stranger, chat),
            self.store.conversations.delete(stranger, chat),
            self.store.items.list_page(stranger, chat, page),
            self.store.items.append(stranger, chat, "", new),
            branches.create(stranger, chat, "", fork, new),
            branches.read(stranger, chat, name),
            branches.list_page(stranger, chat, page),
            branches.update(stranger, chat, name, description="stolen"),
            branches.delete(stranger, chat, name),
            branches.activate(stranger, chat, name),
            branches.compare(stranger, chat, name, name, 1),
            self.open(stranger, TurnSource(chat), conversation.partition, "thief"),
            self.open(stranger, TurnSource(chat, fork=fork), conversation.partition, "thief"),
        ]
        for call in calls:
            await self.refused(call, ConversationNotFound)
        for response in self.responses[-1:]:
            stranger = OWNERS[1 - OWNERS.index(response.owner)]
            await self.refused(self.store.responses.read(stranger, response.id), ResponseNotFound)
            await self.refused(self.store.responses.delete(stranger, response.id), ResponseNotFound)
            await self.refused(self.store.responses.list_input(stranger, response.id, page), ResponseNotFound)
