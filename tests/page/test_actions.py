"""All that the page can do, without a script: forms, and the screens that they lead to."""

from __future__ import annotations

import asyncio
import io

import orjson

from tests.flows.streams import OPENING
from tests.flows.talk import items_of, new_conversation, respond, settled
from tests.page.conftest import Visitor
from tests.page.talk import branches_of, ids_of, talk, texts_of
from tests.upstream import Reply


async def test_a_first_message_makes_a_conversation(visitor: Visitor):
    empty = await visitor.get("/ui/")
    assert "No conversations yet" in empty.words
    assert "curl http://" in empty.words
    screen = await visitor.follow("/ui/new", {"message": "hello there", "model": "echo"})
    assert 'You said: "hello there"' in screen.words
    listed = await visitor.get("/ui/")
    assert "hello there" in listed.words
    assert "2 items" in listed.words


async def test_a_first_message_that_is_refused_comes_back_filled_in_and_leaves_no_conversation(visitor: Visitor):
    visitor.proxy.upstream.script(Reply.json(400, {"error": {"message": "no such model", "code": "model_not_found"}}))
    screen = await visitor.post("/ui/new", {"message": "hello <there>", "model": "nope"})
    assert screen.status == 400
    assert "no such model" in screen.words
    assert "hello &lt;there&gt;</textarea>" in screen.text
    _, page = await visitor.proxy.call("GET", "/v1/conversations")
    assert page["data"] == []


async def test_a_message_is_sent_on_the_branch_that_is_shown(visitor: Visitor):
    proxy = visitor.proxy
    conversation = await talk(proxy, "one")
    item = (await ids_of(proxy, conversation))[1]
    await visitor.follow(f"/ui/c/{conversation}/fork", {"item": item, "branch": "MAIN", "name": "draft"})
    form = {"message": "two\r\nlines", "model": "echo", "branch": "draft"}
    screen = await visitor.follow(f"/ui/c/{conversation}/turn", form)
    assert (await texts_of(proxy, conversation, "&branch=draft"))[2] == "two\nlines"
    assert len(await items_of(proxy, conversation)) == 2
    assert "You look at draft" in screen.words


async def test_looking_at_the_past_and_going_on_from_there_makes_a_branch(visitor: Visitor):
    proxy = visitor.proxy
    conversation = await new_conversation(proxy)
    first = await respond(proxy, conversation=conversation, input="one")
    await respond(proxy, conversation=conversation, input="two")
    past = await visitor.get(f"/ui/c/{conversation}?at={first['id']}")
    assert "You look at the past" in past.words
    assert "two" not in past.words
    form = {"message": "other", "model": "echo", "branch": "MAIN", "at": first["id"], "name": "again"}
    await visitor.follow(f"/ui/c/{conversation}/turn", form)
    assert [text for text in await texts_of(proxy, conversation, "&branch=again") if "You" not in text] == [
        "one",
        "other",
    ]


async def test_an_edit_is_answered_on_a_new_main(visitor: Visitor):
    proxy = visitor.proxy
    conversation = await talk(proxy, "one", "two")
    item = (await ids_of(proxy, conversation))[2]
    form = {"item": item, "branch": "MAIN", "message": "edited", "mode": "answer", "model": ""}
    screen = await visitor.follow(f"/ui/c/{conversation}/edit", form)
    assert 'You said: "edited"' in screen.words
    assert "2/2" in screen.words
    assert len(await branches_of(proxy, conversation)) == 2


async def test_an_edit_is_saved_without_an_answer(visitor: Visitor):
    proxy = visitor.proxy
    conversation = await talk(proxy, "one")
    item = (await ids_of(proxy, conversation))[0]
    asked = len(proxy.upstream.requests)
    form = {"item": item, "branch": "MAIN", "message": "edited", "mode": "save"}
    await visitor.follow(f"/ui/c/{conversation}/edit", form)
    assert await texts_of(proxy, conversation) == ["edited"]
    assert len(proxy.upstream.requests) == asked


