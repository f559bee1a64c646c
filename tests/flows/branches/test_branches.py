"""Branches over HTTP: forked, read, renamed, deleted, activated, compared; items on them, and deletion by fork."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from tests.flows.branches.api import error_of, fork, items_on, names, text_on
from tests.flows.conftest import Proxy, StartProxy
from tests.items import user
from tests.upstream import Reply


async def converse(proxy: Proxy, texts: str = "abcd") -> tuple[str, list[str]]:
    """Make a conversation with one message a letter; return its path and the ids."""
    _, conversation = await proxy.call("POST", "/v1/conversations", {"items": [user(text) for text in texts]})
    path = f"/v1/conversations/{conversation['id']}"
    _, page = await proxy.call("GET", f"{path}/items?order=asc&limit=100")
    return path, [item["id"] for item in page["data"]]


async def ids_on(proxy: Proxy, path: str, branch: str = "", **query: str) -> list[str]:
    return [item["id"] for item in await items_on(proxy, path, branch, **query)]


async def append(proxy: Proxy, path: str, branch: str, text: str) -> str:
    body = {"items": [user(text)]}
    status, page = await proxy.call("POST", f"{path}/items", body, params={"branch": branch})
    assert status == 200, page
    return str(page["first_id"])


async def test_main_is_a_branch_from_the_start(proxy: Proxy):
    path, _ = await converse(proxy, "ab")
    status, page = await proxy.call("GET", f"{path}/branches")
    main = page["data"][0]
    assert (status, page) == (
        200,
        {
            "object": "list",
            "data": [main],
            "active_branch": "MAIN",
            "first_id": "MAIN",
            "last_id": "MAIN",
            "has_more": False,
        },
    )
    _, conversation = await proxy.call("GET", path)
    assert main | {"updated_at": 0} == {
        "object": "conversation.branch",
        "name": "MAIN",
        "description": None,
        "parent_branch": None,
        "forked_at": None,
        "forked_from_item_id": None,
        "item_count": 2,
        "created_at": conversation["created_at"],
        "updated_at": 0,
        "is_active": True,
    }
    assert await proxy.call("GET", f"{path}/branches/MAIN") == (200, main)


async def test_a_fork_at_an_item_shares_it_and_what_comes_before_under_the_same_ids(proxy: Proxy):
    path, ids = await converse(proxy)
    branch = await fork(proxy, path, "draft", fork_from_item_id=ids[1], description="Another ending")
    assert branch == {
        "object": "conversation.branch",
        "name": "draft",
        "description": "Another ending",
        "parent_branch": "MAIN",
        "forked_at": branch["created_at"],
        "forked_from_item_id": ids[1],
        "item_count": 2,
        "created_at": branch["created_at"],
        "updated_at": branch["created_at"],
        "is_active": False,
    }
    assert await proxy.call("GET", f"{path}/branches/draft") == (200, branch)
    assert await ids_on(proxy, path, "draft") == ids[:2]
    assert await names(proxy, path) == ["MAIN", "draft"]


async def test_branches_go_their_own_ways_from_the_fork_on(proxy: Proxy):
    path, _ = await converse(proxy, "ab")
    await fork(proxy, path, "draft")
    await append(proxy, path, "draft", "D")
    await append(proxy, path, "", "M")
    await fork(proxy, path, "deeper", parent_branch="draft")
    await append(proxy, path, "deeper", "E")
    await append(proxy, path, "draft", "D")
    assert await text_on(proxy, path) == "abM"
    assert await text_on(proxy, path, "draft") == "abDD"
    assert await text_on(proxy, path, "deeper") == "abDE"
    _, page = await proxy.call("GET", f"{path}/branches")
    counted = [(one["name"], one["item_count"], one["parent_branch"]) for one in page["data"]]
    assert counted == [("MAIN", 3, None), ("draft", 4, "MAIN"), ("deeper", 4, "draft")]


async def test_a_turn_on_a_branch_sees_that_branch_and_lands_there(proxy: Proxy):
    path, ids = await converse(proxy)
    await fork(proxy, path, "draft", fork_from_item_id=ids[0])
    conversation = {"id": path.rpartition("/")[2], "branch": "draft"}
    body = {"model": "echo", "input": "hi", "conversation": conversation}
    status, response = await proxy.call("POST", "/v1/responses", body)
    assert status == 200
    assert [item["role"] for item in proxy.upstream.requests[0].json["input"]] == ["user", "user"]
    assert (await ids_on(proxy, path, "draft"))[0::2] == [ids[0], response["output"][0]["id"]]
    assert await ids_on(proxy, path) == ids


async def test_the_parent_of_a_fork_is_the_active_branch_or_one_that_has_the_item(proxy: Proxy):
    path, ids = await converse(proxy, "ab")
    await fork(proxy, path, "draft", fork_from_item_id=ids[0])
    own = await append(proxy, path, "draft", "D")
    await proxy.call("POST", f"{path}/branches/draft/activate")
    assert (await fork(proxy, path, "one"))["parent_branch"] == "draft"
    assert (await fork(proxy, path, "two", fork_from_item_id=ids[0]))["parent_branch"] == "draft"
    assert (await fork(proxy, path, "three", fork_from_item_id=ids[1]))["parent_branch"] == "MAIN"
    assert (await fork(proxy, path, "four", parent_branch="main"))["parent_branch"] == "MAIN"
    await proxy.call("POST", f"{path}/branches/MAIN/activate")
    assert (await fork(proxy, path, "five", fork_from_item_id=own))["item_count"] == 2


async def test_an_empty_conversation_can_be_forked(proxy: Proxy):
    path, _ = await converse(proxy, "")
    branch = await fork(proxy, path, "draft")
    assert (branch["item_count"], branch["forked_from_item_id"], branch["parent_branch"]) == (0, None, "MAIN")
    await append(proxy, path, "draft", "D")
    assert (await text_on(proxy, path), await text_on(proxy, path, "draft")) == ("", "D")


async def test_empty_and_null_fields_of_a_fork_count_as_absent(proxy: Proxy):
    path, _ = await converse(proxy)
    for name, nothing in (("one", ""), ("two", None)):
        branch = await fork(proxy, path, name, parent_branch=nothing, fork_from_item_id=nothing, description=nothing)
        assert (branch["item_count"], branch["description"]) == (4, None)


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({}, 400, "name", "missing_required_parameter"),
        ({"name": None}, 400, "name", "missing_required_parameter"),
        ({"name": 7}, 400, "name", "invalid_type"),
        ({"name": ""}, 400, "name", "invalid_value"),
        ({"name": "a b"}, 400, "name", "invalid_value"),
        ({"name": "ä"}, 400, "name", "invalid_value"),
        ({"name": "a/b"}, 400, "name", "invalid_value"),
        ({"name": "a\n"}, 400, "name", "invalid_value"),
        ({"name": "."}, 400, "name", "invalid_value"),
        ({"name": ".."}, 400, "name", "invalid_value"),
        ({"name": "x" * 65}, 400, "name", "invalid_value"),
        ({"name": "new", "parent_branch": []}, 400, "parent_branch", "invalid_type"),
        ({"name": "new", "parent_branch": 7}, 400, "parent_branch", "invalid_type"),
        ({"name": "new", "parent_branch": "a b"}, 400, "parent_branch", "invalid_value"),
        ({"name": "new", "parent_branch": "nope"}, 404, "parent_branch", None),
        ({"name": "new", "fork_from_item_id": 7}, 400, "fork_from_item_id", "invalid_type"),
        ({"name": "new", "fork_from_item_id": "msg_ä"}, 400, "fork_from_item_id", "invalid_value"),
        ({"name": "new", "fork_from_item_id": "m" * 65}, 400, "fork_from_item_id", "string_above_max_length"),
        ({"name": "new", "fork_from_item_id": "msg_nope"}, 404, "fork_from_item_id", None),
        ({"name": "new", "parent_branch": "short", "fork_from_item_id": "LAST"}, 404, "fork_from_item_id", None),
        ({"name": "new", "description": 7}, 400, "description", "invalid_type"),
        ({"name": "new", "description": "d" * 513}, 400, "description", "string_above_max_length"),
        ({"name": "short"}, 409, "name", "branch_already_exists"),
        ({"name": "MAIN"}, 409, "name", "branch_already_exists"),
        ({"name": "main"}, 409, "name", "branch_already_exists"),
    ],
)
async def test_a_bad_fork_is_refused_with_the_field_and_makes_nothing(
    proxy: Proxy, body: dict[str, Any], status: int, param: str, code: str | None
):
    path, ids = await converse(proxy)
    await fork(proxy, path, "short", fork_from_item_id=ids[0])
    if body.get("fork_from_item_id") == "LAST":
        body = {**body, "fork_from_item_id": ids[-1]}
    answered, answer = await proxy.call("POST", f"{path}/branches", body)
    assert (answered, error_of(answer)) == (status, (param, code))
    assert await names(proxy, path) == ["MAIN", "short"]


async def test_the_refusal_of_a_taken_name_tells_clients_not_to_repeat(proxy: Proxy):
    path, _ = await converse(proxy)
    headers = {"Authorization": "Bearer sk-alice"}
    async with proxy.http.post(f"{proxy.url}{path}/branches", json={"name": "MAIN"}, headers=headers) as answer:
        assert (answer.status, answer.headers["x-should-retry"]) == (409, "false")


@pytest.mark.parametrize("name", ["a", "x" * 64, "-._", "...", "v1.2", "compare", "activate", "0"])
async def test_every_name_that_is_allowed_works_in_a_path(proxy: Proxy, name: str):
    path, _ = await converse(proxy)
    await fork(proxy, path, name)
    assert (await proxy.call("GET", f"{path}/branches/{name}"))[1]["name"] == name
    assert len(await ids_on(proxy, path, name)) == 4
    assert (await proxy.call("GET", f"{path}/branches/MAIN/compare/{name}"))[1]["shared_item_count"] == 4
    assert (await proxy.call("POST", f"{path}/branches/{name}/activate"))[1]["active_branch"] == name


async def test_main_is_understood_in_any_case(proxy: Proxy):
    path, ids = await converse(proxy)
    for name in ("main", "Main", "MAIN"):
        assert (await proxy.call("GET", f"{path}/branches/{name}"))[1]["name"] == "MAIN"
        assert await ids_on(proxy, path, name) == ids
        assert (await proxy.call("POST", f"{path}/branches/{name}/activate"))[1]["active_branch"] == "MAIN"
        assert (await proxy.call("GET", f"{path}/branches/{name}/compare/{name}"))[1]["branch"] == "MAIN"
        assert (await proxy.call("GET", f"{path}/branches?after={name}"))[1]["data"] == []
        own = await append(proxy, path, name, "x")
        _, answer = await proxy.call("DELETE", f"{path}/items/{own}?branch={name}")
        assert answer["branch"] == "MAIN"


async def test_bad_and_unknown_names_in_paths_and_queries_are_refused(proxy: Proxy):
    path, ids = await converse(proxy)
    for tail, method, body in (
        ("/branches/{}", "GET", None),
        ("/branches/{}", "POST", {"description": "d"}),
        ("/branches/{}", "PATCH", {"name": "new"}),
        ("/branches/{}", "DELETE", None),
        ("/branches/{}/activate", "POST", None),
        ("/branches/{}/compare/MAIN", "GET", None),
        ("/branches/{}/compare/alsonot", "GET", None),
        ("/items?branch={}", "GET", None),
        ("/items?branch={}", "POST", {"items": [user("x")]}),
        ("/items?branch={}", "POST", {"items": [{"type": "compaction_trigger"}]}),
        (f"/items/{ids[0]}?branch={{}}", "DELETE", None),
        (f"/items/{ids[0]}?mode=branch&branch={{}}", "DELETE", None),
    ):
        status, answer = await proxy.call(method, path + tail.format("a%20b"), body)
        assert (status, error_of(answer)) == (400, ("branch", "invalid_value")), tail
        status, answer = await proxy.call(method, path + tail.format("nope"), body)
        assert (status, error_of(answer)) == (404, ("branch", None)), tail
        assert answer["error"]["message"] == "Branch 'nope' not found."
    status, answer = await proxy.call("GET", f"{path}/branches/MAIN/compare/a%20b")
    assert (status, error_of(answer)) == (400, ("other_branch", "invalid_value"))
    status, answer = await proxy.call("GET", f"{path}/branches/MAIN/compare/nope")
    assert (status, error_of(answer)) == (404, ("other_branch", None))
    assert await ids_on(proxy, path) == ids


async def test_a_branch_is_renamed_and_described_and_keeps_its_items(proxy: Proxy):
    path, ids = await converse(proxy)
    await fork(proxy, path, "draft", description="one")
    own = await append(proxy, path, "draft", "D")
    await proxy.call("POST", f"{path}/branches/draft/activate")
    status, branch = await proxy.call("PATCH", f"{path}/branches/draft", {"name": "final"})
    assert (status, branch["name"], branch["description"], branch["is_active"]) == (200, "final", "one", True)
    assert (await proxy.call("GET", path))[1]["active_branch"] == "final"
    assert await ids_on(proxy, path, "final") == [*ids, own]
    assert (await proxy.call("GET", f"{path}/branches/draft"))[0] == 404
    _, branch = await proxy.call("POST", f"{path}/branches/final", {"description": "two"})
    assert (branch["name"], branch["description"]) == ("final", "two")
    for nothing in ("", None):
        await proxy.call("POST", f"{path}/branches/final", {"description": "two"})
        _, branch = await proxy.call("PATCH", f"{path}/branches/final", {"description": nothing, "name": "final"})
        assert (branch["name"], branch["description"]) == ("final", None)
    await fork(proxy, path, "draft")
    assert await names(proxy, path) == ["MAIN", "final", "draft"]


async def test_main_may_be_described(proxy: Proxy):
    path, _ = await converse(proxy)
    status, branch = await proxy.call("PATCH", f"{path}/branches/main", {"description": "the story"})
    assert (status, branch["name"], branch["description"]) == (200, "MAIN", "the story")


@pytest.mark.parametrize(
    ("branch", "body", "status", "param", "code"),
    [
        ("draft", {}, 400, "name", "missing_required_parameter"),
        ("draft", {"title": "x"}, 400, "name", "missing_required_parameter"),
        ("draft", {"name": None}, 400, "name", "invalid_type"),
        ("draft", {"name": ""}, 400, "name", "invalid_value"),
        ("draft", {"name": ".."}, 400, "name", "invalid_value"),
        ("draft", {"description": 7}, 400, "description", "invalid_type"),
        ("draft", {"description": "d" * 513}, 400, "description", "string_above_max_length"),
        ("draft", {"name": "main"}, 409, "name", "branch_already_exists"),
        ("draft", {"name": "other", "description": "x"}, 409, "name", "branch_already_exists"),
        ("MAIN", {"name": "new", "description": "x"}, 400, "branch", "branch_protected"),
    ],
)
async def test_a_bad_change_is_refused_and_changes_nothing(
    proxy: Proxy, branch: str, body: dict[str, Any], status: int, param: str, code: str
):
    path, _ = await converse(proxy)
    await fork(proxy, path, "draft")
    await fork(proxy, path, "other")
    before = (await proxy.call("GET", f"{path}/branches"))[1]
    answered, answer = await proxy.call("PATCH", f"{path}/branches/{branch}", body)
    assert (answered, error_of(answer)) == (status, (param, code))
    assert (await proxy.call("GET", f"{path}/branches"))[1] == before


async def test_deleting_a_branch_leaves_what_others_share_with_it(proxy: Proxy):
    path, ids = await converse(proxy)
    await fork(proxy, path, "draft", fork_from_item_id=ids[1])
    own = await append(proxy, path, "draft", "D")
    await fork(proxy, path, "child", parent_branch="draft")
    assert await proxy.call("DELETE", f"{path}/branches/draft") == (204, None)
    assert (await proxy.call("GET", f"{path}/branches/draft"))[0] == 404
    status, answer = await proxy.call("DELETE", f"{path}/branches/draft")
    assert (status, error_of(answer)) == (404, ("branch", None))
    assert await ids_on(proxy, path) == ids
    assert await ids_on(proxy, path, "child") == [*ids[:2], own]
    assert (await proxy.call("GET", f"{path}/branches/child"))[1]["parent_branch"] is None
    await proxy.call("DELETE", f"{path}/branches/child")
    assert (await proxy.call("GET", f"{path}/items/{own}"))[0] == 404
    assert (await proxy.call("GET", f"{path}/items/{ids[0]}"))[0] == 200
    await fork(proxy, path, "draft")
    assert await ids_on(proxy, path, "draft") == ids


async def test_main_and_the_active_branch_can_not_be_deleted(proxy: Proxy):
    path, _ = await converse(proxy)
    await fork(proxy, path, "draft")
    await proxy.call("POST", f"{path}/branches/draft/activate")
    for name in ("MAIN", "main", "draft"):
        status, answer = await proxy.call("DELETE", f"{path}/branches/{name}")
        assert (status, error_of(answer)) == (400, ("branch", "branch_protected"))
    assert await names(proxy, path) == ["MAIN", "draft"]


async def test_a_branch_that_a_turn_runs_on_can_not_be_deleted(proxy: Proxy):
    path, _ = await converse(proxy)
    await fork(proxy, path, "draft")
    gate = asyncio.Event()
    proxy.upstream.script(Reply.sse([gate], done=False))
    conversation = {"id": path.rpartition("/")[2], "branch": "draft"}
    body = {"model": "echo", "input": "hi", "conversation": conversation}
    turn = asyncio.create_task(proxy.call("POST", "/v1/responses", body))
    await proxy.upstream.wait_for_requests(1)
    status, answer = await proxy.call("DELETE", f"{path}/branches/draft")
    assert (status, answer["error"]["code"]) == (400, "conversation_locked")
    gate.set()
    await turn
    assert (await proxy.call("DELETE", f"{path}/branches/draft"))[0] == 204


async def test_the_active_branch_is_the_one_that_is_meant_where_none_is_named(proxy: Proxy):
    path, ids = await converse(proxy)
    await fork(proxy, path, "draft", fork_from_item_id=ids[0])
    status, answer = await proxy.call("POST", f"{path}/branches/draft/activate")
    _, conversation = await proxy.call("GET", path)
    assert (status, answer) == (200, conversation | {"message": "Branch activated successfully"})
    assert answer["active_branch"] == "draft"
    _, page = await proxy.call("GET", f"{path}/branches")
    assert page["active_branch"] == "draft"
    assert [one["is_active"] for one in page["data"]] == [False, True]
    own = await append(proxy, path, "", "D")
    assert await ids_on(proxy, path) == [ids[0], own]
    assert await ids_on(proxy, path, "MAIN") == ids
    body = {"model": "echo", "input": "hi", "conversation": path.rpartition("/")[2]}
    assert (await proxy.call("POST", "/v1/responses", body))[0] == 200
    assert len(await ids_on(proxy, path)) == 4
    _, answer = await proxy.call("DELETE", f"{path}/items/{own}")
    assert answer["branch"] == "draft"


async def test_a_comparison_shows_what_is_shared_and_what_each_has_alone(proxy: Proxy):
    path, ids = await converse(proxy)
    await fork(proxy, path, "draft", fork_from_item_id=ids[1])
    own = [await append(proxy, path, "draft", text) for text in "XYZ"]
    _, item = await proxy.call("GET", f"{path}/items/{ids[1]}")
    status, comparison = await proxy.call("GET", f"{path}/branches/MAIN/compare/draft?limit=2")
    left, right = comparison.pop("only_in_branch"), comparison.pop("only_in_other_branch")
    assert (status, comparison) == (
        200,
        {
            "object": "conversation.branch.comparison",
            "branch": "MAIN",
            "other_branch": "draft",
            "common_ancestor_item_id": ids[1],
            "shared_item_count": 2,
            "common_ancestor": item,
        },
    )
    assert [one["id"] for one in left["data"]] == ids[2:]
    assert (left["object"], left["first_id"], left["last_id"], left["has_more"]) == ("list", ids[2], ids[3], False)
    assert ([one["id"] for one in right["data"]], right["has_more"]) == (own[:2], True)
    _, same = await proxy.call("GET", f"{path}/branches/draft/compare/draft")
    assert (same["common_ancestor_item_id"], same["shared_item_count"]) == (own[-1], 5)
    assert same["only_in_branch"]["data"] == same["only_in_other_branch"]["data"] == []


async def test_branches_without_a_common_item_have_no_ancestor(proxy: Proxy):
    path, ids = await converse(proxy, "a")
    await fork(proxy, path, "draft")
    await append(proxy, path, "draft", "D")
    await proxy.call("DELETE", f"{path}/items/{ids[0]}")
    _, comparison = await proxy.call("GET", f"{path}/branches/MAIN/compare/draft")
    assert (comparison["common_ancestor"], comparison["common_ancestor_item_id"]) == (None, None)
    assert (comparison["shared_item_count"], len(comparison["only_in_other_branch"]["data"])) == (0, 1)


async def test_a_comparison_hides_encrypted_reasoning_unless_it_is_asked_for(proxy: Proxy):
    path, _ = await converse(proxy, "a")
    sealed = {"type": "reasoning", "encrypted_content": "SEALED", "summary": []}
    await proxy.call("POST", f"{path}/items", {"items": [sealed]})
    await fork(proxy, path, "draft")
    await proxy.call("POST", f"{path}/items?branch=draft", {"items": [sealed]})
    url = f"{path}/branches/MAIN/compare/draft"
    _, hidden = await proxy.call("GET", url)
    assert "SEALED" not in str(hidden)
    _, shown = await proxy.call("GET", f"{url}?include[]=reasoning.encrypted_content")
    assert shown["common_ancestor"]["encrypted_content"] == "SEALED"
    assert shown["only_in_other_branch"]["data"][0]["encrypted_content"] == "SEALED"


@pytest.mark.parametrize(
    ("query", "param", "code"),
    [
        ("limit=0", "limit", "integer_below_min_value"),
        ("limit=101", "limit", "integer_above_max_value"),
        ("limit=x", "limit", "invalid_type"),
    ],
)
async def test_bad_limits_are_refused(proxy: Proxy, query: str, param: str, code: str):
    path, _ = await converse(proxy, "")
    for tail in ("/branches", "/branches/MAIN/compare/MAIN"):
        status, answer = await proxy.call("GET", f"{path}{tail}?{query}")
        assert (status, error_of(answer)) == (400, (param, code))
    status, answer = await proxy.call("GET", f"{path}/branches?order=up")
    assert (status, error_of(answer)) == (400, ("order", "invalid_value"))


async def test_a_thousand_branches_are_listed_in_pages(proxy: Proxy):
    path, _ = await converse(proxy)
    for start in range(0, 1000, 50):
        await asyncio.gather(*(fork(proxy, path, f"b{i}") for i in range(start, start + 50)))
    _, first = await proxy.call("GET", f"{path}/branches")
    assert (len(first["data"]), first["has_more"], first["active_branch"]) == (100, True, "MAIN")
    seen: list[str] = []
    after, pages = "", 0
    while True:
        _, page = await proxy.call("GET", f"{path}/branches?limit=90&after={after}")
        listed = [branch["name"] for branch in page["data"]]
        assert (page["first_id"], page["last_id"]) == (listed[0], listed[-1])
        seen, after, pages = [*seen, *listed], page["last_id"], pages + 1
        if not page["has_more"]:
            break
    assert (pages, seen[0]) == (12, "MAIN")
    assert sorted(seen[1:]) == sorted(f"b{i}" for i in range(1000))
    batches = [int(name[1:]) // 50 for name in seen[1:]]
    assert batches == sorted(batches)
    _, page = await proxy.call("GET", f"{path}/branches?order=desc&limit=3&after={seen[-1]}")
    assert [branch["name"] for branch in page["data"]] == seen[-2:-5:-1]
    status, answer = await proxy.call("GET", f"{path}/branches?after=nope")
    assert (status, error_of(answer)) == (404, ("after", None))


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_cursors_work_on_any_branch(proxy: Proxy, order: str):
    path, ids = await converse(proxy)
    await fork(proxy, path, "draft", fork_from_item_id=ids[2])
    expected = [*ids[:3], *[await append(proxy, path, "draft", text) for text in "XYZ"]]
    seen: list[str] = []
    after = ""
    while True:
        _, page = await proxy.call("GET", f"{path}/items?branch=draft&limit=2&order={order}&after={after}")
        seen, after = [*seen, *(item["id"] for item in page["data"])], page["last_id"]
        if not page["has_more"]:
            break
    assert seen == (expected if order == "asc" else expected[::-1])
    for branch, foreign in (("draft", ids[3]), ("MAIN", expected[-1])):
        status, answer = await proxy.call("GET", f"{path}/items?branch={branch}&after={foreign}")
        assert (status, error_of(answer)) == (404, ("after", None))


async def test_an_item_is_read_on_whichever_branch_it_lies(proxy: Proxy):
    path, _ = await converse(proxy)
    await fork(proxy, path, "draft")
    own = await append(proxy, path, "draft", "D")
    assert (await proxy.call("GET", f"{path}/items/{own}"))[1]["id"] == own


async def test_a_deleted_item_is_gone_from_every_branch(proxy: Proxy):
    path, ids = await converse(proxy)
    await fork(proxy, path, "draft")
    own = await append(proxy, path, "draft", "D")
    status, answer = await proxy.call("DELETE", f"{path}/items/{ids[1]}?branch=draft")
    _, conversation = await proxy.call("GET", path)
    deletion = {"branch": "draft", "branch_created": False, "deleted": True, "old_main_backup": ""}
    assert (status, answer) == (200, conversation | deletion | {"deleted_item_id": ids[1]})
    left = [ids[0], *ids[2:]]
    assert (await ids_on(proxy, path), await ids_on(proxy, path, "draft")) == (left, [*left, own])
    counts = {one["name"]: one["item_count"] for one in (await proxy.call("GET", f"{path}/branches"))[1]["data"]}
    assert counts == {"MAIN": 3, "draft": 4}
    status, answer = await proxy.call("DELETE", f"{path}/items/{own}?branch=MAIN")
    assert (status, error_of(answer)) == (404, (None, None))
    assert (await proxy.call("DELETE", f"{path}/items/{own}"))[1]["branch"] == "MAIN"


async def test_a_listing_goes_back_in_time_to_an_item_or_a_response(proxy: Proxy):
    path, ids = await converse(proxy, "ab")
    body = {"model": "echo", "input": "hi", "conversation": path.rpartition("/")[2]}
    _, response = await proxy.call("POST", "/v1/responses", body)
    then = await ids_on(proxy, path)
    await append(proxy, path, "", "c")
    await fork(proxy, path, "draft", fork_from_item_id=ids[0])
    own = await append(proxy, path, "draft", "D")
    now = await ids_on(proxy, path)
    assert await ids_on(proxy, path, at=ids[1]) == ids
    assert await ids_on(proxy, path, at=response["id"]) == then
    assert await ids_on(proxy, path, "draft", at=ids[0]) == ids[:1]
    assert await ids_on(proxy, path, at=own) == [ids[0], own]
    assert await ids_on(proxy, path, at="") == now
    _, page = await proxy.call("GET", f"{path}/items?at={response['id']}&limit=1")
    assert (page["last_id"], page["has_more"]) == (then[-1], True)
    for branch, at in (("", "msg_nope"), ("", "resp_nope"), ("draft", ids[1])):
        status, answer = await proxy.call("GET", f"{path}/items?branch={branch}&at={at}")
        assert (status, error_of(answer)) == (404, ("at", None))
        assert at in answer["error"]["message"]
    status, answer = await proxy.call("GET", f"{path}/items?at=a%20b")
    assert (status, error_of(answer)) == (400, ("at", "invalid_value"))


BACKUP = re.compile(r"MAIN_\d{14}_[0-9a-f]{4}")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("mode=branch", "acd"),
        ("mode=branch&cascade=false", "acd"),
        ("mode=branch&cascade=0", "acd"),
        ("mode=branch&cascade=", "acd"),
        ("mode=branch&cascade=true", "a"),
        ("mode=branch&cascade=1", "a"),
    ],
)
async def test_a_deletion_by_branch_keeps_the_old_line_as_a_backup(proxy: Proxy, query: str, expected: str):
    path, ids = await converse(proxy)
    status, answer = await proxy.call("DELETE", f"{path}/items/{ids[1]}?{query}")
    backup = answer["old_main_backup"]
    assert BACKUP.fullmatch(backup)
    _, conversation = await proxy.call("GET", path)
    deletion = {"branch": "MAIN", "branch_created": True, "deleted": True, "old_main_backup": backup}
    assert (status, answer) == (200, conversation | deletion | {"deleted_item_id": ids[1]})
    assert await text_on(proxy, path) == expected
    assert await ids_on(proxy, path, backup) == ids
    assert (await proxy.call("GET", f"{path}/items/{ids[1]}"))[0] == 200
    _, main = await proxy.call("GET", f"{path}/branches/MAIN")
    assert (main["item_count"], main["parent_branch"], main["is_active"]) == (len(expected), backup, True)


async def test_a_deletion_by_branch_makes_main_of_the_branch_that_is_named(proxy: Proxy):
    path, ids = await converse(proxy)
    await fork(proxy, path, "draft", fork_from_item_id=ids[1])
    await append(proxy, path, "draft", "D")
    _, answer = await proxy.call("DELETE", f"{path}/items/{ids[0]}?mode=branch&branch=draft")
    assert await text_on(proxy, path, "MAIN") == "bD"
    assert await text_on(proxy, path, "draft") == "abD"
    assert await text_on(proxy, path, answer["old_main_backup"]) == "abcd"
    status, answer = await proxy.call("DELETE", f"{path}/items/{ids[3]}?mode=branch&branch=draft")
    assert (status, error_of(answer)) == (404, (None, None))
    assert len(await names(proxy, path)) == 3


async def test_the_configuration_says_how_items_are_deleted_by_default(start_proxy: StartProxy):
    proxy = await start_proxy(conversations={"delete_mode": "branch"})
    path, ids = await converse(proxy)
    _, answer = await proxy.call("DELETE", f"{path}/items/{ids[1]}")
    assert (answer["branch_created"], await text_on(proxy, path)) == (True, "acd")
    _, answer = await proxy.call("DELETE", f"{path}/items/{ids[2]}?cascade=true")
    assert (answer["branch_created"], await text_on(proxy, path)) == (True, "a")
    _, answer = await proxy.call("DELETE", f"{path}/items/{ids[0]}?mode=item")
    assert (answer["branch_created"], await text_on(proxy, path)) == (False, "")
    assert len(await names(proxy, path)) == 3


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("mode=all", "mode"),
        ("mode=branch&cascade=maybe", "cascade"),
        ("mode=item&cascade=true", "cascade"),
        ("cascade=true", "cascade"),
        ("cascade=false", "cascade"),
    ],
)
async def test_a_bad_mode_of_deletion_is_refused_and_deletes_nothing(proxy: Proxy, query: str, param: str):
    path, ids = await converse(proxy)
    status, answer = await proxy.call("DELETE", f"{path}/items/{ids[1]}?{query}")
    assert (status, error_of(answer)) == (400, (param, "invalid_value"))
    assert (await ids_on(proxy, path), await names(proxy, path)) == (ids, ["MAIN"])


async def test_a_call_that_a_new_main_leaves_out_does_not_wait_for_its_output_there(proxy: Proxy):
    path, _ = await converse(proxy, "a")
    call = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
    _, page = await proxy.call("POST", f"{path}/items", {"items": [call]})
    _, answer = await proxy.call("DELETE", f"{path}/items/{page['first_id']}?mode=branch")
    body = {"model": "echo", "input": "hi", "conversation": path.rpartition("/")[2]}
    assert (await proxy.call("POST", "/v1/responses", body))[0] == 200
    old = {"id": path.rpartition("/")[2], "branch": answer["old_main_backup"]}
    status, answer = await proxy.call("POST", "/v1/responses", {**body, "conversation": old})
    assert (status, error_of(answer)) == (400, ("input", None))


async def test_a_foreign_a_deleted_and_an_unknown_conversation_are_told_apart_by_nothing(proxy: Proxy):
    mine, ids = await converse(proxy)
    await fork(proxy, mine, "draft")
    _, gone = await proxy.call("POST", "/v1/conversations", key="sk-bob")
    await proxy.call("DELETE", f"/v1/conversations/{gone['id']}", key="sk-bob")
    paths = (mine, f"/v1/conversations/{gone['id']}", "/v1/conversations/conv_" + "0" * 48)
    for method, tail, body in (
        ("GET", "/branches", None),
        ("GET", "/branches?after=draft", None),
        ("POST", "/branches", {"name": "draft"}),
        ("POST", "/branches", {"name": "new", "parent_branch": "draft", "fork_from_item_id": ids[0]}),
        ("GET", "/branches/draft", None),
        ("POST", "/branches/draft", {"description": "d"}),
        ("PATCH", "/branches/MAIN", {"name": "new"}),
        ("DELETE", "/branches/MAIN", None),
        ("DELETE", "/branches/draft", None),
        ("POST", "/branches/draft/activate", None),
        ("GET", "/branches/MAIN/compare/draft", None),
        ("GET", "/items?branch=draft", None),
        ("GET", f"/items?at={ids[0]}", None),
        ("POST", "/items?branch=draft", {"items": [user("x")]}),
        ("POST", "/items?branch=draft", {"items": [{"type": "compaction_trigger"}]}),
        ("DELETE", f"/items/{ids[0]}?branch=draft", None),
        ("DELETE", f"/items/{ids[0]}?mode=branch", None),
    ):
        answers = set()
        for path in paths:
            status, answer = await proxy.call(method, path + tail, body, key="sk-bob")
            answer.pop("request_id")
            answers.add((status, str(answer).replace(path.rpartition("/")[2], "ID")))
        assert len(answers) == 1, tail
        assert answers.pop()[0] == 404
    assert await names(proxy, mine) == ["MAIN", "draft"]
    assert await ids_on(proxy, mine, "draft") == ids
