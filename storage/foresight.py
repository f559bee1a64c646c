"""Foresight: where the history of a turn will probably lie, so that it is read beside the script that opens the turn.

What a script returns is copied into Lua and out of it again: a history of 80 items costs Redis twice as much by way of
the script as by `LRANGE`. But which lists to read only the script finds out, and another round trip would cost more. So
what was seen by the last turn at the same place, of the same owner, is what the next one reads beside its script, with
room for what will have been added. The script is told what that is. It leaves the history out if that will be all of
it, and says how far it goes; whenever the chain has changed in any other way it reads the history itself.

Why that is no race: script and reads are one transaction (`MULTI`), so both see the same moment. Without one, what
others write in between would matter, though segments only grow: an item may be deleted there (the script would still
call its output missing), a deleted branch's segment is cut or freed, a purged partition may be imported anew. On a
cluster, whose channel has no transactions, all is read by the script.

Only who has had a history of this partition reads beside the script, and whoever was refused does not the next time:
so nothing is read for a stranger, and nothing again and again for somebody who waits for a lock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from storage.client.channel import Command
from storage.client.keys import PartitionKeys
from storage.client.values import read_chain
from storage.records import Chain, TurnSource

#: Items that may have been added to a history since it was seen.
ROOM = 256
#: Spans of a history that are read beside a script; each is a command.
SPANS = 8
#: Places that are remembered, about 300 bytes each.
PLACES = 10_000

Place = tuple[str, str, str]


class Sight(NamedTuple):
    """A history that is foreseen, its last span with room. It has no spans where nothing is."""

    chain: Chain

    @property
    def text(self) -> str:
        """The chain as open_turn takes it."""
        return ",".join(f"{segment}:{start}:{stop}" for segment, start, stop in self.chain)

    def reads(self, keys: PartitionKeys) -> list[Command]:
        """Return the commands that read it."""
        return [("LRANGE", keys.segment(segment), start, stop - 1) for segment, start, stop in self.chain]


class Foresight:
    """What the turns of this process have seen of histories, at most `places` of them: the latest."""

    def __init__(self, places: int = PLACES) -> None:
        self._places = places
        self._seen: OrderedDict[Place, Chain] = OrderedDict()

    def look(self, owner: str, source: TurnSource, partition: str) -> Sight:
        """Return what is foreseen for a turn, and forget it: whoever has seen the turn opened learns it again."""
        if source.fork is not None or not source.subject:
            return Sight(())
        return Sight(self._seen.pop(_place(owner, source, partition), ()))

    def learn(self, owner: str, source: TurnSource, partition: str, chain: bytes, line: int) -> None:
        """Note the chain that a turn was opened with, and the line of the branch that it is on, -1 for none."""
        spans = read_chain(chain) if source.subject and source.fork is None else ()
        # a branch that has nothing of its own yet will have one more span
        if spans and len(spans) <= SPANS and line in (-1, spans[-1][0]):
            segment, start, stop = spans[-1]
            self._seen[_place(owner, source, partition)] = [*spans[:-1], (segment, start, stop + ROOM)]
            if len(self._seen) > self._places:
                self._seen.popitem(last=False)


def cut_to(chain: bytes, lists: Sequence[Sequence[bytes]]) -> list[Sequence[bytes]]:
    """Return what was read beside a script without what lies behind the end of the chain that the script gives."""
    _, start, stop = read_chain(chain)[-1]
    return [*lists[:-1], lists[-1][: stop - start]]


def _place(owner: str, source: TurnSource, partition: str) -> Place:
    # the responses of a partition have ids of their own, and most often the same beginning
    return owner, source.conversation_id or partition, source.branch
