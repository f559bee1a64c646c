"""Renderer: the rendering process from this side. Started by the first text, replaced when one was too much for it.

Rendering in a thread makes every step of the event loop wait some 5 ms for as long as it lasts; beside it, none.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
from aiohttp.web import AppKey

from proxy.page.worker import pack_message

logger = logging.getLogger(__name__)

#: Longest text that is rendered, in characters; a longer one is shown as it is.
MAX_RENDERED = 16 * 1024
#: Seconds of a processor that one text may take, all texts of a page, and one that somebody asks to be rendered.
ITEM_SECONDS = 0.3
PAGE_SECONDS = 1.0
ASKED_SECONDS = 3.0
#: Seconds that a page waits for the process to be free, and for its start.
RENDER_PATIENCE_SECONDS = 2.0
WORKER_START_SECONDS = 10.0
#: Seconds without work after which the process ends.
WORKER_IDLE_SECONDS = 300.0
#: Characters of HTML that are kept.
CACHE_CHARACTERS = 8 * 1024 * 1024

#: What renders for the page.
RENDERER: AppKey[Renderer] = AppKey("renderer")


class _Gone(Exception):
    """The process ended before it answered. is_spent: its task has had its time of a processor."""

    def __init__(self, *, is_spent: bool = False) -> None:
        super().__init__()
        self.is_spent = is_spent


class Renderer:
    """Renders texts in one process of its own. Texts never change, so what was made of one is kept."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._free = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        #: By the text's digest: HTML, or None for a text that was too much.
        self._kept: OrderedDict[bytes, str | None] = OrderedDict()
        self._kept_characters = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Renderer]:
        """End the process with the context."""
        try:
            yield self
        finally:
            await self._stop()

    async def render(self, texts: Sequence[str], *, asked: bool = False) -> list[str | None]:
        """Return texts as HTML, None for each that is too long or takes too long. asked: with more time, and anew."""
        digests = [hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest() for text in texts]
        missing = [i for i, text in enumerate(texts) if len(text) <= MAX_RENDERED and self._lacks(digests[i], asked)]
        if missing:
            with suppress(TimeoutError):
                async with asyncio.timeout(RENDER_PATIENCE_SECONDS):
                    await self._free.acquire()
                try:
                    await self._render(texts, digests, missing, ASKED_SECONDS if asked else ITEM_SECONDS)
                finally:
                    self._free.release()
        return [self._find(digest) for digest in digests]

    async def search(self, sought: str, items: Sequence[str]) -> list[list[Any]]:
        """Return what `search.matches` finds; nothing where that can't be said in time."""
        found: list[list[Any]] | None = await self._do({"job": "search", "sought": sought, "items": items})
        return found or []

    async def compare(self, first: str, second: str) -> list[list[str]] | None:
        """Return what `search.word_diff` says, None where that can't be said in time."""
        told: list[list[str]] | None = await self._do({"job": "compare", "first": first, "second": second})
        return told

    async def _do(self, task: dict[str, Any]) -> Any:
        with suppress(TimeoutError, _Gone):
            async with asyncio.timeout(RENDER_PATIENCE_SECONDS):
                await self._free.acquire()
            try:
                return (await self._ask({**task, "seconds": PAGE_SECONDS}))["result"]
            finally:
                self._free.release()
        return None

    async def _render(
        self, texts: Sequence[str], digests: Sequence[bytes], missing: Sequence[int], most: float
    ) -> None:
        left = max(PAGE_SECONDS, most)
        for i in missing:
            if left <= 0:
                # nothing is said of these: the next view has its own time
                return
            try:
                answer = await self._ask({"job": "markdown", "text": texts[i], "seconds": most})
            except _Gone as gone:
                left -= most
                if not gone.is_spent:
                    # the machine's doing, and not the text's: the next view tries it again
                    continue
                logger.info("a text of %d characters took too long to render", len(texts[i]))
                self._keep(digests[i], None)
            else:
                self._keep(digests[i], answer["result"])
                left -= answer["seconds"]

    async def _ask(self, task: dict[str, Any]) -> dict[str, Any]:
        process = self._process or await self._start()
        self._put_off_end()
        try:
            # of wall time it may take longer, where others need the processor
            async with asyncio.timeout(WORKER_START_SECONDS):
                if process.stdin is None:
                    raise _Gone
                process.stdin.write(pack_message(task))
                await process.stdin.drain()
                return await _read(process)
        except (_Gone, TimeoutError, ConnectionError):
            await self._stop()
            raise _Gone(is_spent=process.returncode == -signal.SIGPROF) from None
        except asyncio.CancelledError:
            # an answer that nobody waits for would be the next one's
            await self._stop()
            raise

    async def _start(self) -> Process:
        command = [sys.executable, "-m", "proxy.page.worker"]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True, limit=64 * 1024
        )
        self._process = process
        try:
            async with asyncio.timeout(WORKER_START_SECONDS):
                await _read(process)
        except (_Gone, TimeoutError):
            await self._stop()
            raise _Gone from None
        except asyncio.CancelledError:
            await self._stop()
            raise
        return process

    def _put_off_end(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(WORKER_IDLE_SECONDS, self._end_idle)

    def _end_idle(self) -> None:
        if not self._free.locked() and self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process = None

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()

    def _lacks(self, digest: bytes, asked: bool) -> bool:
        return digest not in self._kept or (asked and self._kept[digest] is None)

    def _find(self, digest: bytes) -> str | None:
        html = self._kept.get(digest)
        if html is not None:
            self._kept.move_to_end(digest)
        return html

    def _keep(self, digest: bytes, html: str | None) -> None:
        self._kept_characters += len(html or "") - len(self._kept.pop(digest, None) or "")
        self._kept[digest] = html
        while self._kept_characters > CACHE_CHARACTERS or len(self._kept) > CACHE_CHARACTERS // 256:
            _, oldest = self._kept.popitem(last=False)
            self._kept_characters -= len(oldest or "")


async def _read(process: Process) -> dict[str, Any]:
    if process.stdout is None:
        raise _Gone
    try:
        head = await process.stdout.readexactly(4)
        body = await process.stdout.readexactly(int.from_bytes(head, "big"))
    except asyncio.IncompleteReadError:
        raise _Gone from None
    answer: dict[str, Any] = orjson.loads(body)
    return answer
