"""Hints: what digests lead to, as text for the store, and as this process remembers it. Pure.

A hint is a member of a digest's sorted set. It names an item by its place, and is followed by what decides between
several:

    PARTITION:LINE:SEGMENT:OFFSETkind key.tools.strict.SEGMENT:OFFSET of the question.mark.flags.calls

kind t: the end of a turn. q: a question, with the mark of its digest. s: a user message or a session, one a line. It is
short, for there are some of each turn: digests in it are cut off.
"""

from __future__ import annotations

import hashlib
import re
from binascii import b2a_base64
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable
from itertools import islice
from typing import NamedTuple

from storage import CONTINUED, DigestNote, DigestQuery, Members, Spot

#: Digests that a process remembers, some 600 bytes each.
MAX_DIGESTS = 30_000
#: Members of one digest that it remembers.
MAX_MEMBERS = 1024

#: Bytes of a digest that make its name, of a key, and of what only has to tell apart what one digest leads to.
_NAME_BYTES, _KEY_BYTES, _MARK_BYTES = 12, 6, 3
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
#: What hints lead to: the end of a turn; a question; a user message, or a session.
TURN, QUESTION, SAID = "t", "q", "s"
_NOT_DELIVERED = "x"
_MEMBER = re.compile(
    r"(\w+):(\d+)(?::(\d+):(\d+))?([tqs]) ([\w-]*)\.([\w-]*)\.([\w-]*)\.(-?\d+):(-?\d+)\.([\w-]*)\.(x?)\.([\w,-]*)",
    re.ASCII,
)


class Hint(NamedTuple):
    """What a digest leads to.

    partition: of the conversation. spot: the item. question: of a turn, segment and offset of the last item of what was
    asked. key, tools, strict, mark: see `short`, '' for none. is_delivered: the client got the whole answer. calls:
    that had no output, shortened.
    """

    partition: str
    spot: Spot
    kind: str = TURN
    key: str = ""
    tools: str = ""
    strict: str = ""
    question: tuple[int, int] = (-1, -1)
    mark: str = ""
    is_delivered: bool = True
    calls: tuple[str, ...] = ()

    @classmethod
    def parse(cls, member: str) -> Hint | None:
        """Return what a member says; None for what a newer version may have written."""
        match = _MEMBER.fullmatch(member)
        if match is None:
            return None
        partition, line, segment, offset, kind, key, tools, strict, asked_in, asked_at, mark, flags, calls = (
            match.groups()
        )
        question = int(asked_in), int(asked_at)
        place = (int(segment), int(offset)) if segment is not None else question
        return cls(
            partition,
            Spot(int(line), *place),
            kind,
            key,
            tools,
            strict,
            question,
            mark,
            not flags,
            tuple(calls.split(",")) if calls else (),
        )

    @property
    def member(self) -> str:
        """The hint as text."""
        line, segment, offset = self.spot
        place, asked = f"{line}:{segment}:{offset}", self.question
        if self.kind == SAID:
            place, asked = f"{line}", (segment, offset)
        before = text_before(self.kind, self.key, self.tools, self.strict)
        behind = text_behind(self.mark, self.calls, is_delivered=self.is_delivered)
        return f"{self.partition}:{place}{before}{asked[0]}:{asked[1]}{behind}"

    @property
    def is_question(self) -> bool:
        """Whether it leads to a question."""
        return self.kind == QUESTION


def text_before(kind: str, key: str, tools: str, strict: str) -> str:
    """Return what stands in a member between the places of the item and of the question; see `Hint`."""
    return f"{kind} {key}.{tools}.{strict}."


def text_behind(mark: str = "", calls: Iterable[str] = (), *, is_delivered: bool = True) -> str:
    """Return what stands in a member behind the place of the question; see `Hint`."""
    return f".{mark}.{'' if is_delivered else _NOT_DELIVERED}.{','.join(calls)}"


def digest_name(digest: bytes) -> str:
    """Return what the store calls a digest."""
    return _text(digest[:_NAME_BYTES])