async def test_an_edit_is_answered_as_a_branch_of_its_own(visitor: Visitor):
    proxy = visitor.proxy
    conversation = await talk(proxy, "one")
    item = (await ids_of(proxy, conversation))[0]
    form = {"item": item, "branch": "MAIN", "message": "edited", "mode": "branch", "name": "mine", "model": "echo"}
    await visitor.follow(f"/ui/c/{conversation}/edit", form)
    branches = await branches_of(proxy, conversation)
    assert branches.keys() == {"MAIN", "mine"}
    assert branches["MAIN"]["is_active"]
    assert (await texts_of(proxy, conversation, "&branch=mine"))[0] == "edited"


async def test_a_new_answer_has_the_settings_of_the_one_that_it_replaces(visitor: Visitor):
    proxy = visitor.proxy
    conversation = await new_conversation(proxy)
    first = await respond(proxy, conversation=conversation, input="one", instructions="Be brief.", top_p=0.5)
    item = (await ids_of(proxy, conversation))[1]
    form = {"item": item, "branch": "MAIN", "response": first["id"], "model": "gpt-echo", "temperature": "0,25"}
    screen = await visitor.follow(f"/ui/c/{conversation}/regenerate", form)
    asked = proxy.upstream.requests[-1].json
    assert (asked["instructions"], asked["top_p"], asked["temperature"]) == ("Be brief.", 0.5, 0.25)
    assert asked["model"] == "gpt-echo"
    assert "2/2" in screen.words


async def test_a_form_that_failed_comes_back_filled_in(visitor: Visitor):
    proxy = visitor.proxy
    conversation = await talk(proxy, "one")
    item = (await ids_of(proxy, conversation))[1]
    form = {"item": item, "branch": "MAIN", "name": "a b", "description": "kept words"}
    screen = await visitor.post(f"/ui/c/{conversation}/fork", form)
    assert screen.status == 400
    assert 'value="a b"' in screen.text
    assert 'value="kept words"' in screen.text
    assert '<details id="fork" open' in screen.text
    form = {"item": item, "branch": "MAIN", "temperature": "hot", "model": "echo"}
    screen = await visitor.post(f"/ui/c/{conversation}/regenerate", form)
    assert screen.status == 400
    assert 'value="hot"' in screen.text


async def test_a_form_that_is_too_large_or_none_is_refused(visitor: Visitor):
    url, headers = f"{visitor.proxy.url}/ui/new", {**visitor.headers, "Sec-Fetch-Site": "same-origin"}
    kinds = {
        "application/x-www-form-urlencoded": (b"message=" + b"x" * 1_100_000, 413),
        "multipart/form-data": (b"", 400),
    }
    for kind, (body, status) in kinds.items():
        sent = {**headers, "Content-Type": kind}
        async with visitor.proxy.http.post(url, data=io.BytesIO(body), headers=sent) as answer:
            assert answer.status == status
            assert "form" in await answer.text()


async def test_a_branch_is_made_active_renamed_and_deleted(visitor: Visitor):
    proxy = visitor.proxy
    conversation = await talk(proxy, "one")
    base, item = f"/ui/c/{conversation}", (await ids_of(proxy, conversation))[1]
    await visitor.follow(f"{base}/fork", {"item": item, "branch": "MAIN", "name": "draft"})
    await visitor.follow(f"{base}/activate", {"branch": "draft"})
    assert (await branches_of(proxy, conversation))["draft"]["is_active"]
    refused = await visitor.post(f"{base}/delete-branch", {"branch": "draft"})
    assert refused.status == 400
    assert "branch_protected" in refused.words
    await visitor.follow(f"{base}/activate", {"branch": "MAIN", "back": "branches"})
    renamed = {"branch": "draft", "name": "final", "description": "the last one"}
    screen = await visitor.follow(f"{base}/rename", renamed)
    assert "the last one" in screen.words
    await visitor.follow(f"{base}/delete-branch", {"branch": "final"})
    assert (await branches_of(proxy, conversation)).keys() == {"MAIN"}


async def test_a_conversation_is_named_and_deleted(visitor: Visitor):
    conversation = await talk(visitor.proxy, "one")
    screen = await visitor.follow(f"/ui/c/{conversation}/rename", {"title": "A & B"})
    assert "A &amp; B</h1>" in screen.text
    await visitor.follow(f"/ui/c/{conversation}/delete", {})
    assert (await visitor.get(f"/ui/c/{conversation}")).status == 404


