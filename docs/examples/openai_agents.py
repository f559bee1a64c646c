"""OpenAI's agents: a run whose history Branchline keeps, and a second one that goes on. pip install openai-agents"""

import asyncio

from agents import Agent, RunConfig, Runner, function_tool
from openai import AsyncOpenAI


@function_tool
def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"It rains in {city or 'Lisbon'}."


async def main() -> None:
    """Ask twice in one conversation; the second question is answered with a tool."""
    conversation = await AsyncOpenAI().conversations.create()
    agent = Agent(name="Assistant", model="echo", tools=[weather])
    quiet = RunConfig(tracing_disabled=True)  # traces go to OpenAI, whatever the base URL is
    for question in ("hello", "call weather"):
        result = await Runner.run(agent, question, conversation_id=conversation.id, run_config=quiet)
        print(result.final_output)


asyncio.run(main())
# > You said: "hello" (I saw 0 earlier items.)
# > The tool said: "It rains in echo." (I saw 4 earlier items.)
