"""Random conversations, resent by clients with habits, are recorded as what they were."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.depth import size
from tests.habits import HABITS, in_chat
from tests.recognised import Record

Item = dict[str, Any]
Turn = list[Item]

TOOLS = [{"type": "function", "name": "weather", "function": {"name": "weather"}}]
#: Habits that leave something out, so that a history's shape is its own; the rest may be combined with any.
NAMES = sorted(HABITS)
#: Conversations that begin alike; those of `tests/flows/recording/test_recording.py` are always three hundred.
MANY = size(100, 300)


def message(role: str, text: str) -> Item:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


@dataclass
class Client:
    """An app with one conversation. lines: what its user has seen, as turns. window: items that it sends, 0 for all."""

    record: Record
    rng: Random
    name: str
    is_chat: bool
    habits: tuple[str, str]
    key: str = ""
    window: int = 0
    lines: list[list[Turn]] = field(default_factory=list)
    shown: int = -1
    conversations: set[str] = field(default_factory=set)
    said: int = 0

    def new_text(self, what: str) -> str:
        self.said += 1
        return f"{what} {self.said} of {self.name}"

    def ask(self, history: list[Item], answer: list[Item]) -> None:
        sent = history[-self.window :] if self.window else history
        for habit in self.habits:
            sent = HABITS[habit](sent, self.rng)
        body = {"tools": TOOLS, **({"messages": in_chat(sent)} if self.is_chat else {"input": sent})}
        said = in_chat(answer)[0] if self.is_chat else answer
        taken = self.record.take(
            {
                "path": "/v1/chat/completions" if self.is_chat else "/v1/responses",
                "headers": {"x-session-id": self.key} if self.key else {},
                "body": body,
                "answer": said,
            }
        )
        self.conversations.add(taken.conversation)

    def turn(self, before: list[Turn], question: str) -> Turn:
        """Ask a question, let the model call a tool now and then, and return what was said."""
        history = [item for turn in before for item in turn]
        turn = [message("user", question)]
        for _ in range(self.rng.choice([0, 0, 1, 2])):
            call_id = f"call_{self.name}_{self.said}"
            arguments = f'{{"q": "{self.new_text("call")}", "n": {self.said}}}'
            call = {"type": "function_call", "call_id": call_id, "name": "weather", "arguments": arguments}
            self.ask(history + turn, [call])
            turn += [call, {"type": "function_call_output", "call_id": call_id, "output": self.new_text("output")}]
        answer = message("assistant", self.new_text("answer"))
        self.ask(history + turn, [answer])
        return [*turn, answer]

    def go_on(self) -> None:
        if self.shown < 0:
            self.lines.append([])
            self.shown = 0
        line = self.lines[self.shown]
        line.append(self.turn(line, self.new_text("question")))

    def edit(self) -> None:
        line = self.lines[self.shown]
        if len(line) > 1:
            before = line[: self.rng.randint(1, len(line) - 1)]
            self.lines.append([*before, self.turn(before, self.new_text("edit"))])
            self.shown = len(self.lines) - 1

    def regenerate(self) -> None:
        line = self.lines[self.shown]
        if len(line) > 1:
            *before, last = line
            history = [item for turn in line for item in turn][:-1]
            answer = message("assistant", self.new_text("answer"))
            self.ask(history, [answer])
            self.lines.append([*before, [*last[:-1], answer]])
            self.shown = len(self.lines) - 1

    def look_back(self) -> None:
        self.shown = self.rng.randrange(len(self.lines))


def written(item: Item) -> str:
    if item["type"] == "message":
        return "".join("".join(part["text"] for part in item["content"]).split())
    return f"{item['call_id']} {item['type']}"


def spoken(items: list[Item]) -> list[str]:
    """What a line says, without what was said to the model before it, and with neighbours of one kind joined."""
    found: list[tuple[str, str]] = []
    for item in items:
        role = item.get("role") or item["type"]
        if role in ("developer", "reasoning"):
            continue
        if found and found[-1][0] == role in ("user", "assistant"):
            found[-1] = (role, found[-1][1] + written(item))
        else:
            found.append((role, written(item)))
    return [text for _, text in found]


@settings(deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES), st.booleans()), min_size=1, max_size=3),
    st.sampled_from(["", "key"]),
)
def test_edits_and_new_answers_are_lines_of_one_conversation(seed: int, kinds: list[tuple[str, str, bool]], key: str):
    rng = Random(seed)
    record = Record(max_samples=rng.choice([0, 50, 10_000]))
    clients = [
        Client(record, rng, f"c{number}", is_chat, (one, other), key and f"{key}{number}")
        for number, (one, other, is_chat) in enumerate(kinds)
    ]
    for _ in range(rng.randint(3, 14)):
        client = rng.choice(clients)
        client.go_on() if client.shown < 0 else rng.choice(
            [client.go_on, client.go_on, client.edit, client.regenerate, client.look_back]
        )()
    check(record, clients)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_a_window_of_a_history_goes_on_where_it_ends(seed: int, is_chat: bool):
    rng, record = Random(seed), Record()
    client = Client(record, rng, "c", is_chat, ("without_ids", "reserialised"), "key", window=20)
    for _ in range(20):
        client.go_on() if rng.random() < 0.8 or client.shown < 0 else client.regenerate()
    check(record, [client])


def check(record: Record, clients: list[Client]) -> None:
    for client in clients:
        if client.shown < 0:
            continue
        (name,) = client.conversations
        found = record.conversations[name]
        lines = [spoken([found.items[one] for one in line]) for line in found.lines]
        truth = [spoken([item for turn in line for item in turn]) for line in client.lines]
        assert sorted(lines) == sorted(truth)
    assert len(record.conversations) == sum(client.shown >= 0 for client in clients)


@pytest.mark.parametrize("is_answer_equal", [True, False])
def test_hundreds_of_parallel_conversations_that_begin_alike_stay_as_many(is_answer_equal: bool):
    record, rng = Record(), Random(1)
    histories: list[list[Item]] = [[] for _ in range(MANY)]
    for turn in range(3):
        order = list(range(MANY))
        rng.shuffle(order)
        for number in order:
            asked = [*histories[number], {"role": "user", "content": f"question {turn}"}]
            answer = f"answer {turn}" + ("" if is_answer_equal else f" to {number}")
            step = {"path": "/v1/chat/completions", "body": {"messages": asked}}
            record.take({**step, "answer": {"role": "assistant", "content": answer}})
            histories[number] = [*asked, {"role": "assistant", "content": answer}]
    found = Counter(tuple(one.texts(0)) for one in record.conversations.values())
    assert len(record.conversations) == found.total() == MANY
    assert {len(one.lines) for one in record.conversations.values()} == {1}
    truth = Counter(tuple(f"{m['role']}: {m['content']}" for m in history) for history in histories)
    assert found == truth
