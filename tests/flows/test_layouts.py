"""Stores that earlier versions wrote, opened by the code of today: all is there, and everything goes on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from proxy.config.settings import Secret
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.talk import respond
from tests.flows.witness import answered
from tests.items import user
from tests.layouts import Layout
from tests.layouts.answers import ask, render
from tests.layouts.story import ALICE, BOB, CAROL
from tests.upstream import HANG, Reply

SHOWN = "include[]=reasoning.encrypted_content"
HANGING = Reply.raw(200, "application/json", chunks=[HANG])
#: What a background response gets when it is made.
MADE = {"status", "output", "usage", "completed_at", "service_tier"}
#: Time after which whatever a dead server held is free, in seconds.
LATER = 60.0

Open = Callable[..., Awaitable[Proxy]]


@pytest.fixture
def reopen(layout: Layout, start_proxy: StartProxy, valkey_url: str) -> Open:
    """Load a layout as it is so many seconds after its server died, and start today's server on it.

    held: what waits in the background is taken up at once, and the model keeps it without an answer.
    """

    async def start(*, later_seconds: float = 0.0, held: bool = True, **changes: Any) -> Proxy:
        async with Redis.from_url(valkey_url) as client:
            await layout.snapshot.load(client, later_seconds=later_seconds)
        waiting = len(layout.names["waiting"]) if held else 0
        settings: dict[str, Any] = {
            "sealing": {"key": Secret(layout.names["sealing_key"])},
            "streams": {"keep": "all"},
            # nobody waits at the end for what is held: it is given back
            "server": {"shutdown_timeout_seconds": 0.0 if held else 5.0},
        }
        proxy = await start_proxy(script=[HANGING] * waiting, **settings, **changes)
        await proxy.upstream.wait_for_requests(waiting)
        del proxy.upstream.requests[:waiting]
        return proxy

    return start


@pytest.fixture
async def proxy(reopen: Open) -> Proxy:
    """Today's server, just after the one that wrote the layout."""
    return await reopen()


def singles(layout: Layout, kind: str) -> list[dict[str, Any]]:
    """All answers that are one conversation, or one response, by itself."""
    path = re.compile(f"/v1/{kind}/\\w+")
    return [told for told in layout.answers if told["status"] == 200 and path.fullmatch(told["path"])]


async def given_to_next(proxy: Proxy, key: str, response: dict[str, Any]) -> list[dict[str, Any]]:
    """The items that a turn which continues a response begins with; none if it can't be, or with a summary."""
    path = f"/v1/responses/{response['id']}"
    items = await items_of(proxy, f"{path}/input_items", key=key)
    if response["status"] in {"completed", "incomplete"}:
        items += (await proxy.call("GET", f"{path}?{SHOWN}", key=key))[1]["output"]
    else:
        # neither what went wrong nor what it was asked is history
        items = items[:-1]
    unfinished = response["status"] == "in_progress" or any(item["type"] == "compaction" for item in items)
    return [] if unfinished else items


