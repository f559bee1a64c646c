"""What the screens show: windows, alternatives, the tree of branches, comparisons, places found, and what they cost."""

from __future__ import annotations

import io
import re
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from proxy.http.keys import STORE
from proxy.runtime import store_watch
from storage.client.library import load_scripts
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.streams import read_stream
from tests.flows.talk import respond, until_worker_waits
from tests.page import seeds
from tests.page.conftest import Visitor
from tests.page.talk import branches_of, ids_of, talk
from tests.roundtrips import RoundTripCounter

MOST_ROUND_TRIPS = 3


async def add(proxy: Proxy, conversation: str, count: int) -> None:
    """Add messages to a conversation, 20 at a time."""
    for first in range(0, count, 20):
        items = [{"role": "user", "content": f"line {n}"} for n in range(first, min(first + 20, count))]
        await proxy.call("POST", f"/v1/conversations/{conversation}/items", {"items": items})


async def test_a_long_conversation_comes_in_windows(visitor: Visitor):
    conversation = await talk(visitor.proxy, "the first")
    await add(visitor.proxy, conversation, 118)
    tip = await visitor.get(f"/ui/c/{conversation}")
    assert tip.text.count("<article") == 50
    assert "70 earlier items" in tip.words
    earlier = await visitor.get(next(link for link in tip.links if "before=" in link))
    assert earlier.text.count("<article") == 50
    assert "20 earlier items" in earlier.words
    assert "50 later items" in earlier.words
    first = await visitor.get(next(link for link in tip.links if "around=" in link))
    assert "the first" in first.words
    assert "▲" not in first.words
    assert 'id="message"' not in first.text
    part = await visitor.get(next(link for link in tip.links if "before=" in link) + "&part=items")
    assert "<html" not in part.text
    assert part.text.count("<article") == 50


async def test_alternatives_lead_to_the_branch_below_them_that_was_used_last(visitor: Visitor):
    proxy = visitor.proxy
    conversation = await talk(proxy, "one")
    first, answer = await ids_of(proxy, conversation)
    for name in ("a", "b"):
        source = {"id": conversation, "fork_from": first, "branch": name}
        await respond(proxy, conversation=source, input=f"on {name}")
    screen = await visitor.get(f"/ui/c/{conversation}?branch=MAIN")
    assert re.search(r"1/3", screen.words)
    assert f"#i-{answer}" not in "".join(link for link in screen.links if "branch=a" in link)
    after = next(link for link in screen.links if "branch=a" in link and "around=" in link)
    other = await visitor.get(after)
    assert "2/3" in other.words
    assert "on a" in other.words
    assert "2 other lines leave here" in screen.words
    assert (await branches_of(proxy, conversation))["MAIN"]["is_active"]


async def test_a_branch_with_nothing_of_its_own_is_told_where_it_ends(visitor: Visitor):
    proxy = visitor.proxy
    conversation = await talk(proxy, "one", "two")
    second = (await ids_of(proxy, conversation))[1]
    await visitor.follow(f"/ui/c/{conversation}/fork", {"item": second, "branch": "MAIN", "name": "later"})
    assert "later ends here" in (await visitor.get(f"/ui/c/{conversation}?branch=MAIN")).words


async def test_the_tree_of_branches(visitor: Visitor):
    conversation = await seeds.branched(visitor.proxy)
    folded = await visitor.get(f"/ui/c/{conversation}/branches")
    assert "Show 1 earlier version" in folded.words
    assert "earlier version " not in folded.words.replace("Show 1 earlier version", "")
    whole = await visitor.get(f"/ui/c/{conversation}/branches?earlier=1&sort=use")
    for word in ("earlier version", "draft", "empty", "active", "shared by", "of its own"):
        assert word in whole.words
    assert whole.text.count("<ol") == whole.text.count("</ol>")
    assert len(re.findall(r"<li[ >]", whole.text)) == whole.text.count("</li>")


async def test_two_branches_are_compared(visitor: Visitor):
    conversation = await seeds.branched(visitor.proxy)
    screen = await visitor.get(f"/ui/c/{conversation}/compare?a=MAIN&b=draft&diff=0")
    assert "Same: 1 item" in screen.words
    assert "<ins>" in screen.text
    assert (await visitor.get(f"/ui/c/{conversation}/compare?a=MAIN&b=nope")).status == 404


async def test_what_is_said_is_found_on_any_branch(visitor: Visitor):
    conversation = await seeds.branched(visitor.proxy)
    screen = await visitor.get(f"/ui/c/{conversation}/search?q=A%20DRAFT")
    assert "2 items on all branches" in screen.words
    assert "<mark>a draft</mark>" in screen.text
    there = await visitor.get(next(link for link in screen.links if "around=" in link))
    assert "a draft" in there.words
    nothing = await visitor.get(f"/ui/c/{conversation}/search?q=%3Cb%3E")
    assert "Nothing has “<b>”" in nothing.words


