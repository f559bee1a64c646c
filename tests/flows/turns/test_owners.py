"""Who sees what: owners over every path, credentials towards the upstream, and replicas that share a store."""

from __future__ import annotations

import hashlib
import logging
import time
from typing import Any

import jwt
import pytest

from proxy.config.settings import JwtConfig, Secret
from tests.flows.conftest import Proxy, StartProxy

SECRET = "a secret that is long enough for HS256"
ALICE, BOB = "sk-alice", "sk-bob"


def token(subject: str) -> str:
    return jwt.encode({"sub": subject, "exp": time.time() + 600}, SECRET, "HS256")


AUTH: dict[str, tuple[dict[str, Any], str, str]] = {
    "passthrough": ({}, ALICE, BOB),
    "api_keys": (
        {
            "mode": "api_keys",
            "api_keys": {n: hashlib.sha256(k.encode()).hexdigest() for n, k in (("a", ALICE), ("b", BOB))},
        },
        ALICE,
        BOB,
    ),
    "jwt": (
        {"mode": "jwt", "jwt": JwtConfig(algorithms=("HS256",), secret=Secret(SECRET))},
        token("alice"),
        token("bob"),
    ),
}


@pytest.mark.parametrize("mode", AUTH)
async def test_what_belongs_to_one_caller_does_not_exist_for_another(start_proxy: StartProxy, mode: str):
    auth, alice, bob = AUTH[mode]
    proxy = await start_proxy(auth=auth, upstream={"api_key": Secret("" if mode == "passthrough" else "sk-up")})
    turn = {"model": "echo", "input": "secret"}
    _, conversation = await proxy.call("POST", "/v1/conversations", key=alice)
    _, response = await proxy.call("POST", "/v1/responses", {**turn, "conversation": conversation["id"]}, key=alice)
    item = response["output"][0]["id"]
    at_conversation, at_response = f"/v1/conversations/{conversation['id']}", f"/v1/responses/{response['id']}"
    attempts: list[tuple[str, str, Any, int]] = [
        ("GET", at_conversation, None, 404),
        ("POST", at_conversation, {"metadata": {"a": "b"}}, 404),
        ("GET", f"{at_conversation}/items", None, 404),
        ("POST", f"{at_conversation}/items", {"items": [{"role": "user", "content": "x"}]}, 404),
        ("GET", f"{at_conversation}/items/{item}", None, 404),
        ("DELETE", f"{at_conversation}/items/{item}", None, 404),
        ("GET", at_response, None, 404),
        ("GET", f"{at_response}/input_items", None, 404),
        ("POST", f"{at_response}/cancel", None, 404),
        ("DELETE", at_response, None, 404),
        ("POST", "/v1/responses", {**turn, "conversation": conversation["id"]}, 404),
        ("POST", "/v1/responses", {**turn, "previous_response_id": response["id"]}, 400),
        ("POST", "/v1/responses", {**turn, "input": [{"type": "item_reference", "id": item}]}, 404),
        ("POST", "/v1/conversations", {"items": [{"id": item}]}, 404),
        ("DELETE", at_conversation, None, 404),
    ]
    for method, path, body, expected in attempts:
        status, answer = await proxy.call(method, path, body, key=bob)
        assert status == expected, (method, path)
        assert "secret" not in str(answer)
    # a whole item under a foreign id is an item of the caller's own
    own = {"type": "message", "id": item, "role": "user", "content": "mine"}
    assert (await proxy.call("POST", "/v1/responses", {**turn, "input": [own]}, key=bob))[0] == 200
    assert len(proxy.upstream.requests) == 2
    assert (await proxy.call("GET", at_response, key=alice))[1] == response
    _, page = await proxy.call("GET", f"{at_conversation}/items", key=alice)
    assert len(page["data"]) == 2


CREDENTIALS = {"Authorization": "Bearer {}", "api-key": "{}", "x-api-key": "{}"}


