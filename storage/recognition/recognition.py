"""Recognition in the store: turns of apps that keep no ids, and the digests of histories that lead to conversations.

A digest is a name that only this installation can make (`proxy.recognition`); what it leads to are members of a sorted
set. They are hints: whoever follows one finds out in `record` whether it is still so. They go with their conversation,
whose partition lists them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from storage.client.channel import Argument
from storage.client.keyspace import Keyspace, Listings
from storage.client.scripts import Call
from storage.client.staging import Stage
from storage.client.values import FIELD_BREAK, read_chain
from storage.errors import StoreError, Unavailable
from storage.items import COMMIT_MARKER_SECONDS
from storage.partitions import partition_of
from storage.quotas import Ledger
from storage.records import Entry

#: Members that one digest has at most (`lua/lib/layout.lua`); equal conversations are as many.
MOST_MEMBERS = 1024
#: Notes that one call writes at most.
MOST_NOTES = 500
#: Members of a digest that a look-up tells, and as many that have the text that it asks for.
MOST_TOLD = 16
#: By how much what was gone on from scores less than what was not; scores are ms of Unix time.
CONTINUED = 10**14
#: Between the parts of a lead as scripts take it.
LEAD_BREAK = "|"
#: Milliseconds by which digests outlive conversations that expire, and the share of their life that those get more.
GRACE_MS, MORE_LIFE = 60_000, 17 / 16


class RecordAct(StrEnum):
    """Where a recognised turn goes."""

    NEW = "new"  #: into a conversation that it begins
    GROW = "grow"  #: behind an item: to its line if that ends there, else to a new line, which becomes MAIN
    TIP = "tip"  #: to its line, if that ends there and no other turn runs on it; else nothing is done
    REPLACE = "replace"  #: behind an item, in the place of what follows it on its line
    SIDE = "side"  #: behind an item, on a branch beside the line


class RecordResult(StrEnum):
    """How recording a turn ended."""

    OK = "ok"
    REPEATED = "repeated"  #: it had been done before
    MOVED = "moved"  #: the line has gone on, or is about to; nothing was written
    ASTRAY = "astray"  #: the item that it goes on from is on no line any more; nothing was written
    DROPPED = "dropped"  #: the conversation that it goes on in is gone; nothing was written


class Spot(NamedTuple):
    """An item where a line has it; `Spot()` is before all items, on no line."""

    line: int = -1
    segment: int = -1
    offset: int = -1


#: Before all items, on no line.
BEFORE_ALL = Spot()


#: What a lead may have in the place of an entry's number.
NOWHERE, ON_LINE = -1, -2


class DigestNote(NamedTuple):
    """One thing that a digest leads to. score: of several the highest comes first. adds: False only scores it anew.

    A member that is added takes the place of all those that begin like it, up to the first space.
    """

    digest: str
    member: str
    score: int
    adds: bool = True


class Lead(NamedTuple):
    """What some digests lead to from when a turn is recorded: an entry of it, by its number, or its line.

    digests: their names. entry: counted from 1, inputs first; 0: what the turn comes after; ON_LINE: all of the line.
    asked: the same, NOWHERE for none. The member is PARTITION, ':', where the entry is (LINE:SEGMENT:OFFSET),
    `text`, where what was asked is (SEGMENT:OFFSET), `rest`. is_behind: it scores like what was gone on from. replaces:
    it takes the place of a member that begins like it, up to the first space; else there is none.
    """

    digests: Sequence[str]
    entry: int
    text: str
    asked: int
    rest: str
    is_behind: bool = False
    replaces: bool = False

    def as_argument(self) -> str:
        """Return the lead as scripts take it; see `record_turn`."""
        number = "" if self.entry == ON_LINE else self.entry
        flags = f"{self.is_behind:d}{self.replaces:d}"
        return LEAD_BREAK.join((f"{number}", self.text, f"{self.asked}", self.rest, flags, " ".join(self.digests)))

    def note(self, partition: str, line: int, spots: Sequence[Spot], now: int) -> DigestNote | None:
        """Return what the first of the digests leads to; None where the entry was left out.

        line, spots: where the turn was put, before its entries what it comes after. now: ms.
        """
        if self.entry >= len(spots) or self.asked >= len(spots):
            return None
        place = str(line)
        if self.entry != ON_LINE:
            _, segment, offset = spots[self.entry]
            place = f"{line}:{segment}:{offset}"
        _, segment, offset = spots[self.asked] if self.asked != NOWHERE else BEFORE_ALL
        member = f"{partition}:{place}{self.text}{segment}:{offset}{self.rest}"
        return DigestNote(self.digests[0], member, now - CONTINUED if self.is_behind else now)

    def notes(self, partition: str, line: int, spots: Sequence[Spot], now: int) -> list[DigestNote]:
        """Return the same of all of the digests."""
        first = self.note(partition, line, spots, now)
        return [first._replace(digest=digest) for digest in self.digests] if first is not None else []


@dataclass(slots=True)
class RecordedTurn:
    """A finished turn of an app that keeps no ids.

    spot: behind which item. name: of a branch beside, or what was MAIN is called. body: the Response object without its
    output. job_token: of a response that was accepted before its turn ran. metadata: of a new conversation. leads: what
    leads to it from now on. marks: what is to be noted of what it goes on from.
    """

    owner: str
    conversation_id: str
    act: RecordAct
    response_id: str
    body: bytes
    inputs: Sequence[Entry]
    outputs: Sequence[Entry]
    spot: Spot = BEFORE_ALL
    name: str = ""
    description: str = ""
    model: str = ""
    status: str = "completed"
    stored: bool = True
    job_token: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    leads: Sequence[Lead] = ()
    marks: Sequence[DigestNote] = ()


@dataclass(slots=True)
class Recorded:
    """What was done with a turn. line, branch: where it is now. spots: of its entries, inputs first.

    is_new, is_fork: whether it has begun a conversation, or a line. milliseconds: when, 0 if it was done before.
    """

    result: RecordResult
    line: int = -1
    branch: str = ""
    spots: Sequence[Spot] = ()
    is_new: bool = False
    is_fork: bool = False
    milliseconds: int = 0


class DigestNotes(NamedTuple):
    """What is noted of one conversation."""

    owner: str
    partition: str
    notes: Sequence[DigestNote]


class DigestQuery(NamedTuple):
    """A digest that is looked up. kind: a text that members have that are told. text: further ones that have it are."""

    digest: str
    kind: str = ""
    text: str = ""


#: Members and their scores, the highest first.
Members = list[tuple[str, int]]


class Recognition:
    """Recognised turns of any owner."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._scripts = keyspace.scripts
        self._ledger = Ledger(keyspace)
        #: Milliseconds that digests live, 0: for ever.
        self._life = 0
        if keyspace.conversation_seconds:
            self._life = int(keyspace.conversation_seconds * 1000 * MORE_LIFE) + GRACE_MS

    async def record(self, turn: RecordedTurn) -> Recorded:
        """Write a finished turn, all or nothing; a repeat changes nothing. One round trip.

        Raises Conflict (nothing was written),
        QuotaExceeded (nor then), Unavailable (unknown whether it was: repeat).
        """
        keys = self._keyspace.keys(turn.conversation_id)
        token = turn.job_token or turn.response_id
        stage = Stage(self._keyspace, keys, token, turn.inputs, turn.outputs)
        listings = self._keyspace.listings(turn.owner, turn.conversation_id, None, None, is_stored=turn.stored)
        # on a cluster the owner's listings are in another slot
        touch, beside = None, listings
        if self._scripts.is_cluster:
            touch, beside = self._keyspace.touch_response(listings, turn.conversation_id, turn.response_id), Listings()
        arguments: list[Argument] = [
            turn.owner,
            turn.conversation_id,
            turn.act,
            *turn.spot,
            self._keyspace.retention_seconds,
            int(turn.stored),
            turn.status,
            turn.body,
            turn.response_id,
            turn.model.replace(FIELD_BREAK, ""),
            self._keyspace.owner(turn.owner).digest(""),
            beside.conversations,
            beside.most_responses,
            len(turn.metadata),
        ]
        for pair in turn.metadata.items():
            arguments += pair
        arguments += stage.arguments
        arguments += self._flat_leads(turn)
        if turn.name or turn.description or turn.job_token or not turn.stored or self._life:
            arguments += (turn.name, turn.description, turn.job_token, COMMIT_MARKER_SECONDS, self._life)
        own = keys.response(turn.response_id), keys.commit(turn.response_id)
        record_keys = [*keys.common, *own, *beside.keys, *stage.keys]
        reserve = self._keyspace.reserve(turn.owner, turn.conversation_id) if turn.act is RecordAct.NEW else None
        if reserve is not None:
            await self._scripts.run(reserve)
        # the listing first, as for any conversation that is made
        calls = [Call("record_turn", record_keys, arguments, turn.conversation_id)]
        if touch is not None:
            calls.insert(0, touch)
        reply = (await stage.run_all(calls))[-1]
        if isinstance(reply, StoreError):
            if turn.act is RecordAct.NEW:
                await self._unlist(turn)
            raise reply
        recorded = await self._read_record(turn, reply)
        if recorded.result in (RecordResult.OK, RecordResult.REPEATED):
            if self._scripts.is_cluster:
                await self._lead_apart(turn, recorded)
            size = stage.size + (len(turn.body) if turn.stored else 0)
            await self._ledger.charge(turn.owner, keys.partition, turn.response_id, size, in_conversation=True)
        return recorded

    def _flat_leads(self, turn: RecordedTurn) -> list[Argument]:
        """Return marks and leads as the script takes them; on a cluster none, where digests are in other slots."""
        if self._scripts.is_cluster:
            return [0, 0]
        arguments: list[Argument] = [len(turn.marks)]
        for mark in turn.marks:
            arguments += mark[:3]
        arguments.append(len(turn.leads))
        arguments += [lead.as_argument() for lead in turn.leads]
        return arguments

    async def _lead_apart(self, turn: RecordedTurn, recorded: Recorded) -> None:
        """Write what leads to a turn, after it. If that can't be done now, the next request makes up for it."""
        partition, now = partition_of(turn.conversation_id), recorded.milliseconds or time.time_ns() // 1_000_000
        notes, spots = list(turn.marks), [turn.spot, *recorded.spots]
        for lead in turn.leads:
            notes += lead.notes(partition, recorded.line, spots, now)
        with suppress(Unavailable):
            await self.note([DigestNotes(turn.owner, partition, notes)])

    async def _read_record(self, turn: RecordedTurn, reply: list[bytes]) -> Recorded:
        first: bytes | int = reply[0]
        if isinstance(first, int):
            _, done, line, branch, places = reply
            spots = _spots(int(line), places, len(turn.inputs) + len(turn.outputs))
            is_new, is_fork = done == b"new", done == b"forked"
            return Recorded(RecordResult.OK, int(line), branch.decode(), spots, is_new, is_fork, first)
        result, lives = RecordResult(first.decode()), bool(reply[1])
        if not lives:
            await self._unlist(turn)
        if result is not RecordResult.REPEATED:
            return Recorded(result)
        line, branch, places = reply[2:]
        spots = _spots(int(line), places, len(turn.inputs) + len(turn.outputs))
        return Recorded(result, int(line), branch.decode(), spots)

    async def _unlist(self, turn: RecordedTurn) -> None:
        await self._scripts.run(self._keyspace.drop(turn.owner, turn.conversation_id, None, None))

    async def find(self, owner: str, queries: Sequence[DigestQuery], most: int = MOST_TOLD) -> list[Members]:
        """Return what each digest leads to, as far as the store knows, in one round trip. Raises Unavailable.

        most: members of each that are told, and further ones that have its text.
        """
        if not queries:
            return []
        keys = self._keyspace.owner(owner)
        names = [keys.digest(one.digest) for one in queries]
        texts = [text for one in queries for text in (one.kind, one.text)]
        reply = await self._scripts.run(Call("find_digests", names, [most, *texts]))
        return [
            [(member.decode(), int(float(score))) for member, score in zip(flat[::2], flat[1::2], strict=True)]
            for flat in reply
        ]

    async def note(self, batches: Sequence[DigestNotes]) -> None:
        """Note where digests lead, all in one round trip (on a cluster two). Raises Unavailable.

        Of a conversation that is gone nothing stays: its partition is asked after the digests were written, so that one
        that is deleted in between is found by one of the two.
        """
        notes, holds = self._note_calls(batches), [self._hold_call(one) for one in batches]
        if self._scripts.is_cluster:
            await self._scripts.run_all(notes)
            replies = await self._scripts.run_all(holds)
        else:
            replies = (await self._scripts.run_all([*notes, *holds]))[len(notes) :]
        gone = [
            one for one, reply in zip(batches, replies, strict=True) if isinstance(reply, StoreError) or not reply[0]
        ]
        for one in gone:
            await self.drop(one.owner, one.partition, {note.digest for note in one.notes})

    async def drop(self, owner: str, partition: str, digests: Iterable[str]) -> None:
        """Forget that digests lead to a partition. Raises Unavailable."""
        await self._scripts.run_all(self._keyspace.drop_digests(owner, partition, sorted(set(digests))))

    def _note_calls(self, batches: Sequence[DigestNotes]) -> list[Call]:
        """Return the calls that write all notes, those of one owner together."""
        by_owner: dict[str, list[DigestNote]] = {}
        for batch in batches:
            by_owner.setdefault(batch.owner, []).extend(batch.notes)
        return [
            self._note_call(owner, notes[at : at + MOST_NOTES])
            for owner, notes in by_owner.items()
            for at in range(0, len(notes), MOST_NOTES)
        ]

    def _note_call(self, owner: str, notes: Sequence[DigestNote]) -> Call:
        keys = self._keyspace.owner(owner)
        numbers: dict[str, int] = {}
        arguments: list[Argument] = [self._life]
        for note in notes:
            number = numbers.setdefault(note.digest, len(numbers) + 1)
            arguments += (number, "add" if note.adds else "set", note.member, note.score)
        return Call("note_digests", [keys.digest(one) for one in numbers], arguments)

    def _hold_call(self, batch: DigestNotes) -> Call:
        names = dict.fromkeys(note.digest for note in batch.notes if note.adds)
        return Call("hold_digests", [self._keyspace.keys_of(batch.partition).head], [batch.owner, *names])


def branch_spots(places: bytes) -> list[Spot]:
    """Return where the items of a chain are that a branch ends with; see `Committed`."""
    chain = read_chain(places)
    return [Spot(chain[-1][0], segment, at) for segment, start, stop in chain for at in range(start, stop)]


def _spots(line: int, places: bytes, count: int) -> list[Spot]:
    """Return where the last `count` items of a chain are."""
    spots = [Spot(line, segment, at) for segment, start, stop in read_chain(places) for at in range(start, stop)]
    return spots[-count:] if count else []
