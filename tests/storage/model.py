"""A model of the store in plain Python: what conversations, responses and partitions hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from proxy.ids import partition_of
from storage import OpenedTurn


@dataclass(eq=False)
class Item:
    """A stored item. alive: not deleted yet."""

    id: str
    text: str
    alive: bool = True


@dataclass
class Partition:
    """What a partition knows by id, and how many responses it has."""

    owner: str
    known: dict[str, Item] = field(default_factory=dict)
    responses: int = 0
    conversation: bool = False

    def find(self, item_id: str) -> Item | None:
        item = self.known.get(item_id)
        return item if item and item.alive else None


@dataclass
class Conversation:
    """The model of a conversation. holder: token of the turn that runs on it."""

    id: str
    owner: str
    items: list[Item] = field(default_factory=list)
    alive: bool = True
    holder: str = ""

    @property
    def partition(self) -> str:
        return partition_of(self.id)


@dataclass
class Response:
    """The model of a response: what came before it, its input, its output, and what follows inherits."""

    id: str
    owner: str
    context: list[Item]
    output: list[Item]
    snapshot: list[Item]
    alive: bool = True


@dataclass
class Turn:
    """A turn that runs: where, and what it was opened with."""

    owner: str
    partition: str
    conversation: Conversation | None
    opened: OpenedTurn
    history: list[Item]
    token: str


def living(items: Sequence[Item]) -> list[str]:
    return [item.text for item in items if item.alive]