@pytest.mark.parametrize("name", CREDENTIALS)
@pytest.mark.parametrize("mode", AUTH)
async def test_only_the_right_credential_goes_upstream(start_proxy: StartProxy, mode: str, name: str):
    auth, alice, _ = AUTH[mode]
    proxy = await start_proxy(auth=auth, upstream={"api_key": Secret("" if mode == "passthrough" else "sk-up")})
    headers = {name: CREDENTIALS[name].format(alice)}
    turn = {"model": "echo", "input": "hi"}
    for method, path, body in (
        ("POST", "/v1/responses", turn),
        ("POST", "/v1/responses", {**turn, "stream": True}),
        ("POST", "/v1/responses", {**turn, "background": True}),
        ("GET", "/v1/models", None),
    ):
        async with proxy.http.request(method, proxy.url + path, json=body, headers=headers) as response:
            assert response.status == 200
    async with proxy.http.ws_connect(f"{proxy.url}/v1/responses", headers=headers) as socket:
        await socket.send_json({"type": "response.create", **turn})
        while (await socket.receive_json())["type"] != "response.completed":
            pass
    await proxy.upstream.wait_for_requests(5)
    expected = headers if mode == "passthrough" else {"Authorization": "Bearer sk-up"}
    for request in proxy.upstream.requests:
        sent = {key: value for key, value in request.headers.items() if key.lower() in map(str.lower, CREDENTIALS)}
        assert sent == expected


@pytest.mark.parametrize("name", CREDENTIALS)
@pytest.mark.parametrize("mode", AUTH)
async def test_callers_are_told_apart_by_whatever_header_their_keys_come_in(
    start_proxy: StartProxy, mode: str, name: str
):
    auth, alice, bob = AUTH[mode]
    proxy = await start_proxy(auth=auth)

    async def count(name: str, key: str) -> int:
        headers = {name: CREDENTIALS[name].format(key)}
        async with proxy.http.get(f"{proxy.url}/v1/conversations", headers=headers) as response:
            return len((await response.json())["data"])

    headers = {name: CREDENTIALS[name].format(alice)}
    async with proxy.http.post(f"{proxy.url}/v1/conversations", headers=headers) as response:
        assert response.status == 200
    assert [await count(each, alice) for each in CREDENTIALS] == [1, 1, 1]
    assert [await count(each, bob) for each in CREDENTIALS] == [0, 0, 0]


async def test_two_keys_in_one_request_are_refused_and_reach_no_log(
    start_proxy: StartProxy, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    proxy = await start_proxy()
    headers = {"Authorization": f"Bearer {ALICE}", "api-key": BOB}
    turn = {"model": "echo", "input": "hi"}
    for method, path in (("POST", "/v1/responses"), ("GET", "/v1/conversations"), ("GET", "/v1/models")):
        async with proxy.http.request(method, proxy.url + path, json=turn, headers=headers) as response:
            assert response.status == 400
            answer = await response.text()
            assert (await response.json())["code"] == "conflicting_credentials"
            assert ALICE not in answer
            assert BOB not in answer
    for name in ("api-key", "x-api-key"):
        async with proxy.http.post(f"{proxy.url}/v1/responses", json=turn, headers={name: BOB}) as response:
            assert response.status == 200
    assert len(proxy.upstream.requests) == 2
    assert ALICE not in caplog.text
    assert BOB not in caplog.text


@pytest.mark.parametrize("mode", ["api_keys", "jwt"])
async def test_a_wrong_credential_is_refused_on_every_path(start_proxy: StartProxy, mode: str):
    proxy = await start_proxy(auth=AUTH[mode][0])
    for method, path in (
        ("POST", "/v1/responses"),
        ("GET", "/v1/responses/resp_1"),
        ("GET", "/v1/conversations"),
        ("POST", "/v1/conversations"),
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
    ):
        async with proxy.http.request(method, proxy.url + path, headers={"Authorization": "Bearer no"}) as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert proxy.upstream.requests == []


async def test_turns_may_alternate_between_replicas(start_proxy: StartProxy):
    replicas: list[Proxy] = [await start_proxy(), await start_proxy()]
    conversation = await replicas[0].client().conversations.create()
    previous = None
    for i in range(6):
        client = replicas[i % 2].client()
        async with client.responses.stream(model="echo", input=f"turn {i}", conversation=conversation.id) as stream:
            async for event in stream:
                if event.type == "response.completed":
                    # what was seen on one replica is there on the other, before the stream has even ended
                    other = replicas[1 - i % 2].client()
                    seen = await other.responses.retrieve(event.response.id)
                    assert seen.status == "completed"
        chained = await client.responses.create(model="echo", input="x", previous_response_id=previous)
        previous = chained.id
        assert f"I saw {2 * i} earlier items" in chained.output_text
    assert len(replicas[1].upstream.requests[-2].json["input"]) == 11
