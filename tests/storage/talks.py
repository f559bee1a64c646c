"""Conversations with branches, for tests that tell them by the texts of their items.

A text's first letter says what the item is: u a user's message, a an assistant's, c a call, o its output (`c7` is
answered by `o7`), r reasoning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from proxy.protocol import ids
from storage import (
    CallMark,
    CommitMode,
    Committed,
    Conversation,
    Entry,
    Fork,
    Forked,
    ForkPoint,
    Lease,
    OpenedTurn,
    Origin,
    PageRequest,
    Store,
    TurnCommit,
    TurnSource,
    partition_of,
)
from tests.storage.builders import EVERYTHING, OWNER, draft, finished, id_of, texts

ROLES = {"u": "user", "a": "assistant"}
KINDS = {"c": ("function_call", "+"), "o": ("function_call_output", "-"), "r": ("reasoning", "")}


def entry(partition: str, text: str) -> Entry:
    """Return a new item whose kind follows from its text."""
    role = ROLES.get(text[0])
    kind, sign = ("message", "") if role else KINDS[text[0]]
    item_id = ids.new_turn_item_id(kind, partition, stored=True)
    body = {"id": item_id, "type": kind, **({"role": role} if role else {}), "text": text, "content": []}
    return Entry(Origin.MINTED, item_id, orjson.dumps(body), CallMark.parse(sign and f"{sign}call_{text[1:]}"))


@dataclass
class Talk:
    """A conversation under test. ids: text → id of what was last made with that text."""

    store: Store
    conversation: Conversation = field(default_factory=draft)
    ids: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.conversation.id

    @property
    def partition(self) -> str:
        return partition_of(self.id)

    @property
    def tag(self) -> str:
        """What the names of its keys begin with."""
        return f"test:{{{self.partition}}}:"

    def entries(self, said: str) -> list[Entry]:
        """Return new items of these texts."""
        made = [entry(self.partition, text) for text in said.split()]
        self.ids |= {text: one.id for text, one in zip(said.split(), made, strict=True)}
        return made

    async def begin(self, said: str) -> Talk:
        self.conversation, _ = await self.store.conversations.create(OWNER, self.conversation, [])
        await self.say(said)
        return self

    async def say(self, said: str, branch: str = "") -> None:
        """Append items, each in a batch of its own."""
        for one in self.entries(said):
            await self.store.items.append(OWNER, self.id, branch, [one])

    async def items(self, branch: str = "", at: str = "") -> Sequence[bytes]:
        return (await self.store.items.list_page(OWNER, self.id, EVERYTHING, branch=branch, at=at)).items

    async def on(self, branch: str = "", at: str = "") -> str:
        """Return the texts on a branch."""
        return " ".join(texts(await self.items(branch, at)))

    async def ids_on(self, branch: str = "") -> list[str]:
        return [id_of(item) for item in await self.items(branch)]

    async def names(self) -> list[str]:
        page = await self.store.branches.list_page(OWNER, self.id, PageRequest(1000, ascending=True))
        return [branch.name for branch in page.branches]

    def point(self, point: ForkPoint, target: str = "", *, name: str = "", backup: str = "") -> Fork:
        """Return a fork at an item of this text, or at this id."""
        return Fork(point, self.ids.get(target, target), name=name, backup=backup)

    async def fork(self, fork: Fork, said: str = "", *, source: str = "") -> Forked:
        return await self.store.branches.create(OWNER, self.id, source, fork, self.entries(said))

    async def draft(self, target: str = "", *, name: str = "draft", source: str = "") -> Forked:
        """Fork under a name: all of a branch, or up to an item, inclusive."""
        return await self.fork(
            self.point(ForkPoint.AFTER if target else ForkPoint.TIP, target, name=name), source=source
        )

    async def open(self, branch: str = "", fork: Fork | None = None, token: str = "token") -> OpenedTurn:
        source, lease = TurnSource(self.id, branch=branch, fork=fork), Lease(self.partition, "", token)
        return await self.store.turns.open(OWNER, source, lease, 10, [], [])

    def end(
        self, opened: OpenedTurn, said: str = "u9", answered: str = "a9", fork: Fork | None = None, **facts: Any
    ) -> TurnCommit:
        """Return the commit of a turn."""
        mode = CommitMode.APPEND if fork is None else CommitMode.FORK if fork.name else CommitMode.PROMOTE
        return finished(
            opened,
            partition=self.partition,
            conversation=self.conversation,
            says=self.entries(said),
            answers=self.entries(answered),
            **{"mode": mode, "fork": fork, **facts},
        )

    async def commit(self, commit: TurnCommit) -> Committed:
        return await self.store.turns.commit(commit)

    async def turn(
        self, said: str = "u9", answered: str = "a9", *, branch: str = "", fork: Fork | None = None, **facts: Any
    ) -> str:
        """Run a whole turn and return its response's id."""
        commit = self.end(await self.open(branch, fork), said, answered, fork, **facts)
        await self.commit(commit)
        return commit.response_id

    async def release(self, opened: OpenedTurn, token: str = "token") -> None:
        await self.store.turns.release(Lease(self.partition, opened.lock, token))


def pending_of(opened: OpenedTurn) -> str:
    """Return the calls that wait, by their numbers."""
    return " ".join(sorted(call_id.removeprefix("call_") for call_id in opened.pending))
