"""Recollection: histories that turns of this process have read, so that the next turn reads only what is behind them.

A history is as long as its conversation, and nearly all of it is what the last turn at the same place has read already.
So that is kept here, and the script that opens a turn is told which chain it is, and which *edition* of the partition.
The script answers with the items behind that chain; or with all, if the chain is another one by now, or the edition.

Why what is kept can't be wrong: segments only grow, and whatever takes something out of one (a deleted item, a sweep)
gives the partition another edition in the same script. Whoever holds an older one is given everything anew, in the same
round trip. A partition that was deleted and made anew has no edition, or one of another name. What a failover has lost
is told by the item that ends what is kept: it comes with the answer, and has to be the very same.

It is kept by owner, and the script looks first whose the partition is: nobody is given what somebody else has read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from storage.client.values import read_chain
from storage.history import History, HistoryItems, extend_history
from storage.records import TurnSource

#: Bytes of all histories that are kept, and of one of them. Each counts twice: as its items, and as they are sent.
MAX_BYTES, MAX_BYTES_OF_ONE = 64 * 1024 * 1024, 16 * 1024 * 1024
#: What an item, and a history, take beside their bytes.
ITEM_BYTES, HISTORY_BYTES = 64, 1024

Place = tuple[str, str, str]


class Recollection(NamedTuple):
    """A history that was read. chain: where it lies. edition: of its partition then. last: its last element."""

    chain: str
    edition: str
    last: bytes
    history: History

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return HISTORY_BYTES + 2 * self.history.items.size + ITEM_BYTES * len(self.history.items)

    def extended(self, rest: Sequence[bytes]) -> History | None:
        """Return the history with what lies behind it now; None if it is another one, so that it has to be read anew.

        rest: elements from its last one on.
        """
        return extend_history(self.history, rest) if rest and rest[0] == self.last else None


#: What is told where nothing is remembered.
NOTHING = Recollection("", "", b"", History(HistoryItems(), {}, frozenset()))


class Recollections:
    """Histories by the places of turns, of at most `max_bytes`: the latest."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[Place, Recollection] = OrderedDict()

    def look(self, place: Place | None) -> Recollection:
        """Return what is known of the history at a turn's place; `NOTHING` where that is nothing."""
        if place is None or (found := self._kept.get(place)) is None:
            return NOTHING
        self._kept.move_to_end(place)
        return found

    def note(self, place: Place | None, found: Recollection) -> None:
        """Keep what a turn was opened with."""
        if place is None or not _grows(found):
            return
        self.forget(place)
        size = found.size
        if size > min(MAX_BYTES_OF_ONE, self._max_bytes):
            return
        self._kept[place] = found
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].size

    def forget(self, place: Place | None) -> None:
        """Keep nothing of a place any more."""
        if place is not None and (old := self._kept.pop(place, None)) is not None:
            self._bytes -= old.size


def turn_place(owner: str, source: TurnSource, partition: str) -> Place | None:
    """Return the place of a turn; None if it goes on from nothing, or somewhere in the middle."""
    if source.fork is not None:
        return None
    if source.conversation_id:
        return owner, source.conversation_id, source.branch
    # the responses of a partition have ids of their own, and most often the same beginning
    return (owner, partition, "") if source.previous_response_id else None


def _grows(found: Recollection) -> bool:
    """Whether a history can be gone on with by what comes behind its last span, and be told by its last element."""
    if not (found.edition and found.last):
        return False
    if "," not in found.chain:
        return True
    *before, last = read_chain(found.chain.encode())
    # an item that is behind it must not be there already; what was before it in the same segment does no harm
    return all(span[0] != last[0] or span[2] <= last[1] for span in before)
