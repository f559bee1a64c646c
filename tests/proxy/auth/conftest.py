"""What key sources and authenticators are made with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.proxy.auth.keys import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session
