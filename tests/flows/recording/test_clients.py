"""Official clients as apps use them that keep their history: three turns with a tool call, an edit, a new answer."""

from __future__ import annotations

from typing import Any

import orjson

from tests.flows.conftest import Proxy
from tests.flows.recording.witness import Recorded, all_recorded, completion
from tests.flows.talk import model_answer
from tests.upstream import Reply

ARGUMENTS = '{"city": "Zürich", "days": 1.0}'
CALL = {"id": "fc_up", "type": "function_call", "call_id": "call_1", "name": "weather", "arguments": ARGUMENTS}
TOOL: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
CHAT = "/v1/chat/completions"


def said(recorded: Recorded, line: int) -> list[str]:
    """Return what a line wrote itself: texts, and the types of all else."""
    found = []
    for item in map(orjson.loads, recorded.lines[line].items):
        texts = [part["text"] for part in item.get("content") or () if "text" in part]
        found.append("".join(texts) or item["type"])
    return found


async def only(proxy: Proxy) -> Recorded:
    (recorded,) = (await all_recorded(proxy)).values()
    return recorded


async def test_openai_python_over_responses(proxy: Proxy):
    client = proxy.client()

    async def ask(history: list[Any], answer: dict[str, Any]) -> Any:
        proxy.upstream.script(Reply.json(200, answer))
        response = await client.responses.create(model="m", input=history, tools=[TOOL])
        return [*history, *response.output]

    history: list[Any] = [{"role": "user", "content": "what to wear?"}]
    history = await ask(history, {**model_answer(""), "output": [CALL]})
    history.append({"type": "function_call_output", "call_id": "call_1", "output": "rain"})
    history = await ask(history, model_answer("A coat."))
    asked = [*history, {"role": "user", "content": "and tomorrow?"}]
    history = await ask(asked, model_answer("A hat."))
    assert said(await only(proxy), 0) == [
        *["what to wear?", "function_call", "function_call_output", "A coat."],
        *["and tomorrow?", "A hat."],
    ]
    await ask(asked, model_answer("Nothing."))
    await ask([*asked[:-1], {"role": "user", "content": "and in Rome?"}], model_answer("Less."))
    recorded = await only(proxy)
    assert [said(recorded, line) for line in (1, 2)] == [["Nothing."], ["and in Rome?", "Less."]]
    assert {line.name for line in recorded.lines.values()} >= {"MAIN"}


async def test_openai_python_over_chat_completions(proxy: Proxy):
    client = proxy.client()
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}

    async def ask(history: list[Any], answer: dict[str, Any]) -> list[Any]:
        proxy.upstream.script(Reply.json(200, completion(answer)), path=CHAT)
        told = await client.chat.completions.create(model="m", messages=history, tools=[tool], store=True)
        await all_recorded(proxy)
        return [*history, told.choices[0].message]

    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
    history: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "what to wear?"}]
    history = await ask(history, {"role": "assistant", "content": None, "tool_calls": [call]})
    history.append({"role": "tool", "tool_call_id": "call_1", "content": "rain"})
    history = await ask(history, {"role": "assistant", "content": "A coat."})
    asked = [*history, {"role": "user", "content": "and tomorrow?"}]
    history = await ask(asked, {"role": "assistant", "content": "A hat."})
    assert said(await only(proxy), 0) == [
        *["Be brief.", "what to wear?", "function_call", "function_call_output", "A coat."],
        *["and tomorrow?", "A hat."],
    ]
    await ask(asked, {"role": "assistant", "content": "Nothing."})
    await ask([*asked[:-1], {"role": "user", "content": "and in Rome?"}], {"role": "assistant", "content": "Less."})
    recorded = await only(proxy)
    assert [said(recorded, line) for line in (1, 2)] == [["Nothing."], ["and in Rome?", "Less."]]
