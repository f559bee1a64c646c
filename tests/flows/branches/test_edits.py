"""Edits, regenerations and turns that fork: the new line and its answer come together, or not at all."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from tests.flows.branches.api import error_of, fork, items_on, names, text_on
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.streams import frames
from tests.flows.talk import model_answer, respond, sent, settled
from tests.flows.witness import accept_events, accept_response
from tests.items import texts
from tests.proxy.relay.streams import CALL, WHOLE
from tests.upstream import CUT, HANG, Reply


async def say(proxy: Proxy, conversation: Any, text: Any, answer: str, **body: Any) -> dict[str, Any]:
    proxy.upstream.script(Reply.json(200, model_answer(answer)))
    return await respond(proxy, **{"model": "m-1", "input": text, "conversation": conversation, **body})


async def converse(proxy: Proxy) -> tuple[str, list[str]]:
    """Hold a conversation of two turns, `a` `A` `b` `B`; return its path and the ids of its items."""
    _, conversation = await proxy.call("POST", "/v1/conversations", {})
    for text in "ab":
        await say(proxy, conversation["id"], text, text.upper())
    path = f"/v1/conversations/{conversation['id']}"
    return path, [item["id"] for item in await items_on(proxy, path)]


def id_of(path: str) -> str:
    return path.rpartition("/")[2]


async def stream(proxy: Proxy, path: str, body: Any) -> list[dict[str, Any]]:
    """Read a streamed turn to its end with the official client, as an app would send it."""
    events = await proxy.client().post(
        path.removeprefix("/v1"),
        body={"stream": True, **body},
        cast_to=object,
        stream=True,
        stream_cls=openai.AsyncStream[Any],
    )
    return [event async for event in events]


# Edit


async def test_an_edit_makes_a_new_main_and_keeps_the_old_one(proxy: Proxy):
    path, ids = await converse(proxy)
    status, answer = await proxy.call("POST", f"{path}/items/{ids[2]}/edit", {"content": "c"})
    assert status == 200
    assert (answer["branch"], answer["branch_created"]) == ("MAIN", True)
    assert answer["user_item"]["content"] == [{"type": "input_text", "text": "c"}]
    assert answer["user_item"]["id"] == answer["user_item_id"]
    assert answer["new_branch"] == (await proxy.call("GET", f"{path}/branches/MAIN"))[1]
    assert (answer["new_branch"]["parent_branch"], answer["new_branch"]["item_count"]) == (answer["old_main_backup"], 3)
    assert answer["new_branch"]["forked_from_item_id"] == ids[1]
    assert "response" not in answer
    assert await text_on(proxy, path) == "aAc"
    assert await text_on(proxy, path, answer["old_main_backup"]) == "aAbB"
    assert [item["id"] for item in await items_on(proxy, path)][:2] == ids[:2]


async def test_an_edit_of_the_first_message_starts_anew(proxy: Proxy):
    path, ids = await converse(proxy)
    _, answer = await proxy.call("PUT", f"{path}/items/{ids[0]}/edit", {"content": "c"})
    assert answer["new_branch"]["forked_from_item_id"] is None
    assert await text_on(proxy, path) == "c"


async def test_an_edit_may_bring_parts(proxy: Proxy):
    path, ids = await converse(proxy)
    parts = [{"type": "input_text", "text": "c"}, {"type": "input_image", "image_url": "https://x/y.png"}]
    _, answer = await proxy.call("POST", f"{path}/items/{ids[2]}/edit", {"content": parts})
    assert answer["user_item"]["content"] == parts


async def test_an_edit_is_answered_when_that_is_asked_for(proxy: Proxy):
    path, ids = await converse(proxy)
    proxy.upstream.script(Reply.json(200, model_answer("C")))
    body = {"content": "c", "regenerate": True, "temperature": 0.5}
    status, answer = await proxy.call("POST", f"{path}/items/{ids[2]}/edit", body)
    assert status == 200
    accept_response(answer["response"])
    request = proxy.upstream.requests[-1].json
    assert "".join(texts(sent(proxy))) == "aAc"
    assert (request["model"], request["temperature"], request["store"]) == ("m-1", 0.5, False)
    assert not {"content", "regenerate", "conversation"} & request.keys()
    assert answer["response"]["conversation"] == {"id": id_of(path), "branch": "MAIN"}
    assert answer["user_item"]["content"][0]["text"] == "c"
    assert answer["new_branch"]["item_count"] == 4
    assert await text_on(proxy, path) == "aAcC"
    assert await text_on(proxy, path, answer["old_main_backup"]) == "aAbB"
    status, stored = await proxy.call("GET", f"/v1/responses/{answer['response']['id']}")
    assert (status, stored) == (200, answer["response"])
    assert len(await names(proxy, path)) == 2


async def test_an_edit_is_answered_as_a_stream(proxy: Proxy):
    path, ids = await converse(proxy)
    events = await stream(proxy, f"{path}/items/{ids[2]}/edit", {"content": "c", "regenerate": True})
    end = events[-1]
    accept_events(events)
    assert (end["type"], end["branch"], end["branch_created"]) == ("response.completed", "MAIN", True)
    assert end["user_item"]["content"][0]["text"] == "c"
    assert (await text_on(proxy, path)).startswith("aAcYou said")
    assert await text_on(proxy, path, end["old_main_backup"]) == "aAbB"


async def test_an_item_of_another_branch_is_edited_into_a_new_main(proxy: Proxy):
    path, ids = await converse(proxy)
    await fork(proxy, path, "draft", fork_from_item_id=ids[1])
    status, page = await proxy.call("POST", f"{path}/items?branch=draft", {"items": [{"role": "user", "content": "d"}]})
    assert status == 200
    _, answer = await proxy.call("POST", f"{path}/items/{page['first_id']}/edit", {"content": "e"})
    assert await text_on(proxy, path) == "aAe"
    assert await text_on(proxy, path, "draft") == "aAd"
    assert await text_on(proxy, path, answer["old_main_backup"]) == "aAbB"
    assert answer["new_branch"]["parent_branch"] == "draft"


async def test_many_edits_of_one_second_all_keep_what_was_there(proxy: Proxy):
    path, ids = await converse(proxy)
    backups = []
    for text in "cdefgh":
        _, answer = await proxy.call("POST", f"{path}/items/{ids[2]}/edit?branch=", {"content": text})
        backups.append(answer["old_main_backup"])
    assert [await text_on(proxy, path, name) for name in backups] == ["aAbB", "aAc", "aAd", "aAe", "aAf", "aAg"]
    assert await text_on(proxy, path) == "aAh"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ("content", "missing_required_parameter")),
        ({"content": ""}, ("content", "invalid_value")),
        ({"content": []}, ("content", "invalid_value")),
        ({"content": 1}, ("content", "invalid_type")),
        ({"content": ["x"]}, ("content[0]", "invalid_type")),
        ({"content": "c", "regenerate": "yes"}, ("regenerate", "invalid_type")),
        ({"content": "c", "stream": True}, ("stream", None)),
        ({"content": "c", "regenerate": True, "store": False}, ("store", "invalid_value")),
        ({"content": "c", "regenerate": True, "metadata": 1}, ("metadata", "invalid_type")),
        ({"content": "c", "input": "x"}, ("input", "unsupported_parameter")),
        ({"content": "c", "regenerate": True, "conversation": "conv_x"}, ("conversation", "unsupported_parameter")),
    ],
)
async def test_a_bad_edit_is_refused_and_changes_nothing(proxy: Proxy, body: Any, expected: tuple[str, str]):
    path, ids = await converse(proxy)
    status, answer = await proxy.call("POST", f"{path}/items/{ids[2]}/edit", body)
    assert (status, error_of(answer)) == (400, expected)
    assert (await names(proxy, path), await text_on(proxy, path)) == (["MAIN"], "aAbB")


@pytest.mark.parametrize("regenerate", [False, True])
async def test_only_messages_of_a_user_are_edited(proxy: Proxy, regenerate: bool):
    path, ids = await converse(proxy)
    body = {"content": "c", "regenerate": regenerate}
    status, answer = await proxy.call("POST", f"{path}/items/{ids[1]}/edit", body)
    assert (status, error_of(answer)) == (400, ("item_id", "not_a_user_message"))
    assert len(proxy.upstream.requests) == 2


@pytest.mark.parametrize("regenerate", [False, True])
@pytest.mark.parametrize("action", ["edit", "regenerate"])
async def test_what_is_not_there_is_404_and_so_is_what_belongs_to_others(proxy: Proxy, action: str, regenerate: bool):
    path, ids = await converse(proxy)
    body = {"content": "c", "regenerate": regenerate}
    unknown = "msg_" + "0" * 48
    conversation = "/v1/conversations/conv_" + "0" * 48
    one, two = (
        await proxy.call("POST", f"{conversation}/items/{unknown}/{action}", body),
        await proxy.call("POST", f"{path}/items/{ids[2]}/{action}", body, key="sk-mallory"),
    )
    assert (one[0], two[0]) == (404, 404)
    assert two[1]["message"] == one[1]["message"].replace("conv_" + "0" * 48, id_of(path))
    status, answer = await proxy.call("POST", f"{path}/items/{unknown}/{action}", body)
    assert (status, unknown in answer["message"]) == (404, True)
    status, answer = await proxy.call("POST", f"{path}/items/{ids[2]}/{action}?branch=nowhere", body)
    assert (status, error_of(answer)) == (404, ("branch", None))
    await fork(proxy, path, "short", fork_from_item_id=ids[0])
    status, answer = await proxy.call("POST", f"{path}/items/{ids[2]}/{action}?branch=short", body)
    assert status == 404


# Regenerate


async def test_an_answer_is_made_anew(proxy: Proxy):
    path, ids = await converse(proxy)
    proxy.upstream.script(Reply.json(200, model_answer("C")))
    status, answer = await proxy.call("POST", f"{path}/items/{ids[3]}/regenerate")
    assert status == 200
    accept_response(answer["response"])
    assert ("".join(texts(sent(proxy))), proxy.upstream.requests[-1].json["model"]) == ("aAb", "m-1")
    assert (answer["branch"], answer["branch_created"], answer["user_item_id"]) == ("MAIN", True, ids[2])
    assert answer["new_branch"]["forked_from_item_id"] == ids[2]
    assert await text_on(proxy, path) == "aAbC"
    assert await text_on(proxy, path, answer["old_main_backup"]) == "aAbB"
    assert [item["id"] for item in await items_on(proxy, path)][:3] == ids[:3]


async def test_an_answer_is_made_anew_as_a_stream_by_another_model(proxy: Proxy):
    path, ids = await converse(proxy)
    body = {"model": "m-2", "max_tokens": 5, "temperature": 0}
    events = await stream(proxy, f"{path}/items/{ids[2]}/regenerate", body)
    accept_events(events)
    assert (events[-1]["user_item_id"], events[-1]["branch_created"]) == (ids[2], True)
    request = proxy.upstream.requests[-1].json
    assert (request["model"], request["max_output_tokens"], request["temperature"]) == ("m-2", 5, 0)
    assert (await text_on(proxy, path)).startswith("aAbYou said")


async def test_each_of_many_answers_is_kept(proxy: Proxy):
    path, ids = await converse(proxy)
    backups = []
    for text in "CDE":
        proxy.upstream.script(Reply.json(200, model_answer(text)))
        _, answer = await proxy.call("POST", f"{path}/items/{ids[2]}/regenerate", {})
        backups.append(answer["old_main_backup"])
    assert await text_on(proxy, path) == "aAbE"
    assert [await text_on(proxy, path, name) for name in backups] == ["aAbB", "aAbC", "aAbD"]


async def test_an_earlier_answer_drops_what_followed(proxy: Proxy):
    path, ids = await converse(proxy)
    proxy.upstream.script(Reply.json(200, model_answer("X")))
    _, answer = await proxy.call("POST", f"{path}/items/{ids[1]}/regenerate", {})
    assert (await text_on(proxy, path), answer["user_item_id"]) == ("aX", ids[0])


async def test_a_line_alone_is_made_when_no_answer_is_asked_for(proxy: Proxy):
    path, ids = await converse(proxy)
    _, answer = await proxy.call("POST", f"{path}/items/{ids[3]}/regenerate", {"regenerate": False})
    assert "response" not in answer
    assert (answer["user_item_id"], await text_on(proxy, path), len(proxy.upstream.requests)) == (ids[2], "aAb", 2)


async def test_the_model_is_the_one_that_made_the_replaced_answer(proxy: Proxy):
    path, _ = await converse(proxy)
    await say(proxy, id_of(path), "c", "C", model="m-2")
    await say(proxy, id_of(path), "d", "D", model="m-3")
    ids = [item["id"] for item in await items_on(proxy, path)]
    models = []
    for item_id in (ids[5], ids[4], ids[7], ids[0]):
        await proxy.call("POST", f"{path}/items/{item_id}/regenerate", {})
        models.append(proxy.upstream.requests[-1].json["model"])
    assert models == ["m-2", "m-2", "m-3", "m-1"]


async def test_an_answer_with_tool_calls_is_made_anew_from_the_question(proxy: Proxy):
    _, conversation = await proxy.call("POST", "/v1/conversations", {})
    call = {"id": "fc_up", "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    proxy.upstream.script(Reply.json(200, {"object": "response", "status": "completed", "output": [call]}))
    body = {"model": "m", "input": "a", "conversation": conversation["id"]}
    await proxy.call("POST", "/v1/responses", body)
    output = {"type": "function_call_output", "call_id": "c1", "output": "42"}
    await say(proxy, conversation["id"], [output], "A")
    path = f"/v1/conversations/{conversation['id']}"
    _, page = await proxy.call("GET", f"{path}/items")
    proxy.upstream.script(Reply.json(200, model_answer("B")))
    status, _ = await proxy.call("POST", f"{path}/items/{page['data'][0]['id']}/regenerate", {})
    assert (status, "".join(texts(sent(proxy))), await text_on(proxy, path)) == (200, "a", "aB")


async def test_what_has_no_question_is_refused(proxy: Proxy):
    output = {"type": "function_call_output", "call_id": "c1", "output": "42"}
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    items = [{"role": "assistant", "content": "hi"}, call, output]
    _, conversation = await proxy.call("POST", "/v1/conversations", {"items": items})
    path = f"/v1/conversations/{conversation['id']}"
    _, page = await proxy.call("GET", f"{path}/items?order=asc")
    greeting, _, result = [item["id"] for item in page["data"]]
    status, answer = await proxy.call("POST", f"{path}/items/{result}/regenerate", {"model": "m"})
    assert (status, error_of(answer)) == (400, ("item_id", "not_a_message"))
    status, answer = await proxy.call("POST", f"{path}/items/{greeting}/regenerate", {"model": "m"})
    assert (status, error_of(answer)) == (404, ("item_id", None))
    status, answer = await proxy.call("POST", f"{path}/items/{greeting}/regenerate", {"model": "m", "input": "x"})
    assert (status, error_of(answer)) == (400, ("input", "unsupported_parameter"))
    assert proxy.upstream.requests == []


# What goes wrong on the way


@pytest.mark.parametrize("action", ["edit", "regenerate"])
async def test_a_refused_answer_leaves_everything_as_it_was(proxy: Proxy, action: str):
    path, ids = await converse(proxy)
    proxy.upstream.script(Reply.json(429, {"error": {"message": "slow down"}}))
    status, _ = await proxy.call("POST", f"{path}/items/{ids[2]}/{action}", {"content": "c", "regenerate": True})
    assert status == 429
    assert (await names(proxy, path), await text_on(proxy, path)) == (["MAIN"], "aAbB")
    await say(proxy, id_of(path), "c", "C")


@pytest.mark.parametrize("action", ["edit", "regenerate"])
async def test_an_answer_that_breaks_off_leaves_no_branch(proxy: Proxy, action: str):
    path, ids = await converse(proxy)
    proxy.upstream.script(Reply.raw(200, "text/event-stream", chunks=[frames(WHOLE[:4], done=False), CUT]))
    events = await stream(proxy, f"{path}/items/{ids[2]}/{action}", {"content": "c", "regenerate": True})
    end = events[-1]
    assert (end["type"], end["branch_created"], end["old_main_backup"]) == ("response.failed", False, "")
    assert end["new_branch"] is None
    assert (await names(proxy, path), await text_on(proxy, path)) == (["MAIN"], "aAbB")
    await say(proxy, id_of(path), "c", "C")


async def test_a_client_that_leaves_keeps_what_was_said_on_the_new_line(proxy: Proxy):
    path, ids = await converse(proxy)
    proxy.upstream.script(Reply.raw(200, "text/event-stream", chunks=[frames(WHOLE[:-1], done=False), HANG]))
    body = {"stream": True}
    url = f"{proxy.url}{path}/items/{ids[2]}/regenerate"
    async with proxy.http.post(url, json=body, headers={"Authorization": "Bearer sk-alice"}) as answer:
        async for line in answer.content:
            if b"response.output_item.done" in line:
                break
        answer.close()
    await proxy.upstream.client_left.wait()
    await settled(proxy)
    assert len(await names(proxy, path)) == 2
    assert [item["id"] for item in await items_on(proxy, path)][:3] == ids[:3]
    assert len(await items_on(proxy, path)) > 3


async def test_a_revision_waits_for_no_turn_on_main(proxy: Proxy):
    """A turn runs on MAIN: an answer is refused, an edit alone is done, and the turn ends on its own line."""
    path, ids = await converse(proxy)
    gate = asyncio.Event()
    proxy.upstream.script(Reply.raw(200, "text/event-stream", chunks=[b"", gate, frames(WHOLE)]))
    body = {"model": "m", "input": "c", "conversation": id_of(path)}
    running = asyncio.create_task(stream(proxy, "/responses", body))
    await proxy.upstream.wait_for_requests(3)
    status, answer = await proxy.call("POST", f"{path}/items/{ids[2]}/regenerate", {})
    assert (status, error_of(answer)) == (400, ("conversation", "conversation_locked"))
    _, edited = await proxy.call("POST", f"{path}/items/{ids[2]}/edit", {"content": "d"})
    gate.set()
    assert (await running)[-1]["type"] == "response.completed"
    assert await text_on(proxy, path) == "aAd"
    backup = await items_on(proxy, path, edited["old_main_backup"])
    assert [item["content"][0]["text"] for item in backup[:5]] == [*"aAbB", "c"]
    assert len(backup) > 5


async def test_of_two_regenerations_at_once_one_runs(proxy: Proxy):
    path, ids = await converse(proxy)
    gate = asyncio.Event()
    proxy.upstream.script(Reply.raw(200, "text/event-stream", chunks=[b"", gate, frames(WHOLE)]))
    running = asyncio.create_task(stream(proxy, f"{path}/items/{ids[3]}/regenerate", {}))
    await proxy.upstream.wait_for_requests(3)
    status, answer = await proxy.call("POST", f"{path}/items/{ids[3]}/regenerate", {})
    assert (status, answer["error"]["code"]) == (400, "conversation_locked")
    gate.set()
    await running
    assert len(await names(proxy, path)) == 2


# Turns that fork


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_turn_forks_and_runs_there(proxy: Proxy, streamed: bool):
    path, ids = await converse(proxy)
    source = {"id": id_of(path), "branch": "draft", "fork_from": ids[1]}
    proxy.upstream.script(Reply.json(200, model_answer("C")))
    body = {"model": "m", "input": "c", "conversation": source}
    if streamed:
        events = await stream(proxy, "/responses", body)
        accept_events(events)
        response = events[-1]["response"]
    else:
        _, response = await proxy.call("POST", "/v1/responses", body)
    assert response["conversation"] == {"id": id_of(path), "branch": "draft"}
    assert "".join(texts(sent(proxy))) == "aAc"
    assert (await text_on(proxy, path), await text_on(proxy, path, "draft")) == ("aAbB", "aAcC")
    _, branch = await proxy.call("GET", f"{path}/branches/draft")
    assert (branch["parent_branch"], branch["forked_from_item_id"]) == ("MAIN", ids[1])
    assert (branch["item_count"], branch["is_active"]) == (4, False)
    follow = await say(proxy, {"id": id_of(path), "branch": "draft"}, "d", "D")
    assert follow["conversation"] == {"id": id_of(path), "branch": "draft"}
    assert ("".join(texts(sent(proxy))), await text_on(proxy, path, "draft")) == ("aAcCd", "aAcCdD")


async def test_the_official_client_forks_without_knowing_branches(proxy: Proxy):
    path, ids = await converse(proxy)
    source: Any = {"id": id_of(path), "branch": "draft", "fork_from": ids[1]}
    async with proxy.client().responses.stream(model="m", input="c", conversation=source) as events:
        async for _ in events:
            pass
        response = await events.get_final_response()
    assert response.conversation is not None
    assert response.conversation.id == id_of(path)
    assert (await text_on(proxy, path, "draft")).startswith("aAcYou said")


async def test_a_branch_that_nobody_named_gets_a_name(proxy: Proxy):
    path, ids = await converse(proxy)
    response = await say(proxy, {"id": id_of(path), "fork_from": ids[1]}, "c", "C")
    name = response["conversation"]["branch"]
    assert await text_on(proxy, path, name) == "aAcC"


async def test_a_turn_goes_back_to_a_response(proxy: Proxy):
    path, _ = await converse(proxy)
    _, page = await proxy.call("GET", f"{path}/items")
    first = await say(proxy, id_of(path), "c", "C")
    await say(proxy, id_of(path), "d", "D")
    response = await say(proxy, {"id": id_of(path), "at": first["id"], "branch": "back"}, "e", "E")
    assert response["conversation"]["branch"] == "back"
    assert ("".join(texts(sent(proxy))), await text_on(proxy, path, "back")) == ("aAbBcCe", "aAbBcCeE")
    assert await text_on(proxy, path) == "aAbBcCdD"
    assert await text_on(proxy, path, at=first["id"]) == "aAbBcC"
    assert await text_on(proxy, path, at=page["last_id"]) == "a"


async def test_a_side_chain_comes_back_as_a_branch(proxy: Proxy):
    path, _ = await converse(proxy)
    response = await say(proxy, id_of(path), "c", "C")
    proxy.upstream.script(Reply.json(200, model_answer("X")))
    body = {"model": "m", "input": "x", "previous_response_id": response["id"]}
    _, aside = await proxy.call("POST", "/v1/responses", body)
    await say(proxy, {"id": id_of(path), "at": aside["id"], "branch": "aside"}, "y", "Y")
    assert ("".join(texts(sent(proxy))), await text_on(proxy, path, "aside")) == ("aAbBcCxXy", "aAbBcCxXyY")


async def test_a_failed_turn_leaves_no_branch(proxy: Proxy):
    path, ids = await converse(proxy)
    source = {"id": id_of(path), "branch": "draft", "fork_from": ids[1]}
    body = {"model": "m", "input": "c", "conversation": source}
    proxy.upstream.script(Reply.json(500, {"error": {"message": "no"}}))
    status, _ = await proxy.call("POST", "/v1/responses", body)
    assert (status, await names(proxy, path)) == (500, ["MAIN"])
    proxy.upstream.script(Reply.raw(200, "text/event-stream", chunks=[frames(WHOLE[:4], done=False), CUT]))
    events = await stream(proxy, "/responses", body)
    assert (events[-1]["type"], await names(proxy, path)) == ("response.failed", ["MAIN"])
    status, _ = await proxy.call("POST", "/v1/responses", body)
    assert (status, await names(proxy, path)) == (200, ["MAIN", "draft"])


async def test_an_unstored_turn_makes_no_branch_unless_items_are_appended_all_the_same(start_proxy: StartProxy):
    for append, expected in ((False, ["MAIN"]), (True, ["MAIN", "draft"])):
        proxy = await start_proxy(conversations={"append_unstored": append})
        path, ids = await converse(proxy)
        source = {"id": id_of(path), "branch": "draft", "fork_from": ids[1]}
        await say(proxy, source, "c", "C", store=False)
        assert ("".join(texts(sent(proxy))), await names(proxy, path)) == ("aAc", expected)


async def test_turns_run_at_once_on_two_branches_and_not_on_one(proxy: Proxy):
    path, _ = await converse(proxy)
    await fork(proxy, path, "draft")
    gate = asyncio.Event()
    for _ in range(2):
        proxy.upstream.script(Reply.raw(200, "text/event-stream", chunks=[b"", gate, frames(WHOLE)]))
    bodies = [
        {"model": "m", "input": name, "conversation": {"id": id_of(path), "branch": name}} for name in ("MAIN", "draft")
    ]
    running = [asyncio.create_task(stream(proxy, "/responses", body)) for body in bodies]
    await proxy.upstream.wait_for_requests(4)
    for body in bodies:
        status, answer = await proxy.call("POST", "/v1/responses", body)
        assert (status, error_of(answer)) == (400, ("conversation", "conversation_locked"))
    gate.set()
    for events in await asyncio.gather(*running):
        assert events[-1]["type"] == "response.completed"
    for name in ("MAIN", "draft"):
        items = await items_on(proxy, path, name)
        assert [item["content"][0]["text"] for item in items[:5]] == [*"aAbB", name]


async def test_a_name_is_taken_while_the_turn_runs_that_will_make_it(proxy: Proxy):
    path, ids = await converse(proxy)
    gate = asyncio.Event()
    proxy.upstream.script(Reply.raw(200, "text/event-stream", chunks=[b"", gate, frames(WHOLE)]))
    source = {"id": id_of(path), "branch": "draft", "fork_from": ids[1]}
    body = {"model": "m", "input": "c", "conversation": source}
    running = asyncio.create_task(stream(proxy, "/responses", body))
    await proxy.upstream.wait_for_requests(3)
    status, answer = await proxy.call("POST", f"{path}/branches", {"name": "draft"})
    assert (status, error_of(answer)) == (409, ("name", "branch_already_exists"))
    status, answer = await proxy.call("POST", "/v1/responses", body)
    assert (status, answer["error"]["code"]) == (400, "conversation_locked")
    assert (await proxy.call("GET", f"{path}/branches/draft"))[0] == 404
    gate.set()
    await running
    status, answer = await proxy.call("POST", "/v1/responses", body)
    assert (status, error_of(answer)) == (409, ("conversation.branch", "branch_already_exists"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"branch": "a/b"}, (400, "conversation.branch", "invalid_value")),
        ({"branch": 1}, (400, "conversation.branch", "invalid_type")),
        ({"branch": "nowhere"}, (404, "branch", None)),
        ({"fork_from": 1}, (400, "conversation.fork_from", "invalid_type")),
        ({"fork_from": "a b"}, (400, "conversation.fork_from", "invalid_value")),
        ({"fork_from": "msg_x"}, (404, "conversation.fork_from", None)),
        ({"at": "resp_x"}, (404, "conversation.at", None)),
        ({"at": {}}, (400, "conversation.at", "invalid_type")),
        ({"at": "resp_x", "fork_from": "msg_x"}, (400, "conversation", "mutually_exclusive_parameters")),
        ({"fork_from": "msg_x", "branch": "main"}, (404, "conversation.fork_from", None)),
    ],
)
async def test_a_bad_place_to_fork_is_named(proxy: Proxy, source: Any, expected: tuple[int, str, str | None]):
    path, _ = await converse(proxy)
    body = {"model": "m", "input": "c", "conversation": {"id": id_of(path), **source}}
    status, answer = await proxy.call("POST", "/v1/responses", body)
    assert (status, *error_of(answer)) == expected
    assert len(proxy.upstream.requests) == 2


async def test_main_is_no_name_for_a_fork(proxy: Proxy):
    path, ids = await converse(proxy)
    body = {"model": "m", "input": "c", "conversation": {"id": id_of(path), "branch": "main", "fork_from": ids[0]}}
    status, answer = await proxy.call("POST", "/v1/responses", body)
    assert (status, error_of(answer)) == (409, ("conversation.branch", "branch_already_exists"))


async def test_a_fork_before_an_unanswered_call_has_nothing_to_wait_for(proxy: Proxy):
    _, conversation = await proxy.call("POST", "/v1/conversations", {})
    path = f"/v1/conversations/{conversation['id']}"
    await say(proxy, conversation["id"], "a", "A")
    proxy.upstream.script(Reply.json(200, {"object": "response", "status": "completed", "output": [CALL]}))
    await proxy.call("POST", "/v1/responses", {"model": "m", "input": "b", "conversation": conversation["id"]})
    ids = [item["id"] for item in await items_on(proxy, path)]
    body = {"model": "m", "input": "c", "conversation": conversation["id"]}
    status, answer = await proxy.call("POST", "/v1/responses", body)
    assert (status, "No tool output found" in answer["message"]) == (400, True)
    await say(proxy, {"id": conversation["id"], "branch": "early", "fork_from": ids[1]}, "c", "C")
    status, answer = await proxy.call(
        "POST", "/v1/responses", {**body, "conversation": {"id": conversation["id"], "fork_from": ids[-1]}}
    )
    assert (status, "No tool output found" in answer["message"]) == (400, True)