async def test_any_id_is_found(visitor: Visitor):
    proxy = visitor.proxy
    conversation, response = await talk(proxy, "one"), await seeds.alone(proxy)
    item = (await ids_of(proxy, conversation))[0]
    assert (await visitor.get(f"/ui/go?id=%20{conversation}%20")).location == f"/ui/c/{conversation}"
    assert (await visitor.get(f"/ui/go?id={response}")).location == f"/ui/r/{response}"
    assert (await visitor.get(f"/ui/go?id={item}")).location.endswith(f"around={item}#i-{item}")
    for unknown in ("conv_x", "resp_x", "nothing"):
        assert (await visitor.get(f"/ui/go?id={unknown}")).status == 404
    assert (await visitor.get("/ui/go?id=%3Cb%3E")).status == 400


async def test_a_response_tells_all_that_is_known_of_it(start_proxy: StartProxy):
    visitor = Visitor(await start_proxy(streams={"keep": "all"}))
    body = {"input": "hi", "instructions": "Be <b>brief</b>.", "metadata": {"a<": "b"}, "temperature": 0.3}
    stream = await read_stream(visitor.proxy, body)
    response = re.search(rb"resp_[0-9a-f]{50}", stream)
    assert response
    screen = await visitor.get(f"/ui/r/{response[0].decode()}?events=1")
    for word in ("Be <b>brief</b>.", "metadata a<", "0.3", "What the model was given 1", "response.output_text.delta"):
        assert word in screen.words
    file = await visitor.get(f"/ui/r/{response[0].decode()}/json")
    assert file.headers["Content-Disposition"].startswith("attachment")


async def test_conversations_are_filtered_and_paged(visitor: Visitor):
    proxy = visitor.proxy
    for n in range(55):
        await proxy.call("POST", "/v1/conversations", {"title": f"title {n}", "project_id": "p" if n % 2 else "q"})
    first = await visitor.get("/ui/")
    assert "title 54" in first.words
    assert "title 4 " not in first.words
    older = await visitor.get("/ui/" + next(link for link in first.links if "after=" in link))
    assert "title 4 " in older.words
    filtered = await visitor.get("/ui/?project=p")
    assert "title 53" in filtered.words
    assert "title 54" not in filtered.words


async def test_errors_are_screens_with_the_api_s_words(visitor: Visitor):
    missing = await visitor.get("/ui/c/conv_none")
    assert missing.status == 404
    assert "Not found" in missing.words
    assert missing.headers["x-request-id"] in missing.words
    assert (await visitor.get("/ui/c/nonsense")).status == 400
    conversation = await talk(visitor.proxy, "one")
    assert (await visitor.get(f"/ui/c/{conversation}?branch=none")).status == 404
    assert (await visitor.get(f"/ui/c/{conversation}?around=msg_none")).status == 404
    assert (await visitor.get(f"/ui/c/{conversation}?around=msg_x&before=y")).status == 400
    assert (await visitor.get("/ui/?after=%00")).status in {400, 404}


async def test_what_is_large_is_cut_and_can_be_had_whole(visitor: Visitor):
    proxy = visitor.proxy
    conversation = await talk(proxy, "one")
    for text in ("x" * 1_200_000, "y" * 100_000):
        body = io.BytesIO(orjson.dumps({"items": [{"role": "user", "content": text}]}))
        headers = {**visitor.headers, "Content-Type": "application/json"}
        url = f"{proxy.url}/v1/conversations/{conversation}/items"
        async with proxy.http.post(url, data=body, headers=headers) as answer:
            assert answer.status == 200
    screen = await visitor.get(f"/ui/c/{conversation}")
    assert len(screen.text) < 60_000
    assert "Download all of it" in screen.words
    item = (await ids_of(proxy, conversation))[3]
    alone = await visitor.get(f"/ui/c/{conversation}/items/{item}")
    assert "y" * 100_000 in alone.text
    file = await visitor.get(f"/ui/c/{conversation}/items/{(await ids_of(proxy, conversation))[2]}/json")
    assert len(file.text) > 1_200_000


@pytest.fixture
async def counter(valkey_url: str) -> AsyncIterator[RoundTripCounter]:
    async with RoundTripCounter(Path(valkey_url.removeprefix("unix://"))) as counter:
        yield counter


async def test_a_screen_is_three_round_trips_at_most(
    start_proxy: StartProxy, counter: RoundTripCounter, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(store_watch, "LOOK_SECONDS", 600.0)
    proxy = await start_proxy(redis={"url": counter.url, "timeout_seconds": 600.0})
    for script in load_scripts().values():
        await proxy.redis.script_load(script.source)
    await proxy.app[STORE].condition.look()
    await until_worker_waits(proxy)
    visitor, conversation = Visitor(proxy), await seeds.branched(proxy)
    await add(proxy, conversation, 200)
    response, item = await seeds.alone(proxy), (await ids_of(proxy, conversation))[0]
    for path in (
        "/ui/",
        "/ui/r/",
        f"/ui/r/{response}?events=1",
        f"/ui/c/{conversation}",
        f"/ui/c/{conversation}/branches?earlier=1",
        f"/ui/c/{conversation}/compare?a=MAIN&b=draft",
        f"/ui/c/{conversation}/items/{item}",
        f"/ui/c/{conversation}/search?q=line",
        f"/ui/go?id={item}",
    ):
        counter.reset()
        assert (await visitor.get(path)).status in {200, 303}
        assert counter.count <= MOST_ROUND_TRIPS, path
