"""What is ours refuses what it does not know, before anything is changed; what is the model's goes on as ever."""

from __future__ import annotations

from typing import Any

import pytest
from yarl import URL

from tests.flows.branches.api import fork, items_on, names
from tests.flows.conftest import Proxy
from tests.flows.connection import Connection
from tests.flows.talk import items_of, new_conversation, respond

MESSAGE = {"role": "user", "content": "hi"}


async def converse(proxy: Proxy) -> tuple[str, list[str]]:
    """Hold a conversation of two turns; return its path and the ids of its four items."""
    conversation = await new_conversation(proxy)
    for text in "ab":
        await respond(proxy, model="echo", input=text, conversation=conversation)
    path = f"/v1/conversations/{conversation}"
    return path, [item["id"] for item in await items_on(proxy, path)]


def id_of(path: str) -> str:
    return path.rpartition("/")[2]


async def posted(proxy: Proxy, path: str, body: Any) -> int:
    """Send a request whose path and query go out as they are written; return the status."""
    url = URL(proxy.url + path, encoded=True)
    async with proxy.http.post(url, json=body, headers={"Authorization": "Bearer sk-alice"}) as answer:
        return answer.status


async def refused(proxy: Proxy, method: str, path: str, body: Any, param: str) -> str:
    """Send a request that is refused for a parameter that is not known; return the message."""
    status, answer = await proxy.call(method, path, body)
    error = answer["error"]
    assert (status, error["code"], error["param"]) == (400, "unknown_parameter", param), answer
    assert error["type"] == "invalid_request_error"
    return str(error["message"])


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/responses", {}),
        ("/v1/responses", {"stream": True}),
        ("/v1/responses", {"background": True}),
        ("/v1/responses", {"store": False}),
        ("/v1/responses/input_tokens", {}),
        ("/v1/responses/compact", {}),
    ],
)
async def test_a_misspelt_fork_does_not_become_a_turn_on_main(proxy: Proxy, path: str, fields: dict[str, Any]):
    at, ids = await converse(proxy)
    asked = len(proxy.upstream.requests)
    source = {"id": id_of(at), "forkfrom": ids[0]}
    body = {"model": "m", "input": "x", "conversation": source, **fields}
    assert "'conversation.fork_from'" in await refused(proxy, "POST", path, body, "conversation.forkfrom")
    assert len(proxy.upstream.requests) == asked
    assert (await names(proxy, at), len(await items_of(proxy, id_of(at)))) == (["MAIN"], 4)


async def test_a_misspelt_fork_is_refused_on_a_websocket(proxy: Proxy):
    at, ids = await converse(proxy)
    async with Connection(proxy) as connection:
        error = await connection.refused(input="x", conversation={"id": id_of(at), "forkFrom": ids[0]})
        assert (error["code"], error["param"]) == ("unknown_parameter", "conversation.forkFrom")
    assert len(await items_of(proxy, id_of(at))) == 4


async def test_what_a_response_says_of_its_conversation_can_be_sent_back(proxy: Proxy):
    at, ids = await converse(proxy)
    body = {"model": "echo", "input": "x", "conversation": {"id": id_of(at), "fork_from": ids[1], "branch": "b"}}
    _, first = await proxy.call("POST", "/v1/responses", body)
    _, second = await proxy.call("POST", "/v1/responses", {**body, "conversation": first["conversation"]})
    assert second["conversation"] == first["conversation"] == {"id": id_of(at), "branch": "b"}


@pytest.mark.parametrize(
    ("body", "param", "hint"),
    [
        ({"name": "x"}, "name", "'title'"),
        ({"titel": "x"}, "titel", "'title'"),
        ({"metdata": {}}, "metdata", "'metadata'"),
        ({"projectId": "x"}, "projectId", "'project_id'"),
        ({"items": [MESSAGE], "id": "conv_mine"}, "id", "'items'"),
        ({"referer": "x", "title": "t"}, "referer", "'referrer'"),
    ],
)
async def test_a_new_conversation_has_no_other_fields(proxy: Proxy, body: Any, param: str, hint: str):
    assert hint in await refused(proxy, "POST", "/v1/conversations", body, param)
    assert (await proxy.call("GET", "/v1/conversations"))[1]["data"] == []


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize("name", ["titel", "items", "active_branch", "name"])
async def test_a_change_of_a_conversation_has_no_other_fields(proxy: Proxy, method: str, name: str):
    at, _ = await converse(proxy)
    before = (await proxy.call("GET", at))[1]
    await refused(proxy, method, at, {"metadata": {"a": "b"}, name: None}, name)
    assert (await proxy.call("GET", at))[1] == before


