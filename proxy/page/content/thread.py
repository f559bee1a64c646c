"""Thread: a window of a branch as rows: turns, items with their alternatives, and where other lines leave. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from proxy.page.content.cards import Card, card_of, cut_card
from proxy.page.content.forest import Forest, Node, Stretch

if TYPE_CHECKING:
    from storage import Append, Graph, GraphBranch, ItemPlace, Window

#: Names of the branches that edits leave behind: `MAIN_20261121143000_a1b2`.
_EARLIER_PREFIX = "MAIN_"
_EARLIER_LENGTH = len("MAIN_20261121143000_a1b2")


@dataclass(slots=True)
class Way:
    """Another line of history. url: of a window where it begins. items: how many there are on it from there on."""

    name: str
    url: str
    items: int = 0
    updated_at: int = 0
    is_running: bool = False
    is_empty: bool = False


@dataclass(slots=True)
class Alternatives:
    """What stands in an item's place on other lines: its number among all, from 1, and the ways to its neighbours."""

    number: int
    total: int
    before: str
    after: str


@dataclass(slots=True)
class TurnHead:
    """What is said of a turn above its items. seconds: None where it is not known; tokens likewise."""

    response_id: str
    model: str
    status: str
    seconds: int | None = None
    input_tokens: int | None = None
    cached_tokens: int = 0
    output_tokens: int | None = None
    created_at: int = 0
    error: str = ""


@dataclass(slots=True)
class Row:
    """An item of a thread. card: None for a deleted one. turn: that begins with it. leaving: lines that leave there."""

    number: int
    card: Card | None
    turn: TurnHead | None = None
    created_at: int = 0
    response_id: str = ""
    alternatives: Alternatives | None = None
    leaving: list[Way] = field(default_factory=list)


class BranchForest:
    """The branches of a conversation with how they lie to each other. conversation_id: for the addresses."""

    def __init__(self, graph: Graph, conversation_id: str, *, earlier: bool = True, keep: str = "") -> None:
        self.graph = graph
        self.conversation_id = conversation_id
        shown = [one for one in graph.branches if earlier or one.name == keep or not is_earlier(one.name)]
        self.folded = len(graph.branches) - len(shown)
        self.by_line: dict[int, GraphBranch] = {one.line: one for one in shown}
        self.by_name: dict[str, GraphBranch] = {one.name: one for one in shown}
        self.forest = Forest({one.line: one.chain for one in shown}, graph.tombstones)

    def newest(self, node: Node) -> GraphBranch:
        """Return the branch below a node that was used last."""
        return self.by_line[node.lines[0]]

    def url(self, name: str, item_id: str = "") -> str:
        """Return where a branch is shown, around an item or at its tip."""
        base = f"/ui/c/{quote(self.conversation_id)}?branch={quote(name)}"
        return f"{base}&around={quote(item_id)}#i-{quote(item_id)}" if item_id else base

    def fork_spans(self, window: Window) -> list[Stretch]:
        """Return the first spans of all lines that begin or leave within a window: what is there has to be known."""
        nodes = [node for node in self._path(window) if self._touches(node, window) and node.parent]
        leaving = [child for node in self._path(window) if self._touches(node, window) for child in node.children]
        found = [sibling for node in nodes if node.parent for sibling in node.parent.children]
        spans = [node.spans[0] for node in [*found, *leaving] if node.spans]
        chain = self.by_line[window.line].chain if window.first and window.line in self.by_line else ()
        return list(dict.fromkeys([*spans, *chain[:1]]))

    def first_place(self, line: int) -> ItemPlace | None:
        """Return where a branch begins, None of an empty one."""
        chain = self.by_line[line].chain if line in self.by_line else ()
        return chain[0][:2] if chain else None

    def _path(self, window: Window) -> list[Node]:
        return self.forest.path(window.line)

    @staticmethod
    def _touches(node: Node, window: Window) -> bool:
        return node.start < window.first + len(window.items) and node.start + node.length >= window.first


def is_earlier(name: str) -> bool:
    """Tell whether a branch's name is that of a version that an edit or a new answer left behind."""
    return name.startswith(_EARLIER_PREFIX) and len(name) == _EARLIER_LENGTH


