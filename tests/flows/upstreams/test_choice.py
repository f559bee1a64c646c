"""Which of several model servers a turn goes to, what it is called there, and with which key."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.config.settings import Secret
from tests.flows.conftest import StartProxy
from tests.flows.connection import Connection
from tests.flows.streams import read_stream
from tests.flows.talk import items_of, new_conversation, post, respond, stored_keys
from tests.flows.upstreams.conftest import WAYS, StartSeveral, says, take, text_of, told_in
from tests.upstream import Reply

THREE = {
    "qwen": {"models": ["qwen3-32b"]},
    "long": {"models": ["gpt-5*"]},
    "short": {"models": ["gpt-*"]},
    "rest": {"models": ["o*", "*"]},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("qwen3-32b", "qwen"),
        ("qwen3-32b-long", "rest"),
        ("gpt-5-mini", "long"),
        ("gpt-4o", "short"),
        ("o3", "rest"),
        ("llama", "rest"),
    ],
)
async def test_a_turn_goes_to_the_server_of_its_model(start_several: StartSeveral, way: str, model: str, name: str):
    several = await start_several(**THREE)
    response = await take(several, way, model=model)
    assert response["status"] == "completed"
    assert several.asked() == [name]
    assert several.question(name)["model"] == model


@pytest.mark.parametrize("way", WAYS)
async def test_a_model_that_no_server_has_is_refused_at_once(start_several: StartSeveral, way: str):
    several = await start_several(a={"models": ["m"]}, b={"models": ["gpt-*"]})
    answer = await take(several, way, model="gp", input="hi")
    assert answer["error"] == {
        "message": "The model 'gp' does not exist here.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    missing = await take(several, way, input="hi")
    assert (missing["error"]["code"], missing["error"]["param"]) == ("missing_required_parameter", "model")
    assert several.asked() == []
    assert await stored_keys(several.proxy) == []


async def test_the_statuses_of_both_refusals(start_several: StartSeveral):
    several = await start_several(a={"models": ["m"]})
    for body, status in (({"model": "x"}, 404), ({}, 400)):
        assert (await post(several.proxy, "/v1/responses", {"input": "hi", **body}, None)).status == status
        assert (await post(several.proxy, "/v1/responses/input_tokens", {"input": "hi", **body}, None)).status == status
    async with Connection(several.proxy) as connection:
        assert (await connection.refused(model="x", input="hi"))["status"] == 404


async def test_a_refused_turn_leaves_its_conversation_free(start_several: StartSeveral):
    several = await start_several(a={"models": ["m"]})
    conversation = await new_conversation(several.proxy)
    await respond(several.proxy, model="x", conversation=conversation, expect=404)
    await respond(several.proxy, model="m", conversation=conversation)


async def test_an_answer_made_anew_comes_from_the_server_of_the_one_before(start_several: StartSeveral):
    several = await start_several(a={"models": ["m"]}, b={"models": ["n"]})
    conversation = await new_conversation(several.proxy)
    await respond(several.proxy, model="n", conversation=conversation)
    answer = (await items_of(several.proxy, conversation))[1]["id"]
    path = f"/v1/conversations/{conversation}/items/{answer}/regenerate"
    assert (await post(several.proxy, path, {}, None)).status == 200
    assert several.asked() == ["b", "b"]


AZURE = {"azure": {"models": ["gpt-5-eu"], "rename": {"gpt-5-eu": "my-deployment"}}, "rest": {"models": ["*"]}}


@pytest.mark.parametrize("way", WAYS)
async def test_a_server_gets_its_own_name_of_a_model_and_the_client_never_sees_it(
    start_several: StartSeveral, way: str
):
    several = await start_several(**AZURE)
    several.servers["azure"].script(says("hello", way, model="my-deployment-2025"))
    response = await take(several, way, model="gpt-5-eu")
    assert several.question("azure")["model"] == "my-deployment"
    assert (response["model"], text_of(response)) == ("gpt-5-eu", "hello")
    _, stored = await several.proxy.call("GET", f"/v1/responses/{response['id']}")
    assert stored["model"] == "gpt-5-eu"


async def test_every_event_has_the_clients_name(start_several: StartSeveral):
    several = await start_several(**AZURE)
    several.servers["azure"].script(says("hello", "stream", model="my-deployment"))
    told = await read_stream(several.proxy, {"model": "gpt-5-eu", "input": "hi"})
    assert b"my-deployment" not in told
    models = {event["response"]["model"] for event in told_in(told) if "response" in event}
    assert models == {"gpt-5-eu"}


@pytest.mark.parametrize("way", ["plain", "stream"])
async def test_a_refusal_speaks_of_the_clients_name(start_several: StartSeveral, way: str):
    several = await start_several(**AZURE)
    error = {"message": "The model 'my-deployment' takes no images.", "code": "invalid_image"}
    several.servers["azure"].script(Reply.json(400, {"error": error}))
    answer = await take(several, way, model="gpt-5-eu")
    assert answer["error"]["message"] == "The model 'gpt-5-eu' takes no images."


KEYS: dict[str, Any] = {
    "own": {"models": ["own"], "api_key": Secret("sk-own")},
    "none": {"models": ["none"]},
    "callers": {"models": ["callers"], "caller_key": True},
}


@pytest.mark.parametrize("way", WAYS)
async def test_each_server_sees_its_own_key_or_none_and_a_callers_only_where_that_is_said(
    start_several: StartSeveral, way: str
):
    several = await start_several(**KEYS)
    for name, expected in (("own", "Bearer sk-own"), ("none", None), ("callers", "Bearer sk-alice")):
        assert (await take(several, way, model=name))["status"] == "completed"
        assert several.servers[name].requests[-1].headers.get("Authorization") == expected


@pytest.mark.parametrize("header", ["api-key", "x-api-key"])
async def test_a_key_in_another_header_goes_where_it_may_and_nowhere_else(start_several: StartSeveral, header: str):
    several = await start_several(**KEYS)
    for name in KEYS:
        async with several.proxy.http.post(
            f"{several.proxy.url}/v1/responses", json={"model": name, "input": "hi"}, headers={header: "sk-bob"}
        ) as answer:
            assert answer.status == 200
        sent = several.servers[name].requests[-1].headers
        assert sent.get(header) == ("sk-bob" if name == "callers" else None)
    assert several.servers["own"].requests[-1].headers["Authorization"] == "Bearer sk-own"


async def test_what_names_the_server_is_its_name(start_several: StartSeveral):
    several = await start_several(**THREE)
    answer = await post(several.proxy, "/v1/responses", {"model": "gpt-4o", "input": "hi"}, None)
    assert answer.headers["x-branchline-upstream"] == "short"


async def test_with_one_server_nothing_is_said_of_it(start_several: StartSeveral, start_proxy: StartProxy):
    proxy = await start_proxy()
    answer = await post(proxy, "/v1/responses", {"model": "m", "input": "hi"}, None)
    assert answer.status == 200
    assert "x-branchline-upstream" not in answer.headers


async def test_a_conversation_goes_on_when_its_server_is_replaced(start_several: StartSeveral, start_proxy: StartProxy):
    first = await start_proxy()
    conversation = await new_conversation(first)
    await respond(first, conversation=conversation, input="one", model="m")
    second = await start_several(a={"models": ["m"]}, b={"models": ["*"]})
    await respond(second.proxy, conversation=conversation, input="two", model="m")
    await respond(second.proxy, conversation=conversation, input="three", model="another")
    third = await start_several(other={"models": ["m"], "rename": {"m": "n"}}, b={"models": ["*"]})
    await respond(third.proxy, conversation=conversation, input="four", model="m")
    assert [item["role"] for item in await items_of(third.proxy, conversation)] == ["user", "assistant"] * 4
    assert len(third.question("other")["input"]) == 7