async def test_an_item_is_left_out_and_deleted(visitor: Visitor):
    proxy = visitor.proxy
    conversation = await talk(proxy, "one", "two")
    base, items = f"/ui/c/{conversation}", await ids_of(proxy, conversation)
    await visitor.follow(f"{base}/delete-item", {"item": items[1], "branch": "MAIN", "mode": "branch"})
    assert await ids_of(proxy, conversation) == [items[0], *items[2:]]
    graph = await visitor.get(f"{base}/branches?earlier=1")
    assert "without 1 item" in graph.words
    screen = await visitor.follow(f"{base}/delete-item", {"item": items[2], "branch": "MAIN", "mode": "item"})
    assert "was deleted" in screen.words
    assert await ids_of(proxy, conversation) == [items[0], items[3]]


async def test_a_running_turn_is_shown_and_stopped_and_what_it_said_stays(visitor: Visitor):
    proxy, gate = visitor.proxy, asyncio.Event()
    conversation = await talk(proxy, "one")
    proxy.upstream.script(Reply.sse([*OPENING, gate]))
    form = {"message": "two", "model": "echo", "branch": "MAIN"}
    begun = await visitor.post(f"/ui/c/{conversation}/turn", form, Accept="application/json")
    response = orjson.loads(begun.text)["response"]
    screen = await visitor.get(f"/ui/c/{conversation}")
    assert "writing…" in screen.words
    locked = await visitor.post(f"/ui/c/{conversation}/turn", form)
    assert locked.status == 400
    assert "watch it" in locked.words
    assert "two</textarea>" in locked.text
    await visitor.post(f"/ui/c/{conversation}/stop", {"branch": "MAIN", "response": response})
    await settled(proxy)
    screen = await visitor.get(f"/ui/c/{conversation}")
    assert "Once upon" in screen.words
    assert "incomplete" in screen.words


async def test_a_turn_that_fails_is_seen_at_its_response(visitor: Visitor):
    proxy = visitor.proxy
    conversation = await talk(proxy, "one")
    failed = {"type": "response.failed", "response": {"error": {"code": "server_error", "message": "out of luck"}}}
    proxy.upstream.script(Reply.sse([*OPENING, failed]))
    form = {"message": "two", "model": "echo", "branch": "MAIN"}
    screen = await visitor.follow(f"/ui/c/{conversation}/turn", form)
    assert "out of luck" in screen.words
    assert "failed" in screen.words
    listed = await visitor.get("/ui/r/")
    assert "out of luck" in listed.words


async def test_a_response_is_continued(visitor: Visitor):
    proxy = visitor.proxy
    alone = await respond(proxy, input="one")
    form = {"message": "two", "model": "echo"}
    screen = await visitor.follow(f"/ui/r/{alone['id']}/turn", form)
    assert 'You said: "two" (I saw 2 earlier items.)' in screen.words
    conversation = await new_conversation(proxy)
    inside = await respond(proxy, conversation=conversation, input="one")
    await visitor.follow(f"/ui/r/{inside['id']}/turn", {**form, "name": "next"})
    assert "next" in await branches_of(proxy, conversation)


async def test_the_demo_is_filled_in(visitor: Visitor):
    screen = await visitor.follow("/ui/demo", {})
    assert "A week in Lisbon" in screen.words
    assert {"1/2", "2/2", "2/3"} <= set(screen.words.split())
    (picture,) = {link for link in screen.links if "/pictures/" in link}
    assert (await visitor.get(picture)).headers["Content-Type"] == "image/png"
    graph = await visitor.get(screen.links[0] and next(one for one in screen.links if one.endswith("/branches")))
    assert "Show 2 earlier versions" in graph.words
    response = await visitor.get(next(one for one in screen.links if one.startswith("/ui/r/resp_")))
    assert "You are a travel agent" in response.words


async def test_a_conversation_is_exported(visitor: Visitor):
    conversation = await talk(visitor.proxy, "one")
    file = await visitor.get(f"/ui/c/{conversation}/export")
    assert file.headers["Content-Disposition"] == f'attachment; filename="{conversation}.jsonl"'
    assert file.text.startswith('{"kind":"conversation"')
