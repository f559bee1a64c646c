"""pydantic-ai with either API: an agent, which takes all messages of a run as the history of the next."""

from __future__ import annotations

from typing import Any

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from benchmarks.clients.talk import look_up


class PydanticApp:
    """An agent with a tool."""

    def __init__(self, url: str, *, is_chat: bool, stream: bool) -> None:
        model = OpenAIChatModel if is_chat else OpenAIResponsesModel
        provider = OpenAIProvider(base_url=url, api_key="sk-alice")
        self._agent = Agent(model("echo", provider=provider), instructions="Repeat what you are told.", tools=[look_up])
        self._stream = stream

    async def ask(self, history: list[Any] | None, text: str) -> list[Any]:
        """See `App`."""
        return await self._run(text, history or [])

    async def ask_again(self, history: list[Any]) -> list[Any]:
        """See `App`."""
        return await self._run(None, history[:-1])

    async def _run(self, text: str | None, history: list[Any]) -> list[Any]:
        if not self._stream:
            return (await self._agent.run(text, message_history=history)).all_messages()
        async with self._agent.run_stream(text, message_history=history) as running:
            await running.get_output()
            return running.all_messages()
