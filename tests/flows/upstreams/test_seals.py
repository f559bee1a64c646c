"""What one of several servers sealed goes back to that server, and to no other."""

from __future__ import annotations

from typing import Any

import pytest

from tests.flows.conftest import StartProxy
from tests.flows.streams import read_stream
from tests.flows.talk import items_of, model_answer, new_conversation, respond, sent
from tests.flows.upstreams.conftest import WAYS, Several, StartSeveral, says, take, told_in
from tests.upstream import Reply

SEAL = "gAAAAABo-sealed-by-"
SHOWN = ["reasoning.encrypted_content"]
TWO: dict[str, Any] = {
    "first": {"models": ["m", "only-first"]},
    "second": {"models": ["m", "only-second"]},
    "rest": {"models": ["*"]},
}


def thought(by: str, number: int = 1) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": f"thought by {by}"}]
    return {"type": "reasoning", "id": "rs_up", "summary": summary, "encrypted_content": f"{SEAL}{by}-{number}"}


def seals(question: dict[str, Any]) -> list[str]:
    """The seals in a request."""
    return [item["encrypted_content"] for item in question["input"] if "encrypted_content" in item]


def thinks(several: Several, name: str, way: str = "plain", number: int = 1) -> None:
    """Let a server's next answer have reasoning."""
    several.servers[name].script(says("yes", way, thought(name, number)))


@pytest.mark.parametrize("way", WAYS)
async def test_it_is_told_and_stored_under_its_servers_name_and_goes_back_as_it_was(
    start_several: StartSeveral, way: str
):
    several = await start_several(**TWO)
    conversation = await new_conversation(several.proxy)
    thinks(several, "first", way)
    response = await take(several, way, model="m", conversation=conversation, include=SHOWN)
    if way != "background":  # which is polled here, without asking for it
        assert response["output"][0]["encrypted_content"] == f"bls1.first.{SEAL}first-1"
    stored = await items_of(several.proxy, conversation, "&include[]=reasoning.encrypted_content")
    assert stored[1]["encrypted_content"] == f"bls1.first.{SEAL}first-1"
    await take(several, way, model="m", conversation=conversation)
    assert several.asked() == ["first", "first"]
    assert seals(several.question("first")) == [f"{SEAL}first-1"]
    assert all("id" not in item for item in several.question("first")["input"] if item["type"] == "reasoning")


async def test_every_event_that_shows_it_shows_the_same(start_several: StartSeveral):
    several = await start_several(**TWO)
    thinks(several, "first", "stream")
    events = told_in(await read_stream(several.proxy, {"model": "m", "input": "hi", "include": SHOWN}))
    shown = [event["item"]["encrypted_content"] for event in events if "encrypted_content" in event.get("item", {})]
    assert set(shown) == {f"bls1.first.{SEAL}first-1"}
    assert events[-1]["response"]["output"][0]["encrypted_content"] == shown[0]


@pytest.mark.parametrize("way", WAYS)
async def test_a_turn_goes_to_the_server_of_the_newest_seal(start_several: StartSeveral, way: str):
    several = await start_several(**TWO)
    conversation = await new_conversation(several.proxy)
    several.servers["first"].script(Reply.json(503, {}))
    thinks(several, "second", way)
    await take(several, way, model="m", conversation=conversation)
    assert several.asked() == ["first", "second"]
    await take(several, way, model="m", conversation=conversation)
    assert several.asked() == ["first", "second", "second"]
    assert seals(several.question("second")) == [f"{SEAL}second-1"]


async def test_after_a_failover_what_another_sealed_is_left_out_of_what_is_sent_and_not_of_the_store(
    start_several: StartSeveral,
):
    several = await start_several(**TWO)
    conversation = await new_conversation(several.proxy)
    thinks(several, "first")
    await respond(several.proxy, model="m", conversation=conversation)
    several.servers["first"].script(Reply.json(503, {}))
    thinks(several, "second", number=2)
    await respond(several.proxy, model="m", conversation=conversation)
    assert several.asked() == ["first", "first", "second"]
    assert seals(several.question("first")) == [f"{SEAL}first-1"]
    # the summary can be read by anybody
    asked = several.question("second")["input"]
    assert seals(several.question("second")) == []
    assert asked[1] == {"type": "reasoning", "summary": thought("first")["summary"]}
    kept = await items_of(several.proxy, conversation, "&include[]=reasoning.encrypted_content")
    sealed = [item["encrypted_content"] for item in kept if item["type"] == "reasoning"]
    assert sealed == [f"bls1.first.{SEAL}first-1", f"bls1.second.{SEAL}second-2"]
    # the newest decides, and each gets its own
    await respond(several.proxy, model="m", conversation=conversation)
    assert several.asked() == ["first", "first", "second", "second"]
    assert seals(several.question("second")) == [f"{SEAL}second-2"]


async def test_a_model_that_the_sealer_does_not_serve_goes_where_it_is_served(start_several: StartSeveral):
    several = await start_several(**TWO)
    conversation = await new_conversation(several.proxy)
    thinks(several, "first")
    await respond(several.proxy, model="m", conversation=conversation)
    await respond(several.proxy, model="only-second", conversation=conversation)
    assert several.asked() == ["first", "second"]
    assert seals(several.question("second")) == []


