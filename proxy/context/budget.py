"""Token budget: what items weigh against a model's window, remembered, so that a long history is not counted anew."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from proxy.context.compacted import divide, is_summary, split
from proxy.context.tokens import count_items, count_settings, load
from proxy.context.truncation import ItemRole, Piece, limit_for, omit, piece_of, window_of

if TYPE_CHECKING:
    from proxy.context.input import TurnInput
    from storage import OpenedTurn

#: Items that are remembered at least; about 20 MB at most.
REMEMBERED_ITEMS = 50_000
#: Bytes of items that are counted in between; more are counted in a thread, so that other turns go on meanwhile.
MAX_BYTES_BETWEEN = 64 * 1024

#: The header that says how many items of the history the model was not shown.
OMITTED = "x-branchline-omitted-items"


class TokenBudget:
    """Weighs items. windows: tokens by model, see `models.windows`. remembered_items: at least, at most twice that."""

    def __init__(self, windows: Mapping[str, int], *, remembered_items: int = REMEMBERED_ITEMS) -> None:
        self._windows = windows
        self._remembered_items = remembered_items
        # by the hash of an item's bytes, keyed anew in each process; ids are the clients', and may come again
        self._young: dict[int, Piece] = {}
        self._old: dict[int, Piece] = {}
        if windows:
            # the vocabulary takes a third of a second, in which nothing else runs
            load()

    async def fit(self, body: Mapping[str, Any], opened: OpenedTurn, turn_input: TurnInput) -> tuple[OpenedTurn, int]:
        """Leave out what `truncation: "auto"` asks for if the model's window is known; return what is left, and how
        many items are not. body: the request's own.
        """
        window = window_of(self._windows, str(body.get("model"))) if body.get("truncation") == "auto" else None
        if window is None or not opened.items:
            return opened, 0
        history = list(opened.items)
        limit = limit_for(window, body.get("max_output_tokens")) - count_settings(body)
        pieces = await self.weigh(history + split(turn_input.sent))
        # what was compacted holds the input too
        asked = len(history) if turn_input.sent else divide(history)
        left_out = omit(pieces, asked, limit)
        if not left_out:
            return opened, 0
        kept = [item for place, item in enumerate(history) if place not in left_out]
        return replace(opened, items=kept), len(left_out)

    async def count(self, body: Mapping[str, Any], opened: OpenedTurn, turn_input: TurnInput) -> int:
        """Return the tokens of a whole request. body: the request's own."""
        pieces = await self.weigh([*opened.items, *split(turn_input.sent)])
        return count_settings(body) + sum([piece.tokens for piece in pieces])

    async def weigh(self, items: Sequence[bytes]) -> list[Piece]:
        """Return each item as it is weighed. items: as stored."""
        names = [hash(item) for item in items]
        found = {name: piece for name in names if (piece := self._young.get(name) or self._old.get(name))}
        missing = {name: item for name, item in zip(names, items, strict=True) if name not in found}
        if sum(map(len, missing.values())) > MAX_BYTES_BETWEEN:
            fresh = await asyncio.to_thread(_weigh, list(missing.values()))
        else:
            fresh = _weigh(list(missing.values()))
        found |= zip(missing, fresh, strict=True)
        if len(self._young) + len(found) > self._remembered_items:
            self._young, self._old = {}, self._young
        self._young |= found
        return [found[name] for name in names]


def _weigh(items: Sequence[bytes]) -> list[Piece]:
    read = [orjson.loads(item) for item in items]
    pieces = [piece_of(item, tokens) for item, tokens in zip(read, count_items(read), strict=True)]
    # a summary is told as a user's message, but what it stands for is nowhere else any more
    return [
        replace(piece, role=ItemRole.LASTING) if is_summary(item) else piece
        for item, piece in zip(items, pieces, strict=True)
    ]
