"""`truncation: "auto"`: which items of a history are left out of a request, so that it fits the model's window. Pure.

What goes is always the oldest, turn by turn; a turn begins with a user's message. Where the running turn alone is too
long, its oldest steps go, but not the message that it began with. What belongs together goes or stays together: a
call and its output, reasoning and what the model made of it. Messages of the system and the developer, compactions,
and the request's own input stay.

A history that has outgrown its limit is cut down to a part of it, and stays cut at that place until it has outgrown
the limit again, so that the requests of many turns begin alike and the upstream's prefix cache hits. The place needs
no memory: it is found by going through the history from its beginning, as if each step had been a request.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import accumulate
from typing import Any

from proxy.protocol.item_types import item_type_of

#: How much of the limit is left filled by a cut.
KEPT_PART = 0.75
#: The part of a window that is kept free for the answer if a request names no `max_output_tokens`, and at most.
ANSWER_PART = 1 / 8
LARGEST_ANSWER_PART = 1 / 2


class ItemRole(Enum):
    """What an item is to its neighbours."""

    LASTING = auto()  #: stays, wherever it is
    USER = auto()  #: a user's message: a turn begins
    REASONING = auto()  #: belongs to what follows
    MADE = auto()  #: an answer or a call
    RESULT = auto()  #: a call's output


@dataclass(frozen=True, slots=True)
class Piece:
    """An item as it is weighed. opens: the call or request that it makes; answers: the one that it belongs to."""

    tokens: int
    role: ItemRole
    opens: str = ""
    answers: str = ""


def window_of(windows: Mapping[str, int], model: str) -> int | None:
    """Return a model's window in tokens: by its name, else by the longest beginning (`gpt-4*`) that fits."""
    if model in windows:
        return windows[model]
    fitting = [name for name in windows if name.endswith("*") and model.startswith(name[:-1])]
    return windows[max(fitting, key=len)] if fitting else None


def limit_for(window: int, max_output_tokens: Any) -> int:
    """Return how many of a window's tokens the question may have. max_output_tokens: as the request says."""
    most = int(window * LARGEST_ANSWER_PART)
    if type(max_output_tokens) is int and max_output_tokens > 0:
        return window - min(max_output_tokens, most)
    return window - int(window * ANSWER_PART)


def piece_of(item: Mapping[str, Any], tokens: int) -> Piece:
    """Return an item with its tokens as it is weighed."""
    role, name = _role_of(item), str(item.get("type"))
    link = item.get("call_id") or item.get("approval_request_id")
    if name == "mcp_approval_request":
        return Piece(tokens, role, opens=str(item.get("id")))
    if not isinstance(link, str):
        return Piece(tokens, role)
    if role is ItemRole.RESULT or "approval_request_id" in item:
        return Piece(tokens, role, answers=link)
    return Piece(tokens, role, opens=link)


def _role_of(item: Mapping[str, Any]) -> ItemRole:
    name, author = str(item.get("type")), item.get("role")
    if author in ("system", "developer") or name == "compaction":
        return ItemRole.LASTING
    if author == "user":
        return ItemRole.USER
    if name == "reasoning":
        return ItemRole.REASONING
    return ItemRole.RESULT if item_type_of(name).is_output else ItemRole.MADE


def omit(pieces: Sequence[Piece], history: int, limit: int) -> set[int]:
    """Return the places in `pieces` that are to be left out.

    history: how many of them come before the request's input. limit: tokens that all of them may have. What must stay
    may be more than that: then all else goes, and the upstream decides.
    """
    if sum([piece.tokens for piece in pieces]) <= limit:
        return set()
    layout = _Layout(pieces)
    if not layout.steps:
        return set()
    start = min(layout.find_start(limit), layout.step_at(history))
    first = layout.steps[start]
    left = [place for place in range(first) if pieces[place].role is not ItemRole.LASTING]
    opener = layout.opener(start)
    kept = {place for place in range(len(pieces)) if place >= first or place == opener} if left else set()
    return layout.without_partners(left, kept)