def _text(data: bytes) -> str:
    # half of what base64.urlsafe_b64encode costs
    return b2a_base64(data, newline=False).translate(_URL_SAFE).decode()


def said_name(key: bytes, digest: bytes) -> str:
    """Return what the store calls a user message of a session. key: the session's, hashed."""
    return digest_name(hashlib.blake2b(digest, key=key, digest_size=_NAME_BYTES).digest())


def short_key(key: bytes) -> str:
    """Return a hashed key as hints have it."""
    return _text(key[:_KEY_BYTES]) if key else ""


def short(digest: bytes) -> str:
    """Return a digest that only tells apart what another one leads to, as hints have it."""
    return _text(digest[:_MARK_BYTES]) if digest else ""


def short_call(call_id: str) -> str:
    """Return the id of a call as hints have it."""
    return short(hashlib.blake2b(call_id.encode("utf-8", "surrogatepass"), digest_size=_MARK_BYTES).digest())


def continued(score: int) -> int:
    """Return the score of a turn that was gone on from."""
    return score if is_continued(score) else score - CONTINUED


def is_continued(score: int) -> bool:
    """Whether a score is that of a turn that was gone on from."""
    return score < 0


def newness(score: int) -> int:
    """Return when it was noted, in ms."""
    return score + CONTINUED if score < 0 else score


def kind_text(kind: str) -> str:
    """Return what only members of a kind have in them."""
    return f"{kind} "


def _place(member: str) -> tuple[str, str]:
    """Return partition and place of the end of a turn that a member leads to."""
    partition, _, place = member.partition(" ")[0].partition(":")
    return partition, place.removesuffix(TURN)


class HintMemory:
    """What this process has noted lately: what it knows itself is found without asking the store."""

    def __init__(self, max_digests: int = MAX_DIGESTS) -> None:
        self._max_digests = max_digests
        self._known: OrderedDict[str, dict[str, tuple[str, int]]] = OrderedDict()
        self._catch_up: Callable[[], object] = lambda: None

    def behind(self, catch_up: Callable[[], object]) -> None:
        """Have `catch_up` note what has been put off, before anything is looked up or forgotten."""
        self._catch_up = catch_up

    def find(self, query: DigestQuery, most: int, taken: Container[tuple[str, str]] = ()) -> Members:
        """Return what a digest leads to as far as is known here, as the store would.

        taken: turns that come last, by partition and place.
        """
        self._catch_up()
        found = [member for member in self._known.get(query.digest, {}).values() if query.kind in member[0]]
        if len(found) <= most:
            return found
        found.sort(key=lambda member: (_place(member[0]) not in taken, member[1]), reverse=True)
        named = (member for member in found[most:] if query.text and query.text in member[0])
        return [*found[:most], *islice(named, most)]

    def known(self, digest: str, members: Members) -> Members:
        """Return what is known here of members that the store has told."""
        self._catch_up()
        here = self._known.get(digest, {})
        return [here[start] for member, _ in members if (start := member.partition(" ")[0]) in here]

    def note(self, notes: Iterable[DigestNote]) -> None:
        """Remember what the store is about to be told."""
        for note in notes:
            members = self._known.setdefault(note.digest, {})
            start = note.member.partition(" ")[0]
            members[start] = (note.member, note.score)
            if len(members) > MAX_MEMBERS:
                members.pop(next(iter(members)))
            self._known.move_to_end(note.digest)
        while len(self._known) > self._max_digests:
            self._known.popitem(last=False)

    def forget(self, partition: str) -> None:
        """Forget what leads to a partition: its conversation is gone."""
        self._catch_up()
        for name, members in list(self._known.items()):
            left = {start: found for start, found in members.items() if not start.startswith(f"{partition}:")}
            if not left:
                del self._known[name]
            elif len(left) < len(members):
                self._known[name] = left

    def forget_all(self) -> None:
        """Forget everything."""
        self._catch_up()
        self._known.clear()
