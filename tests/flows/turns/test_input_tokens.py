"""How many tokens a turn would give the model, counted by the model server or here."""

from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError

from tests.flows.conftest import Proxy, StartProxy
from tests.upstream import Reply

PATH = "/v1/responses/input_tokens"


def counted(tokens: int, **headers: str) -> Reply:
    return Reply.json(200, {"object": "response.input_tokens", "input_tokens": tokens}, headers)


async def ask(proxy: Proxy, body: object, key: str = "sk-alice"):
    """Return status, headers and JSON of a count."""
    headers = {"Authorization": f"Bearer {key}"}
    async with proxy.http.post(proxy.url + PATH, json=body, headers=headers) as answer:
        return answer.status, answer.headers, await answer.json()


async def talk(client: AsyncOpenAI, *texts: str) -> str:
    """Return the id of a conversation with these messages."""
    items: list[Any] = [{"type": "message", "role": "user", "content": text} for text in texts]
    return (await client.conversations.create(items=items)).id


async def test_the_model_server_counts_the_whole_turn(proxy: Proxy):
    client = proxy.client()
    conversation = await talk(client, "one", "two")
    proxy.upstream.script(counted(42), path=PATH)
    answer = await client.responses.input_tokens.count(
        model="m", input="three", conversation=conversation, instructions="Be brief.", truncation="disabled"
    )
    assert (answer.object, answer.input_tokens) == ("response.input_tokens", 42)
    (asked,) = [one for one in proxy.upstream.requests if one.path_qs == PATH]
    assert asked.headers["Authorization"] == "Bearer sk-alice"
    assert asked.json.keys() == {"model", "input", "instructions", "truncation"}
    assert [item["content"][0]["text"] for item in asked.json["input"]] == ["one", "two", "three"]


async def test_it_counts_what_the_turn_would_send(proxy: Proxy):
    client = proxy.client()
    first = await client.responses.create(model="echo", input="hello", instructions="none")
    body = {"model": "echo", "input": "again", "previous_response_id": first.id, "x_extra": {"a": 1}}
    proxy.upstream.script(counted(9), path=PATH)
    await ask(proxy, {**body, "store": False, "stream": True, "stream_options": {}, "background": True})
    await proxy.call("POST", "/v1/responses", body)
    count, turn = (one.json for one in proxy.upstream.requests[-2:])
    assert count.keys() == {"model", "x_extra", "input"}
    # but for the new item's id
    assert [{**item, "id": ""} for item in count["input"]] == [{**item, "id": ""} for item in turn["input"]]


async def test_headers_of_the_model_server_go_along(proxy: Proxy):
    proxy.upstream.script(counted(42, **{"x-ratelimit-remaining-requests": "7"}), path=PATH)
    _, headers, _ = await ask(proxy, {"model": "m", "input": "x"})
    assert headers["x-ratelimit-remaining-requests"] == "7"
    assert "x-branchline-tokens" not in headers


async def test_where_the_model_server_can_not_it_is_reckoned_here_and_remembered(proxy: Proxy):
    client = proxy.client()
    conversation = await talk(client, "hello world", "hello world")
    body = {"model": "m", "input": "hello world", "conversation": conversation}
    for _ in range(3):
        status, headers, answer = await ask(proxy, body)
        assert (status, headers["x-branchline-tokens"]) == (200, "estimate")
        # three messages of two tokens, four around each, and three before the answer
        assert answer == {"object": "response.input_tokens", "input_tokens": 21}
    assert [one.path_qs for one in proxy.upstream.requests] == [PATH]


@pytest.mark.parametrize(
    "refusal",
    [
        Reply.json(405, {"detail": "Method Not Allowed"}),
        Reply.json(501, {}),
        Reply.json(400, {"error": {"message": "Unknown request URL: POST /responses/input_tokens"}}),
        Reply.raw(200, "text/html", b"<html>It works!</html>"),
        Reply.json(200, {"object": "response", "output": []}),
    ],
)
async def test_every_way_to_say_that_it_is_not_there_is_understood(proxy: Proxy, refusal: Reply):
    proxy.upstream.script(refusal, path=PATH)
    status, headers, answer = await ask(proxy, {"model": "m", "input": "hello world"})
    assert (status, headers["x-branchline-tokens"], answer["input_tokens"]) == (200, "estimate", 9)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, {"message": "The model 'm' does not exist.", "code": "model_not_found", "type": "x", "param": None}),
        (400, {"message": "Invalid tool.", "code": "invalid_value", "type": "x", "param": "tools"}),
        (429, {"message": "Slow down.", "code": "rate_limit_exceeded", "type": "x", "param": None}),
    ],
)
async def test_any_other_refusal_is_the_answer(proxy: Proxy, status: int, error: dict[str, object]):
    proxy.upstream.script(Reply.json(status, {"error": error}), path=PATH)
    got, _, answer = await ask(proxy, {"model": "m", "input": "x"})
    assert (got, answer["error"]["message"]) == (status, error["message"])


