"""Search: where a request belongs, found out step by step: what this process knows, then what the store knows."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from proxy.recognition.decision import LONG_ENOUGH, Action, Asked, Candidate, Plan, decide
from proxy.recognition.hints import (
    QUESTION,
    SAID,
    TURN,
    Hint,
    continued,
    digest_name,
    is_continued,
    kind_text,
    newness,
    said_name,
    short,
    short_call,
    short_key,
)
from proxy.recognition.look import Evidence
from proxy.recognition.tools import hashed_key, tools_digest
from storage import MOST_MEMBERS, MOST_TOLD, DigestNote, DigestQuery

if TYPE_CHECKING:
    from proxy.recognition.hints import HintMemory
    from proxy.recognition.keys import RequestMarks
    from proxy.recognition.look import Look
    from storage import Members, Recognition

#: Samples that are looked up first: nearly always it is the last one. And those that are looked up if none is found.
FIRST, ALL = 3, 64
#: What says that nothing of the history was found, and older samples may.
_NOT_FOUND = frozenset({Action.NEW, Action.SEPARATE, Action.REWRITTEN})
#: What is done where all that was found has been gone on from.
_BESIDE = frozenset({Action.FORK, Action.REGENERATE})


class Wanted(NamedTuple):
    """One thing that is looked up: evidence of what, its digest, and how the store is asked for it."""

    evidence: Evidence
    digest: bytes
    query: DigestQuery


@dataclass(slots=True)
class Asking:
    """What is known of a request beside its history.

    session: its key, hashed, b"" for none; others: further ones. tools: see `tools_digest`. retries: times it was tried
    before. places: partitions that its items' ids lead to. home: the partition that it has to be in, '' for any.
    """

    owner: str
    session: bytes = b""
    others: tuple[bytes, ...] = ()
    tools: bytes = b""
    retries: int = 0
    trusts_content: bool = True
    places: frozenset[str] = frozenset()
    home: str = ""


def asking_of(owner: str, key: bytes, marks: RequestMarks, tools: Any) -> Asking:
    """Return what is known of a request by what it says of itself. key: see `stream_key`. tools: of the request."""
    others = tuple([hashed_key(key, other) for other in marks.other_keys[:3]])
    return Asking(owner, hashed_key(key, marks.key), others, tools_digest(tools), marks.retries)


def begins(look: Look, asking: Asking) -> bool:
    """Whether a request begins a conversation: without an answer in common only a key leads anywhere, or a retry."""
    return not (look.samples or asking.session or asking.retries)


@dataclass(slots=True)
class Search:
    """One request's search. taken: what other requests of this process are going on from, as `hint_place` has it."""

    asking: Asking
    look: Look
    memory: HintMemory
    recognition: Recognition
    taken: Container[tuple[str, str]]
    #: What was found, by what it was found by, and the candidates that it makes.
    _found: dict[tuple[Evidence, bytes, str], tuple[Wanted, Hint, int]] = field(default_factory=dict)
    _calls: dict[str, set[str]] | None = None
    #: The store had more turns with one history than it told.
    _is_crowded: bool = False

    def at_once(self) -> Plan | None:
        """Return the plan if this process knows enough to make it, and nobody else may know better."""
        plan = self.from_memory()
        ends = [evidence for evidence, *_ in self._found if evidence is Evidence.FULL]
        # with one of several equal conversations others may have gone on, elsewhere
        return plan if len(ends) == 1 else None

    def from_memory(self) -> Plan | None:
        """Return the plan that this process would make if nobody had gone on elsewhere; None if it knows too little."""
        look, asking = self.look, self.asking
        if not look.samples:
            return None
        for wanted in self._last():
            self._take(wanted, self._remembered(wanted))
        known = [
            hint
            for (evidence, _, _), (_, hint, score) in self._found.items()
            if evidence is Evidence.FULL and not is_continued(score) and not self._is_taken(hint)
        ]
        mine = short_key(asking.session)
        if not any(hint.key == mine or not mine for hint in known) or not self._is_home(known):
            return None
        return decide(look, self._asked, self._candidates())

    async def through(self) -> Plan:
        """Return the plan after asking the store, in one round trip, or two for what is found far behind.

        Raises Unavailable.
        """
        plan = await self._ask(self._wanted(FIRST))
        if plan.action in _BESIDE and self._is_crowded:
            # others have gone on from all that was told, as is known here; there may be more
            plan = await self._ask(self._wanted(FIRST), MOST_MEMBERS)
        if plan.action in _NOT_FOUND and len(self.look.samples) > FIRST:
            plan = await self._ask(self._wanted(ALL)[FIRST:])
        if plan.action is Action.NEW and self.asking.others:
            plan = replace(plan, parent=self._parent())
        return plan

    def marks(self, plan: Plan) -> list[DigestNote]:
        """Return what is to be noted of what the plan goes on from: another turn has."""
        if plan.action is not Action.CONTINUE:
            return []
        return [
            DigestNote(wanted.query.digest, hint.member, continued(score), adds=False)
            for wanted, hint, score in self._found.values()
            if not hint.is_question and hint_place(hint) == (plan.conversation, plan.after)
        ]

    @property
    def _asked(self) -> Asked:
        asking = self.asking
        return Asked(
            short_key(asking.session).encode(),
            short(asking.tools).encode(),
            asking.retries,
            trusts_content=asking.trusts_content,
        )

    def _is_home(self, hints: Iterable[Hint]) -> bool:
        places = {self.asking.home} if self.asking.home else self.asking.places
        return not places or any(hint.partition in places for hint in hints)

    def _is_taken(self, hint: Hint) -> bool:
        return hint_place(hint) in self.taken

    def _last(self) -> list[Wanted]:
        """Return what leads to turns that the request goes on from, and to those with the same question."""
        digest, mark = self.look.samples[-1].full, f".{short(self.look.question)}."
        return [
            self._want(Evidence.FULL, digest),
            self._want(Evidence.FULL, digest, kind=QUESTION, text=mark),
        ]

    def _want(self, evidence: Evidence, digest: bytes, name: str = "", kind: str = TURN, text: str = "") -> Wanted:
        if not text and self.asking.session and kind != SAID:
            text = f" {short_key(self.asking.session)}."
        return Wanted(evidence, digest, DigestQuery(name or digest_name(digest), kind_text(kind), text))

    def _wanted(self, limit: int) -> list[Wanted]:
        look, session = self.look, self.asking.session
        samples = look.samples[: -limit - 1 : -1]
        wanted = [self._want(Evidence.FULL, one.full) for one in samples]
        if samples:
            wanted.append(self._last()[1])
        elif session or self.asking.retries:
            wanted.append(self._want(Evidence.QUESTION, look.question, kind=QUESTION))
        for one in samples:
            if session or one.length >= LONG_ENOUGH:
                wanted.append(self._want(Evidence.ANCHOR, one.anchor))
            if one.pair and (session or one.pair_length >= LONG_ENOUGH):
                wanted.append(self._want(Evidence.PAIR, one.pair))
        if session:
            said = look.said[-limit * 2 :]
            wanted += [self._want(Evidence.SAID, digest, said_name(session, digest), SAID) for _, digest in said]
        for key in (session, *self.asking.others):
            if key:
                wanted.append(self._want(Evidence.SESSION, key, kind=SAID))
        return wanted

    async def _ask(self, wanted: Sequence[Wanted], most: int = MOST_TOLD) -> Plan:
        told = await self.recognition.find(self.asking.owner, [one.query for one in wanted], most)
        for one, members in zip(wanted, told, strict=True):
            self._take(one, members)
            self._take(one, self.memory.known(one.query.digest, members))
            self._is_crowded = self._is_crowded or (one.evidence is Evidence.FULL and len(members) >= most)
        # what was noted here may not be written yet
        for one in wanted:
            self._take(one, self._remembered(one, most))
        return decide(self.look, self._asked, self._candidates())

    def _remembered(self, wanted: Wanted, most: int = MOST_TOLD) -> Members:
        return self.memory.find(wanted.query, most, self.taken)

    def _take(self, wanted: Wanted, members: Members) -> None:
        for member, score in members:
            if (hint := Hint.parse(member)) is not None:
                evidence = Evidence.QUESTION if hint.is_question else wanted.evidence
                place = evidence, wanted.digest, member.partition(" ")[0]
                if evidence is Evidence.QUESTION and hint.mark != short(self.look.question):
                    continue
                # whoever says that a turn was gone on from knows more
                if place not in self._found or not is_continued(self._found[place][2]):
                    self._found[place] = wanted, hint, score

    def _candidates(self) -> list[Candidate]:
        found = [
            self._candidate(evidence, wanted, hint, score)
            for (evidence, _, _), (wanted, hint, score) in self._found.items()
            if evidence is not Evidence.SESSION or wanted.digest == self.asking.session
        ]
        places = {self.asking.home} if self.asking.home else self.asking.places
        here = [one for one in found if one.conversation in places]
        return here if here or self.asking.home else found

    def _candidate(self, evidence: Evidence, wanted: Wanted, hint: Hint, score: int) -> Candidate:
        line, segment, offset = hint.spot
        return Candidate(
            evidence,
            hint.partition,
            self.look.question if evidence is Evidence.QUESTION else wanted.digest,
            line,
            f"{line}:{segment}:{offset}",
            f"{line}:{hint.question[0]}:{hint.question[1]}",
            is_continued=is_continued(score) or self._is_taken(hint),
            is_delivered=hint.is_delivered,
            key=hint.key.encode(),
            tools=hint.tools.encode(),
            strict=self._strict_of(wanted.digest, hint),
            waiting=self._waiting(hint),
            order=newness(score),
        )

    def _strict_of(self, digest: bytes, hint: Hint) -> bytes:
        """Return the strict digest of the sample that has led here if the turn had the same, else b""."""
        strict = next((one.strict for one in self.look.samples if one.full == digest), b"")
        return strict if short(strict) == hint.strict else b""

    def _waiting(self, hint: Hint) -> frozenset[str]:
        if not hint.calls:
            return frozenset()
        resent = self._resent_calls()
        return frozenset(call_id for mark in hint.calls for call_id in resent.get(mark, ()))

    def _resent_calls(self) -> dict[str, set[str]]:
        """Return the ids of calls whose outputs the request resends, by how hints have them."""
        if self._calls is not None:
            return self._calls
        seen: set[int] = set()
        found = self._calls = {}
        for sample in reversed(self.look.samples):
            one = sample.last_output
            # those before one that was seen were, too
            while one is not None and one.element not in seen:
                seen.add(one.element)
                found.setdefault(short_call(one.call_id), set()).add(one.call_id)
                one = one.before
        return found

    def _parent(self) -> str:
        """Return the conversation of a session that a request names beside its own: its oldest."""
        found = [
            (newness(score), hint.partition)
            for (evidence, digest, _), (_, hint, score) in self._found.items()
            if evidence is Evidence.SESSION and digest in self.asking.others
        ]
        return min(found, default=(0, ""))[1]


def hint_place(hint: Hint) -> tuple[str, str]:
    """Return partition and place of what a hint leads to, as plans name them."""
    line, segment, offset = hint.spot
    return hint.partition, f"{line}:{segment}:{offset}"
