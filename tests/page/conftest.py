"""The page of a running proxy, as a browser without scripts asks for it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from html import unescape
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.flows.conftest import Proxy, proxies, proxy, start_proxy  # noqa: F401 (fixtures)
from tests.page.browser import Looker, chromium

#: What every browser of today sends with a form of the page itself.
OWN_PAGE = {"Sec-Fetch-Site": "same-origin"}


@dataclass
class Screen:
    """What came back."""

    status: int
    text: str
    headers: Any
    location: str = ""

    @property
    def words(self) -> str:
        """The text without tags."""
        return " ".join(unescape(re.sub(r"<[^>]+>", " ", self.text)).split())

    @property
    def links(self) -> list[str]:
        """Where its links lead."""
        return [unescape(link) for link in re.findall(r'href="([^"]+)"', self.text)]


@dataclass
class Visitor:
    """Somebody with a browser. headers: sent with everything."""

    proxy: Proxy
    headers: dict[str, str] = field(default_factory=lambda: {"Authorization": "Bearer sk-alice"})

    async def get(self, path: str, **headers: str) -> Screen:
        """Ask for a screen."""
        return await self._ask("GET", path, None, headers)

    async def post(self, path: str, form: dict[str, Any] | None = None, **headers: str) -> Screen:
        """Send a form."""
        return await self._ask("POST", path, form or {}, {**OWN_PAGE, **headers})

    async def follow(self, path: str, form: dict[str, Any]) -> Screen:
        """Send a form and look at where it leads."""
        sent = await self.post(path, form)
        assert sent.status == 303, sent.words
        return await self.get(sent.location)

    async def _ask(self, method: str, path: str, form: Any, headers: dict[str, str]) -> Screen:
        url = path if path.startswith("http") else self.proxy.url + path
        async with self.proxy.http.request(
            method, url, data=form, headers={**self.headers, **headers}, allow_redirects=False
        ) as response:
            body = await response.read()
            return Screen(
                response.status, body.decode("utf-8", "replace"), response.headers, response.headers.get("Location", "")
            )


@pytest.fixture
async def visitor(proxy: Proxy) -> Visitor:  # noqa: F811
    """A visitor with the key of `sk-alice`, of a proxy with the default configuration."""
    return Visitor(proxy)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """The one browser of all tests: it takes a second of processor time to start."""
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="session")
async def looker(browser: Browser, valkey_url: str) -> AsyncIterator[Looker]:
    """A browser on a proxy with the default configuration; what it shows and keeps is gone after the test."""
    async with proxies(valkey_url) as start:
        yield Looker(await start(), browser)
        for context in browser.contexts:
            await context.close()