async def test_it_is_refused_as_the_turn_would_be(proxy: Proxy):
    client = proxy.client()
    conversation = await talk(client, "one")
    response = await client.responses.create(model="echo", input="hello")
    count = client.responses.input_tokens.count
    with pytest.raises(BadRequestError) as both:
        await count(model="m", input="x", conversation=conversation, previous_response_id=response.id)
    assert both.value.code == "mutually_exclusive_parameters"
    with pytest.raises(BadRequestError) as unknown:
        await count(model="m", input="x", previous_response_id="resp_unknown")
    assert unknown.value.code == "previous_response_not_found"
    with pytest.raises(NotFoundError):
        await count(model="m", input="x", conversation="conv_unknown")
    with pytest.raises(BadRequestError, match="No tool call found"):
        await count(model="m", input=[{"type": "function_call_output", "call_id": "call_1", "output": "x"}])


async def test_another_owners_history_is_not_found(proxy: Proxy):
    conversation = await talk(proxy.client(), "one")
    status, _, answer = await ask(proxy, {"model": "m", "input": "x", "conversation": conversation}, key="sk-mallory")
    assert (status, answer["error"]["message"]) == (404, f"Conversation with id '{conversation}' not found.")


async def test_a_count_leaves_the_store_as_it_was(start_proxy: StartProxy):
    # what is recorded of a turn is written after it has ended
    proxy = await start_proxy(recording={"mode": "off"})
    client = proxy.client()
    conversation = await talk(client, "one")
    response = await client.responses.create(model="echo", input="hello")

    async def everything() -> dict[bytes, object]:
        keys = [key async for key in proxy.redis.scan_iter(count=1000)]
        return {key: (await proxy.redis.dump(key), await proxy.redis.pexpiretime(key)) for key in keys}

    before = await everything()
    await ask(proxy, {"model": "m", "input": "x", "conversation": conversation})
    await ask(proxy, {"model": "m", "input": "x", "previous_response_id": response.id})
    await ask(proxy, {"model": "m", "input": "x", "conversation": {"id": conversation, "branch": "main"}})
    assert await everything() == before


async def test_while_a_turn_runs_its_conversation_can_be_counted(proxy: Proxy):
    client = proxy.client()
    conversation = await talk(client, "hello world")
    proxy.upstream.script(Reply.json(200, {"object": "response.input_tokens", "input_tokens": 1}), path=PATH)
    lock = f"branchline:{{{conversation[-16:]}}}:lock:0"
    await proxy.redis.set(lock, "another turn", ex=60)
    assert (await ask(proxy, {"model": "m", "input": "x", "conversation": conversation}))[0] == 200
    assert await proxy.redis.get(lock) == b"another turn"
    await proxy.redis.delete(lock)


async def test_an_empty_body_counts_nothing_but_the_frame(proxy: Proxy):
    status, _, answer = await ask(proxy, {})
    assert (status, answer["input_tokens"]) == (200, 3)
    assert proxy.upstream.requests[0].json == {}


async def test_a_fork_is_counted_up_to_its_item(proxy: Proxy):
    client = proxy.client()
    conversation = await talk(client, "hello world", "hello world", "hello world")
    first = (await client.conversations.items.list(conversation, order="asc")).data[0].id
    fork = {"id": conversation, "fork_from": first, "branch": "draft"}
    assert (await ask(proxy, {"model": "m", "input": "hello world", "conversation": fork}))[2]["input_tokens"] == 15
    branches = (await proxy.call("GET", f"/v1/conversations/{conversation}/branches"))[1]
    assert [branch["name"] for branch in branches["data"]] == ["MAIN"]


async def test_what_the_turn_would_leave_out_is_not_counted(start_proxy: StartProxy):
    proxy = await start_proxy(models={"windows": {"small": 100}})
    conversation = await talk(proxy.client(), *["word " * 20] * 20)
    body = {"model": "small", "input": "hello world", "conversation": conversation, "truncation": "auto"}
    _, headers, answer = await ask(proxy, body)
    assert answer["input_tokens"] <= 100
    assert int(headers["x-branchline-omitted-items"]) >= 15
    del body["truncation"]
    _, headers, answer = await ask(proxy, body)
    assert answer["input_tokens"] > 400
    assert "x-branchline-omitted-items" not in headers
