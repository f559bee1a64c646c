"""A model of the store in plain Python: what conversations, branches, responses and partitions hold.

A branch is a list of items, and a fork copies a part of it. Deleted items stay in the lists, marked as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from storage import (
    BranchNotFound,
    CommitMode,
    CommitResult,
    Conflict,
    Entry,
    Fork,
    ForkPoint,
    ItemNotFound,
    NotAMessage,
    NotAUserMessage,
    NoUserMessage,
    OpenedTurn,
    Origin,
    StoreError,
    partition_of,
)


@dataclass(eq=False)
class Item:
    """A stored item. home: the branch that wrote it. alive: neither deleted nor freed."""

    id: str
    data: bytes
    role: str = ""
    mark: str = ""
    home: Branch | None = None
    alive: bool = True
    freed: bool = False


@dataclass(eq=False)
class Branch:
    """A branch. holder: token of the turn that has its lock; fence: how often that was taken."""

    name: str
    items: list[Item] = field(default_factory=list)
    parent: Branch | None = None
    anchor: str | None = None
    description: str | None = None
    forked: bool = False
    alive: bool = True
    holder: str = ""
    fence: int = 0

    @property
    def borrowed(self) -> list[Item]:
        """Items that were written elsewhere."""
        return [item for item in self.items if item.home is not self]

    def take(self, token: str) -> None:
        self.holder = token
        self.fence += 1

    def facts(self, active: Branch) -> tuple[object, ...]:
        """Return what the store says of it, times left out."""
        parent = self.parent.name if self.parent and self.parent.alive else None
        count = len(living(self.items))
        return self.name, count, self is active, self.description, parent, self.forked, self.anchor


@dataclass(eq=False)
class Conversation:
    """A conversation. branches: in the order in which they were made; reserved: name -> token of a turn that forks."""

    id: str
    owner: str
    active: Branch
    branches: list[Branch] = field(default_factory=list)
    reserved: dict[str, str] = field(default_factory=dict)
    alive: bool = True

    @property
    def partition(self) -> str:
        return partition_of(self.id)

    @property
    def main(self) -> Branch:
        return next(one for one in self.branches if one.name == "MAIN")

    def named(self, name: str) -> Branch | None:
        """Return the branch that a caller means; '' is the active one."""
        name = "MAIN" if name.lower() == "main" else name
        return next((one for one in self.branches if one.name == name), None) if name else self.active

    def is_free(self, name: str) -> bool:
        return self.named(name) is None and name not in self.reserved

    def holds(self, item: Item) -> bool:
        return any(item in one.items for one in self.branches)

    def add(self, branch: Branch, backup: str = "") -> str:
        """Add a branch, as the new MAIN where the old one has a name to go by; return that name."""
        if backup:
            while not self.is_free(backup):
                backup += "x"
            self.main.name, branch.name = backup, "MAIN"
            self.active = branch
        self.branches.append(branch)
        return backup


@dataclass(eq=False)
class Response:
    """A response: what came before it with its input, its output, and what follows inherits."""

    id: str
    owner: str
    context: list[Item]
    output: list[Item]
    snapshot: list[Item]
    alive: bool = True


@dataclass
class Partition:
    """What a partition knows by id. unsure: calls of which it is not defined whether they wait for an output."""

    owner: str
    conversation: Conversation | None = None
    known: dict[str, Item] = field(default_factory=dict)
    responses: dict[str, Response] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)

    def is_hidden(self, item: Item) -> bool:
        """Tell whether an item went with its conversation."""
        return self.conversation is not None and not self.conversation.alive and self.conversation.holds(item)

    def find(self, item_id: str) -> Item | None:
        item = self.known.get(item_id)
        return item if item and item.alive and not self.is_hidden(item) else None

    def add(self, entries: Sequence[Entry], home: Branch | None) -> list[Item]:
        """Store what is new; return the items that the entries stand for, unknown references left out."""
        before = {one.id: self.find(one.id) for one in entries}
        fresh: dict[str, Item] = {}
        items = []
        for entry in entries:
            item = before[entry.id] or (fresh.get(entry.id) if entry.origin is not Origin.REFERENCE else None)
            if item is None and entry.origin is Origin.REFERENCE:
                continue
            if item is None:
                item = fresh[entry.id] = Item(entry.id, entry.data, role_of(entry.data), str(entry.mark), home)
                # the id of a hidden item still leads to that one
                old = self.known.get(entry.id)
                if old is None or not old.alive or not self.is_hidden(old):
                    self.known[entry.id] = item
            items.append(item)
        return items

    def waiting(self, items: Sequence[Item]) -> set[str]:
        """Return the calls that wait for an output after these items."""
        waiting: set[str] = set()
        for item in items:
            if item.alive and item.mark.startswith("+"):
                waiting.add(item.mark[1:])
            elif item.alive and item.mark.startswith("-"):
                waiting.discard(item.mark[1:])
        return waiting - self.unsure

    def forget(self, item: Item, *, freed: bool = False) -> None:
        item.alive, item.freed = False, freed
        if freed or item.mark.startswith("-"):
            self.unsure.add(item.mark[1:])

    def starts(self, source: str, fork: Fork) -> list[Start | type[StoreError]]:
        """Return what a fork may start with: one answer, or one a branch where any branch will do."""
        assert self.conversation
        branch = self.conversation.named(source)
        if (source or fork.point is ForkPoint.TIP) and branch is None:
            return [BranchNotFound]
        if fork.point is ForkPoint.TIP:
            assert branch
            return [Start(branch, list(branch.items))]
        if fork.point is ForkPoint.AT and fork.target in self.responses:
            snapshot = self.responses[fork.target].snapshot
            home = snapshot[-1].home if snapshot else None
            named = branch if source else None
            return [Start(home if home and home.alive else named, list(snapshot))]
        item = self.find(fork.target)
        if item is None:
            return [ItemNotFound]
        places = [branch] if source else [self.conversation.active, self.conversation.main]
        found = [one for one in places if one and item in one.items][:1]
        if not found and not source:
            found = [one for one in self.conversation.branches if item in one.items]
        return [cut(one, item, fork.point) for one in found] or [ItemNotFound]


@dataclass
class Start:
    """What a fork inherits, and of which branch."""

    branch: Branch | None
    base: list[Item]


@dataclass
class Turn:
    """A turn that runs: where, and what it was opened with. branch: whose lock it has, if any."""

    owner: str
    partition: str
    opened: OpenedTurn
    history: list[Item]
    token: str = ""
    conversation: Conversation | None = None
    branch: Branch | None = None
    fence: int = 0
    fork: Fork | None = None
    starts: list[Start] = field(default_factory=list)

    @property
    def is_pinned(self) -> bool:
        """Tell whether what it was opened with stays, whatever else happens: not once it has lost its branch's lock."""
        return self.fork is not None or self.conversation is None or self.holds_lock

    @property
    def holds_lock(self) -> bool:
        if self.branch:
            return self.branch.holder == self.token
        return self.conversation is not None and self.conversation.reserved.get(self.opened.branch) == self.token

    def mode(self, *, failed: bool) -> CommitMode:
        """Return where its items go."""
        if failed:
            return CommitMode.RECORD
        if self.fork:
            return CommitMode.FORK if self.fork.name else CommitMode.PROMOTE
        return CommitMode.APPEND if self.conversation else CommitMode.CHAIN

    def result(self, mode: CommitMode) -> CommitResult | type[StoreError]:
        """Return how its commit ends."""
        if self.conversation is None or mode is CommitMode.RECORD:
            return CommitResult.OK
        if not self.conversation.alive:
            return CommitResult.DROPPED
        if mode is CommitMode.APPEND and self.branch:
            if not self.branch.alive:
                return CommitResult.DROPPED
            moved = self.branch.holder or self.branch.fence != self.fence
            return Conflict if moved and not self.holds_lock else CommitResult.OK
        taken = mode is CommitMode.FORK and not self.conversation.is_free(self.opened.branch)
        return Conflict if taken and not self.holds_lock else CommitResult.OK

    def unlock(self) -> None:
        """Give the lock back if it is still held."""
        if self.holds_lock and self.branch:
            self.branch.holder = ""
        elif self.holds_lock and self.conversation:
            del self.conversation.reserved[self.opened.branch]


