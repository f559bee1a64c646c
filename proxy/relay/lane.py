"""Lanes: places that pieces come from, and where the next of them goes, for as long as nothing but pieces comes. Pure.

What a piece says of its place leads to its item and its text by many rules (`placement`, `draft`). They are asked once:
the next piece from the same place goes on where that one was, until any other event comes, which closes all lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy.relay.draft import Draft
from proxy.relay.text import Text

#: How often the shape of a text's pieces is looked at, at most.
_MAX_LOOKS = 4


class Lane:
    """A lane of pieces that are passed on and not kept, of audio for example."""

    __slots__ = ("add", "is_counted", "looks", "memo", "taken")

    def __init__(self) -> None:
        #: The memo of its pieces; None from the moment at which that holds no more.
        self.memo: object | None = None
        #: How many pieces were taken at once, without a memo, and how often their shape was looked at.
        self.taken = 0
        self.looks = 0
        #: Keeps a piece, which is UTF-8.
        self.add: Callable[[bytes], None] = _drop
        #: The index of a part counts the pieces.
        self.is_counted = False

    def is_due(self, after: int) -> bool:
        """Whether to look at the shape of the piece that was taken last: after so many, and 4, 16 and 64 times as many.

        Many texts are short; and if there is no memo then, or it does not fit, some servers send no piece like another.
        """
        return self.taken >= after << 2 * self.looks and self.looks < _MAX_LOOKS

    def admits(self, index: Any) -> bool:
        """Whether a piece with that index of a part, of any type, goes on here; that it did is noted."""
        return False


class TextLane(Lane):
    """A lane of pieces of one text. draft: its item. index: the upstream's latest index of the part, of any type."""

    __slots__ = ("draft", "index", "text")

    def __init__(self, draft: Draft, text: Text, index: Any) -> None:
        super().__init__()
        self.lead(draft, text, index)

    def lead(self, draft: Draft, text: Text, index: Any) -> None:
        """Lead on to where a piece was placed by the rules."""
        self.memo, self.is_counted = None, False
        self.draft, self.text, self.index = draft, text, index
        self.add = text.add_bytes

    def admits(self, index: Any) -> bool:
        """Whether a piece with that index of a part, of any type, goes on with the text; that it did is noted."""
        if index is self.index or (type(index) is type(self.index) is int and index == self.index):
            return True
        if type(index) is not int or not self.draft.goes_on(self.text, index):
            return False
        if not self.is_counted:
            self.memo, self.is_counted = None, True
        self.index = index
        return True


def _drop(_: bytes) -> None:
    pass
