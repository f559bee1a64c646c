"""The talk that every client has: three turns, a tool call in the first, an edit, and another answer in the end.

    one ─┬─ two
         └─ two, edited ── three ─┬─ an answer
                                  └─ another one

Nothing but the standard library: it also runs in the virtual environments of clients.
"""

from __future__ import annotations

from typing import Any, Protocol

ONE, TWO, EDITED, THREE = "call look_up Paris", "and two", "and two, edited", "and three"
#: What a user has asked on each line of the conversation, the oldest line first.
LINES = ([ONE, TWO], [ONE, EDITED, THREE], [ONE, EDITED, THREE])
#: Items of all lines together, each once: question, call, output and answer of the first turn, two of each other one,
#: and another answer. What a model thought comes on top.
ITEMS = 4 + 2 + 2 + 2 + 1


class App(Protocol):
    """An app that resends its history, in whatever form its library has."""

    async def ask(self, history: Any, text: str) -> Any:
        """Ask a question; return the history with it and its answer. history: None at first."""
        ...

    async def ask_again(self, history: Any) -> Any:
        """Ask the last question again; return the history with the other answer."""
        ...


async def hold(app: App) -> None:
    """Hold the talk."""
    one = await app.ask(None, ONE)
    await app.ask(one, TWO)
    edited = await app.ask(one, EDITED)
    three = await app.ask(edited, THREE)
    await app.ask_again(three)


def look_up(city: str) -> str:
    """Tell the weather of a city."""
    return f"It rains in {city}."
