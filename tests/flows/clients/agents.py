"""What agents of openai-agents are run with, whatever they are connected by."""

from __future__ import annotations

from agents import RunConfig, function_tool

QUIET = RunConfig(tracing_disabled=True)


@function_tool
def look_up(city: str) -> str:
    """Tell the weather of a city."""
    return f"It rains in {city}."
