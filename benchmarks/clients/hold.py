"""`python -m benchmarks.clients.hold LIBRARY API WAY URL`: one client's talk, in the environment that has its library.

LIBRARY: langchain, pydantic-ai. API: responses, chat. WAY: plain, streamed.
"""

from __future__ import annotations

import asyncio
import sys

from benchmarks.clients.talk import App, hold


def app_of(library: str, url: str, *, is_chat: bool, stream: bool) -> App:
    """Return an app that is written with a library. Imports it: each environment has its own."""
    if library == "langchain":
        from benchmarks.clients.with_langchain import LangChainApp

        return LangChainApp(url, is_chat=is_chat, stream=stream)
    from benchmarks.clients.with_pydantic_ai import PydanticApp

    return PydanticApp(url, is_chat=is_chat, stream=stream)


def main() -> None:
    """Hold the talk."""
    library, api, way, url = sys.argv[1:]
    asyncio.run(hold(app_of(library, url, is_chat=api == "chat", stream=way == "streamed")))


if __name__ == "__main__":
    main()