def reply_to(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The input of a turn after these items: outputs for the calls that wait, and a message."""
    outputs = {item["call_id"] for item in items if item["type"].endswith("_output")}
    return answered([item for item in items if "call_id" in item and item["call_id"] not in outputs])


async def items_of(proxy: Proxy, path: str, query: str = "", key: str = ALICE) -> list[dict[str, Any]]:
    """Return all items of a list, oldest first."""
    items: list[dict[str, Any]] = []
    after = ""
    while True:
        status, page = await proxy.call("GET", f"{path}?limit=100&order=asc&{SHOWN}{query}{after}", key=key)
        assert status == 200, page
        items += page["data"]
        if not page["has_more"]:
            return items
        after = f"&after={page['last_id']}"


def seen(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Items as the model gets them; sealed reasoning goes to it without its id."""
    return [{key: value for key, value in item.items() if key != "id"} for item in items]


def asked(proxy: Proxy) -> list[dict[str, Any]]:
    """What the model was given last."""
    return seen(proxy.upstream.requests[-1].json["input"])


def says(text: str) -> dict[str, Any]:
    """A user's message as it is kept."""
    content = [{"type": "input_text", "text": text}]
    return {"type": "message", "role": "user", "content": content, "status": "completed"}


def partition_key(conversation: str) -> str:
    """The key of a conversation's partition."""
    return f"branchline:{{{conversation[-16:]}}}:partition"


async def over(proxy: Proxy, response_id: str) -> Any:
    """Wait until a background response is over; return it."""
    async with asyncio.timeout(20):
        while True:
            _, response = await proxy.call("GET", f"/v1/responses/{response_id}")
            if response["status"] not in {"queued", "in_progress"}:
                return response
            await asyncio.sleep(0.02)


async def post(proxy: Proxy, request: dict[str, Any], **headers: str) -> tuple[int, bool, str]:
    """Post what a layout's story had posted; return status, whether it is a repeat's answer, and text."""
    headers = {"Authorization": f"Bearer {ALICE}", **headers}
    if "key" in request:
        headers["Idempotency-Key"] = request["key"]
    async with proxy.http.post(proxy.url + request["path"], json=request["body"], headers=headers) as response:
        repeated = response.headers.get("idempotent-replayed") == "true"
        return response.status, repeated, await response.text()


# What was told.


async def test_every_answer_is_as_it_was_to_the_byte(proxy: Proxy, layout: Layout):
    assert len(layout.answers) > 300
    for told in layout.answers:
        now = await ask(proxy.http, proxy.url, told["as"], told["path"])
        assert now == told
        assert render(now["type"], now["body"]) == render(told["type"], told["body"])
    assert proxy.upstream.requests == []


async def test_what_one_owner_has_does_not_exist_for_another(proxy: Proxy, layout: Layout):
    others = {ALICE: BOB, BOB: CAROL, CAROL: ALICE}
    found = singles(layout, "conversations") + singles(layout, "responses")
    assert {told["as"] for told in found} == set(others)
    for told in found:
        assert (await ask(proxy.http, proxy.url, others[told["as"]], told["path"]))["status"] == 404


async def test_what_was_deleted_stays_so(proxy: Proxy, layout: Layout):
    for path in layout.names["deleted"]:
        assert (await proxy.call("GET", path))[0] == 404


async def test_everything_of_one_owner_can_be_deleted(proxy: Proxy, layout: Layout):
    assert (await proxy.call("DELETE", "/v1/responses"))[0] == 200
    for told in layout.answers:
        if told["as"] != ALICE:
            assert await ask(proxy.http, proxy.url, told["as"], told["path"]) == told
    heads = [key async for key in proxy.redis.scan_iter() if key.endswith(b"}:partition")]
    owners = {await proxy.redis.hget(key, "owner") for key in heads}
    # theirs are left, whose conversation names its partition
    kept = [await proxy.redis.hget(partition_key(layout.names[name]), "owner") for name in ("bob's", "expiring")]
    assert owners == set(kept)


async def test_a_conversation_that_was_to_expire_is_kept_from_its_next_turn_on(proxy: Proxy, layout: Layout):
    conversation = layout.names["expiring"]
    key = partition_key(conversation)
    assert await proxy.redis.ttl(key) > 90 * 86_400
    await respond(proxy, input="stay", conversation=conversation, key=CAROL)
    assert await proxy.redis.ttl(key) == -1


# Conversations and chains go on.


async def test_a_conversation_goes_on_where_it_is(proxy: Proxy, layout: Layout):
    path = f"/v1/conversations/{layout.names['trip']}/items"
    before = await items_of(proxy, path)
    answer = await respond(proxy, input="and now?", conversation=layout.names["trip"])
    assert asked(proxy) == [*seen(before), says("and now?")]
    after = await items_of(proxy, path)
    assert after[:-2] == before
    assert (seen(after[-2:-1]), after[-1:]) == ([says("and now?")], answer["output"])


async def test_every_branch_goes_on_by_itself(proxy: Proxy, layout: Layout):
    trip = layout.names["trip"]
    path = f"/v1/conversations/{trip}"
    _, page = await proxy.call("GET", f"{path}/branches")
    names = [branch["name"] for branch in page["data"]]
    before = {name: await items_of(proxy, f"{path}/items", f"&branch={name}") for name in names}
    assert len({str(items) for items in before.values()}) == len(names) > 5
    for name in names:
        await respond(proxy, input=f"on {name}", conversation={"id": trip, "branch": name})
        assert asked(proxy) == [*seen(before[name]), says(f"on {name}")]
    for name in names:
        assert seen(await items_of(proxy, f"{path}/items", f"&branch={name}"))[:-1] == [
            *seen(before[name]),
            says(f"on {name}"),
        ]


async def test_branches_are_forked_edited_regenerated_and_deleted(proxy: Proxy, layout: Layout):
    path = f"/v1/conversations/{layout.names['trip']}"
    items = await items_of(proxy, f"{path}/items", "&branch=MAIN")
    (asked_first, *_), (*_, answered_last) = items, items
    steps: list[tuple[str, str, Any, int]] = [
        ("POST", "branches", {"name": "new", "fork_from_item_id": asked_first["id"]}, 201),
        ("POST", "branches/new/activate", None, 200),
        ("POST", f"items/{asked_first['id']}/edit?branch=MAIN", {"content": "anew", "regenerate": True}, 200),
        ("POST", f"items/{answered_last['id']}/regenerate", {"model": "echo"}, 200),
        ("DELETE", f"items/{answered_last['id']}", None, 200),
        ("DELETE", "branches/Renamed.1", None, 204),
        ("GET", "branches/MAIN/compare/new", None, 200),
        ("GET", "branches/deeper/compare/come-back", None, 200),
    ]
    for method, step, body, expected in steps:
        status, answer = await proxy.call(method, f"{path}/{step}", body)
        assert status == expected, (step, answer)
    assert asked(proxy)[-1] == seen(items)[-2]
    with pytest.raises(AssertionError, match="404"):
        await items_of(proxy, f"{path}/items", "&branch=Renamed.1")


async def test_a_long_conversation_goes_on_without_what_was_deleted(proxy: Proxy, layout: Layout):
    path = f"/v1/conversations/{layout.names['many']}/items"
    before = await items_of(proxy, path)
    assert len(before) > 100
    await respond(
        proxy,
        input=[{"type": "item_reference", "id": "msg_brought-along"}, user("more")],
        conversation=path.split("/")[3],
    )
    assert asked(proxy) == [*seen(before), says("more")]


async def test_calls_wait_for_their_outputs(proxy: Proxy, layout: Layout):
    conversation = layout.names["tools"]
    await respond(proxy, input="and?", conversation=conversation, expect=400)
    outputs = [{"type": "function_call_output", "call_id": one, "output": "rain"} for one in layout.names["calls"]]
    await respond(proxy, input=outputs[:1], conversation=conversation, expect=400)
    await respond(proxy, input=outputs, conversation=conversation)
    assert [item.get("call_id") for item in asked(proxy)[-4:]] == layout.names["calls"] * 2
    await respond(proxy, input="now?", conversation={"id": conversation, "branch": "before-the-calls"})
    await respond(proxy, input="and?", previous_response_id=layout.names["calling"], expect=400)


async def test_every_response_goes_on_from_what_it_was_given_and_answered(proxy: Proxy, layout: Layout):
    went_on = 0
    for told in singles(layout, "responses"):
        if given := await given_to_next(proxy, told["as"], told["body"]):
            said = reply_to(given)
            await respond(proxy, input=said, previous_response_id=told["body"]["id"], key=told["as"])
            assert asked(proxy)[: len(given)] == seen(given)
            assert len(asked(proxy)) == len(given) + len(said)
            went_on += 1
    assert went_on > 35


async def test_chains_go_on(proxy: Proxy, layout: Layout):
    for name, length in (("chain", 10), ("left", 3)):
        answer = await respond(proxy, input="six", previous_response_id=layout.names[name])
        assert len(asked(proxy)) == length + 1
        await respond(proxy, input="seven", previous_response_id=answer["id"])
        assert len(asked(proxy)) == length + 3
    for path in layout.names["deleted"]:
        if "/responses/" in path:
            await respond(proxy, input="six", previous_response_id=path.rpartition("/")[2], expect=400)


async def test_a_summary_still_stands_for_what_it_summarised(proxy: Proxy, layout: Layout):
    await respond(proxy, input="go on", conversation=layout.names["compacted"])
    texts = ["".join(part["text"] for part in item["content"]) for item in asked(proxy)]
    assert texts[0].startswith("<conversation_summary>")
    assert "SUMMARY" in texts[0]
    assert texts[1:3:2] == ["go on"]
    assert "a b c d e" not in "".join(texts)
    await respond(proxy, input="go on", previous_response_id=layout.names["compacted chain"])
    assert "SUMMARY" in asked(proxy)[0]["content"][0]["text"]


async def test_a_stream_is_told_again_from_any_event_on(proxy: Proxy, layout: Layout):
    path = f"/v1/responses/{layout.names['streamed']}?stream=true"
    events = (await ask(proxy.http, proxy.url, ALICE, path))["body"]
    assert len(events) > 15
    for number in range(len(events)):
        rest = await ask(proxy.http, proxy.url, ALICE, f"{path}&starting_after={number}")
        assert rest["body"] == events[number + 1 :]
    assert proxy.upstream.requests == []


@pytest.mark.parametrize("name", ["trip", "many", "tools", "compacted", "imported"])
async def test_what_was_exported_is_imported(proxy: Proxy, layout: Layout, name: str):
    path = f"/v1/conversations/{layout.names[name]}"
    told = [one for one in layout.answers if f"{one['path']}/".startswith((f"{path}/", f"{path}?"))]
    (exported,) = [one["body"] for one in told if one["path"].endswith("/export")]
    assert (await proxy.call("DELETE", path))[0] == 200
    headers = {"Authorization": f"Bearer {ALICE}", "Content-Type": "application/x-ndjson"}
    text = render("application/x-ndjson", exported)
    async with proxy.http.post(f"{proxy.url}/v1/conversations/import", data=text, headers=headers) as answer:
        assert answer.status == 201, await answer.text()
    for one in told:
        # an export names segments, and those of an import are new
        if not one["path"].endswith("/export"):
            assert await ask(proxy.http, proxy.url, ALICE, one["path"]) == one


# What was still to be done.


async def test_what_waits_is_made(reopen: Open, layout: Layout):
    proxy = await reopen(held=False)
    for one in layout.names["waiting"].values():
        queued, body = one["response"], one["body"]
        made = await over(proxy, queued["id"])
        assert made["status"] == "completed"
        assert {key: made[key] for key in made.keys() - MADE} == {key: queued[key] for key in queued.keys() - MADE}
        history = await items_of(proxy, f"/v1/responses/{queued['id']}/input_items")
        (request,) = [one for one in proxy.upstream.requests if one.json["input"][-1] == history[-1]]
        assert seen(request.json["input"]) == seen(history)
        assert seen(history)[-1] == says(body["input"])
        assert request.headers["Authorization"] == f"Bearer {ALICE}"
        assert request.path_qs.endswith(f"?trace={one['trace']}")
        await respond(proxy, input="goes on", previous_response_id=queued["id"])
        assert len(asked(proxy)) == len(history) + 2
    conversation = layout.names["waiting"]["plain"]["body"]["conversation"]
    items = await items_of(proxy, f"/v1/conversations/{conversation}/items")
    assert seen(items)[-2:-1] == [says(layout.names["waiting"]["plain"]["body"]["input"])]
    path = f"/v1/responses/{layout.names['waiting']['streamed']['response']['id']}"
    events = (await ask(proxy.http, proxy.url, ALICE, f"{path}?stream=true"))["body"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"] == (await proxy.call("GET", path))[1]


async def test_what_waits_keeps_its_branch(proxy: Proxy, layout: Layout):
    conversation = layout.names["waiting"]["plain"]["body"]["conversation"]
    refused = await respond(proxy, input="me first", conversation=conversation, expect=400)
    assert refused["error"]["code"] == "conversation_locked"


async def test_what_was_being_made_goes_on_where_it_was_once_its_lease_is_over(reopen: Open, layout: Layout):
    running = layout.names["running"]
    path = f"/v1/responses/{running['response']}"
    proxy = await reopen(later_seconds=LATER, held=False, turns={"lock_lease_seconds": 1.0})
    made = await over(proxy, running["response"])
    assert made["status"] == "completed"
    async with proxy.http.get(f"{proxy.url}{path}?stream=true", headers={"Authorization": f"Bearer {ALICE}"}) as answer:
        told = await answer.text()
    assert told.startswith(running["told"])
    assert len(told) > len(running["told"])
    items = await items_of(proxy, f"/v1/conversations/{running['conversation']}/items")
    assert items[-1:] == made["output"]
    assert seen(items[:-1]) == [says("begin"), says("interrupted")]


async def test_what_was_being_made_is_left_to_its_server_while_that_has_its_lease(proxy: Proxy, layout: Layout):
    path = f"/v1/responses/{layout.names['running']['response']}"
    assert (await proxy.call("GET", path))[1]["status"] == "in_progress"
    status, cancelled = await proxy.call("POST", f"{path}/cancel")
    assert (status, cancelled["status"]) == (200, "cancelled")
    events = (await ask(proxy.http, proxy.url, ALICE, f"{path}?stream=true"))["body"]
    assert events[-1]["response"]["status"] == "cancelled"
    await respond(proxy, input="instead", conversation=layout.names["running"]["conversation"])


# Requests that come again.


async def test_what_was_answered_under_a_key_is_answered_again(proxy: Proxy, layout: Layout):
    for request in layout.names["keyed"].values():
        status, repeated, text = await post(proxy, request)
        # that of a background response is its log
        assert repeated or request["body"].get("background")
        assert (status, text) == (request["status"], request["answer"].removeprefix(": events follow\n\n"))
        other = {**request, "body": {**request["body"], "metadata": {"another": "request"}}}
        assert (await post(proxy, other))[0] == 422
    assert proxy.upstream.requests == []


async def test_an_answer_that_nobody_took_is_there_for_the_next_attempt_once(proxy: Proxy, layout: Layout):
    lost = layout.names["lost"]
    for expected in (True, False):
        status, _, text = await post(proxy, lost, **{"x-stainless-retry-count": "1"})
        assert (status, lost["response"] in text) == (200, expected)
    assert len(proxy.upstream.requests) == 1


async def test_a_key_without_an_answer_is_its_server_s_for_as_long_as_the_lease(reopen: Open, layout: Layout):
    proxy = await reopen(idempotency={"wait_seconds": 0.1})
    assert (await post(proxy, layout.names["unanswered"]))[0] == 409
    assert proxy.upstream.requests == []


async def test_a_key_whose_server_died_is_carried_out_by_the_next(reopen: Open, layout: Layout):
    proxy = await reopen(later_seconds=LATER)
    first, second = [await post(proxy, layout.names["unanswered"]) for _ in range(2)]
    assert (first[:2], second[:2], first[2]) == ((200, False), (200, True), second[2])
    assert len(proxy.upstream.requests) == 1
