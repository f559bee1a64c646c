"""Fixtures of the command line's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.proxy.cli.serving import Served

Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Start servers on free ports, with one data folder and the built-in model unless told otherwise."""
    running: list[Served] = []

    async def start(*arguments: object, **variables: str) -> Served:
        plain = ("--port", "0", "--data-dir", tmp_path / "data", "--upstream", "echo")
        running.append(await Served.start(*plain, *arguments, **variables))
        return running[-1]

    yield start
    for served in running:
        await served.kill()
