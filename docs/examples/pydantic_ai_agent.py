"""Pydantic AI: an agent whose turns continue each other. pip install "pydantic-ai-slim[openai]" """

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIResponsesModel, OpenAIResponsesModelSettings

# "auto" sends only what came after the last answer
settings = OpenAIResponsesModelSettings(openai_previous_response_id="auto")
agent = Agent(OpenAIResponsesModel("echo"), model_settings=settings)

first = agent.run_sync("hello")
print(first.output)
# > You said: "hello" (I saw 0 earlier items.)

second = agent.run_sync("and again", message_history=first.all_messages())
print(second.output)
# > You said: "and again" (I saw 2 earlier items.)
