"""Turns with more items or bytes than one script of the store writes, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.flows.conftest import StartProxy
from tests.flows.talk import new_conversation, post

MANY = [{"role": "user", "content": f"m{number}"} for number in range(600)]
LARGE = [{"role": "user", "content": f"m{number} {'x' * 200_000}"} for number in range(4)]


@pytest.mark.parametrize("items", [MANY, LARGE], ids=["many items", "many bytes"])
async def test_a_large_turn_is_kept_in_its_order_and_gone_on_from(start_proxy: StartProxy, items: list[dict[str, Any]]):
    proxy = await start_proxy()
    conversation = await new_conversation(proxy)
    turn = {"model": "echo", "conversation": conversation}
    begins = [item["content"].partition(" ")[0] for item in items]
    for number, given in enumerate(("hi", items, "go on")):
        answer = await post(proxy, "/v1/responses", {**turn, "input": given}, None)
        assert (answer.status, answer.json["status"]) == (200, "completed"), number
    asked = proxy.upstream.requests[-1].json["input"]
    assert [_begin(item) for item in asked if item["role"] == "user"] == ["hi", *begins, "go"]
    beside = {"model": "echo", "previous_response_id": answer.json["id"], "input": items}
    answer = await post(proxy, "/v1/responses", beside, None)
    answer = await post(proxy, "/v1/responses", {**beside, "previous_response_id": answer.json["id"]}, None)
    asked = proxy.upstream.requests[-1].json["input"]
    assert [_begin(item) for item in asked if item["role"] == "user"] == ["hi", *begins, "go", *begins, *begins]


def _begin(item: dict[str, Any]) -> str:
    content = item["content"]
    text: str = content if isinstance(content, str) else content[0]["text"]
    return text.partition(" ")[0]