async def test_a_client_that_sends_items_back_stays_with_its_server(start_several: StartSeveral):
    several = await start_several(**TWO)
    several.servers["first"].script(Reply.json(503, {}))
    thinks(several, "second")
    answer = await respond(several.proxy, model="m", store=False, include=SHOWN)
    items = [{"role": "user", "content": "hi"}, *answer["output"], {"role": "user", "content": "?"}]
    await respond(several.proxy, model="m", store=False, input=items)
    assert several.asked() == ["first", "second", "second"]
    assert seals(several.question("second")) == [f"{SEAL}second-1"]


async def test_what_has_no_mark_belongs_to_the_one_that_takes_the_rest(start_several: StartSeveral):
    several = await start_several(first={"models": ["m"]}, rest={"models": ["m", "*"]})
    items = [{"role": "user", "content": "hi"}, thought("nobody"), {"role": "assistant", "content": "yes"}]
    question = {"role": "user", "content": "?"}
    await respond(several.proxy, model="m", store=False, input=[*items, question])
    assert several.asked() == ["rest"]
    assert seals(several.question("rest")) == [f"{SEAL}nobody-1"]
    several.servers["rest"].script(Reply.json(503, {}))
    await respond(several.proxy, model="m", store=False, input=[*items, question])
    assert seals(several.question("first")) == []


async def test_a_mark_of_nobody_goes_to_nobody(start_several: StartSeveral):
    several = await start_several(**TWO)
    gone = {**thought("gone"), "encrypted_content": f"bls1.gone.{SEAL}gone"}
    items = [{"role": "user", "content": "hi"}, gone, {"role": "assistant", "content": "yes"}]
    await respond(several.proxy, model="m", store=False, input=[*items, {"role": "user", "content": "?"}])
    assert several.asked() == ["first"]
    assert seals(several.question("first")) == []


async def test_the_mark_is_taken_off_however_many_servers_there_are(
    start_several: StartSeveral, start_proxy: StartProxy
):
    several = await start_several(**TWO)
    conversation = await new_conversation(several.proxy)
    thinks(several, "first")
    answer = await respond(several.proxy, model="m", conversation=conversation, include=SHOWN)
    # the same server alone; the mark and whoever made the item say so
    alone = await start_proxy(upstream={"url": several.servers["first"].url})
    await respond(alone, model="m", conversation=conversation)
    assert seals(several.question("first")) == [f"{SEAL}first-1"]
    items = [{"role": "user", "content": "hi"}, *answer["output"], {"role": "user", "content": "?"}]
    await respond(alone, model="m", store=False, input=items)
    assert seals(several.question("first")) == [f"{SEAL}first-1"]


async def test_what_was_sealed_before_there_were_several_is_known_by_its_server(
    start_several: StartSeveral, start_proxy: StartProxy
):
    alone = await start_proxy()
    conversation = await new_conversation(alone)
    alone.upstream.script(Reply.json(200, model_answer("yes", thought("second"))))
    await respond(alone, model="m", conversation=conversation)
    several = await start_several(first={"models": ["m"]}, second={"models": ["m"], "url": alone.upstream.url})
    await respond(several.proxy, model="m", conversation=conversation)
    assert several.asked() == []
    assert seals({"input": sent(alone)}) == [f"{SEAL}second-1"]


async def test_a_server_that_has_moved_keeps_what_it_sealed_under_its_name(start_several: StartSeveral):
    several = await start_several(**TWO)
    conversation = await new_conversation(several.proxy)
    thinks(several, "first")
    await respond(several.proxy, model="m", conversation=conversation)
    moved = await start_several(**TWO)
    await respond(moved.proxy, model="m", conversation=conversation)
    assert seals(moved.question("first")) == [f"{SEAL}first-1"]


async def test_a_compaction_of_a_servers_own_goes_back_to_it(start_several: StartSeveral):
    several = await start_several(**TWO, settings={"compaction": {"upstream": "native"}})
    conversation = await new_conversation(several.proxy)
    compaction = {"type": "compaction", "id": "cmp_up", "encrypted_content": f"{SEAL}first-window"}
    several.servers["first"].script(says("yes", "plain", compaction))
    await respond(several.proxy, model="m", conversation=conversation)
    await respond(several.proxy, model="m", conversation=conversation)
    assert seals(several.question("first")) == [f"{SEAL}first-window"]
    several.servers["first"].script(Reply.json(503, {}))
    await respond(several.proxy, model="m", conversation=conversation)
    # to another it stands for nothing: all that is before it is sent
    assert seals(several.question("second")) == []
    assert len(several.question("second")["input"]) == 5


async def test_with_one_server_nothing_is_marked(start_several: StartSeveral, start_proxy: StartProxy):
    for proxy, upstream in (
        ((alone := await start_proxy()), alone.upstream),
        ((one := await start_several(only={"models": ["*"]})).proxy, one.servers["only"]),
    ):
        upstream.script(Reply.json(200, model_answer("yes", thought("it"))))
        answer = await respond(proxy, model="m", include=SHOWN)
        assert answer["output"][0]["encrypted_content"] == f"{SEAL}it-1"