def rows_of(window: Window, branches: BranchForest, known: Mapping[ItemPlace, str]) -> list[Row]:
    """Return a window's rows. known: the ids of the items at `BranchForest.fork_spans`."""
    heads = _Heads(window.appends)
    path = branches.forest.path(window.line)
    begins = {node.first: node for node in path if node.parent is not None}
    ends = {node.last: node for node in path if node.last}
    rows: list[Row] = []
    for item in window.items:
        place = (item.segment, item.offset)
        append, is_first = heads.at(place)
        card = cut_card(item.data, item.size) if item.is_cut else card_of(item.data) if item.data else None
        row = Row(item.number, card)
        row.response_id = (append.response_id or "") if append else ""
        row.created_at = (append.created_at or 0) if append else 0
        row.turn = head_of(append) if append and is_first else None
        if place in begins:
            row.alternatives = _alternatives(branches, begins[place], known)
        if place in ends:
            row.leaving = _leaving(branches, ends[place], window.line, known)
        rows.append(row)
    return rows


def head_of(append: Append) -> TurnHead | None:
    """Return what is said of the turn that made an append; None for items that were added without one."""
    if append.response_id is None:
        return None
    head = TurnHead(append.response_id, append.model, append.status, created_at=append.created_at or 0)
    if append.body:
        fill_head(head, orjson.loads(append.body))
    return head


def fill_head(head: TurnHead, response: Mapping[str, Any]) -> None:
    """Say what a Response object tells of its turn."""
    usage = response.get("usage") or {}
    head.model = str(response.get("model") or head.model)
    head.input_tokens, head.output_tokens = _int(usage.get("input_tokens")), _int(usage.get("output_tokens"))
    head.cached_tokens = _int((usage.get("input_tokens_details") or {}).get("cached_tokens")) or 0
    begun, ended = _int(response.get("created_at")), _int(response.get("completed_at"))
    head.seconds = ended - begun if begun is not None and ended is not None else None
    error = response.get("error") or {}
    head.error = str(error.get("message") or "") if isinstance(error, dict) else ""


def _int(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


class _Heads:
    """The appends of a window, found by the places of their items."""

    def __init__(self, appends: Sequence[Append]) -> None:
        self._ends: dict[int, list[Append]] = {}
        for append in sorted(appends, key=lambda one: one.end):
            self._ends.setdefault(append.segment, []).append(append)
        self._last: Append | None = None

    def at(self, place: ItemPlace) -> tuple[Append | None, bool]:
        """Return the append that an item came with, and whether the item before it, in a window, came with another."""
        found = next((one for one in self._ends.get(place[0], ()) if place[1] < one.end), None)
        is_first, self._last = found is not self._last, found
        return found, is_first


def _alternatives(branches: BranchForest, node: Node, known: Mapping[ItemPlace, str]) -> Alternatives | None:
    siblings = node.parent.children if node.parent else []
    if len(siblings) < 2:
        return None
    at = siblings.index(node)

    def url(number: int) -> str:
        if not 0 <= number < len(siblings):
            return ""
        other = siblings[number]
        return branches.url(branches.newest(other).name, known.get(other.first or (-1, -1), ""))

    return Alternatives(at + 1, len(siblings), url(at - 1), url(at + 1))


def _leaving(branches: BranchForest, node: Node, line: int, known: Mapping[ItemPlace, str]) -> list[Way]:
    ways = []
    for child in node.children:
        if line in child.lines:
            continue
        newest = branches.newest(child)
        ways.append(_way(branches, newest, child, known))
    for ended in node.ends:
        if ended != line:
            branch = branches.by_line[ended]
            ways.append(
                Way(branch.name, branches.url(branch.name), 0, branch.updated_at, bool(branch.running), is_empty=True)
            )
    return ways


def _way(branches: BranchForest, branch: GraphBranch, child: Node, known: Mapping[ItemPlace, str]) -> Way:
    path = branches.forest.path(branch.line)
    items = sum(branches.forest.items(node) for node in path[path.index(child) :])
    url = branches.url(branch.name, known.get(child.first or (-1, -1), ""))
    return Way(branch.name, url, items, branch.updated_at, bool(branch.running))


def all_parts(rows: Sequence[Row], pick: Callable[[Card], bool] = lambda card: True) -> list[Any]:
    """Return the parts of all rows' cards that a renderer should see."""
    return [part for row in rows if row.card and pick(row.card) for part in row.card.parts if part.kind == "markdown"]
