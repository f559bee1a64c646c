"""A WebSocket client that takes nothing on trust, and one turn's answer as it reads it."""

from __future__ import annotations

from typing import Any, Self

import aiohttp
import orjson

from tests.flows.conftest import Proxy
from tests.flows.witness import TERMINAL, accept_events


class Connection:
    """A connection to `GET /v1/responses`.

    async with Connection(proxy) as connection:
        response = await connection.turn(input="hi")               # checked event by event
        error = await connection.refused(input="hi", previous_response_id="resp_0")
    """

    def __init__(self, proxy: Proxy, key: str = "sk-alice", **options: Any) -> None:
        self._proxy, self._options = proxy, {"headers": {"Authorization": f"Bearer {key}"}, **options}
        self.received: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        self.socket = await self._proxy.http.ws_connect(f"{self._proxy.url}/v1/responses", **self._options)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.socket.close()

    async def send(self, **message: Any) -> None:
        """Send one message as it is."""
        await self.socket.send_str(orjson.dumps(message).decode())

    async def create(self, **body: Any) -> None:
        """Ask for a response; the model is the echo."""
        await self.send(type="response.create", **{"model": "echo", **body})

    async def next(self) -> dict[str, Any]:
        """Return the next message; fail if the connection ended."""
        message = await self.socket.receive()
        assert message.type is aiohttp.WSMsgType.TEXT, message
        self.received.append(orjson.loads(message.data))
        return self.received[-1]

    async def until(self, kind: str) -> dict[str, Any]:
        """Read on to a message of this type and return it."""
        while (message := await self.next())["type"] != kind:
            pass
        return message

    async def answer(self, stream_id: str | None = None) -> dict[str, Any]:
        """Read one whole answer, nothing else in between; return its Response."""
        events = [await self.next()]
        while events[-1]["type"] not in TERMINAL:
            assert events[-1]["type"] != "error", events[-1]
            events.append(await self.next())
        for event in events:
            assert event.pop("stream_id", None) == stream_id
        accept_events(events)
        response: dict[str, Any] = events[-1]["response"]
        return response

    async def turn(self, **body: Any) -> dict[str, Any]:
        """Ask and read the answer."""
        await self.create(**body)
        return await self.answer(body.get("stream_id"))

    async def refused(self, **body: Any) -> dict[str, Any]:
        """Ask and read the refusal; return its `error`, with the status in it."""
        await self.create(**body)
        message = await self.next()
        assert message["type"] == "error", message
        assert message.get("stream_id") == body.get("stream_id")
        return {**message["error"], "status": message["status"]}

    async def closed(self) -> int | None:
        """Read to the end of the connection and return the code that the server closed it with."""
        while (message := await self.socket.receive()).type is aiohttp.WSMsgType.TEXT:
            self.received.append(orjson.loads(message.data))
        code: int | None = self.socket.close_code
        return code


def said(response: dict[str, Any]) -> str:
    """Return the text of a response."""
    return str(response["output"][-1]["content"][0]["text"])
