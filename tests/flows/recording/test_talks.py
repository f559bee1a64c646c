"""Official clients that keep their history themselves, each with the same talk, recorded as one conversation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from openai import AsyncOpenAI

from benchmarks.clients.official import AgentsApp, ChatApp, ResponsesApp
from benchmarks.clients.talk import ITEMS, LINES, App, hold
from tests.flows.conftest import Proxy
from tests.flows.recording.witness import all_recorded
from tests.flows.talk import items_of

APPS: dict[str, Callable[[AsyncOpenAI], App]] = {
    "responses": ResponsesApp,
    "responses streamed": lambda client: ResponsesApp(client, stream=True),
    "chat": ChatApp,
    "chat streamed": lambda client: ChatApp(client, stream=True),
    "agents": AgentsApp,
    "agents streamed": lambda client: AgentsApp(client, stream=True),
    "agents with chat": lambda client: AgentsApp(client, is_chat=True),
    "agents with chat streamed": lambda client: AgentsApp(client, is_chat=True, stream=True),
}


@pytest.mark.parametrize("name", APPS)
async def test_a_talk_is_one_conversation(proxy: Proxy, name: str):
    await hold(APPS[name](proxy.client()))
    (conversation,) = (await all_recorded(proxy)).values()
    branches = [line.name for _, line in sorted(conversation.lines.items())]
    lines = [await items_of(proxy, conversation.id, f"&branch={branch}") for branch in branches]
    asked = [[item["content"][0]["text"] for item in line if item.get("role") == "user"] for line in lines]
    assert asked == list(LINES)
    written = {
        item["id"] for line in lines for item in line if item["type"] != "reasoning" and item.get("role") != "system"
    }
    assert len(written) == ITEMS
    assert branches[-1] == "MAIN"