async def test_an_addition_has_no_other_fields(proxy: Proxy):
    at, _ = await converse(proxy)
    await fork(proxy, at, "draft")
    message = await refused(proxy, "POST", f"{at}/items", {"items": [MESSAGE], "branch": "draft"}, "branch")
    assert "'?branch='" in message
    assert "'items'" in await refused(proxy, "POST", f"{at}/items", {"item": [MESSAGE]}, "item")
    assert len(await items_of(proxy, id_of(at))) == 4


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize(
    ("body", "param", "hint"),
    [
        ({"content": "c", "regenrate": True}, "regenrate", "'regenerate'"),
        ({"content": "c", "regenrate": True, "model": "m", "temperature": 0}, "regenrate", "'regenerate'"),
        ({"content": "c", "answer": True}, "answer", "'regenerate'"),
        ({"contents": "c", "regenerate": True}, "contents", "'content'"),
        ({"content": "c", "regenerate": True, "max_token": 5}, "max_token", "'max_tokens'"),
        ({"content": "c", "regenerate": True, "branch": "draft"}, "branch", "'?branch='"),
        ({"content": "c", "regenerate": False, "top_k": 5}, "top_k", "'regenerate'"),
    ],
)
async def test_a_misspelt_edit_makes_no_new_line(proxy: Proxy, method: str, body: Any, param: str, hint: str):
    at, ids = await converse(proxy)
    asked = len(proxy.upstream.requests)
    assert hint in await refused(proxy, method, f"{at}/items/{ids[2]}/edit", body, param)
    assert (await names(proxy, at), len(proxy.upstream.requests)) == (["MAIN"], asked)


@pytest.mark.parametrize(
    ("body", "param", "hint"),
    [
        ({"regenrate": False}, "regenrate", "'regenerate'"),
        ({"content": "c"}, "content", "edit"),
        ({"maxTokens": 5}, "maxTokens", "'max_tokens'"),
        ({"model": "m", "branch": "draft"}, "branch", "'?branch='"),
        ({"regenerate": False, "comment": "c"}, "comment", "'regenerate'"),
    ],
)
async def test_a_misspelt_regeneration_makes_no_new_line(proxy: Proxy, body: Any, param: str, hint: str):
    at, ids = await converse(proxy)
    asked = len(proxy.upstream.requests)
    assert hint in await refused(proxy, "POST", f"{at}/items/{ids[3]}/regenerate", body, param)
    assert (await names(proxy, at), len(proxy.upstream.requests)) == (["MAIN"], asked)


@pytest.mark.parametrize("action", ["edit", "regenerate"])
async def test_fields_of_the_model_s_request_go_on(proxy: Proxy, action: str):
    at, ids = await converse(proxy)
    fields = {"model": "m", "min_tokens": 1, "top_k": 5, "max_completion_tokens": 9, "x_vendor": {"a": 1}}
    body: dict[str, Any] = fields | ({"content": "c", "regenerate": True} if action == "edit" else {})
    assert (await proxy.call("POST", f"{at}/items/{ids[2]}/{action}", body))[0] == 200
    assert proxy.upstream.requests[-1].json.items() >= fields.items()


@pytest.mark.parametrize("action", ["edit", "regenerate"])
async def test_our_own_query_does_not_go_to_the_model_server(proxy: Proxy, action: str):
    at, ids = await converse(proxy)
    await fork(proxy, at, "draft")
    body = {"model": "m", **({"content": "c", "regenerate": True} if action == "edit" else {})}
    for query in ("?branch=draft&beta=true&x=%26", "?beta=true&x=%26&br%61nch=draft"):
        assert await posted(proxy, f"{at}/items/{ids[2]}/{action}{query}", body) == 200
        assert proxy.upstream.requests[-1].path_qs == "/v1/responses?beta=true&x=%26"


async def test_an_edit_without_an_answer_takes_what_would_be_said_to_the_model(proxy: Proxy):
    at, ids = await converse(proxy)
    body = {"content": "c", "regenerate": False, "model": "m", "temperature": 0, "stream": False, "max_tokens": 3}
    assert (await proxy.call("POST", f"{at}/items/{ids[2]}/edit", body))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "param", "hint"),
    [
        ("POST", "/branches", {"name": "n", "fork_from": "msg_1"}, "fork_from", "'fork_from_item_id'"),
        ("POST", "/branches", {"name": "n", "parent": "draft"}, "parent", "'parent_branch'"),
        ("POST", "/branches/draft", {"name": "n", "desc": "x"}, "desc", "'description'"),
        ("PATCH", "/branches/draft", {"description": "x", "is_active": True}, "is_active", "'description'"),
        ("POST", "/branches/draft/activate", {"branch": "MAIN"}, "branch", "none"),
    ],
)
async def test_branches_have_no_other_fields(proxy: Proxy, method: str, path: str, body: Any, param: str, hint: str):
    at, _ = await converse(proxy)
    await fork(proxy, at, "draft")
    before = (await proxy.call("GET", f"{at}/branches"))[1]
    assert hint in await refused(proxy, method, at + path, body, param)
    assert (await proxy.call("GET", f"{at}/branches"))[1] == before


