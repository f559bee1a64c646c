"""A headless Chromium that looks at the page, and notes what a page must not do."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.depth import DEEP
from tests.flows.conftest import Proxy

ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
    # as if it were on another machine, under a name
    "--host-resolver-rules=MAP llm.example 127.0.0.1",
)  # fmt: skip
#: Milliseconds after which what a page is to show is a failed test.
PATIENCE_MS = 90_000
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="NO BROWSER: install chromium to run the page's tests")
#: For tests with the fixture `looker`: the browser lives in an event loop of the session's.
in_its_loop = pytest.mark.asyncio(loop_scope="session")


@dataclass
class Looker:
    """A browser on a proxy. strayed: requests that went to another origin; answered: addresses whose answers began.

    said: what pages told the console.
    """

    proxy: Proxy
    browser: Browser
    strayed: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    async def page(self, path: str = "", **options: Any) -> Page:
        """Return a new page, and go somewhere. options: of the browser's context."""
        context = await self.context(**options)
        page = await context.new_page()
        if path:
            await page.goto(self.proxy.url + path)
        return page

    async def context(self, **options: Any) -> BrowserContext:
        """Return a browser profile of its own, with the key of `sk-alice` unless it has headers."""
        headers = options.pop("extra_http_headers", {"Authorization": "Bearer sk-alice"})
        context = await self.browser.new_context(extra_http_headers=headers, **options)
        context.set_default_timeout(PATIENCE_MS)
        context.on("request", lambda request: self._note(request.url))
        context.on("response", lambda response: self.answered.append(response.url))
        context.on("page", self._attend)
        return context

    async def watches(self, path: str) -> None:
        """Return once a page listens to what changes."""
        while not any(path in url for url in self.answered):  # noqa: ASYNC110 (another process: there is no event)
            await asyncio.sleep(0.02)

    def _attend(self, page: Page) -> None:
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))

    def _note(self, url: str) -> None:
        if urlsplit(url).netloc != urlsplit(self.proxy.url).netloc:
            self.strayed.append(url)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run a browser."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            await browser.close()


#: Of axe-core's rules that count, those that a page of other colours can break.
OF_COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
#: Those that a page of another width can break; a deep run asks all.
OF_WIDTH = {} if DEEP else {"runOnly": {"type": "rule", "values": ["scrollable-region-focusable", "target-size"]}}


async def violations(page: Page, **options: Any) -> Sequence[str]:
    """What axe-core finds wrong with a page. options: of `axe.run`."""
    results = await Axe().run(page, options={"resultTypes": ["violations"], **options})
    return [
        f"{page.url} {one['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:300]}"
        for one in results.response["violations"]
        for node in one["nodes"]
    ]
