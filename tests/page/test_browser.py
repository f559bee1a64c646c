"""The page in a browser: what it looks like to axe-core and to strangers' text, and what its script adds."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import ViewportSize, expect

from tests.flows.streams import OPENING, answer_after, delta
from tests.flows.talk import respond, settled
from tests.page import seeds
from tests.page.browser import OF_COLOURS, OF_WIDTH, Looker, in_its_loop, needs_browser, violations
from tests.page.talk import branches_of, ids_of, talk
from tests.upstream import Reply

pytestmark = [needs_browser, in_its_loop, pytest.mark.timeout(300)]

WIDE, NARROW = ViewportSize(width=1600, height=900), ViewportSize(width=360, height=780)


async def screens(looker: Looker) -> list[str]:
    """The addresses of all screens, with everything on them that they may have."""
    proxy = looker.proxy
    conversation, strange = await seeds.branched(proxy), await seeds.hostile(proxy)
    response = await seeds.alone(proxy)
    items = await ids_of(proxy, conversation)
    odd = await ids_of(proxy, strange)
    draft = f"/ui/c/{conversation}?branch=draft"
    return [
        "/ui/",
        "/ui/r/",
        f"/ui/r/{response}?events=1",
        f"/ui/c/{conversation}",
        draft,
        f"/ui/c/{strange}",
        f"/ui/c/{conversation}/branches?earlier=1",
        f"/ui/c/{conversation}/compare?a=MAIN&b=draft&diff=0",
        f"/ui/c/{conversation}/search?q=one",
        f"/ui/c/{conversation}/items/{items[0]}#edit",
        f"/ui/c/{strange}/items/{odd[-1]}",
        "/ui/sign-in",
        "/ui/c/conv_nothing",
    ]


async def test_axe_finds_nothing_wrong_in_either_scheme_nor_on_a_phone(looker: Looker):
    page = await looker.page("/ui/")
    wrong = list(await violations(page))
    for path in await screens(looker):
        await page.set_viewport_size(WIDE)
        await page.goto(looker.proxy.url + path)
        await page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        await page.emulate_media(color_scheme="light")
        wrong += await violations(page)
        await page.emulate_media(color_scheme="dark")
        wrong += await violations(page, **OF_COLOURS)
        await page.set_viewport_size(NARROW)
        wrong += await violations(page, **OF_WIDTH)
        width = await page.evaluate("document.documentElement.scrollWidth")
        wrong += [f"{path} is {width} px wide on a phone"] if width > NARROW["width"] else []
    assert not wrong, "\n".join(wrong)


async def test_nothing_that_strangers_write_runs_nor_calls_home(looker: Looker):
    page = await looker.page()
    for path in await screens(looker):
        await page.goto(looker.proxy.url + path)
        assert await page.evaluate("window.ran") is None, path
        await page.wait_for_load_state("networkidle") if "live" not in path and "/c/" not in path else None
    assert looker.strayed == []
    # of a page that is not there the browser itself tells
    assert [one for one in looker.said if "404" not in one] == []


async def test_a_message_is_sent_and_its_answer_grows_where_it_is_read(looker: Looker):
    proxy, gate = looker.proxy, asyncio.Event()
    conversation = await talk(proxy, "one")
    page = await looker.page(f"/ui/c/{conversation}")
    proxy.upstream.script(answer_after(gate))
    await page.fill("#message", "tell me a story")
    await page.press("#message", "Control+Enter")
    await page.wait_for_selector(".growing:has-text('Once upon')")
    assert await page.get_attribute(".growing", "aria-busy") == "true"
    assert await page.inner_text(".item.pending .body") == "tell me a story"
    assert await page.input_value("#message") == ""
    gate.set()
    await page.wait_for_selector(".item.assistant:has-text('Once upon')")
    await page.wait_for_selector("#status:has-text('Answer complete')")
    assert await page.locator(".item").count() == 4
    assert await page.locator("#running, .pending").count() == 0
    assert await page.is_enabled(".composer button")
    assert looker.said == []


async def test_a_turn_of_another_client_is_watched_and_stopped(looker: Looker):
    proxy, gate = looker.proxy, asyncio.Event()
    conversation = await talk(proxy, "one")
    page = await looker.page(f"/ui/c/{conversation}")
    await looker.watches(f"{conversation}/live")
    proxy.upstream.script(Reply.sse([*OPENING, gate, delta(" a time"), gate]))
    asked = asyncio.create_task(respond(proxy, conversation=conversation, input="two", stream=False))
    await page.wait_for_selector("#running")
    await page.click("#running button")
    await asked
    await settled(proxy)
    await page.wait_for_selector(".item.assistant:has-text('Once upon')")
    assert await page.locator(".item").count() == 4


async def test_what_another_client_says_is_there_by_itself(looker: Looker):
    proxy = looker.proxy
    conversation = await talk(proxy, "one")
    page, phone = await looker.page(f"/ui/c/{conversation}"), await looker.page("/ui/")
    await looker.watches(f"{conversation}/live")
    await looker.watches("/ui/live")
    await respond(proxy, conversation=conversation, input="from elsewhere")
    await page.wait_for_selector(".item.user:has-text('from elsewhere')")
    assert await page.locator(".item").count() == 4
    await phone.wait_for_selector("#newer:has-text('1 newer')")


async def test_a_refused_message_stays_in_its_field_and_says_why(looker: Looker):
    proxy = looker.proxy
    conversation = await talk(proxy, "one")
    page = await looker.page(f"/ui/c/{conversation}")
    proxy.upstream.script(Reply.json(429, {"error": {"message": "too many of those", "code": "slow_down"}}))
    await page.fill("#message", "mine")
    await page.click(".composer .primary")
    await page.wait_for_selector(".problem:has-text('too many of those')")
    assert await page.input_value("#message") == "mine"
    assert await page.is_enabled(".composer .primary")


async def test_an_edit_opens_in_place_and_leads_to_the_new_line(looker: Looker):
    proxy = looker.proxy
    conversation = await talk(proxy, "one", "two")
    page = await looker.page(f"/ui/c/{conversation}")
    await page.click(".item.user >> nth=1 >> text=Edit")
    await page.fill(".inline-form textarea", "two anew")
    await page.click(".inline-form .primary")
    await page.wait_for_selector(".item.assistant:has-text('two anew')")
    assert await page.inner_text(".alternatives span:not([aria-hidden])") == "2/2"
    await page.focus(".item.user:has-text('two anew')")
    await page.keyboard.press("[")
    await page.wait_for_url("**branch=MAIN_*")
    assert await page.locator(".item.user:has-text('two anew')").count() == 0
    # looking has moved nothing
    assert (await branches_of(proxy, conversation))["MAIN"]["is_active"]


async def test_a_new_branch_is_waited_for_and_then_shown(looker: Looker):
    proxy = looker.proxy
    conversation = await talk(proxy, "one")
    page = await looker.page(f"/ui/c/{conversation}")
    await page.click(".item.user >> text=Edit")
    await page.check(".inline-form input[value=branch]")
    await page.fill(".inline-form input[name=name]", "mine")
    await page.click(".inline-form .primary")
    await page.wait_for_url("**branch=mine*")
    await page.wait_for_selector("text=You look at mine")


async def test_keys_move_and_can_be_turned_off(looker: Looker):
    conversation = await talk(looker.proxy, "one", "two")
    page = await looker.page(f"/ui/c/{conversation}")
    focused = "document.activeElement.querySelector('h2') && document.activeElement.querySelector('h2').textContent"
    await page.keyboard.press("j")
    assert await page.evaluate(focused) == "user"
    await page.keyboard.press("j")
    assert await page.evaluate(focused) == "assistant"
    await page.keyboard.press("c")
    assert await page.evaluate("document.activeElement.id") == "message"
    await page.keyboard.press("b")
    assert await page.input_value("#message") == "b"
    await page.evaluate("document.activeElement.blur()")
    await page.keyboard.press("?")
    await page.wait_for_selector("dialog[open]")
    await page.keyboard.press("Escape")
    await page.click("#keys")
    await page.reload()
    assert await page.get_attribute("body", "data-keys") == "off"
    await page.keyboard.press("?")
    assert await page.locator("dialog").count() == 0


async def test_more_items_come_in_place_and_nothing_moves(looker: Looker):
    proxy = looker.proxy
    conversation = await talk(proxy, "the first of all")
    for n in range(8):
        items = [{"role": "user", "content": f"line {20 * n + i} " + "words " * (i * 7 % 60)} for i in range(20)]
        await proxy.call("POST", f"/v1/conversations/{conversation}/items", {"items": items})
    page = await looker.page(f"/ui/c/{conversation}")
    assert await page.locator(".item").count() == 50
    first = await page.evaluate("document.querySelector('.item').id")
    await page.evaluate("window.scrollTo(0, 0)")
    place = f"document.getElementById('{first}').getBoundingClientRect().top"
    before = await page.evaluate(place)
    await page.click("text=50 earlier")
    await expect(page.locator(".item")).to_have_count(100)
    assert abs(await page.evaluate(place) - before) < 40
    await page.click(".pager.earlier >> text=First")
    await page.wait_for_selector(".item.user:has-text('the first of all')")


async def test_without_a_script_all_is_there(looker: Looker):
    proxy = looker.proxy
    page = await looker.page("/ui/", java_script_enabled=False)
    await page.fill("#message", "hello")
    await page.fill("#model", "echo")
    await page.click(".primary")
    await page.wait_for_selector(".item.assistant")
    await page.fill("#message", "again")
    await page.click(".composer .primary")
    await page.wait_for_selector(".item.user:has-text('again')")
    await page.click(".item.user >> nth=1 >> text=Edit")
    await page.fill("#edit-text", "edited")
    await page.click("#edit .primary")
    await page.wait_for_selector(".item.assistant:has-text('edited')")
    await page.click("[rel=prev]")
    await page.wait_for_selector(".item.user:has-text('again')")
    await page.click("text=Make active")
    await page.wait_for_selector(".item.user:has-text('again')")
    _, listed = await proxy.call("GET", "/v1/conversations")
    assert listed["data"][0]["active_branch"].startswith("MAIN_")
