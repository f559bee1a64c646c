"""The clients that speak WebSocket mode: openai-python's `responses.connect()` and openai-agents' WebSocket model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from agents import Agent, Runner
from agents.models.openai_responses import OpenAIResponsesWSModel, ResponsesWebSocketError
from openai import AsyncOpenAI
from openai.types.responses import Response

from tests.flows.clients.agents import QUIET, look_up
from tests.flows.conftest import Proxy
from tests.flows.talk import items_of, new_conversation
from tests.upstream import Reply


@asynccontextmanager
async def agent(client: AsyncOpenAI, **options: Any) -> AsyncIterator[Agent[Any]]:
    """An agent on one connection, which is closed in the end."""
    model = OpenAIResponsesWSModel(model="echo", openai_client=client)
    try:
        yield Agent(name="Parrot", instructions="Repeat.", model=model, **options)
    finally:
        await model.close()


async def completed(connection: Any) -> Response:
    async for event in connection:
        assert event.type != "error", event
        if event.type == "response.completed":
            response: Response = event.response
            return response
    raise AssertionError("the connection ended")


async def test_openai_python_chains_turns_on_one_connection(proxy: Proxy):
    client = proxy.client()
    async with client.responses.connect() as connection:
        await connection.response.create(model="echo", input="one")
        first = await completed(connection)
        await connection.response.create(model="echo", input="two", previous_response_id=first.id, store=False)
        second = await completed(connection)
        await connection.response.create(model="echo", input="three", previous_response_id=second.id, store=False)
        third = await completed(connection)
    assert third.output_text == 'You said: "three" (I saw 4 earlier items.)'
    assert (await client.responses.retrieve(first.id)).output_text == first.output_text


async def test_openai_python_uses_lanes_and_is_told_what_went_wrong(proxy: Proxy):
    async with proxy.client().responses.connect() as connection:
        await connection.response.create(model="echo", input="hi", stream_id="a")
        kinds = [event async for event in until_end(connection)]
        assert {event.stream_id for event in kinds} == {"a"}
        await connection.response.create(model="echo", input="hi", previous_response_id="resp_0", stream_id="a")
        error: Any = await connection.recv()
        assert (error.type, error.status, error.stream_id) == ("error", 400, "a")
        assert (error.error.code, error.error.param) == ("previous_response_not_found", "previous_response_id")
        await connection.response.steer(previous_response_id="resp_0", input="faster")
        failed: Any = await connection.recv()
        assert (failed.type, failed.error.code) == ("response.steer.failed", "steering_not_supported")


async def until_end(connection: Any) -> AsyncIterator[Any]:
    async for event in connection:
        yield event
        if event.type == "response.completed":
            return


async def test_openai_python_is_closed_in_order_when_the_server_stops(proxy: Proxy):
    async with proxy.client().responses.connect() as connection:
        await connection.response.create(model="echo", input="hi")
        await completed(connection)
        await proxy.runner.cleanup()
        assert [event async for event in connection] == []


async def test_agents_reuse_one_connection_for_tools_and_turns(proxy: Proxy):
    call = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "look_up"}
    output = [{**call, "arguments": '{"city": "Oslo"}'}]
    proxy.upstream.script(Reply.json(200, {"id": "r", "object": "response", "status": "completed", "output": output}))
    async with agent(proxy.client(), tools=[look_up]) as speaker:
        result = await Runner.run(speaker, "weather?", run_config=QUIET, auto_previous_response_id=True)
        told = proxy.upstream.requests[-1].json["input"]
        assert [item["type"] for item in told] == ["message", "function_call", "function_call_output"]
        assert told[-1]["output"] == "It rains in Oslo."
        again = await Runner.run(speaker, "thanks", run_config=QUIET, previous_response_id=result.last_response_id)
        assert "I saw 4 earlier items" in again.final_output


@pytest.mark.parametrize("streamed", [False, True])
async def test_agents_talk_in_a_conversation(proxy: Proxy, streamed: bool):
    conversation = await new_conversation(proxy)
    async with agent(proxy.client()) as speaker:
        for number in range(3):
            asked: Any = {"input": f"turn {number}", "run_config": QUIET, "conversation_id": conversation}
            if streamed:
                result: Any = Runner.run_streamed(speaker, **asked)
                async for _ in result.stream_events():
                    pass
            else:
                result = await Runner.run(speaker, **asked)
            assert f"I saw {2 * number} earlier item" in result.final_output
    assert len(await items_of(proxy, conversation)) == 6


async def test_agents_raise_what_the_server_refused_and_connect_again(proxy: Proxy):
    error = {"message": "no such model", "type": "invalid_request_error", "code": "model_not_found", "param": "model"}
    proxy.upstream.script(Reply.json(404, {"error": error}))
    async with agent(proxy.client()) as speaker:
        with pytest.raises(ResponsesWebSocketError) as refusal:
            await Runner.run(speaker, "hi", run_config=QUIET)
        assert refusal.value.code == "model_not_found"
        assert (await Runner.run(speaker, "hi", run_config=QUIET)).final_output.startswith('You said: "hi"')
