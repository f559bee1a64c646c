"""Forest: how the branches of a conversation lie to each other, from their chains alone. Pure.

A node is a run of places that the same branches read, so N branches make at most 2 N nodes, however long they are.
Names and parents play no part: after an edit the old line is the nameless root of the new one.

    0:0:4,1:0:2   MAIN     ┐      [0:0:4 MAIN draft] ┬ [1:0:2 MAIN]
    0:0:6         draft    ┘  →                      └ [0:4:6 draft]
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from storage import Chain, ItemPlace

#: A segment, and the offsets from which and up to which.
Stretch: TypeAlias = tuple[int, int, int]


@dataclass(eq=False)
class Node:
    """Places that follow each other and that the same branches read.

    lines: of these branches, in the order in which they were given. ends: of those that end here. start: places before
    it. gap: how many places are left out between
    it and the node before it.
    """

    spans: list[Stretch] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)
    parent: Node | None = None
    start: int = 0
    gap: int = 0

    @property
    def length(self) -> int:
        """How many places it has."""
        return sum(to - start for _, start, to in self.spans)

    @property
    def first(self) -> ItemPlace | None:
        """Its first place; None of a root that all branches leave at once."""
        return self.spans[0][:2] if self.spans else None

    @property
    def last(self) -> ItemPlace | None:
        """Its last place."""
        return (self.spans[-1][0], self.spans[-1][2] - 1) if self.spans else None


class Forest:
    """The branches of a conversation as a tree, all of whose paths from the root are their histories.

    chains: line → chain, closed. The order of the lines is that of `Node.lines`. tombstones: places without an item.
    """

    def __init__(self, chains: Mapping[int, Chain], tombstones: Sequence[ItemPlace] = ()) -> None:
        self._tips: dict[int, Node] = {}
        self._deleted: dict[int, list[int]] = defaultdict(list)
        for segment, offset in sorted(tombstones):
            self._deleted[segment].append(offset)
        self.root = _joined(_trie(chains))
        for node in self.nodes():
            self._tips.update(dict.fromkeys(node.ends, node))

    def nodes(self) -> Iterator[Node]:
        """Yield all nodes, each before its children, which come in the order of their first places."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))

    def path(self, line: int) -> list[Node]:
        """Return the nodes that make up a branch's history, from the root on; none for a line that is not there."""
        node, path = self._tips.get(line), []
        while node is not None:
            path.append(node)
            node = node.parent
        return path[::-1]

    def items(self, node: Node) -> int:
        """Return how many items a node has, deleted ones aside."""
        deleted = (self._deleted.get(segment, ()) for segment, _, _ in node.spans)
        return node.length - sum(
            bisect_left(offsets, to) - bisect_left(offsets, start)
            for offsets, (_, start, to) in zip(deleted, node.spans, strict=True)
        )

    def own_items(self, line: int) -> int:
        """Return how many items only this branch has."""
        return sum(self.items(node) for node in self.path(line) if node.lines == [line])

    def shared(self, first: int, second: int) -> list[Node]:
        """Return the nodes that two branches have in common."""
        return [one for one, other in zip(self.path(first), self.path(second), strict=False) if one is other]


def covers(chain: Chain, place: ItemPlace) -> bool:
    """Tell whether a chain reads a place."""
    return any(segment == place[0] and start <= place[1] < to for segment, start, to in chain)


def _trie(chains: Mapping[int, Chain]) -> Node:
    """Return the tree of the smallest spans that any chain begins or ends at."""
    cuts: dict[int, set[int]] = defaultdict(set)
    for chain in chains.values():
        for segment, start, to in chain:
            cuts[segment].update((start, to))
    ordered = {segment: sorted(offsets) for segment, offsets in cuts.items()}
    root, below = Node(), dict[tuple[int, Stretch], Node]()
    for line, chain in chains.items():
        node = root
        node.lines.append(line)
        for span in _atoms(chain, ordered):
            known = below.get((id(node), span))
            if known is None:
                known = below[id(node), span] = Node([span], parent=node)
                node.children.append(known)
            known.lines.append(line)
            node = known
        node.ends.append(line)
    return root


def _atoms(chain: Chain, cuts: Mapping[int, Sequence[int]]) -> Iterator[Stretch]:
    for segment, start, to in chain:
        offsets = cuts[segment]
        inner = offsets[bisect_left(offsets, start) : bisect_right(offsets, to)]
        for low, high in pairwise(inner):
            yield segment, low, high


def _joined(root: Node) -> Node:
    """Join each node with the only one that follows it, and say where each begins."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        while len(node.children) == 1 and not node.ends:
            (only,) = node.children
            node.spans += only.spans
            node.ends, node.children = only.ends, only.children
        node.spans = _merged(node.spans)
        node.children.sort(key=lambda child: child.spans[0])
        for child in node.children:
            child.parent, child.start = node, node.start + node.length
            child.gap = _gap(node, child)
        waiting.extend(node.children)
    return root


def _merged(spans: Sequence[Stretch]) -> list[Stretch]:
    merged: list[Stretch] = []
    for segment, start, to in spans:
        if merged and merged[-1][0] == segment and merged[-1][2] == start:
            merged[-1] = segment, merged[-1][1], to
        else:
            merged.append((segment, start, to))
    return merged


def _gap(node: Node, child: Node) -> int:
    """Return how many places lie between a node's end and its child in the same segment."""
    if not node.spans:
        return 0
    segment, _, to = node.spans[-1]
    first = child.spans[0]
    return first[1] - to if first[0] == segment and first[1] > to else 0
