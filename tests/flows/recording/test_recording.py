"""Recorded turns: over every way that a turn can take, what is left of them, and what nobody notices."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import orjson
import pytest

from proxy.recording.chat import CHAT_RECORDER
from proxy.recording.recorder import RECORDER
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.recording.resending import CHAT, chat, only_conversation, said, say, texts_of, user
from tests.flows.recording.witness import all_recorded, answer_events, completion
from tests.flows.talk import model_answer, post, respond, stored_keys
from tests.flows.telemetry.counted import number
from tests.upstream import Reply


async def test_a_resent_history_is_one_conversation_and_each_item_is_stored_once(proxy: Proxy):
    history: list[dict[str, Any]] = []
    for turn in range(6):
        history.append(user(f"question {turn}"))
        await say(proxy, *history, answer=f"answer {turn}")
        history.append(said(f"answer {turn}"))
    conversation_id = await only_conversation(proxy)
    assert await texts_of(proxy, conversation_id) == [
        text for turn in range(6) for text in (f"question {turn}", f"answer {turn}")
    ]
    _, listed = await proxy.call("GET", "/v1/conversations")
    assert [one["id"] for one in listed["data"]] == [conversation_id]


async def test_the_header_says_where_a_turn_is_recorded(proxy: Proxy):
    told = await post(proxy, "/v1/responses", {"model": "echo", "input": "hi"}, key=None)
    conversation_id = await only_conversation(proxy)
    assert told.headers["x-branchline-conversation"] == f"{conversation_id}/MAIN"
    assert told.json.get("conversation") is None
    streamed = await post(proxy, "/v1/responses", {"model": "echo", "input": "ho", "stream": True}, key=None)
    assert streamed.headers["x-branchline-conversation"].endswith("/MAIN")


async def test_a_recorded_turn_can_be_gone_on_from_by_its_ids(proxy: Proxy):
    await say(proxy, user("one"), answer="first")
    second = await say(proxy, user("one"), said("first"), user("two"), answer="second")
    conversation_id = await only_conversation(proxy)
    await say(proxy, user("three"), answer="third", conversation=conversation_id)
    assert (await texts_of(proxy, conversation_id))[-2:] == ["three", "third"]
    await say(proxy, user("other"), answer="another", previous_response_id=second["id"])
    assert proxy.upstream.requests[-1].json["input"][0]["content"][0]["text"] == "one"


async def test_turns_that_go_on_from_a_recorded_response_are_in_its_conversation(proxy: Proxy):
    first = await say(proxy, user("one"), answer="first")
    second = await say(proxy, user("two"), answer="second", previous_response_id=first["id"])
    third = await say(proxy, user("three"), answer="third", previous_response_id=second["id"])
    assert third.get("conversation") is None
    conversation_id = await only_conversation(proxy)
    assert await texts_of(proxy, conversation_id) == ["one", "first", "two", "second", "three", "third"]
    other = await say(proxy, user("other"), answer="another", previous_response_id=first["id"])
    assert [item["content"][0]["text"] for item in proxy.upstream.requests[-1].json["input"]] == [
        "one",
        "first",
        "other",
    ]
    await say(proxy, user("more"), answer="much more", previous_response_id=other["id"])
    await say(proxy, user("four"), answer="fourth", previous_response_id=third["id"])
    assert await texts_of(proxy, conversation_id) == ["one", "first", "other", "another", "more", "much more"]
    (recorded,) = (await all_recorded(proxy)).values()
    assert [len(line.items) for line in recorded.lines.values()] == [8, 4]


async def test_what_goes_on_from_a_response_in_a_conversation_of_the_app_s_own_stays_outside(proxy: Proxy):
    _, made = await proxy.call("POST", "/v1/conversations")
    first = await say(proxy, user("one"), answer="first", conversation=made["id"])
    await say(proxy, user("two"), answer="second", previous_response_id=first["id"])
    assert await texts_of(proxy, made["id"]) == ["one", "first"]


async def test_a_chat_app_and_a_responses_app_meet_on_one_line(proxy: Proxy):
    await say(proxy, user("one"), answer="first")
    await chat(proxy, user("one"), said("first"), user("two"), answer="second")
    await all_recorded(proxy)
    await say(proxy, user("one"), said("first"), user("two"), said("second"), user("three"), answer="third")
    assert await texts_of(proxy, await only_conversation(proxy)) == ["one", "first", "two", "second", "three", "third"]


async def finished(proxy: Proxy, response_id: str) -> None:
    """Return once a background response is over."""
    while (await proxy.call("GET", f"/v1/responses/{response_id}"))[1]["status"] != "completed":  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def test_background_responses_are_recorded(proxy: Proxy):
    await say(proxy, user("one"), answer="first")
    proxy.upstream.script(Reply.json(200, model_answer("second")))
    accepted = await respond(proxy, input=[user("one"), said("first"), user("two")], background=True)
    await finished(proxy, accepted["id"])
    assert await texts_of(proxy, await only_conversation(proxy)) == ["one", "first", "two", "second"]
    await say(proxy, user("one"), said("first"), user("two"), said("second"), user("three"), answer="third")
    assert len(await texts_of(proxy, await only_conversation(proxy))) == 6


async def test_a_first_turn_in_the_background_begins_a_conversation(proxy: Proxy):
    proxy.upstream.script(Reply.json(200, model_answer("first")))
    accepted = await respond(proxy, input="one", background=True)
    await finished(proxy, accepted["id"])
    await say(proxy, user("one"), said("first"), user("two"), answer="second")
    assert await texts_of(proxy, await only_conversation(proxy)) == ["one", "first", "two", "second"]


async def test_turns_on_a_websocket_are_recorded(proxy: Proxy):
    headers = {"Authorization": "Bearer sk-alice"}
    async with proxy.http.ws_connect(proxy.url.replace("http", "ws") + "/v1/responses", headers=headers) as socket:
        for history, answer in (([user("one")], "first"), ([user("one"), said("first"), user("two")], "second")):
            proxy.upstream.script(Reply.sse(answer_events(model_answer(answer)["output"])))
            await socket.send_json({"type": "response.create", "model": "m", "input": history})
            while (await socket.receive_json())["type"] != "response.completed":
                pass
    assert await texts_of(proxy, await only_conversation(proxy)) == ["one", "first", "two", "second"]


@pytest.mark.parametrize("apart", [0.0, 0.001])
async def test_three_hundred_equal_conversations_stay_three_hundred(proxy: Proxy, apart: float):
    async def one_of_many(number: int) -> None:
        # so that some look while others are written
        await asyncio.sleep(number % 50 * apart)
        await respond(proxy, input=history)

    answers = [f"answer {turn}" for turn in range(2)]
    history: list[dict[str, Any]] = []
    for turn, answer in enumerate(answers):
        history.append(user(f"question {turn}"))
        proxy.upstream.script(*[Reply.json(200, model_answer(answer))] * 300)
        turns = [one_of_many(number) for number in range(300)]
        for start in range(0, 300, 50):
            await asyncio.gather(*turns[start : start + 50])
        history.append(said(answer))
    recorded = await all_recorded(proxy)
    assert len(recorded) == 300
    assert {tuple(len(line.items) for line in one.lines.values()) for one in recorded.values()} == {(4,)}


# Nothing is noticed


async def test_the_client_and_the_model_see_no_difference(start_proxy: StartProxy):
    """Of the answer all but ids, times, and the header of ours; of the request to the model everything but ids."""
    seen = []
    for mode in ("on", "off"):
        proxy = await start_proxy(recording={"mode": mode, "chat": "all"})
        for streamed in (False, True):
            history = [user("one"), said("first"), user("two")]
            events = answer_events(model_answer("second")["output"])
            proxy.upstream.script(Reply.sse(events) if streamed else Reply.json(200, model_answer("second")))
            told = await post(proxy, "/v1/responses", {"model": "m", "input": history, "stream": streamed}, key=None)
            headers = sorted(name for name in told.headers if name.lower() != "x-branchline-conversation")
            sent = proxy.upstream.requests[-1].json
            for item in sent["input"]:
                item.pop("id", None)
            said_of_it = told.body.count(b"data: ") if streamed else sorted(told.json)
            seen.append((streamed, told.status, headers, said_of_it, sent))
    assert seen[:2] == seen[2:]


async def test_the_opt_out_goes_no_further(proxy: Proxy):
    headers = {"x-branchline-record": "off"}
    await post(proxy, "/v1/responses", {"model": "echo", "input": "hi"}, key=None, headers=headers)
    await post(proxy, CHAT, {"model": "echo", "messages": [user("hi")], "store": True}, key=None, headers=headers)
    assert ["x-branchline-record" in one.headers for one in proxy.upstream.requests] == [False, False]
    assert await all_recorded(proxy) == {}


# Privacy


@pytest.mark.parametrize("fields", [{"store": False}, {}], ids=["store false", "header"])
async def test_what_is_not_to_be_stored_leaves_nothing(proxy: Proxy, fields: dict[str, Any]):
    headers = {} if fields else {"x-branchline-record": "off"}
    messages = [user("secret"), said("s"), user("more")]
    if fields:
        await post(proxy, "/v1/responses", {"model": "echo", "input": messages, **fields}, key=None)
    await post(proxy, CHAT, {"model": "echo", "messages": messages, **fields}, key=None, headers=headers)
    await post(proxy, CHAT, {"model": "echo", "messages": messages}, key=None)
    await all_recorded(proxy)
    assert [key for key in await stored_keys(proxy) if b"quota" not in key] == []


async def test_the_operator_may_widen_it(start_proxy: StartProxy):
    proxy = await start_proxy(recording={"store_false": True, "chat": "all"})
    first = await say(proxy, user("one"), answer="first", store=False)
    await chat(proxy, user("one"), said("first"), user("two"), answer="second", store=False)
    assert await texts_of(proxy, await only_conversation(proxy)) == ["one", "first", "two", "second"]
    assert (await proxy.call("GET", f"/v1/responses/{first['id']}"))[0] == 404


async def test_keys_only_trusts_no_content(start_proxy: StartProxy):
    proxy = await start_proxy(recording={"mode": "keys"})
    await say(proxy, user("one"), answer="first")
    await say(proxy, user("one"), said("first"), user("two"), answer="second")
    assert len(await all_recorded(proxy)) == 2
    await say(proxy, user("one"), answer="first", prompt_cache_key="k")
    await say(proxy, user("one"), said("first"), user("two"), answer="second", prompt_cache_key="k")
    assert len(await all_recorded(proxy)) == 3


async def test_a_deleted_conversation_leaves_no_digest(proxy: Proxy):
    long = "a question that is long enough to be known by a part of its history " * 8
    await say(proxy, user(long), answer="first", prompt_cache_key="key")
    await say(proxy, user(long), said("first"), user("two"), answer="second", prompt_cache_key="key")
    conversation_id = await only_conversation(proxy)
    assert [key for key in await stored_keys(proxy) if b"digest" in key]
    await proxy.call("DELETE", f"/v1/conversations/{conversation_id}")
    assert [key for key in await stored_keys(proxy) if b"digest" in key] == []
    history = [user(long), said("first"), user("two"), said("second"), user("three")]
    await say(proxy, *history, answer="third", prompt_cache_key="key")
    await say(proxy, *history, said("third"), user("four"), answer="fourth", prompt_cache_key="key")
    assert await only_conversation(proxy) != conversation_id
    assert len(await texts_of(proxy, await only_conversation(proxy))) == 8
    await proxy.call("DELETE", "/v1/responses")
    assert await stored_keys(proxy) == []


async def test_what_goes_on_from_a_deleted_branch_is_on_a_branch_of_its_own(proxy: Proxy):
    history = [user("one"), said("first"), user("two")]
    await say(proxy, *history[:1], answer="first")
    await say(proxy, *history, answer="second")
    await say(proxy, *history, answer="another")
    conversation_id = await only_conversation(proxy)
    (recorded,) = (await all_recorded(proxy)).values()
    await proxy.call("DELETE", f"/v1/conversations/{conversation_id}/branches/{recorded.lines[0].name}")
    for turn in range(3):
        history += [said("second" if not turn else f"answer {turn}"), user(f"question {turn}")]
        await say(proxy, *history, answer=f"answer {turn + 1}")
    expected = [message["content"] for message in [*history, said("answer 3")]]
    assert await texts_of(proxy, await only_conversation(proxy)) == expected
    (recorded,) = (await all_recorded(proxy)).values()
    assert len(recorded.lines) == 2


# The record heals


async def test_turns_that_were_dropped_are_filled_in(start_proxy: StartProxy):
    proxy = await start_proxy(recording={"max_waiting_bytes": 1})
    history = [user("one")]
    await chat(proxy, *history, answer="first")
    assert proxy.app[CHAT_RECORDER].dropped == 1
    assert number(proxy.app, "recordings_missed_total", kind="chat") == 1
    history += [said("first"), user("two")]
    await say(proxy, *history, answer="second")
    for turn in range(3):
        history += [said("second") if not turn else said(f"answer {turn}"), user(f"question {turn}")]
        await chat(proxy, *history, answer=f"answer {turn + 1}")
    history += [said("answer 3"), user("last")]
    await say(proxy, *history, answer="end")
    conversation_id = await only_conversation(proxy)
    expected = [message["content"] for message in [*history, said("end")]]
    assert await texts_of(proxy, conversation_id) == expected
    # an edit finds the turns that were filled in
    await say(proxy, *history[:5], answer="edited")
    (recorded,) = (await all_recorded(proxy)).values()
    assert [len(line.items) for line in recorded.lines.values()] == [len(expected), 2]


async def test_a_turn_whose_place_is_not_known_in_time_is_filled_in(proxy: Proxy):
    await say(proxy, user("one"), answer="first")
    proxy.app[RECORDER].memory = type(proxy.app[RECORDER].memory)()
    proxy.upstream.thinks = None
    valkey = int((await proxy.redis.info("server"))["process_id"])
    os.kill(valkey, signal.SIGSTOP)
    try:
        turn = asyncio.create_task(say(proxy, user("one"), said("first"), user("two"), answer="second"))
        async with asyncio.timeout(20):
            while not proxy.app[RECORDER].unplaced:  # noqa: ASYNC110 (nobody is told)
                await asyncio.sleep(0.01)
    finally:
        os.kill(valkey, signal.SIGCONT)
    await turn
    assert await texts_of(proxy, await only_conversation(proxy)) == ["one", "first"]
    # the store can keep up again, as this turn finds out, and the next one waits for it again
    history = [user("one"), said("first"), user("two"), said("second"), user("three")]
    await say(proxy, *history, answer="third")
    history += [said("third"), user("four")]
    await say(proxy, *history, answer="fourth")
    expected = [message["content"] for message in [*history, said("fourth")]]
    assert await texts_of(proxy, await only_conversation(proxy)) == expected


# Other habits


async def test_answers_beside_each_other_are_branches(proxy: Proxy):
    choices = [{"index": index, "message": said(f"answer {index}"), "finish_reason": "stop"} for index in range(3)]
    body = {**completion(said("")), "choices": choices}
    proxy.upstream.script(Reply.json(200, body), path=CHAT)
    await post(proxy, CHAT, {"model": "m", "messages": [user("one")], "n": 3, "store": True}, key=None)
    (recorded,) = (await all_recorded(proxy)).values()
    assert [[orjson.loads(item)["content"][0]["text"] for item in line.items] for line in recorded.lines.values()] == [
        ["one", "answer 0"],
        ["answer 1"],
        ["answer 2"],
    ]
    await chat(proxy, user("one"), said("answer 1"), user("two"), answer="second")
    (recorded,) = (await all_recorded(proxy)).values()
    assert [len(line.items) for line in recorded.lines.values()] == [2, 3, 1]


async def test_an_image_that_is_resent_is_stored_once(proxy: Proxy):
    image = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 5000}
    first = {"role": "user", "content": [{"type": "input_text", "text": "what is this?"}, image]}
    await say(proxy, first, answer="a cat")
    await say(proxy, first, said("a cat"), user("sure?"), answer="yes")
    (recorded,) = (await all_recorded(proxy)).values()
    assert sum(b"AAAA" in item for line in recorded.lines.values() for item in line.items) == 1


async def test_references_stand_for_what_they_name(proxy: Proxy):
    first = await say(proxy, user("one"), answer="first")
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    await say(proxy, user("one"), reference, user("two"), answer="second")
    assert await texts_of(proxy, await only_conversation(proxy)) == ["one", "first", "two", "second"]


async def test_an_item_with_a_known_id_and_other_words_is_the_app_s_own_edit(proxy: Proxy):
    first = await say(proxy, user("one"), answer="first")
    edited = {**first["output"][0], "content": [{"type": "output_text", "text": "first, mended"}]}
    await say(proxy, user("one"), edited, user("two"), answer="second")
    assert proxy.upstream.requests[-1].json["input"][1]["content"][0]["text"] == "first, mended"
    (recorded,) = (await all_recorded(proxy)).values()
    assert [len(line.items) for line in recorded.lines.values()] == [2, 4]
    assert await texts_of(proxy, recorded.id) == ["one", "first, mended", "two", "second"]


async def test_a_long_history_is_recorded_once_too(proxy: Proxy):
    history = [message for turn in range(400) for message in (user(f"question {turn}"), said(f"answer {turn}"))]
    await say(proxy, *history, user("first"), answer="one")
    await say(proxy, *history, user("first"), said("one"), user("second"), answer="two")
    (recorded,) = (await all_recorded(proxy)).values()
    assert [len(line.items) for line in recorded.lines.values()] == [804]
