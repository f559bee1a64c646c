"""What the clients of a storm share: the way to the servers, and the log of what they were told."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

#: Refusals that are no fault: others are at work too.
EXPECTED = {"conversation_locked", "branch_protected", "branch_already_exists", "404"}
#: First item of the conversation, which nobody deletes or edits.
ROOT = "root"

Item = dict[str, Any]


def key(item: Item) -> str:
    """Return what tells an item from others: a user's text, which is never said twice, or the id."""
    return str(item["content"][0]["text"] if item["role"] == "user" else item["id"])


@dataclass(frozen=True)
class Said:
    """An item that a client was told is stored; from when to when it was asked for."""

    key: str
    asked: float
    told: float


@dataclass(frozen=True)
class Loss:
    """A branch that was deleted: what was seen on it, and between when nobody knows what came."""

    keys: frozenset[str]
    seen: float
    gone: float


@dataclass
class Log:
    """What happened. All by key; names: shared branches that may be there.

    answers: answer → the question before it. deleted: → id. going: to be deleted. left_out: of new MAINs.
    """

    faults: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    said: list[Said] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    deleted: dict[str, str] = field(default_factory=dict)
    going: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)
    losses: list[Loss] = field(default_factory=list)
    names: list[str] = field(default_factory=lambda: ["MAIN"])

    def fault(self, text: str) -> None:
        self.faults.append(text)


@dataclass(frozen=True)
class Wire:
    """Requests to any of the servers. path: of the conversation."""

    session: aiohttp.ClientSession
    urls: list[str]
    log: Log
    seed: int
    path: str = ""
    dice: random.Random = field(default_factory=lambda: random.Random(0))

    async def call(self, method: str, path: str, body: Any = None, **query: str) -> tuple[bool, Any]:
        """Return whether it was done, and the answer's JSON; of a stream the last event."""
        url = self.dice.choice(self.urls) + path
        async with self.session.request(method, url, json=body, params=query) as answer:
            data = await answer.read()
            if answer.status < 300:
                return True, read_answer(data, answer.content_type)
            self._refused(f"{method} {path.replace(self.path, '…')} {query} {body}", answer.status, data)
            return False, orjson.loads(data)

    def _refused(self, request: str, status: int, data: bytes) -> None:
        code = "404" if status == 404 else orjson.loads(data)["error"]["code"] if status < 500 else str(status)
        self.log.refused[str(code)] += 1
        if code not in EXPECTED:
            self.log.fault(f"{request} was answered {status}: {data.decode()[:300]}")

    async def items(self, branch: str, *, limit: int = 100, order: str = "asc") -> list[Item] | None:
        """Return all items of a branch, or those of one page; None if it went meanwhile."""
        found: list[Item] = []
        query = {"branch": branch, "limit": str(limit), "order": order}
        while True:
            done, page = await self.call("GET", f"{self.path}/items", **query)
            if not done:
                return None
            found += page["data"]
            if limit < 100 or not page["has_more"]:
                return found
            query["after"] = page["last_id"]

    async def branches(self) -> list[Item]:
        """Return all branches."""
        found: list[Item] = []
        after: dict[str, str] = {}
        while True:
            done, page = await self.call("GET", f"{self.path}/branches", limit="100", **after)
            found += page["data"] if done else []
            if not done:
                # the branch that the cursor named went
                found, after = [], {}
            elif page["has_more"]:
                after = {"after": page["last_id"]}
            else:
                return found

    async def turn(self, conversation: dict[str, str], text: str, *, stream: bool) -> Item | None:
        """Take a turn; return the response, None if it was refused."""
        body = {"model": "echo", "input": text, "conversation": conversation, "stream": stream}
        done, answer = await self.call("POST", "/v1/responses", body)
        return self.response_in(answer) if done else None

    def response_in(self, answer: Item) -> Item | None:
        response: Item = answer.get("response", answer)
        if response["status"] != "completed":
            self.log.fault(f"a turn ended as {response['status']}: {response.get('error')}")
            return None
        return response


def read_answer(data: bytes, content_type: str) -> Any:
    """Return an answer's JSON, or the last event of a stream."""
    if content_type != "text/event-stream":
        return orjson.loads(data) if data else None
    events = [line[6:] for line in data.split(b"\n") if line.startswith(b"data: ")]
    return orjson.loads(events[-2])


def clock() -> float:
    return time.monotonic()