class _Layout:
    """Where a history may be cut. steps: places where one begins. A turn's first step is its user's message."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self.steps: list[int] = []
        #: For each step the one that its turn began with.
        self._turns: list[int] = []
        #: For each piece the place where the thought began that has led to it; where the call is that it belongs to.
        self._thoughts: list[int] = []
        self._calls: list[int] = []
        self._lay_out()

    def _lay_out(self) -> None:
        calls: dict[str, int] = {}
        waiting: set[str] = set()
        before, thought = ItemRole.USER, -1
        for place, piece in enumerate(self._pieces):
            if piece.role is ItemRole.LASTING:
                self._thoughts.append(place)
                self._calls.append(-1)
                continue
            thinks = before is ItemRole.REASONING or (thought >= 0 and piece.role is ItemRole.MADE)
            if piece.role is ItemRole.USER:
                waiting.clear()
                thinks = False
            if not thinks:
                thought = place if piece.role is ItemRole.REASONING else -1
            if not (thinks or waiting):
                self._begin_step(place, turn=piece.role is ItemRole.USER)
            before = piece.role
            self._thoughts.append(place if thought < 0 else thought)
            self._calls.append(_note_call(place, piece, calls, waiting))

    def _begin_step(self, place: int, *, turn: bool) -> None:
        self._turns.append(len(self.steps) if turn or not self.steps else self._turns[-1])
        self.steps.append(place)

    def step_at(self, place: int) -> int:
        """Return the step that has `place`."""
        return max(bisect_right(self.steps, place) - 1, 0)

    def opener(self, step: int) -> int:
        """Return the place of the user's message that the step's turn began with; -1 for none."""
        place = self.steps[self._turns[step]]
        return place if self._pieces[place].role is ItemRole.USER else -1

    def find_start(self, limit: int) -> int:
        """Return the step that the history begins with once it was cut wherever it had outgrown `limit`."""
        target = int(limit * KEPT_PART)
        lasting = [piece.tokens if piece.role is ItemRole.LASTING else 0 for piece in self._pieces]
        passing = [piece.tokens for piece in self._pieces]
        ends = [*self.steps[1:], len(self._pieces)]
        totals = list(accumulate(passing, initial=0))
        lasted = list(accumulate(lasting, initial=0))
        #: What would be saved by beginning with a step.
        gone = [totals[place] - lasted[place] - self._opening(step) for step, place in enumerate(self.steps)]
        sizes = [totals[end] for end in ends]
        start = now = 0
        while (now := bisect_right(sizes, limit + gone[start], lo=now)) < len(sizes):
            start = self._cut(start, now, sizes[now], gone, (target, limit))
            now += 1
        return start

    def _opening(self, step: int) -> int:
        """Return the tokens of the message that stays although its turn is cut at `step`."""
        opener = self.opener(step)
        return self._pieces[opener].tokens if 0 <= opener < self.steps[step] else 0

    def _cut(self, start: int, now: int, size: int, gone: Sequence[int], limits: tuple[int, int]) -> int:
        """Return where the history begins after a cut at the step `now`: at a turn, else within the running one."""
        target, limit = limits
        running = self._turns[now]
        while start < running and size - gone[start] > target:
            start += 1
            while self._turns[start] != start:
                start += 1
        if size - gone[start] > limit:
            while start < now and size - gone[start] > target:
                start += 1
        return start

    def without_partners(self, left: Sequence[int], kept: set[int]) -> set[int]:
        """Return what of `left` has no tie to anything in `kept`."""
        rest = set(left) - kept
        while rest:
            calls = {self._calls[place] for place in kept} - {-1}
            thoughts = {self._thoughts[place] for place in kept}
            tied = {place for place in rest if self._calls[place] in calls or self._thoughts[place] in thoughts}
            if not tied:
                break
            rest -= tied
            kept = kept | tied
        return rest


def _note_call(place: int, piece: Piece, calls: dict[str, int], waiting: set[str]) -> int:
    """Return the place of the piece's call, -1 for none. Where an id was used again its last use before is meant."""
    if piece.opens:
        calls[piece.opens] = place
        waiting.add(piece.opens)
    waiting.discard(piece.answers)
    return calls.get(piece.opens or piece.answers, -1)