async def test_a_branch_is_activated_with_an_empty_body_too(proxy: Proxy):
    at, _ = await converse(proxy)
    await fork(proxy, at, "draft")
    for body in [None, dict[str, Any]()]:
        assert (await proxy.call("POST", f"{at}/branches/draft/activate", body))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "param", "hint"),
    [
        ("DELETE", "/items/{item}?mod=branch", None, "mod", "'mode'"),
        ("DELETE", "/items/{item}?mode=branch&cascde=true", None, "cascde", "'cascade'"),
        ("DELETE", "/items/{item}?Branch=draft", None, "Branch", "'branch'"),
        ("POST", "/items?brnach=draft", {"items": [MESSAGE]}, "brnach", "'branch'"),
        ("GET", "/items?branches=draft", None, "branches", "'branch'"),
        ("POST", "/items/{item}/edit?brnch=draft", {"content": "c"}, "brnch", "'branch'"),
        ("POST", "/items/{item}/regenerate?brnch=draft", {}, "brnch", "'branch'"),
        ("GET", "/branches?limits=1", None, "limits", "'limit'"),
        ("GET", "/branches/MAIN/compare/draft?limits=1", None, "limits", "'limit'"),
    ],
)
async def test_a_misspelt_query_changes_nothing(proxy: Proxy, method: str, path: str, body: Any, param: str, hint: str):
    at, ids = await converse(proxy)
    await fork(proxy, at, "draft")
    assert hint in await refused(proxy, method, at + path.format(item=ids[2]), body, param)
    assert (await names(proxy, at), len(await items_of(proxy, id_of(at)))) == (["MAIN", "draft"], 4)


@pytest.mark.parametrize(("query", "param"), [("projectid=p", "projectid"), ("referer=r", "referer")])
async def test_a_misspelt_filter_does_not_list_everything(proxy: Proxy, query: str, param: str):
    await refused(proxy, "GET", f"/v1/conversations?{query}", None, param)


@pytest.mark.parametrize("path", ["/v1/conversations", "/v1/responses"])
@pytest.mark.parametrize(
    ("query", "body", "param"), [("?project_id=p1", None, "project_id"), ("", {"ids": ["conv_1"]}, "ids")]
)
async def test_what_deletes_everything_can_not_be_asked_for_a_part(
    proxy: Proxy, path: str, query: str, body: Any, param: str
):
    at, _ = await converse(proxy)
    await refused(proxy, "DELETE", path + query, body, param)
    assert (await proxy.call("GET", at))[0] == 200
    assert (await proxy.call("DELETE", f"{path}?api-version=2025-04-01-preview"))[0] == 200
    assert (await proxy.call("GET", at))[0] == 404


async def test_queries_of_other_clients_are_ignored_as_openai_does(proxy: Proxy):
    at, ids = await converse(proxy)
    foreign = "api-version=2025-04-01-preview&beta=true&before=x&item_type=message&trace=1"
    for path in (at, f"{at}/items", f"{at}/items/{ids[0]}", f"{at}/branches", "/v1/conversations"):
        assert (await proxy.call("GET", f"{path}?{foreign}"))[0] == 200, path
    assert (await proxy.call("POST", f"{at}/items?{foreign}", {"items": [MESSAGE]}))[0] == 200
    assert (await proxy.call("DELETE", f"{at}/items/{ids[3]}?{foreign}"))[0] == 200


async def test_all_that_openai_s_client_sends_is_known(proxy: Proxy):
    client = proxy.client()
    item: Any = {"type": "message", "role": "user", "content": "hi"}
    conversation = await client.conversations.create(items=[item], metadata={"a": "b"})
    await client.conversations.update(conversation.id, metadata={"c": "d"})
    await client.conversations.items.create(conversation.id, items=[item], include=["reasoning.encrypted_content"])
    page = await client.conversations.items.list(
        conversation.id, limit=1, order="asc", include=["file_search_call.results"]
    )
    await client.conversations.items.retrieve(page.data[0].id or "", conversation_id=conversation.id, include=[])
    await client.responses.create(model="echo", input="x", conversation={"id": conversation.id})
    await client.conversations.items.delete(page.data[0].id or "", conversation_id=conversation.id)
    await client.conversations.delete(conversation.id)