def cut(branch: Branch, item: Item, point: ForkPoint) -> Start | type[StoreError]:
    """Return what a fork at an item of a branch starts with; where it is there twice, its last place counts."""
    at = len(branch.items) - 1 - branch.items[::-1].index(item)
    if point in {ForkPoint.AFTER, ForkPoint.AT}:
        return Start(branch, branch.items[: at + 1])
    if point is ForkPoint.EDIT and item.role != "user":
        return NotAUserMessage
    if point in {ForkPoint.BEFORE, ForkPoint.EDIT}:
        return Start(branch, branch.items[:at])
    if point is ForkPoint.WITHOUT:
        return Start(branch, branch.items[:at] + branch.items[at + 1 :])
    if item.role not in {"user", "assistant"}:
        return NotAMessage
    questions = [i for i in range(at + 1) if branch.items[i].alive and branch.items[i].role == "user"]
    return Start(branch, branch.items[: questions[-1] + 1]) if questions else NoUserMessage


def compare(one: Sequence[Item], other: Sequence[Item]) -> tuple[bytes | None, int, list[bytes], list[bytes]]:
    """Return the last item of the common beginning, how many of the first are shared, and what only either has."""
    same = 0
    while same < min(len(one), len(other)) and one[same] is other[same]:
        same += 1
    common = living(one[:same])
    shared = living([item for item in one if item in other])
    only_one = living([item for item in one if item not in other])
    only_other = living([item for item in other if item not in one])
    return (common[-1] if common else None), len(shared), only_one, only_other


def last_id(items: Sequence[Item]) -> str | None:
    """Return the id of the last living item."""
    return next((item.id for item in reversed(items) if item.alive), None)


def living(items: Sequence[Item]) -> list[bytes]:
    return [item.data for item in items if item.alive]


def shown(items: Sequence[Item]) -> list[bytes]:
    """Return what a model is shown of items: one that was added twice in one call only where it was first."""
    return [item.data for item in dict.fromkeys(items) if item.alive]


def role_of(data: bytes) -> str:
    """Return the role of a message, '' for any other item."""
    head, _, rest = data.partition(b'"role":"')
    return rest.partition(b'"')[0].decode() if head.endswith(b'"type":"message",') else ""
