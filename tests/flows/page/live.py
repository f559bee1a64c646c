"""A page that watches: its server-sent events, read one by one."""

from __future__ import annotations

import asyncio
from typing import Any, Self

import orjson

from tests.flows.conftest import Proxy

#: Seconds that a test waits for what is to come.
PATIENCE_SECONDS = 10.0


class Live:
    """A stream of what changes. path: of a conversation's events, or of the list's."""

    def __init__(self, proxy: Proxy, path: str, *, key: str = "sk-alice", last: str = "") -> None:
        self._proxy, self._path = proxy, path
        self._headers = {"Authorization": f"Bearer {key}"}
        if last:
            self._headers["Last-Event-ID"] = last
        #: The number of the last event that had one.
        self.last = last

    async def __aenter__(self) -> Self:
        self.response = await self._proxy.http.get(self._proxy.url + self._path, headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.response.close()

    async def next(self) -> tuple[str, dict[str, Any]]:
        """Return the name and the data of the next event."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                frame = (await self.response.content.readuntil(b"\n\n")).decode()
                if not frame.startswith(":"):
                    break
        fields = dict(line.split(": ", 1) for line in frame.strip().split("\n"))
        self.last = fields.get("id", self.last)
        return fields["event"], orjson.loads(fields["data"])

    async def until(self, name: str) -> dict[str, Any]:
        """Read on to an event of this name and return its data."""
        while True:
            found, data = await self.next()
            if found == name:
                return data

    async def text(self, wanted: str) -> str:
        """Read the pieces of an answer until it has this text; return it."""
        text = ""
        while wanted not in text:
            text += (await self.until("delta"))["text"]
        return text


def live_path(conversation_id: str, query: str = "") -> str:
    """Return where a conversation is watched."""
    return f"/ui/c/{conversation_id}/live{query}"
