"""A bulk worker answers as the process that listens does: the same requests, small and large, one beside the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import aiohttp
import orjson
import pytest
from multidict import CIMultiDict

from benchmarks.processes import free_port
from tests.proxy.cli.conftest import Serve
from tests.proxy.cli.scraping import TURNS, Samples, scrape
from tests.proxy.cli.serving import Served

ORIGIN = "https://app.example"
LIMIT = 1_000
#: What is another value each time.
VOLATILE = {"date", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests", "content-length"}
SETTINGS = {
    "BRANCHLINE_SERVER_CORS_ORIGINS": ORIGIN,
    "BRANCHLINE_QUOTAS_REQUESTS_PER_MINUTE": str(LIMIT),
}


class Ask(NamedTuple):
    """A request. path, body: `{name}` stands for what an answer before was found to have. keeps: name → its path."""

    method: str
    path: str
    body: Any
    headers: dict[str, str] = {}  # noqa: RUF012
    keeps: dict[str, tuple[str | int, ...]] = {}  # noqa: RUF012


class Seen(NamedTuple):
    """An answer, without what is another each time."""

    asked: str
    status: int
    headers: dict[str, str]
    shape: Any


TURN = {"model": "m", "input": "hello"}
IN_IT = {**TURN, "conversation": "{conversation}"}
ITEM = {"type": "message", "role": "user", "content": "hi"}
ONE = "/conversations/{conversation}"
NOWHERE = "/conversations/conv_" + 48 * "0"
ASKS = [
    Ask("POST", "/conversations", {"items": [ITEM], "metadata": {"a": "b"}}, keeps={"conversation": ("id",)}),
    Ask("POST", "/conversations", {"items": 1}),
    Ask("POST", ONE, {"metadata": {"a": "c"}}),
    Ask("PATCH", ONE, {"metadata": 7}),
    Ask("POST", NOWHERE, {"metadata": {}}),
    Ask("POST", f"{ONE}/items", {"items": [ITEM]}, keeps={"item": ("data", 0, "id")}),
    Ask("POST", f"{ONE}/items", {"items": [{"type": "no such"}]}),
    Ask("POST", f"{NOWHERE}/items", {"items": [ITEM]}),
    Ask("POST", "/responses", IN_IT, keeps={"response": ("id",)}),
    Ask("POST", "/responses", {**IN_IT, "stream": True}),
    Ask("POST", "/responses", {**TURN, "stream": True}, {"Idempotency-Key": "streamed"}),
    Ask("POST", "/responses", {**TURN, "store": False}),
    Ask("POST", "/responses", TURN, {"Idempotency-Key": "same"}),
    Ask("POST", "/responses", TURN, {"Idempotency-Key": "same"}),
    Ask("POST", "/responses", {**TURN, "user": "another"}, {"Idempotency-Key": "same"}),
    Ask("POST", "/responses", TURN, {"Idempotency-Key": ""}),
    Ask("POST", "/responses?a=b", TURN, {"Expect": "100-continue"}),
    Ask("POST", "/responses", {**TURN, "previous_response_id": "{response}"}),
    Ask("POST", "/responses", {**TURN, "previous_response_id": "resp_none"}),
    Ask("POST", "/responses", {**TURN, "conversation": 1}),
    Ask("POST", "/responses", {"input": "no model"}),
    Ask("POST", "/responses", {**TURN, "input": [[[[{}]]]]}),
    Ask("POST", "/responses", {**TURN, "background": True}, keeps={"later": ("id",)}),
    Ask("POST", "/responses", TURN, {"Content-Type": "text/plain"}),
    Ask("POST", "/responses", TURN, {"Content-Encoding": "br"}),
    Ask("POST", "/responses", TURN, {"Content-Encoding": "gzip"}),
    Ask("POST", "/responses", TURN, {"Origin": ORIGIN}),
    Ask("POST", "/responses", TURN, {"Origin": "https://other.example"}),
    Ask("POST", "/responses", TURN, {"traceparent": "00-" + 32 * "a" + "-" + 16 * "b" + "-01"}),
    Ask("POST", "/responses", b"[1"),
    Ask("POST", "/responses", b'{"model":"m","input":"\xff","store":false}'),
    Ask("POST", "/responses", [1]),
    Ask("POST", "/responses/compact", TURN),
    Ask("POST", "/responses/compact", {}),
    Ask("POST", "/responses/input_tokens", TURN),
    Ask("POST", "/responses/input_tokens", {"input": 5}),
    Ask("POST", "/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "hello"}]}),
    Ask("POST", f"{ONE}/branches", {"name": "other"}),
    Ask("POST", f"{ONE}/branches", {"name": "other"}),
    Ask("PATCH", f"{ONE}/branches/other", {"description": "x"}),
    Ask("POST", f"{ONE}/branches/other", {}),
    Ask("POST", f"{ONE}/items/{{item}}/edit", {"content": "changed", "model": "m", "regenerate": True}),
    Ask("PUT", f"{ONE}/items/{{item}}/edit", {}),
    Ask("POST", f"{ONE}/items/{{item}}/regenerate", {"model": "m"}),
    Ask("POST", "/conversations/import", {"no": "backup"}),
    Ask("POST", "/responses/{later}/cancel", {}),
    Ask("DELETE", "/conversations", {"all": True}),
    Ask("PUT", "/responses", TURN),
    Ask("POST", "/nowhere", TURN),
]


def padded(body: bytes) -> bytes:
    """The same JSON, with enough space in it to be large."""
    return body[:1] + b" " * 300_000 + body[1:]


def filled(value: Any, known: dict[str, str]) -> Any:
    return orjson.loads(re.sub(rb"\{(\w+)\}", lambda found: known[found[1].decode()].encode(), orjson.dumps(value)))


def found_at(value: Any, path: tuple[str | int, ...]) -> str:
    for step in path:
        value = value[step]
    return str(value)


def shape_of(value: Any) -> Any:
    """Names and types of a value; the words of those that are the same each time."""
    if isinstance(value, dict):
        return {name: value[name] if name in ("code", "param", "object") else shape_of(value[name]) for name in value}
    if isinstance(value, list):
        return [shape_of(one) for one in value]
    return type(value).__name__


def shape_of_body(body: bytes) -> Any:
    try:
        return shape_of(orjson.loads(body))
    except orjson.JSONDecodeError:
        return re.findall(rb"^event: (\S+)$", body, re.MULTILINE)


async def answers(served: Served, owner: str, write: Callable[[bytes], bytes]) -> list[Seen]:
    """What one owner is answered to all requests, in their order. write: makes the body that is sent."""
    known: dict[str, str] = {}
    seen = []
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer sk-{owner}"}) as session:
        for ask in ASKS:
            body = ask.body if isinstance(ask.body, bytes) else orjson.dumps(filled(ask.body, known))
            path = filled(ask.path, known)
            headers = {"Content-Type": "application/json", **ask.headers}
            async with session.request(ask.method, served.url + path, data=write(body), headers=headers) as answer:
                told = await answer.read()
            for name, where in ask.keeps.items():
                known[name] = found_at(orjson.loads(told), where)
            heads = {name.lower(): re.sub(r"[0-9a-f]{32,}|\d+ B", "…", value) for name, value in answer.headers.items()}
            kept = {name: value for name, value in heads.items() if name not in VOLATILE}
            seen.append(Seen(f"{ask.method} {ask.path} {ask.headers}", answer.status, kept, shape_of_body(told)))
    return seen


def lines(log: str) -> Iterator[str]:
    """The lines of requests, without what is another each time."""
    for line in re.findall(r"proxy\.http\.middleware(?:\[\d+\])?: (.*)", log):
        yield re.sub(r"[0-9a-f]{32,}|[\d.]+ ms|\d+ B\b|\d+", "…", line)


def counts(before: Samples, after: Samples) -> dict[Any, float]:
    """What has been counted in between of requests and turns."""
    names = (TURNS, "branchline_http_requests_total", "branchline_turn_seconds_count", "branchline_repeats_total")
    grown = {key: value - before.get(key, 0.0) for key, value in after.items() if key[0] in names}
    return {key: value for key, value in grown.items() if value}


async def test_large_requests_are_answered_as_small_ones(serve: Serve):
    port = free_port()
    served = await serve(**SETTINGS, BRANCHLINE_METRICS_PORT=str(port))
    start = await scrape(port)
    small = await answers(served, "alice", bytes)
    await served.logged("proxy.http.middleware.*: ", times=len(ASKS))
    between, log = await scrape(port), served.log
    large = await answers(served, "bob", padded)
    await served.logged("proxy.http.middleware.*: ", times=2 * len(ASKS))
    # where their connections end with the answer: so that what follows does not come there
    assert sum(one.headers.pop("connection", "") == "close" for one in large) > len(ASKS) / 2
    assert [one for one in large if one not in small] == []
    assert large == small
    assert sorted(lines(served.log[len(log) :])) == sorted(lines(log))
    assert counts(between, await scrape(port)) == counts(start, between)


@pytest.mark.parametrize("body", [b"{}", padded(b"{}")], ids=["small", "large"])
async def test_the_headers_of_the_quota_count_down(serve: Serve, body: bytes):
    served = await serve(BRANCHLINE_QUOTAS_REQUESTS_PER_MINUTE="4")
    left = []
    async with aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as session:
        for _ in range(5):
            async with session.post(f"{served.url}/conversations", data=body) as answer:
                headers: CIMultiDict[str] = CIMultiDict(answer.headers)
                left.append((answer.status, headers["x-ratelimit-remaining-requests"]))
                assert headers["x-ratelimit-limit-requests"] == "4"
                assert re.fullmatch(r"[\d.]+m?s|\d+m\d+s", headers["x-ratelimit-reset-requests"])
    assert left == [(200, "3"), (200, "2"), (200, "1"), (200, "0"), (429, "0")]
