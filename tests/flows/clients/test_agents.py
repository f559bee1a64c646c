"""openai-agents against the proxy: sessions, conversations, chains, tools, handoffs, streams, structured output."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    Runner,
)
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from openai.types.shared import Reasoning
from pydantic import BaseModel

from tests.flows.clients.agents import QUIET, look_up
from tests.flows.conftest import Proxy
from tests.flows.talk import items_of, new_conversation, sent
from tests.items import kinds
from tests.upstream import Reply


class Report(BaseModel):
    """What an agent is to hand in."""

    title: str
    words: int


def agent(client: AsyncOpenAI, **options: Any) -> Agent[Any]:
    model = OpenAIResponsesModel(model="echo", openai_client=client)
    return Agent(name="Parrot", instructions="Repeat.", model=model, **options)


async def say(speaker: Agent[Any], text: Any, **options: Any) -> Any:
    return await Runner.run(speaker, text, run_config=QUIET, **options)


@pytest.fixture
async def client(proxy: Proxy) -> AsyncOpenAI:
    return proxy.client()


async def test_a_session_remembers_turns_gives_back_the_last_and_is_cleared(proxy: Proxy, client: AsyncOpenAI):
    session = OpenAIConversationsSession(openai_client=client)
    for number in range(4):
        result = await say(agent(client), f"turn {number}", session=session)
        assert f"I saw {2 * number} earlier item" in result.final_output
    assert kinds(await session.get_items()) == ["user", "assistant"] * 4
    assert kinds(await session.get_items(limit=3)) == ["assistant", "user", "assistant"]
    last: Any = await session.pop_item()
    assert "turn 3" in last["content"][0]["text"]
    assert kinds(await session.get_items()) == ["user", "assistant"] * 3 + ["user"]
    conversation = session.session_id
    await session.clear_session()
    with pytest.raises(openai.NotFoundError):
        await client.conversations.retrieve(conversation)
    assert await session.get_items() == []
    assert session.session_id != conversation
    assert await session.pop_item() is None


async def test_a_session_takes_and_gives_more_items_than_a_page_holds(client: AsyncOpenAI):
    session = OpenAIConversationsSession(openai_client=client)
    await session.add_items([{"role": "user", "content": f"n{number}"} for number in range(45)])
    items: list[Any] = await session.get_items()
    assert [item["content"][0]["text"] for item in items] == [f"n{number}" for number in range(45)]
    newest: list[Any] = await session.get_items(limit=25)
    assert newest == items[20:]


async def test_a_session_carries_reasoning_and_tool_rounds(proxy: Proxy, client: AsyncOpenAI):
    session = OpenAIConversationsSession(openai_client=client)
    speaker = agent(client, tools=[look_up], model_settings=ModelSettings(reasoning=Reasoning(effort="low")))
    for city in ("Paris", "Rome"):
        result = await say(speaker, f"call look_up {city}", session=session)
        assert f"It rains in {city}." in result.final_output
    a_round = ["user", "reasoning", "function_call", "function_call_output", "reasoning", "assistant"]
    assert kinds(await session.get_items()) == a_round * 2
    assert kinds(sent(proxy)) == a_round + a_round[:4]


async def test_a_session_carries_encrypted_reasoning_that_the_proxy_does_not_store(proxy: Proxy, client: AsyncOpenAI):
    session = OpenAIConversationsSession(openai_client=client)
    settings = ModelSettings(
        reasoning=Reasoning(effort="low"), store=False, response_include=["reasoning.encrypted_content"]
    )
    speaker = agent(client, tools=[look_up], model_settings=settings)
    for number in range(3):
        result = await say(speaker, f"call look_up place{number}", session=session)
        assert f"It rains in place{number}." in result.final_output
    assert len(await session.get_items()) == 18


async def test_a_session_survives_its_process(proxy: Proxy, client: AsyncOpenAI):
    first = OpenAIConversationsSession(openai_client=client)
    await say(agent(client), "one", session=first)
    second = OpenAIConversationsSession(openai_client=proxy.client(), conversation_id=first.session_id)
    assert "I saw 2 earlier items" in (await say(agent(client), "two", session=second)).final_output


async def test_a_run_on_a_conversation_sends_only_what_is_new(proxy: Proxy, client: AsyncOpenAI):
    conversation = await new_conversation(proxy)
    speaker = agent(client, tools=[look_up], model_settings=ModelSettings(reasoning=Reasoning(effort="low")))
    for city in ("Paris", "Rome"):
        result = await say(speaker, f"call look_up {city}", conversation_id=conversation)
        assert f"It rains in {city}." in result.final_output
    a_round = ["user", "reasoning", "function_call", "function_call_output", "reasoning", "assistant"]
    assert kinds(await items_of(proxy, conversation)) == a_round * 2
    assert kinds(sent(proxy)) == a_round + a_round[:4]


@pytest.mark.parametrize("automatic", [False, True])
async def test_a_run_chains_on_the_previous_response(proxy: Proxy, client: AsyncOpenAI, automatic: bool):
    speaker = agent(client, tools=[look_up])
    previous = None
    for number in range(3):
        result = await say(
            speaker,
            f"call look_up place{number}",
            previous_response_id=previous,
            auto_previous_response_id=automatic,
        )
        assert f"It rains in place{number}." in result.final_output
        previous = result.last_response_id
    assert len(sent(proxy)) == 4 * 2 + 3
    assert proxy.upstream.requests[-1].json["store"] is False


@pytest.mark.parametrize("source", ["session", "conversation", "nothing"])
async def test_a_handoff_takes_the_history_along(proxy: Proxy, client: AsyncOpenAI, source: str):
    spanish = agent(client, tools=[look_up]).clone(name="Spanish", handoff_description="Speaks Spanish.")
    first = agent(client, handoffs=[spanish])
    options: dict[str, Any] = {}
    if source == "session":
        options["session"] = OpenAIConversationsSession(openai_client=client)
    elif source == "conversation":
        options["conversation_id"] = await new_conversation(proxy)
    result = await say(first, "call transfer_to_spanish now", **options)
    assert result.last_agent.name == "Spanish"
    assert kinds(sent(proxy)) == ["user", "function_call", "function_call_output"]
    again = (
        "call look_up Madrid"
        if source != "nothing"
        else [
            *result.to_input_list(),
            {"role": "user", "content": "call look_up Madrid"},
        ]
    )
    result = await say(result.last_agent, again, **options)
    assert "It rains in Madrid." in result.final_output
    assert len(sent(proxy)) == 4 + 3


@pytest.mark.parametrize("source", ["session", "conversation", "chain"])
async def test_a_streamed_run_tells_its_events_and_is_remembered(proxy: Proxy, client: AsyncOpenAI, source: str):
    speaker = agent(client, tools=[look_up], model_settings=ModelSettings(reasoning=Reasoning(effort="low")))
    sources: dict[str, dict[str, Any]] = {
        "session": {"session": OpenAIConversationsSession(openai_client=client)},
        "conversation": {"conversation_id": await new_conversation(proxy)},
        "chain": {"auto_previous_response_id": True},
    }
    options = sources[source]
    for city in ("Paris", "Rome"):
        run = Runner.run_streamed(speaker, f"call look_up {city}", run_config=QUIET, **options)
        told = [event async for event in run.stream_events()]
        assert f"It rains in {city}." in run.final_output
        raw = [event.data.type for event in told if event.type == "raw_response_event"]
        assert raw.count("response.completed") == 2
        assert [event.name for event in told if event.type == "run_item_stream_event"][-1] == "message_output_created"
        if source == "chain":
            options = {"previous_response_id": run.last_response_id}
    assert len(sent(proxy)) == 6 + 4


async def test_an_agent_hands_in_structured_output(proxy: Proxy, client: AsyncOpenAI):
    conversation = await new_conversation(proxy)
    writer = agent(client, output_type=Report)
    result = await say(writer, "write", conversation_id=conversation)
    assert isinstance(result.final_output, Report)
    run = Runner.run_streamed(writer, "again", conversation_id=conversation, run_config=QUIET)
    assert [event async for event in run.stream_events()]
    assert isinstance(run.final_output, Report)
    assert len(await items_of(proxy, conversation)) == 4


async def test_an_agent_gives_its_previous_answers_back_as_input(proxy: Proxy, client: AsyncOpenAI):
    speaker = agent(client, tools=[look_up], model_settings=ModelSettings(reasoning=Reasoning(effort="low")))
    history: list[Any] = []
    for number in range(3):
        history.append({"role": "user", "content": f"call look_up place{number}"})
        result = await say(speaker, history)
        assert f"It rains in place{number}." in result.final_output
        history = result.to_input_list()
    assert len(sent(proxy)) == 6 * 2 + 4


@pytest.fixture
async def refused(proxy: Proxy) -> tuple[AsyncOpenAI, asyncio.Event]:
    """A client and an event that is set as soon as one of its requests was answered 400."""
    seen = asyncio.Event()

    async def watch(response: Any) -> None:
        if response.status_code == 400:
            seen.set()

    http_client = DefaultAsyncHttpxClient(event_hooks={"response": [watch]})
    return proxy.client(http_client=http_client), seen


@pytest.mark.parametrize("stream", [False, True])
async def test_two_runs_at_once_on_one_conversation_both_succeed(
    proxy: Proxy, refused: tuple[AsyncOpenAI, asyncio.Event], stream: bool
):
    client, seen = refused
    conversation = await new_conversation(proxy)
    recorded = Reply.sample("llama.cpp-plain-stream" if stream else "llama.cpp-plain")
    # the first answer waits until the second run was told that the conversation is locked
    proxy.upstream.script(Reply.raw(200, recorded.headers["Content-Type"], chunks=[seen, *recorded.steps]))

    async def run(text: str) -> str:
        if not stream:
            return str((await say(agent(client), text, conversation_id=conversation)).final_output)
        result = Runner.run_streamed(agent(client), text, conversation_id=conversation, run_config=QUIET)
        async for _ in result.stream_events():
            pass
        return str(result.final_output)

    first = asyncio.create_task(run("one"))
    await proxy.upstream.wait_for_requests(1)
    second = asyncio.create_task(run("two"))
    assert (await first).startswith("Hello")
    assert await second == 'You said: "two" (I saw 2 earlier items.)'
    assert kinds(await items_of(proxy, conversation)) == ["user", "assistant"] * 2
