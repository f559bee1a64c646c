"""Random apps: conversations that grow, are edited and answered anew, resent by clients of all habits."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import orjson
import pytest

from tests.depth import few
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.recording.witness import all_recorded, completion
from tests.flows.talk import items_of, model_answer, post, respond
from tests.upstream import Reply

CHAT = "/v1/chat/completions"
#: What one line says: questions and answers in turn.
Path = list[str]
Message = dict[str, Any]


def as_it_is(messages: list[Message], dice: Random) -> list[Message]:
    return messages


def with_parts(messages: list[Message], dice: Random) -> list[Message]:
    """As AI SDK and LangChain: texts cut into parts."""
    cut = []
    for one in messages:
        kind = "output_text" if one["role"] == "assistant" else "input_text"
        at = dice.randrange(len(one["content"]))
        parts = [{"type": kind, "text": text} for text in (one["content"][:at], one["content"][at:])]
        cut.append({**one, "content": parts})
    return cut


def with_white_space(messages: list[Message], dice: Random) -> list[Message]:
    """Answers trimmed, lines ended otherwise."""
    return [{**one, "content": f"\r\n{one['content'].replace(' ', '  ')} "} for one in messages]


def with_a_clock(messages: list[Message], dice: Random) -> list[Message]:
    """A system message that changes each time."""
    return [{"role": "system", "content": f"It is {dice.random()}."}, *messages]


def with_thoughts(messages: list[Message], dice: Random) -> list[Message]:
    """Thoughts put in front of answers."""
    return [
        {**one, "content": f"<think>{dice.random()}</think>{one['content']}"} if one["role"] == "assistant" else one
        for one in messages
    ]


HABITS: list[Callable[[list[Message], Random], list[Message]]] = [
    as_it_is,
    with_parts,
    with_white_space,
    with_a_clock,
    with_thoughts,
]


class App:
    """An app with conversations, and what must be recorded of them: lines by conversation."""

    def __init__(self, proxy: Proxy, dice: Random) -> None:
        self._proxy, self._dice = proxy, dice
        self._numbers = itertools.count()
        self.conversations: list[list[Path]] = []

    async def step(self) -> None:
        """Do something that users do."""
        dice = self._dice
        if not self.conversations or dice.random() < 0.15:
            self.conversations.append([await self._ask([f"opening {next(self._numbers)}"])])
            return
        lines = dice.choice(self.conversations)
        number = dice.randrange(len(lines))
        line = lines[number]
        match dice.choice(["go on", "go on", "go on", "anew", "edit"]):
            case "go on":
                lines[number] = await self._ask([*line, f"question {next(self._numbers)}"])
            case "anew" if len(line) > 2:
                lines.append(await self._ask(line[:-1]))
            case "edit" if len(line) > 2:
                at = dice.randrange(1, len(line) // 2) * 2
                lines.append(await self._ask([*line[:at], f"edited {next(self._numbers)}"]))

    async def _ask(self, path: Path) -> Path:
        answer = f"the answer number {next(self._numbers)} to all that was said"
        roles = itertools.cycle(["user", "assistant"])
        messages = [{"role": role, "content": text} for role, text in zip(roles, path, strict=False)]
        messages = self._dice.choice(HABITS)(messages, self._dice)
        if self._dice.random() < 0.5:
            self._proxy.upstream.script(Reply.json(200, model_answer(answer)))
            await respond(self._proxy, input=messages)
        else:
            said = {"role": "assistant", "content": answer}
            self._proxy.upstream.script(Reply.json(200, completion(said)), path=CHAT)
            body = {"model": "m", "messages": orjson.loads(orjson.dumps(messages)), "store": True}
            assert (await post(self._proxy, CHAT, as_chat(body), key=None)).status == 200
        await all_recorded(self._proxy)
        return [*path, answer]


def as_chat(body: dict[str, Any]) -> dict[str, Any]:
    """Return a request whose parts are those of Chat Completions."""
    for message in body["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else ():
            part["type"] = "text"
    return body


async def lines_of(proxy: Proxy, conversation_id: str, names: list[str]) -> list[Path]:
    """Return what the lines of a conversation say, as far as users and model said it, as habits leave it."""
    lines = []
    for name in names:
        items = await items_of(proxy, conversation_id, f"&branch={name}")
        texts = [
            "".join(part["text"] for part in item["content"]) for item in items if item["role"] in ("user", "assistant")
        ]
        lines.append([" ".join(text.split()) for text in texts])
    return lines


@pytest.mark.parametrize("seed", few(range(6), 3))
async def test_what_an_app_does_is_recorded_as_what_it_was(start_proxy: StartProxy, seed: int):
    proxy = await start_proxy()
    app = App(proxy, Random(seed))
    for _ in range(25):
        await app.step()
    recorded = await all_recorded(proxy)
    found = [await lines_of(proxy, one.id, [line.name for line in one.lines.values()]) for one in recorded.values()]
    assert Counter(map(str, (sorted(lines) for lines in found))) == Counter(
        map(str, (sorted(lines) for lines in app.conversations))
    )
