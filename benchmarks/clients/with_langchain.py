"""LangChain's ChatOpenAI with either API: messages of its own, made anew for each request."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from benchmarks.clients.talk import look_up


class LangChainApp:
    """A model with a tool, and a list of messages."""

    def __init__(self, url: str, *, is_chat: bool, stream: bool) -> None:
        model = ChatOpenAI(
            model="echo",
            base_url=url,
            api_key="sk-alice",  # type: ignore[arg-type]
            use_responses_api=not is_chat,
            store=True,
            max_retries=0,
        )
        self._model = model.bind_tools([tool(look_up)])
        self._stream = stream

    async def ask(self, history: list[BaseMessage] | None, text: str) -> list[BaseMessage]:
        """See `App`."""
        return await self._answered([*(history or []), HumanMessage(text)])

    async def ask_again(self, history: list[BaseMessage]) -> list[BaseMessage]:
        """See `App`."""
        return await self._answered(history[:-1])

    async def _answered(self, history: list[BaseMessage]) -> list[BaseMessage]:
        while True:
            message = await self._create(history)
            history.append(message)
            if not message.tool_calls:
                return history
            history += [ToolMessage(look_up(**call["args"]), tool_call_id=call["id"]) for call in message.tool_calls]

    async def _create(self, history: list[BaseMessage]) -> Any:
        if not self._stream:
            return await self._model.ainvoke(history)
        whole: Any = None
        async for piece in self._model.astream(history):
            whole = piece if whole is None else whole + piece
        # what is kept is a message, not a chunk of one
        return AIMessage(**whole.model_dump(exclude={"type", "tool_call_chunks", "chunk_position"}))
