"""Turns that name what they go on from, in conversations that recording has made: who resends them goes on there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.config.settings import Secret
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.recording.resending import chat, only_conversation, said, say, texts_of, user
from tests.flows.recording.witness import all_recorded
from tests.flows.talk import items_of, model_answer, post, respond
from tests.upstream import Reply

#: What each of the tests says, questions and answers in turn.
TALK = ["one", "first", "two", "second", "three", "third"]
#: A history of it.
HISTORY: list[dict[str, Any]] = [(said if index % 2 else user)(text) for index, text in enumerate(TALK)]


async def lines_of(proxy: Proxy) -> list[int]:
    """Return how many items each line of the only conversation has written."""
    (recorded,) = (await all_recorded(proxy)).values()
    return [len(line.items) for line in recorded.lines.values()]


@pytest.fixture(params=[1, 2], ids=["one process", "two replicas"])
async def proxies(request: pytest.FixtureRequest, start_proxy: StartProxy) -> list[Proxy]:
    """Two proxies on one store, or one twice."""
    secret = Secret("a secret that two replicas share, long enough")
    made = [await start_proxy(sealing={"key": secret}) for _ in range(request.param)]
    return [made[0], made[-1]]


async def test_a_chat_app_goes_on_after_a_turn_in_its_conversation(proxies: list[Proxy]):
    one, other = proxies
    await chat(one, *HISTORY[:1], answer="first")
    conversation_id = await only_conversation(one)
    await say(other, user("two"), answer="second", conversation=conversation_id)
    await all_recorded(other)
    await chat(one, *HISTORY[:5], answer="third")
    assert await texts_of(one, await only_conversation(one)) == TALK
    assert await lines_of(one) == [6]


async def test_a_responses_app_goes_on_after_a_previous_response(proxies: list[Proxy]):
    one, other = proxies
    first = await say(one, *HISTORY[:1], answer="first")
    await all_recorded(one)
    await say(other, user("two"), answer="second", previous_response_id=first["id"])
    await all_recorded(other)
    await say(one, *HISTORY[:5], answer="third")
    assert await texts_of(one, await only_conversation(one)) == TALK
    assert await lines_of(one) == [6]


async def test_all_ways_take_turns_on_one_line(proxies: list[Proxy]):
    history: list[dict[str, Any]] = []
    previous: dict[str, Any] = {}
    for turn in range(12):
        proxy, question, answer = proxies[turn // 2 % 2], user(f"question {turn}"), f"answer {turn}"
        match turn % 4:
            case 0:
                await chat(proxy, *history, question, answer=answer)
            case 1:
                conversation_id = await only_conversation(proxy)
                previous = await say(proxy, question, answer=answer, conversation=conversation_id)
            case 2:
                previous = await say(proxy, *history, question, answer=answer)
            case _:
                await say(proxy, question, answer=answer, previous_response_id=previous["id"])
        history += [question, said(answer)]
        await all_recorded(proxy)
    assert await lines_of(proxies[0]) == [24]


async def test_an_edit_before_such_a_turn_is_a_branch(proxies: list[Proxy]):
    one, other = proxies
    await chat(one, *HISTORY[:1], answer="first")
    conversation_id = await only_conversation(one)
    await say(other, user("two"), answer="second", conversation=conversation_id)
    await all_recorded(other)
    await chat(one, *HISTORY[:2], user("edited"), answer="another")
    assert await texts_of(one, await only_conversation(one)) == ["one", "first", "edited", "another"]
    assert await lines_of(one) == [4, 2]
    await chat(one, *HISTORY[:5], answer="third")
    assert sorted(await lines_of(one)) == [2, 6]


async def test_its_question_answered_anew_is_there_once(proxies: list[Proxy]):
    one, other = proxies
    first = await say(one, *HISTORY[:1], answer="first")
    await all_recorded(one)
    await say(other, user("two"), answer="second", previous_response_id=first["id"])
    await all_recorded(other)
    await say(one, *HISTORY[:3], answer="anew")
    assert await texts_of(one, await only_conversation(one)) == ["one", "first", "two", "anew"]
    assert await lines_of(one) == [4, 1]


async def test_a_turn_that_forks_is_gone_on_from_where_it_is(proxies: list[Proxy]):
    one, other = proxies
    await chat(one, *HISTORY[:1], answer="first")
    await chat(one, *HISTORY[:3], answer="second")
    conversation_id = await only_conversation(one)
    _, page = await one.call("GET", f"/v1/conversations/{conversation_id}/items?order=asc")
    fork = {"id": conversation_id, "fork_from": page["data"][1]["id"]}
    await say(other, user("else"), answer="other", conversation=fork)
    await all_recorded(other)
    await chat(one, *HISTORY[:2], user("else"), said("other"), user("more"), answer="much more")
    assert sorted(await lines_of(one)) == [4, 4]
    await chat(one, *HISTORY[:5], answer="third")
    assert sorted(await lines_of(one)) == [4, 6]


async def test_a_turn_in_the_background_is_gone_on_from(proxy: Proxy):
    await chat(proxy, *HISTORY[:1], answer="first")
    conversation_id = await only_conversation(proxy)
    proxy.upstream.script(Reply.json(200, model_answer("second")))
    accepted = await respond(proxy, input="two", conversation=conversation_id, background=True)
    while (await proxy.call("GET", f"/v1/responses/{accepted['id']}"))[1]["status"] != "completed":  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    await chat(proxy, *HISTORY[:5], answer="third")
    assert await texts_of(proxy, await only_conversation(proxy)) == TALK


async def test_a_long_history_is_looked_through_beside(proxy: Proxy):
    history = [(said if index % 2 else user)(f"text {index}") for index in range(601)]
    await chat(proxy, *history, answer="text 601")
    conversation_id = await only_conversation(proxy)
    history.append(said("text 601"))
    for turn in (602, 604):
        await say(proxy, user(f"text {turn}"), answer=f"text {turn + 1}", conversation=conversation_id)
        history += [user(f"text {turn}"), said(f"text {turn + 1}")]
    await all_recorded(proxy)
    await chat(proxy, *history, user("text 606"), answer="text 607")
    assert await lines_of(proxy) == [608]


async def test_a_turn_that_is_not_to_be_recorded_leads_nowhere(proxy: Proxy):
    await chat(proxy, *HISTORY[:1], answer="first")
    conversation_id = await only_conversation(proxy)
    before = set(await proxy.redis.keys("*"))
    body = {"model": "echo", "input": "two", "conversation": conversation_id}
    answer = await post(proxy, "/v1/responses", body, key=None, headers={"x-branchline-record": "off"})
    assert answer.status == 200
    await all_recorded(proxy)
    assert not [key for key in set(await proxy.redis.keys("*")) - before if b"digest" in key]


async def test_a_conversation_of_the_app_s_own_is_not_looked_at(proxy: Proxy):
    _, made = await proxy.call("POST", "/v1/conversations")
    await say(proxy, user("one"), answer="first", conversation=made["id"])
    await all_recorded(proxy)
    assert not [key for key in await proxy.redis.keys("*") if b"digest" in key]


@pytest.mark.parametrize("way", ["edit", "regenerate"])
async def test_what_was_revised_by_id_is_gone_on_from(proxy: Proxy, way: str):
    await chat(proxy, *HISTORY[:1], answer="first")
    await chat(proxy, *HISTORY[:3], answer="second")
    conversation_id = await only_conversation(proxy)
    ids = [item["id"] for item in await items_of(proxy, conversation_id)]
    proxy.upstream.script(Reply.json(200, model_answer("anew")))
    body = {"model": "m", **({"content": "else", "regenerate": True} if way == "edit" else {})}
    status, told = await proxy.call("POST", f"/v1/conversations/{conversation_id}/items/{ids[2]}/{way}", body)
    assert status == 200, told
    await all_recorded(proxy)
    question = user("else") if way == "edit" else user("two")
    await chat(proxy, *HISTORY[:2], question, said("anew"), user("three"), answer="third")
    texts = ["one", "first", question["content"], "anew", "three", "third"]
    assert await texts_of(proxy, await only_conversation(proxy)) == texts
    assert await lines_of(proxy) == [4, 4 if way == "edit" else 3]
    await chat(proxy, *HISTORY[:2], question, answer="once more")
    assert (await lines_of(proxy))[2:] == [1]
