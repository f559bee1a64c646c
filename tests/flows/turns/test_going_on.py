"""A conversation can always go on: whatever is in its history, and whatever the model server refuses of it.

A talk is a list of steps: turns with answers of every kind by several models, items that clients add, deletions, forks,
edits, and what a model server loses or has never known. After each step every model is asked, on the branch and after
the last response. A turn is taken, or it is refused because a call waits for its output, which is then brought.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from proxy.config.settings import Config, Secret
from proxy.stores import open_store
from tests.depth import examples
from tests.flows.conftest import Proxy, configure, running_proxy
from tests.flows.item_samples import NAMES, Item, output_for, samples
from tests.flows.talk import items_of, new_conversation
from tests.upstream import Reply

MODELS = ("thinker", "other", "plain")
WAITS = re.compile(r"No tool output found for [a-z ]+ (call_\w+)\.")
#: What nobody can know of a model before it says so.
ONLY_SAID = re.compile(r"could not be verified\.'|Reasoning input items|Invalid value: '")
#: Types that a model server may not know.
FOREIGN = ("web_search_call", "file_search_call", "mcp_call", "program", "strange_thing", "custom_tool_call")

Step = tuple[str, int, str]

steps = st.one_of(
    st.tuples(st.just("turn"), st.integers(0, 2), st.sampled_from(NAMES)),
    st.tuples(st.just("turn"), st.integers(0, 2), st.sampled_from(NAMES)),
    st.tuples(st.just("add"), st.integers(0, 2), st.sampled_from(NAMES)),
    st.tuples(st.just("add again"), st.integers(0, 30), st.just("")),
    st.tuples(st.just("answer"), st.integers(0, 30), st.sampled_from(NAMES)),
    st.tuples(st.just("delete"), st.integers(0, 30), st.sampled_from(["item", "branch", "cascade"])),
    st.tuples(st.just("fork"), st.integers(0, 30), st.sampled_from(NAMES)),
    st.tuples(st.just("back"), st.integers(0, 30), st.just("")),
    st.tuples(st.just("lose seals"), st.just(0), st.just("")),
    st.tuples(st.just("forget type"), st.just(0), st.sampled_from(FOREIGN)),
    st.tuples(st.just("plain"), st.just(0), st.just("")),
)


class Talk:
    """One conversation and what it has led to."""

    def __init__(self, proxy: Proxy, conversation: str) -> None:
        self.proxy = proxy
        self.conversation = conversation
        self.number = 0
        self.responses: list[str] = []
        self.seals: set[str] = set()

    async def take(self, step: Step) -> None:
        what, number, name = step
        takers: dict[str, Callable[[int, str], Any]] = {
            "turn": self.turn,
            "add": self.add,
            "add again": self.add_again,
            "answer": self.answer,
            "delete": self.delete,
            "fork": self.fork,
            "back": self.back,
            "lose seals": self.lose_seals,
            "forget type": self.forget_type,
            "plain": self.be_plain,
        }
        await takers[what](number, name)

    # Steps.

    async def turn(self, model: int, name: str) -> None:
        await self.ask(MODELS[model], {"conversation": self.conversation}, name)

    async def add(self, model: int, name: str) -> None:
        await self.bring(self.items(name, MODELS[model]))

    async def add_again(self, place: int, name: str) -> None:
        """Add an item that the conversation may have, and one of an earlier response, twice."""
        items = await items_of(self.proxy, self.conversation)
        if items:
            await self.bring([{"id": items[place % len(items)]["id"]}])
        if self.responses:
            _, response = await self.proxy.call("GET", f"/v1/responses/{self.responses[0]}")
            named = [{"id": item["id"]} for item in response.get("output", ())]
            await self.bring([*named, *named])

    async def answer(self, place: int, name: str) -> None:
        """Bring the output of a call, whether it waits, was cut, or was answered already."""
        items = await items_of(self.proxy, self.conversation)
        outputs = [output for item in items if (output := output_for(item))]
        if outputs:
            await self.ask("thinker", {"conversation": self.conversation}, name, outputs[place % len(outputs)])

    async def delete(self, place: int, mode: str) -> None:
        items = await items_of(self.proxy, self.conversation)
        if items:
            query = {"item": "", "branch": "?mode=branch", "cascade": "?mode=branch&cascade=true"}[mode]
            item = items[place % len(items)]["id"]
            status, _ = await self.proxy.call("DELETE", f"/v1/conversations/{self.conversation}/items/{item}{query}")
            assert status == 200

    async def fork(self, place: int, name: str) -> None:
        items = await items_of(self.proxy, self.conversation)
        if items:
            self.number += 1
            branch = f"b{self.number}"
            at = {"id": self.conversation, "fork_from": items[place % len(items)]["id"], "branch": branch}
            if await self.ask("thinker", {"conversation": at}, name):
                await self.proxy.call("POST", f"/v1/conversations/{self.conversation}/branches/{branch}/activate")

    async def back(self, place: int, _: str) -> None:
        if self.responses:
            response = self.responses[place % len(self.responses)]
            await self.go_on({"previous_response_id": response})

    async def lose_seals(self, *_: Any) -> None:
        self.proxy.upstream.rules.lost_seals |= self.seals

    async def forget_type(self, _: int, kind: str) -> None:
        self.proxy.upstream.rules.refused_types.add(kind)

    async def be_plain(self, *_: Any) -> None:
        self.proxy.upstream.rules.plain_models.add("plain")

    # What they are made of.

    def items(self, name: str, model: str) -> list[Item]:
        self.number += 1
        made = samples(self.number, model)[name]
        self.seals |= {item["encrypted_content"] for item in made if "encrypted_content" in item}
        return made

    async def bring(self, items: list[Item]) -> None:
        if items:
            path = f"/v1/conversations/{self.conversation}/items"
            status, answer = await self.proxy.call("POST", path, {"items": items})
            assert status == 200 or answer["code"] == "item_already_in_conversation", answer

    async def go_on(self, source: dict[str, Any]) -> None:
        for model in MODELS:
            assert await self.ask(model, source, "message")

    async def ask(self, model: str, source: dict[str, Any], name: str, *brought: Item) -> bool:
        """Take a turn, with the outputs of the calls that wait; tell whether the history could be gone on with."""
        output = self.items(name, model)
        answer = {"id": "r", "object": "response", "status": "completed", "output": output, "usage": {}}
        self.proxy.upstream.script(Reply.json(200, answer))
        outputs = list(brought)
        while True:
            asked = {"model": model, "input": [*outputs, {"role": "user", "content": "go on"}], **source}
            status, response = await self.proxy.call("POST", "/v1/responses", asked)
            if status == 200:
                self.responses.append(response["id"])
                return True
            waiting = WAITS.search(response["message"])
            assert status == 400, response
            assert waiting is not None, response
            assert waiting[1] not in [item.get("call_id") for item in outputs]
            outputs.append(await self.output_of(waiting[1]))

    async def output_of(self, call_id: str) -> Item:
        """Return what a client answers to a call that it was told."""
        _, page = await self.proxy.call("GET", f"/v1/conversations/{self.conversation}/items?limit=100")
        calls = [item for item in page["data"] if item.get("call_id") == call_id]
        return (calls and output_for(calls[0])) or {
            "type": "function_call_output",
            "call_id": call_id,
            "output": "42",
        }


async def play(valkey_url: str, plan: list[Step]) -> None:
    client = Redis.from_url(valkey_url)
    await client.flushall()
    await client.aclose()
    async with running_proxy(valkey_url, compaction={"upstream": "native"}) as proxy:
        talk = Talk(proxy, await new_conversation(proxy))
        for step in plan:
            await talk.take(step)
            await talk.go_on({"conversation": talk.conversation})
            await talk.go_on({"previous_response_id": talk.responses[-1]})
        assert [told for told in proxy.upstream.rules.refusals if not ONLY_SAID.search(told)] == []
    async with open_store(configure(Config(), {"redis": {"url": Secret(valkey_url)}})) as store:
        assert (await store.auditor.audit()).complaints == []


def test_every_kind_of_answer_can_be_gone_on_with(valkey_url: str):
    for name in NAMES:
        asyncio.run(play(valkey_url, [("turn", 0, name), ("delete", 1, "item"), ("delete", 0, "item")]))


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(plan=st.lists(steps, min_size=2, max_size=8))
@example(plan=[("turn", 0, "calls"), ("delete", 2, "item"), ("delete", 1, "branch"), ("fork", 1, "message")])
def test_a_conversation_can_always_go_on(valkey_url: str, plan: list[Step]):
    asyncio.run(play(valkey_url, plan))
