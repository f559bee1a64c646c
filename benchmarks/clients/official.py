"""openai-python with either API, and openai-agents: apps as their documentation writes them."""

from __future__ import annotations

from typing import Any

import orjson
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
)
from openai import AsyncOpenAI
from openai.types.shared import Reasoning

from benchmarks.clients.talk import look_up

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_QUIET = RunConfig(tracing_disabled=True)


class ResponsesApp:
    """The Responses API: output items are put behind the input as they came."""

    def __init__(self, client: AsyncOpenAI, *, stream: bool = False) -> None:
        self._client = client
        self._stream = stream

    async def ask(self, history: list[Any] | None, text: str) -> list[Any]:
        """See `App`."""
        return await self._answered([*(history or []), {"role": "user", "content": text}])

    async def ask_again(self, history: list[Any]) -> list[Any]:
        """See `App`."""
        asked = list(history)
        while getattr(asked[-1], "type", "") in ("message", "reasoning"):
            asked.pop()
        return await self._answered(asked)

    async def _answered(self, history: list[Any]) -> list[Any]:
        while True:
            response = await self._create(history)
            history += response.output
            calls = [item for item in response.output if item.type == "function_call"]
            if not calls:
                return history
            for call in calls:
                said = look_up(**orjson.loads(call.arguments))
                history.append({"type": "function_call_output", "call_id": call.call_id, "output": said})

    async def _create(self, history: list[Any]) -> Any:
        tool: Any = {"type": "function", "name": "look_up", "parameters": PARAMETERS, "strict": False}
        asked: dict[str, Any] = {
            "model": "echo",
            "input": history,
            "tools": [tool],
            "reasoning": Reasoning(effort="low"),
        }
        if not self._stream:
            return await self._client.responses.create(**asked)
        async with self._client.responses.stream(**asked) as stream:
            return await stream.get_final_response()


class ChatApp:
    """Chat Completions: messages of answers are put behind the others as they came."""

    def __init__(self, client: AsyncOpenAI, *, stream: bool = False) -> None:
        self._client = client
        self._stream = stream

    async def ask(self, history: list[Any] | None, text: str) -> list[Any]:
        """See `App`."""
        begun = history or [{"role": "system", "content": "Repeat what you are told."}]
        return await self._answered([*begun, {"role": "user", "content": text}])

    async def ask_again(self, history: list[Any]) -> list[Any]:
        """See `App`."""
        return await self._answered(history[:-1])

    async def _answered(self, history: list[Any]) -> list[Any]:
        while True:
            message = await self._create(history)
            history.append(message)
            if not message.tool_calls:
                return history
            for call in message.tool_calls:
                said = look_up(**orjson.loads(call.function.arguments))
                history.append({"role": "tool", "tool_call_id": call.id, "content": said})

    async def _create(self, history: list[Any]) -> Any:
        function = {"name": "look_up", "parameters": PARAMETERS}
        asked: dict[str, Any] = {
            "model": "echo",
            "messages": history,
            "tools": [{"type": "function", "function": function}],
            "store": True,
        }
        if not self._stream:
            return (await self._client.chat.completions.create(**asked)).choices[0].message
        async with self._client.chat.completions.stream(**asked) as stream:
            return (await stream.get_final_completion()).choices[0].message


class AgentsApp:
    """openai-agents, which takes the result of a run as the input of the next."""

    def __init__(self, client: AsyncOpenAI, *, is_chat: bool = False, stream: bool = False) -> None:
        model = OpenAIChatCompletionsModel if is_chat else OpenAIResponsesModel
        self._agent = Agent[Any](
            name="Parrot",
            instructions="Repeat what you are told.",
            model=model(model="echo", openai_client=client),
            tools=[function_tool(look_up)],
            model_settings=ModelSettings(store=True),
        )
        self._stream = stream

    async def ask(self, history: list[Any] | None, text: str) -> list[Any]:
        """See `App`."""
        return await self._run([*(history or []), {"role": "user", "content": text}])

    async def ask_again(self, history: list[Any]) -> list[Any]:
        """See `App`."""
        return await self._run(history[:-1])

    async def _run(self, asked: list[Any]) -> list[Any]:
        if not self._stream:
            return (await Runner.run(self._agent, asked, run_config=_QUIET)).to_input_list()
        running = Runner.run_streamed(self._agent, asked, run_config=_QUIET)
        async for _ in running.stream_events():
            pass
        return running.to_input_list()
