"""Decision: where a request belongs, of what a look-up found, and what of it is new. Pure.

ids          lead to their partition: what is found elsewhere is none of it
full         the longest; of several the one with the same key, then one not yet continued, then the newest
anchor, pair under the same key, or of one conversation alone and long enough
the key      groups: a history written anew is a branch, another one a conversation of its own in the session
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache

from proxy.recognition.look import Evidence, Look
from proxy.recognition.stream import Sample

#: Characters that answers, or the last question and answer, must have to lead anywhere without a key.
LONG_ENOUGH = 256


class Action(StrEnum):
    """What is recorded."""

    NEW = "new"  #: a new conversation
    CONTINUE = "continue"  #: appended to the line
    REGENERATE = "regenerate"  #: another answer beside the first, on a branch; the question is there once
    FORK = "fork"  #: another question, on a branch
    RETRY = "retry"  #: the answer in place of the one that nobody took
    SIDE_BRANCH = "side_branch"  #: a title, a summary: a branch, and the line stays open
    REWRITTEN = "rewritten"  #: a branch with a history of its own: a window, a compaction
    SEPARATE = "separate"  #: a conversation of its own in the session


@dataclass(frozen=True, slots=True)
class Candidate:
    """A turn, a user message or a session that a digest has led to.

    digest: the one that did, b"" for a session. line: of the turn. item: id of its last item, or of the user message;
    question: of the last item of what was asked. is_tip: nothing follows on its line. is_continued: a turn has gone on
    from it (side branches aside). is_delivered: the client got the whole answer. is_busy: the line is locked. key:
    hashed. tools: see `tools_digest`. strict: of the turn's end. waiting: ids of the calls that had no output then.
    order: the higher the newer.
    """

    evidence: Evidence
    conversation: str
    digest: bytes = b""
    line: int = 0
    item: str = ""
    question: str = ""
    is_tip: bool = True
    is_continued: bool = False
    is_delivered: bool = True
    is_busy: bool = False
    key: bytes = b""
    tools: bytes = b""
    strict: bytes = b""
    waiting: frozenset[str] = frozenset()
    order: float = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for, beside the history. key: hashed, b"" for none. tools: see `tools_digest`.

    retries: times it was tried before. conversation: that its ids lead to, '' if it has none of ours. trusts_content:
    False if only keys are trusted.
    """

    key: bytes = b""
    tools: bytes = b""
    retries: int = 0
    conversation: str = ""
    trusts_content: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be recorded.

    conversation: '' for a new one. line: that is continued or forked, -1 for none. after: id of the item that the new
    ones follow, '' if they begin the line. new: the elements of the request that are recorded before the answer, by
    their indexes. covered: how many elements the match explains; samples beyond it are to lead to what is new. is_main:
    a new line becomes MAIN. replaces: whether the answer behind `after` goes. reused: elements of a rewritten history
    that are there already, with their items' ids. parent: the conversation that a separate one is linked to. evidence:
    what it was found by. differs: what the request resends is not quite what is stored.
    """

    action: Action
    new: tuple[int, ...]
    conversation: str = ""
    line: int = -1
    after: str = ""
    covered: int = 0
    is_main: bool = False
    replaces: bool = False
    reused: Mapping[int, str] = field(default_factory=dict)
    parent: str = ""
    evidence: Evidence | None = None
    differs: bool = False


@lru_cache(64)
def plan_of_new(count: int) -> Plan:
    """Return the plan of a conversation that begins with so many elements."""
    return Plan(Action.NEW, tuple(range(count)))


def decide(look: Look, asked: Asked, candidates: Sequence[Candidate]) -> Plan:
    """Return what is to be recorded of a request and its answer. candidates: what `look.wanted()` has led to."""
    found = [one for one in candidates if _is_eligible(one, asked)]
    asks_again = [one for one in found if one.evidence is Evidence.QUESTION]
    questions = [one for one in asks_again if one.digest == look.question]
    if retried := _best([one for one in questions if asked.retries and not one.is_delivered], asked):
        return _answer(look, retried, Action.RETRY)
    if match := _longest(look, asked, found, Evidence.FULL) or _by_evidence(look, asked, found):
        return _placed(look, asked, match, questions)
    # without an answer in common only a key tells two that ask the same from one that asks twice
    again = [one for one in questions if look.samples or one.key == asked.key != b""]
    if known := _best([one for one in again if not _lost_tools(one, asked)], asked):
        return _answer(look, known, Action.REGENERATE)
    return _by_key(look, asked, found)


@dataclass(frozen=True, slots=True)
class _Match:
    candidate: Candidate
    sample: Sample


def _is_eligible(one: Candidate, asked: Asked) -> bool:
    if asked.conversation and one.conversation != asked.conversation:
        return False
    return asked.trusts_content or one.key == asked.key != b""


def _longest(look: Look, asked: Asked, found: Sequence[Candidate], evidence: Evidence) -> _Match | None:
    """Return the match that explains most of the request; of several turns that which it is most likely about."""
    by_digest: dict[bytes, list[Candidate]] = {}
    for one in found:
        if one.evidence is evidence:
            by_digest.setdefault(one.digest, []).append(one)
    for sample in reversed(look.samples):
        turns: Sequence[Candidate] = by_digest.get(_digest(sample, evidence), [])
        if evidence is not Evidence.FULL:
            turns = _trusted(turns, sample, asked, evidence)
        if best := _best(turns, asked):
            return _Match(best, sample)
    return None


def _by_evidence(look: Look, asked: Asked, found: Sequence[Candidate]) -> _Match | None:
    return _longest(look, asked, found, Evidence.ANCHOR) or _longest(look, asked, found, Evidence.PAIR)


def _trusted(turns: Sequence[Candidate], sample: Sample, asked: Asked, evidence: Evidence) -> Sequence[Candidate]:
    """Return the turns that less than the whole history may lead to."""
    own = [one for one in turns if one.key == asked.key != b""]
    length = sample.length if evidence is Evidence.ANCHOR else sample.pair_length
    is_unique = len({one.conversation for one in turns}) == 1 and length >= LONG_ENOUGH
    return own or (turns if is_unique else [])


def _digest(sample: Sample, evidence: Evidence) -> bytes:
    if evidence is Evidence.FULL:
        return sample.full
    return sample.anchor if evidence is Evidence.ANCHOR else sample.pair


def _best(turns: Sequence[Candidate], asked: Asked) -> Candidate | None:
    return max(turns, key=lambda one: (one.key == asked.key != b"", _is_open(one), one.order), default=None)


def _is_open(one: Candidate) -> bool:
    return one.is_tip and not one.is_continued and not one.is_busy


def _lost_tools(one: Candidate, asked: Asked) -> bool:
    return bool(one.tools) and not asked.tools


def _placed(look: Look, asked: Asked, match: _Match, questions: Sequence[Candidate]) -> Plan:
    one, sample = match.candidate, match.sample
    plan = Plan(
        Action.CONTINUE,
        _unrecorded(look, sample, one),
        one.conversation,
        one.line,
        one.item,
        sample.end,
        evidence=one.evidence,
        differs=one.evidence is not Evidence.FULL or one.strict != sample.strict,
    )
    if _lost_tools(one, asked):
        return replace(plan, action=Action.SIDE_BRANCH)
    if _is_open(one):
        return plan
    same = [each for each in questions if each.conversation == one.conversation]
    if again := _best(same, asked):
        return replace(_answer(look, again, Action.REGENERATE), differs=plan.differs)
    return replace(plan, action=Action.FORK, is_main=True)


def _answer(look: Look, turn: Candidate, action: Action) -> Plan:
    """Return the plan for another answer to a question that is there."""
    return Plan(
        action,
        (),
        turn.conversation,
        turn.line,
        turn.question,
        look.count,
        is_main=action is Action.REGENERATE,
        replaces=action is Action.RETRY,
        evidence=Evidence.QUESTION,
    )


def _unrecorded(look: Look, sample: Sample, one: Candidate) -> tuple[int, ...]:
    """Return the elements behind a match, and outputs before its end for calls that had none when the turn ended."""
    outputs = sample.outputs() if one.waiting else ()
    return (*[index for index, call_id in outputs if call_id in one.waiting], *range(sample.end, look.count))


def _by_key(look: Look, asked: Asked, found: Sequence[Candidate]) -> Plan:
    everything = tuple(range(look.count))
    session = [one for one in found if one.key == asked.key != b"" or one.conversation == asked.conversation != ""]
    if not session:
        return Plan(Action.NEW, everything)
    said = [one for one in session if one.evidence is Evidence.SAID and one.tools == asked.tools]
    if said and not _is_side_call(look, asked, said):
        chosen = _most_said(said)
        places = {one.digest: one.item for one in said if one.conversation == chosen.conversation}
        return Plan(
            Action.REWRITTEN,
            everything,
            chosen.conversation,
            chosen.line,
            is_main=True,
            reused={index: places[digest] for index, digest in look.said if digest in places},
            evidence=Evidence.SAID,
            differs=True,
        )
    parent = max(session, key=lambda one: (bool(one.tools), -one.order))
    return Plan(Action.SEPARATE, everything, parent=parent.conversation, evidence=Evidence.SESSION)


def _is_side_call(look: Look, asked: Asked, said: Sequence[Candidate]) -> bool:
    """Whether a request without tools and answers begins with other words: a title asked for what was said."""
    shared = {one.digest for one in said}
    return not asked.tools and not look.samples and look.said[0][1] not in shared


def _most_said(said: Sequence[Candidate]) -> Candidate:
    """Return the newest candidate of the conversation in which most of it was said."""
    counts: dict[str, set[bytes]] = {}
    for one in said:
        counts.setdefault(one.conversation, set()).add(one.digest)
    return max(said, key=lambda one: (len(counts[one.conversation]), one.order))
