"""The cases: sequences of requests and answers, and what must be recorded of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.chat.answer import completion_of
from proxy.chat.read import read_messages
from proxy.config.settings import Secret
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.recording.witness import (
    all_recorded,
    answer_events,
    answer_object,
    chunks,
    completion,
    difference,
)
from tests.flows.talk import post
from tests.upstream import HANG, Reply, Step

CHAT = "/v1/chat/completions"

SECRET = Secret("a secret that two replicas share, long enough")
CASES = {path.stem: orjson.loads(path.read_bytes()) for path in sorted(Path("tests/recognition_cases").glob("*.json"))}


async def take_response(proxy: Proxy, step: dict[str, Any], body: dict[str, Any], *, streamed: bool) -> None:
    """Take a step's turn over /v1/responses."""
    answer = as_items(step["answer"])
    proxy.upstream.script(Reply.sse(answer_events(answer)) if streamed else Reply.json(200, answer_object(answer)))
    told = await post(
        proxy,
        "/v1/responses",
        {**body, "stream": streamed},
        key=None,
        owner=f"sk-{step['owner']}",
        headers=step["headers"],
    )
    assert told.status == 200, told.body


def as_items(answer: Any) -> list[dict[str, Any]]:
    """Return an answer as output items, if it is a message of Chat Completions."""
    if isinstance(answer, list):
        return answer
    (choice,) = completion_of({"choices": [{"message": answer, "finish_reason": "stop"}]}).choices
    return [{"id": f"up_{number}", **item} for number, item in enumerate(choice.bare_items)]


def as_request(body: dict[str, Any]) -> dict[str, Any]:
    """Return a request for a response that says what one for a completion says."""
    if "messages" not in body:
        return body
    rest = {name: value for name, value in body.items() if name != "messages"}
    tools = [{"type": "function", **tool["function"]} for tool in rest.pop("tools", [])]
    items = [one.item for one in read_messages(body["messages"])]
    return {**rest, "input": items, **({"tools": tools} if tools else {})}


async def take_completion(proxy: Proxy, step: dict[str, Any], *, streamed: bool) -> None:
    """Take a step's turn over /v1/chat/completions. An aborted one is left by its client in the middle."""
    aborted = step.get("aborted", False)
    frames: list[Step] = [*chunks(step["answer"], cut=aborted)]
    if streamed or aborted:
        reply = Reply.raw(200, "text/event-stream", chunks=[*frames, HANG] if aborted else frames)
    else:
        reply = Reply.json(200, completion(step["answer"]))
    proxy.upstream.script(reply, path=CHAT)
    headers = {"Authorization": f"Bearer sk-{step['owner']}", **step["headers"]}
    body = {**step["body"], "stream": streamed or aborted}
    async with proxy.http.post(proxy.url + CHAT, json=body, headers=headers) as response:
        assert response.status == 200
        if not aborted:
            told = await response.read()
            assert told == b"".join(piece for piece in reply.steps if isinstance(piece, bytes))
        else:
            got = b""
            while len(got) < sum(len(frame) for frame in frames if isinstance(frame, bytes)):
                got += await response.content.readany()
            response.close()
    if aborted:
        await proxy.upstream.client_left.wait()
        proxy.upstream.client_left.clear()


def check(name: str, played: list[tuple[dict[str, Any], Any]]) -> None:
    """Compare what was done with what was expected."""
    letters: dict[str, str] = {}
    for number, (step, change) in enumerate(played):
        expected = step["expect"]
        place = f"{name}, step {number}: {change}"
        assert change.action == expected["action"], place
        if "conversation" in expected:
            assert letters.setdefault(expected["conversation"], change.conversation) == change.conversation, place
        for field in ("line", "new_items"):
            assert getattr(change, field) == expected.get(field, getattr(change, field)), place
    assert len(set(letters.values())) == len(letters)


#: Sends one step of a case to a replica.
Take = Callable[[Proxy, dict[str, Any]], Awaitable[None]]


async def play(name: str, steps: Iterable[dict[str, Any]], proxies: Sequence[Proxy], take: Take) -> None:
    """Send a case's steps to the replicas in turn, and compare what each of them adds to the record."""
    played = []
    before = await all_recorded(proxies[0])
    for number, step in enumerate(steps):
        proxy = proxies[number % len(proxies)]
        await take(proxy, step)
        after = await all_recorded(proxy)
        played.append((step, difference(before, after)))
        before = after
    check(name, played)
    for one, other in CASES[name].get("distinct", []):
        assert played[one][1].conversation != played[other][1].conversation


async def take_step(proxy: Proxy, step: dict[str, Any], *, streamed: bool) -> None:
    """Send a step over the API that it is written for."""
    if step["path"] == CHAT:
        await take_completion(proxy, step, streamed=streamed)
    else:
        await take_response(proxy, step, step["body"], streamed=streamed)


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("name", CASES)
async def test_responses_are_recorded_as_what_they_are(start_proxy: StartProxy, name: str, *, streamed: bool):
    """Also what the cases say of completions: it holds for either API."""
    proxy = await start_proxy()

    async def take(proxy: Proxy, step: dict[str, Any]) -> None:
        await take_response(proxy, step, as_request(step["body"]), streamed=streamed)

    steps = takewhile(lambda step: not step.get("aborted"), CASES[name]["steps"])
    await play(name, steps, [proxy], take)


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("name", CASES)
async def test_cases_are_recorded(start_proxy: StartProxy, name: str, *, streamed: bool):
    proxy = await start_proxy(recording={"chat": "all"})
    await play(name, CASES[name]["steps"], [proxy], partial(take_step, streamed=streamed))


@pytest.mark.parametrize("name", CASES)
async def test_cases_are_recorded_over_two_replicas(start_proxy: StartProxy, name: str):
    """Steps go to one and the other in turn."""
    proxies = [await start_proxy(recording={"chat": "all"}, sealing={"key": SECRET}) for _ in range(2)]
    await play(name, CASES[name]["steps"], proxies, partial(take_step, streamed=False))
