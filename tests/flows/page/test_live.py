"""Live: whoever watches a conversation sees what others do there, from whichever process, and what it missed."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from proxy.app import stop
from proxy.page.hub import HUB, MOST_OF_OWNER
from proxy.runtime.tasks import TASKS
from tests.flows.branches.api import fork
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.page.live import Live, live_path
from tests.flows.streams import OPENING, Stream, answer_after, delta
from tests.flows.talk import items_of, new_conversation, respond
from tests.upstream import Reply


async def log_keys(proxy: Proxy) -> list[bytes]:
    return [key for key in await proxy.redis.keys("*:events:*") if isinstance(key, bytes)]


async def test_a_watcher_sees_another_client_s_turn_as_it_is_written_and_stored(proxy: Proxy):
    conversation, gate = await new_conversation(proxy), asyncio.Event()
    proxy.upstream.script(Reply.sse([*OPENING, gate, delta(" a time"), {"type": "response.completed", "response": {}}]))
    async with Live(proxy, live_path(conversation)) as page:
        name, first = await page.next()
        assert (name, first["tip"], first["active_branch"]) == ("change", "0.0", "MAIN")
        async with Stream(proxy, {"conversation": conversation}) as client:
            created = await client.until("response.created")
            running = await page.until("running")
            assert running["response"] == created["response"]["id"]
            assert await page.text("Once upon") == "Once upon"
            gate.set()
            name, data = await page.next()
            while name == "delta" or name == "running":
                name, data = await page.next()
            assert (name, data["tip"], data["changed"]) == ("change", "0.2", ["tip"])
            done = await page.until("done")
            assert (done["response"], done["status"], done["error"]) == (running["response"], "completed", None)
    assert len(await items_of(proxy, conversation)) == 2


async def test_a_turn_in_another_process_is_followed_too(start_proxy: StartProxy):
    here, there = await start_proxy(), await start_proxy()
    conversation, gate = await new_conversation(here), asyncio.Event()
    there.upstream.script(answer_after(gate))
    async with Live(here, live_path(conversation, "?branch=MAIN")) as page:
        await page.until("change")
        async with Stream(there, {"conversation": conversation}) as client:
            await client.until("response.output_text.delta")
            assert await page.text("Once upon") == "Once upon"
            gate.set()
            assert (await page.until("done"))["status"] == "completed"


async def test_the_events_of_a_watched_turn_are_kept_for_a_minute_and_of_others_none(proxy: Proxy):
    conversation, gate = await new_conversation(proxy), asyncio.Event()
    await respond(proxy, conversation=conversation)
    async with Stream(proxy, {"conversation": conversation, "model": "echo"}) as client:
        await client.until("response.completed")
    assert await log_keys(proxy) == []
    async with Live(proxy, live_path(conversation)) as page:
        await page.until("change")
        proxy.upstream.script(answer_after(gate))
        async with Stream(proxy, {"conversation": conversation}) as client:
            await page.text("Once upon")
            gate.set()
            await client.until("response.completed")
    (log,) = await log_keys(proxy)
    assert 50 < await proxy.redis.ttl(log) <= 60


async def test_a_turn_that_had_begun_before_is_seen_to_run_and_to_end(proxy: Proxy):
    conversation, gate = await new_conversation(proxy), asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    async with Stream(proxy, {"conversation": conversation}) as client:
        await client.until("response.output_text.delta")
        async with Live(proxy, live_path(conversation)) as page:
            await page.until("change")
            assert not (await page.until("running"))["followable"]
            gate.set()
            assert (await page.next())[0] == "change"
            assert (await page.next())[0] == "done"


async def test_watching_does_not_prolong_the_turn_of_a_client_that_leaves(proxy: Proxy):
    conversation, gate = await new_conversation(proxy), asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    async with Live(proxy, live_path(conversation)) as page:
        await page.until("change")
        async with Stream(proxy, {"conversation": conversation}) as client:
            await client.until("response.output_text.delta")
            await page.text("Once upon")
        assert (await page.until("done"))["status"] == "incomplete"


async def test_whoever_comes_back_is_told_only_what_has_changed_meanwhile(proxy: Proxy):
    conversation = await new_conversation(proxy)
    async with Live(proxy, live_path(conversation)) as page:
        await page.until("change")
    async with Live(proxy, live_path(conversation), last=page.last) as again:
        await proxy.call("POST", f"/v1/conversations/{conversation}", {"title": "new"})
        assert (await again.next())[1]["changed"] == ["title"]
    await respond(proxy, conversation=conversation)
    async with Live(proxy, live_path(conversation), last=again.last) as later:
        name, change = await later.next()
        assert (name, change["tip"]) == ("change", "0.2")


async def test_a_branch_and_an_activation_are_changes(proxy: Proxy):
    conversation = await new_conversation(proxy)
    await respond(proxy, conversation=conversation)
    last = (await items_of(proxy, conversation))[-1]["id"]
    async with Live(proxy, live_path(conversation)) as page:
        await page.until("change")
        path = f"/v1/conversations/{conversation}"
        await fork(proxy, path, "draft", fork_from_item_id=last)
        change = await page.until("change")
        assert (change["branches"], change["changed"]) == (2, ["branches"])
        status, _ = await proxy.call("POST", f"{path}/branches/draft/activate")
        assert status == 200
        change = await page.until("change")
        assert (change["active_branch"], change["tip"]) == ("draft", "1.0")


async def test_a_conversation_that_is_deleted_is_gone_and_one_of_others_was_never_there(proxy: Proxy):
    conversation = await new_conversation(proxy)
    async with Live(proxy, live_path(conversation), key="sk-mallory") as page:
        assert page.response.status == 404
    async with Live(proxy, live_path(conversation)) as page:
        await page.until("change")
        await proxy.call("DELETE", f"/v1/conversations/{conversation}")
        assert await page.until("gone") == {}
        assert await page.response.content.read() == b""
    async with Live(proxy, live_path(conversation)) as page:
        assert page.response.status == 404


async def test_an_owner_watches_only_so_much_at_a_time(proxy: Proxy):
    conversation = await new_conversation(proxy)
    pages = [Live(proxy, live_path(conversation)) for _ in range(MOST_OF_OWNER)]
    for page in pages:
        await page.__aenter__()
        await page.until("change")
    async with Live(proxy, live_path(conversation)) as more:
        assert more.response.status == 429
        assert "Retry-After" in more.response.headers
    # the first place that is left is the next one's
    await pages[0].__aexit__()
    async with asyncio.timeout(10):
        while proxy.app[HUB].watcher_count == MOST_OF_OWNER:  # noqa: ASYNC110 (the server finds out by itself)
            await asyncio.sleep(0.01)
    async with Live(proxy, live_path(conversation)) as more:
        await more.until("change")
    for page in pages[1:]:
        await page.__aexit__()


async def test_the_list_tells_how_many_conversations_are_newer(proxy: Proxy):
    first = await new_conversation(proxy)
    async with Live(proxy, "/ui/live") as page:
        second = await new_conversation(proxy)
        change = await page.until("change")
        assert change == {"newer": 1, "conversations": [second]}
        await respond(proxy, conversation=first)
        change = await page.until("change")
        assert (change["newer"], change["conversations"]) == (2, [first, second])
    async with Live(proxy, "/ui/live", key="sk-mallory") as other:
        assert other.response.status == 200


@pytest.mark.parametrize("since", ["x", "-1", "1" * 17])
async def test_a_state_of_the_list_that_is_none_is_refused(proxy: Proxy, since: str):
    async with Live(proxy, f"/ui/live?since={since}") as page:
        assert page.response.status == 400
        assert orjson.loads(await page.response.read())["error"]["param"] == "since"


async def test_nothing_is_asked_of_the_store_while_nobody_watches(proxy: Proxy):
    conversation = await new_conversation(proxy)
    async with Live(proxy, live_path(conversation)) as page:
        await page.until("change")
    async with asyncio.timeout(10):
        while proxy.app[HUB].watcher_count:  # noqa: ASYNC110 (the server finds out by itself)
            await asyncio.sleep(0.01)
    assert not proxy.app[HUB].is_looking
    assert proxy.app[TASKS].failing == []


async def test_a_deleted_item_is_activity(proxy: Proxy):
    conversation = await new_conversation(proxy)
    await respond(proxy, conversation=conversation)
    first = (await items_of(proxy, conversation))[0]["id"]
    async with Live(proxy, live_path(conversation)) as page:
        await page.until("change")
        await proxy.call("DELETE", f"/v1/conversations/{conversation}/items/{first}")
        assert (await page.until("change"))["changed"] == ["activity"]


async def test_a_server_that_stops_ends_what_is_watched(start_proxy: StartProxy):
    proxy = await start_proxy(server={"shutdown_timeout_seconds": 30.0})
    conversation = await new_conversation(proxy)
    async with Live(proxy, live_path(conversation)) as page, Live(proxy, "/ui/live") as listing:
        await page.until("change")
        async with asyncio.timeout(10):
            await stop(proxy.runner)
            assert await page.response.content.read() == b""
            await listing.response.content.read()


async def test_a_branch_that_a_turn_is_making_can_be_watched_before_it_is_there(proxy: Proxy):
    conversation, gate = await new_conversation(proxy), asyncio.Event()
    await respond(proxy, conversation=conversation)
    last = (await items_of(proxy, conversation))[-1]["id"]
    proxy.upstream.script(answer_after(gate))
    async with Live(proxy, live_path(conversation, "?branch=draft")) as page:
        assert (await page.until("change"))["tip"] is None
        fork_from = {"id": conversation, "branch": "draft", "fork_from": last}
        async with Stream(proxy, {"conversation": fork_from}) as client:
            await client.until("response.output_text.delta")
            assert await page.text("Once upon") == "Once upon"
            gate.set()
            assert (await page.until("change"))["tip"] == "1.2"
            await page.until("done")
