"""Recording in bad weather: requests that nobody else sends, answers of the store that get lost, crowds of equals."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from benchmarks.faults.injector import link
from benchmarks.processes import free_port, free_ports
from proxy.config.settings import Secret
from proxy.recording.chat import CHAT_RECORDER
from tests.flows.conftest import Proxy, StartProxy, running_proxy
from tests.flows.recording.resending import CHAT, chat, only_conversation, said, say, texts_of, user
from tests.flows.recording.witness import all_recorded, completion
from tests.flows.servers import HEADERS, Server, running_server
from tests.flows.talk import items_of, post
from tests.storage.servers import run_valkey
from tests.upstream import Reply


async def test_a_history_that_is_too_long_to_be_looked_at_does_not_stop_the_others(proxy: Proxy):
    proxy.upstream.script(Reply.json(200, completion(said("first"))), path=CHAT)
    body = {"model": "m", "store": True, "messages": [user("")] * 100_001}
    headers = {"Authorization": "Bearer sk-alice"}
    async with proxy.http.post(proxy.url + CHAT, data=io.BytesIO(orjson.dumps(body)), headers=headers) as response:
        assert response.status == 200
    await chat(proxy, user("one"), answer="first")
    assert await texts_of(proxy, await only_conversation(proxy)) == ["one", "first"]
    assert proxy.app[CHAT_RECORDER].dropped == 1


async def test_integers_of_any_size_are_taken_down_and_given_back(proxy: Proxy):
    number = 10**30
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": number}}, "more": number}
    history = [user("one"), {"role": "assistant", "content": None, "tool_calls": [call]}]
    proxy.upstream.script(Reply.json(200, completion(said("first"))), path=CHAT)
    # orjson has no such numbers
    body = json.dumps({"model": "m", "store": True, "messages": history}).encode()
    told = await post(proxy, CHAT, body, key=None)
    assert told.status == 200
    items = await items_of(proxy, await only_conversation(proxy))
    assert items[1]["arguments"] == f'{{"a":{number}}}'


async def test_a_completion_whose_writing_was_not_answered_is_recorded_once():
    (port,) = free_ports(1)
    with run_valkey("--port", str(port), "--bind", "127.0.0.1"):
        async with link(port) as way, Redis(port=port) as operator:
            url = f"redis://127.0.0.1:{way.port}"
            config: dict[str, Any] = {"redis": {"timeout_seconds": 1.0}}
            async with running_proxy(url, **config) as proxy, asyncio.timeout(20):
                # so that the server knows the scripts: what is asked by name alone is done at once
                await chat(proxy, user("zero"), answer="none")
                await all_recorded(proxy)
                before = len(await operator.keys("*:conversation"))
                way.swallow()
                await chat(proxy, user("one"), answer="first")
                while len(await operator.keys("*:conversation")) == before:  # noqa: ASYNC110 (another process)
                    await asyncio.sleep(0.01)
                way.restore()
                await proxy.redis.connection_pool.disconnect()
                assert await proxy.app[CHAT_RECORDER].settle(10)
                recorded = await all_recorded(proxy)
                assert sorted(len(line.items) for one in recorded.values() for line in one.lines.values()) == [2, 2]
                await chat(proxy, user("one"), said("first"), user("two"), answer="second")
                recorded = await all_recorded(proxy)
                assert sorted(len(line.items) for one in recorded.values() for line in one.lines.values()) == [2, 4]


async def test_equal_conversations_go_on_elsewhere_too(start_proxy: StartProxy):
    """On the replica that has not served their last turns, as many as they are, and after an edit of one."""
    secret = Secret("a secret that two replicas share, long enough")
    proxies = [await start_proxy(sealing={"key": secret}) for _ in range(2)]
    history: list[dict[str, Any]] = []
    for turn in range(3):
        history.append(user(f"question {turn}"))
        for _ in range(40):
            await chat(proxies[turn % 2], *history, answer=f"answer {turn}")
        history.append(said(f"answer {turn}"))
        await all_recorded(proxies[turn % 2])
    recorded = await all_recorded(proxies[0])
    assert [[len(line.items) for line in one.lines.values()] for one in recorded.values()] == [[6]] * 40
    await chat(proxies[1], *history[:2], user("edited"), answer="another")
    assert sum(len(one.lines) for one in (await all_recorded(proxies[1])).values()) == 41


async def test_equal_conversations_that_change_replicas_at_once_are_not_mixed_up(start_proxy: StartProxy):
    """What leads to a turn is there as soon as it was answered, on every replica."""
    secret = Secret("a secret that two replicas share, long enough")
    one, other = [await start_proxy(sealing={"key": secret}) for _ in range(2)]
    history: list[dict[str, Any]] = []
    for turn, proxies in enumerate([(one, other), (one, one), (other, other), (one, other)]):
        history.append(user(f"question {turn}"))
        for proxy in proxies:
            await say(proxy, *history, answer=f"answer {turn}")
        history.append(said(f"answer {turn}"))
    recorded = await all_recorded(one)
    assert [[len(line.items) for line in each.lines.values()] for each in recorded.values()] == [[8]] * 2


async def recorded_answer(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    """Ask until the answer says where it is recorded: on a busy machine a look-up may come too late."""
    while True:
        async with server.http.post(f"{server.url}/v1/responses", json=body, headers=HEADERS) as response:
            answer: dict[str, Any] = await response.json()
            if "x-branchline-conversation" in response.headers:
                return answer


@pytest.mark.parametrize("way", ["resent", "chained"])
async def test_a_turn_that_was_answered_is_gone_on_from_after_a_kill(tmp_path: Path, way: str):
    port = free_port()
    history: list[dict[str, Any]] = []
    previous: dict[str, Any] = {}
    for turn in range(3):
        async with running_server(port, "--upstream", "echo", "--data-dir", str(tmp_path)) as server:
            question = user(f"question {turn}")
            body = {"model": "echo", "input": [*history, question]}
            if way == "chained" and turn == 1:
                body = {"model": "echo", "input": [question], "previous_response_id": previous["id"]}
            previous = await recorded_answer(server, body)
            os.kill(server.pid, signal.SIGKILL)
            history += [question, said(previous["output"][0]["content"][0]["text"])]
    async with running_server(port, "--upstream", "echo", "--data-dir", str(tmp_path)) as server:
        (conversation,) = (await server.call("GET", "/v1/conversations"))["data"]
        page = await server.call("GET", f"/v1/conversations/{conversation['id']}/items?order=asc")
        branches = await server.call("GET", f"/v1/conversations/{conversation['id']}/branches")
    assert len(branches["data"]) == 1
    assert [item["role"] for item in page["data"]] == ["user", "assistant"] * 3
