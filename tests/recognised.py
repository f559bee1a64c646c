"""A record of conversations in memory, made by `proxy.recognition` alone: what its plans come to without a store.

record = Record()
taken = record.take(step)      # a step of tests/recognition_cases
taken.action, taken.conversation, taken.line, taken.new_items
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import orjson

from proxy.chat.answer import completion_of
from proxy.chat.read import message_items, read_messages
from proxy.protocol.items import normalise
from proxy.recognition.decision import Action, Asked, Candidate, Plan, decide
from proxy.recognition.keys import read_marks
from proxy.recognition.look import Evidence, Look, Looker
from proxy.recognition.stream import TurnDigests, stream_key
from proxy.recognition.tools import hashed_key, tools_digest

CASES = sorted((Path(__file__).parent / "recognition_cases").glob("*.json"))
SECRET = b"secret of the installation"

Item = dict[str, Any]
Step = Mapping[str, Any]


@dataclass(frozen=True)
class Taken:
    """What was recorded of a step."""

    action: str
    conversation: str = ""
    line: int = -1
    new_items: int = 0
    plan: Plan | None = None


@dataclass
class Place:
    """What a digest leads to."""

    conversation: str
    line: int
    item: str
    question: str = ""
    is_continued: bool = False
    is_delivered: bool = True
    key: bytes = b""
    tools: bytes = b""
    strict: bytes = b""
    waiting: frozenset[str] = frozenset()
    order: int = 0


@dataclass
class Conversation:
    """lines: ids of their items."""

    lines: list[list[str]] = field(default_factory=list)
    items: dict[str, Item] = field(default_factory=dict)

    def texts(self, line: int) -> list[str]:
        """What a line says, item by item, for reading."""
        return [_brief(self.items[one]) for one in self.lines[line]]


class Record:
    """Conversations that were recognised. max_samples: of the memory of histories."""

    def __init__(self, max_samples: int = 100_000) -> None:
        self.conversations: dict[str, Conversation] = {}
        self._looker = Looker(max_samples)
        self._found: defaultdict[tuple[Evidence, bytes], list[Place]] = defaultdict(list)
        self._sessions: defaultdict[bytes, dict[str, Place]] = defaultdict(dict)
        self._numbers = count(1)

    def take(self, step: Step) -> Taken:
        """Record a step as its plan says."""
        body, is_chat = step["body"], step["path"].endswith("/chat/completions")
        marks = read_marks(step.get("headers") or {}, body)
        if marks.is_off or marks.is_temporary or body.get("store") is False:
            return Taken("not_recorded")
        elements = body["messages"] if is_chat else body["input"]
        owner = stream_key(SECRET, step.get("owner", ""), marks.end_user)
        look = self._looker.look(owner, orjson.dumps(elements), message_items if is_chat else None)
        assert look is not None
        asked = Asked(hashed_key(owner, marks.key), tools_digest(body.get("tools")), marks.retries)
        plan = decide(look, asked, self._candidates(look, asked))
        new = self._new_items(elements, plan, is_chat)
        return self._record(plan, look, asked, new, _answer(step["answer"], is_chat), not step.get("aborted"))

    def _candidates(self, look: Look, asked: Asked) -> list[Candidate]:
        found = [
            self._candidate(place, evidence, digest)
            for evidence, digest in look.wanted(len(look.samples))
            for place in self._found[evidence, digest]
            if evidence is not Evidence.SAID or place.key == asked.key
        ]
        session = self._sessions[asked.key].values() if asked.key else ()
        return [*found, *(self._candidate(place, Evidence.SESSION, b"") for place in session)]

    def _candidate(self, place: Place, evidence: Evidence, digest: bytes) -> Candidate:
        line = self.conversations[place.conversation].lines[place.line]
        return Candidate(
            evidence,
            place.conversation,
            digest,
            place.line,
            place.item,
            place.question,
            is_tip=line[-1:] == [place.item],
            is_continued=place.is_continued,
            is_delivered=place.is_delivered,
            key=place.key,
            tools=place.tools,
            strict=place.strict,
            waiting=place.waiting,
            order=place.order,
        )

    def _new_items(self, elements: Sequence[Any], plan: Plan, is_chat: bool) -> list[tuple[int, Item]]:
        if is_chat:
            return [
                (index, one.item)
                for index in plan.new
                for one in read_messages(elements, only=[index], mint=lambda: f"call_{next(self._numbers)}")
            ]
        return [(index, normalise({"type": "message", **elements[index]}, "input")) for index in plan.new]

    def _record(
        self,
        plan: Plan,
        look: Look,
        asked: Asked,
        new: Sequence[tuple[int, Item]],
        answer: Sequence[Item],
        is_delivered: bool,
    ) -> Taken:
        name, line = self._line_for(plan)
        conversation = self.conversations[name]
        self._mark_continued(plan)
        places: dict[int, str] = {}
        for index, item in new:
            places[index] = plan.reused.get(index) or self._add(conversation, item)
            conversation.lines[line].append(places[index])
        question = conversation.lines[line][-1] if conversation.lines[line] else ""
        for item in answer:
            conversation.lines[line].append(self._add(conversation, item))
        turn = Place(
            name,
            line,
            conversation.lines[line][-1],
            question,
            is_delivered=is_delivered,
            key=asked.key,
            tools=asked.tools,
            waiting=_waiting(answer),
            order=next(self._numbers),
        )
        self._lead_to(turn, look.ended(answer), look, plan, places)
        written = sum(index not in plan.reused for index, _ in new) + len(answer)
        return Taken(plan.action, name, line, written, plan)

    def _lead_to(self, turn: Place, digests: TurnDigests, look: Look, plan: Plan, places: Mapping[int, str]) -> None:
        turn.strict = digests.strict
        for evidence in (Evidence.FULL, Evidence.ANCHOR, Evidence.PAIR, Evidence.QUESTION):
            if digest := look.question if evidence is Evidence.QUESTION else getattr(digests, evidence):
                self._found[evidence, digest].append(turn)
        for sample in look.samples:
            if sample.end > plan.covered and sample.end - 1 in places and plan.action is not Action.RETRY:
                earlier = replace(turn, item=places[sample.end - 1], is_continued=True, strict=sample.strict)
                self._found[Evidence.FULL, sample.full].append(earlier)
        if turn.key:
            self._sessions[turn.key].setdefault(turn.conversation, turn)
            for index, digest in look.said:
                if index in places:
                    self._found[Evidence.SAID, digest].append(replace(turn, item=places[index]))

    def _line_for(self, plan: Plan) -> tuple[str, int]:
        if not plan.conversation:
            name = f"conv_{next(self._numbers)}"
            self.conversations[name] = Conversation([[]])
            return name, 0
        lines = self.conversations[plan.conversation].lines
        if plan.action is Action.CONTINUE:
            return plan.conversation, plan.line
        kept = lines[plan.line][: lines[plan.line].index(plan.after) + 1] if plan.after else []
        if plan.action is Action.RETRY:
            gone = lines[plan.line][len(kept) :]
            lines[plan.line] = kept
            for places in self._found.values():
                places[:] = [one for one in places if one.item not in gone or one.conversation != plan.conversation]
            return plan.conversation, plan.line
        lines.append(list(kept))
        return plan.conversation, len(lines) - 1

    def _mark_continued(self, plan: Plan) -> None:
        if plan.action is Action.SIDE_BRANCH or not plan.after:
            return
        for places in self._found.values():
            for one in places:
                if (one.conversation, one.line, one.item) == (plan.conversation, plan.line, plan.after):
                    one.is_continued = True

    def _add(self, conversation: Conversation, item: Item) -> str:
        name = f"item_{next(self._numbers)}"
        conversation.items[name] = item
        return name


def _answer(answer: Any, is_chat: bool) -> list[Item]:
    if not is_chat:
        return list(answer)
    completion = completion_of({"choices": [{"index": 0, "message": answer, "finish_reason": "stop"}]})
    return completion.choices[0].bare_items


def _waiting(answer: Iterable[Item]) -> frozenset[str]:
    return frozenset(item["call_id"] for item in answer if item["type"].endswith("_call") and "call_id" in item)


def _brief(item: Item) -> str:
    if item["type"] == "message":
        return f"{item['role']}: " + "".join(part.get("text", "") for part in item["content"])
    return f"{item['type']}: {item.get('name') or item.get('output') or ''}"
