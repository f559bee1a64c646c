"""Who sees what: owners over every path, credentials towards the upstream, and replicas that share a store."""

from __future__ import annotations

import hashlib
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


@pytest.mark.parametrize("mode", AUTH)
async def test_only_the_right_credential_goes_upstream(start_proxy: StartProxy, mode: str):
    auth, alice, _ = AUTH[mode]
    proxy = await start_proxy(auth=auth, upstream={"api_key": Secret("" if mode == "passthrough" else "sk-up")})
    await proxy.call("POST", "/v1/responses", {"model": "echo", "input": "hi"}, key=alice)
    await proxy.call("GET", "/v1/models", key=alice)
    expected = f"Bearer {alice if mode == 'passthrough' else 'sk-up'}"
    assert [request.headers["Authorization"] for request in proxy.upstream.requests] == [expected] * 2


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
