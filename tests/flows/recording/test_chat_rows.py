"""Chat Completions, row by row of what they can hold: each history is known again, and its items are whole."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.flows.conftest import Proxy
from tests.flows.recording.witness import Recorded, all_recorded
from tests.flows.talk import post
from tests.upstream import Reply

CHAT = "/v1/chat/completions"
Message = dict[str, Any]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def said(text: str | None, **more: Any) -> Message:
    return {"role": "assistant", "content": text, **more}


async def chat(proxy: Proxy, history: list[Message], *answers: Message, **fields: Any) -> None:
    """Take a turn. answers: one for each choice."""
    choices = [{"index": i, "message": answer, "finish_reason": "stop"} for i, answer in enumerate(answers)]
    told = {"id": "chatcmpl-1", "object": "chat.completion", "created": 7, "model": "m", "choices": choices}
    proxy.upstream.script(Reply.json(200, told), path=CHAT)
    answer = await post(proxy, CHAT, {"model": "m", "messages": history, "store": True, **fields}, key=None)
    assert answer.status == 200
    await all_recorded(proxy)


async def only(proxy: Proxy) -> Recorded:
    (recorded,) = (await all_recorded(proxy)).values()
    return recorded


def own(recorded: Recorded, line: int) -> list[Message]:
    """The items that a line has written itself, without their notes."""
    return [orjson.loads(item.partition(b"\x1f")[0]) for item in recorded.lines[line].items]


async def test_whichever_choice_is_gone_on_with_has_its_line(proxy: Proxy):
    await chat(proxy, [user("one")], said("a"), said("b"), said("c"), n=3)
    await chat(proxy, [user("one"), said("c"), user("two")], said("more of c"))
    await chat(proxy, [user("one"), said("a"), user("two")], said("more of a"))
    recorded = await only(proxy)
    texts = {tuple(item["content"][0]["text"] for item in own(recorded, line)) for line in recorded.lines}
    assert texts == {("one", "a", "two", "more of a"), ("b",), ("c", "two", "more of c")}


async def test_functions_of_the_time_before_tools_have_calls_and_outputs(proxy: Proxy):
    call = said(None, function_call={"name": "weather", "arguments": '{"city":"Rome"}'})
    other = said(None, function_call={"name": "weather", "arguments": '{"city":"Oslo"}'})
    output = {"role": "function", "name": "weather", "content": "sun"}
    await chat(proxy, [user("one")], call)
    await chat(proxy, [user("one"), call, output], said("Sun."))
    await chat(proxy, [user("one"), call, output, said("Sun."), user("two")], other)
    items = own(await only(proxy), 0)
    assert [item["type"] for item in items] == [
        *["message", "function_call", "function_call_output", "message", "message", "function_call"]
    ]
    assert items[1]["call_id"] == items[2]["call_id"] != items[5]["call_id"]


async def test_what_was_said_aloud_is_resent_by_its_id(proxy: Proxy):
    audio = {"id": "audio_1", "data": "UklG", "transcript": "Hello!", "expires_at": 9}
    await chat(proxy, [user("one")], said(None, audio=audio))
    await chat(proxy, [user("one"), {"role": "assistant", "audio": {"id": "audio_1"}}, user("two")], said("b"))
    items = own(await only(proxy), 0)
    assert len(items) == 4
    assert items[1]["content"] == [{"type": "output_audio", **audio}]


@pytest.mark.parametrize(
    ("answer", "resent"),
    [
        (said(None, refusal="No."), said(None, refusal="No.")),
        (said(None, refusal="No."), said("No.")),
        (said("Yes.", reasoning_content="hm"), said("Yes.")),
        (said("Yes.", reasoning="hm"), said("Yes.", reasoning_content="hm")),
        (said("<think>hm</think>Yes."), said("Yes.")),
        (said("Yes.", annotations=[{"type": "url_citation", "url_citation": {"url": "u"}}]), said("Yes.", audio=None)),
        (said("Yes."), said([{"type": "text", "text": "Yes."}])),  # type: ignore[arg-type]
    ],
)
async def test_an_answer_is_known_again_in_whatever_form_it_is_resent(proxy: Proxy, answer: Message, resent: Message):
    await chat(proxy, [user("one")], answer)
    await chat(proxy, [user("one"), resent, user("two")], said("b"))
    assert len((await only(proxy)).lines) == 1


async def test_a_custom_tool_has_its_own_kinds_of_items(proxy: Proxy):
    call = said(None, tool_calls=[{"id": "call_1", "type": "custom", "custom": {"name": "run", "input": "ls"}}])
    await chat(proxy, [user("one")], call)
    await chat(proxy, [user("one"), call, {"role": "tool", "tool_call_id": "call_1", "content": "out"}], said("b"))
    types = [item["type"] for item in own(await only(proxy), 0)]
    assert types == ["message", "custom_tool_call", "custom_tool_call_output", "message"]
