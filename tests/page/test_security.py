"""Who may look, from where, and what every answer under /ui says to the browser."""

from __future__ import annotations

import hashlib
import time

import jwt
import pytest
from playwright.async_api import Browser

from proxy.config.settings import JwtConfig, Secret
from proxy.page.routes import ROUTES
from tests.flows.conftest import StartProxy, proxies
from tests.flows.talk import respond
from tests.page.browser import Looker, in_its_loop, needs_browser
from tests.page.conftest import Screen, Visitor
from tests.page.talk import talk

KEY = "sk-branchline-alice"
API_KEYS = {"mode": "api_keys", "api_keys": {"alice": hashlib.sha256(KEY.encode()).hexdigest()}}


def cookie_of(screen: Screen) -> str:
    """The cookie that an answer sets, as a browser sends it back."""
    return str(screen.headers["Set-Cookie"]).partition(";")[0]


@pytest.mark.parametrize("path", ["/ui/", "/ui/r/", "/ui/sign-in", "/ui/c/conv_none", "/ui/go?id=x", "/ui/nothing"])
async def test_every_answer_has_the_headers(visitor: Visitor, path: str):
    headers = (await visitor.get(path)).headers
    policy = headers["Content-Security-Policy"]
    for part in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
        assert part in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Opener-Policy"] == headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"


async def test_static_files_are_kept_for_ever_under_their_hash(visitor: Visitor):
    page = await visitor.get("/ui/")
    (style,) = (link for link in page.links if link.endswith(".css"))
    file = await visitor.get(style)
    assert (file.status, file.headers["Content-Type"]) == (200, "text/css; charset=utf-8")
    assert "immutable" in file.headers["Cache-Control"]
    assert (await visitor.get("/ui/static/0123456789abcdef/page.css")).status == 404
    assert (await visitor.get(style.replace("page.css", "..%2f..%2flayout.py"))).status == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "OWN"}, 303),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "OWN", "Sec-Fetch-Site": "cross-site"}, 403),
        ({}, 403),
    ],
)
async def test_a_form_must_come_from_the_page_itself(visitor: Visitor, headers: dict[str, str], status: int):
    own = {name: value.replace("OWN", visitor.proxy.url) for name, value in headers.items()}
    url = visitor.proxy.url + "/ui/demo"
    async with visitor.proxy.http.post(url, headers={**visitor.headers, **own}, allow_redirects=False) as answer:
        assert answer.status == status
        if status == 403:
            assert "cross_site_request" in await answer.text()


async def test_no_form_s_address_does_anything_with_get(visitor: Visitor):
    for route in ROUTES:
        if route.method == "POST":
            path = route.path.replace("{conversation_id}", "conv_x").replace("{response_id}", "resp_x")
            assert (await visitor.get(path)).status in {404, 405} or path == "/ui/sign-in", path


async def test_public_address_counts_as_ours(start_proxy: StartProxy):
    proxy = await start_proxy(ui={"url": "https://llm.example"})
    visitor = Visitor(proxy)
    async with proxy.http.post(
        f"{proxy.url}/ui/demo", headers={**visitor.headers, "Origin": "https://llm.example"}, allow_redirects=False
    ) as answer:
        assert answer.status == 303
    assert (await visitor.get("/ui/", Host="llm.example")).status == 200


async def test_a_name_that_a_page_may_have_made_its_own_is_refused(visitor: Visitor):
    visitor.headers = {}
    assert (await visitor.get("/ui/", Host="evil.example")).status == 403
    assert (await visitor.get("/ui/", Host="localhost:1")).status == 200


async def test_a_key_lets_in_and_its_cookie_shows_only_what_is_its_own(start_proxy: StartProxy):
    proxy = await start_proxy(auth=API_KEYS)
    conversation = await talk_with(proxy, KEY)
    nobody = Visitor(proxy, {})
    asked = await nobody.get(f"/ui/c/{conversation}?branch=MAIN")
    assert asked.location == f"/ui/sign-in?next=/ui/c/{conversation}%3Fbranch%3DMAIN"
    form = await nobody.get(asked.location)
    assert "Sign in" in form.words
    refused = await nobody.post(asked.location, {"key": "sk-wrong"})
    assert (refused.status, "was not accepted" in refused.words) == (401, True)
    signed = await nobody.post(asked.location, {"key": f" {KEY}\n"})
    assert (signed.status, signed.location) == (303, f"/ui/c/{conversation}?branch=MAIN")
    flags = signed.headers["Set-Cookie"]
    assert all(flag in flags for flag in ("HttpOnly", "SameSite=Strict", "Path=/ui", "Max-Age=43200"))
    assert KEY not in flags
    alice = Visitor(proxy, {"Cookie": cookie_of(signed)})
    assert (await alice.get(signed.location)).status == 200
    assert "key:alice" in (await alice.get("/ui/")).words
    # the API never looks at cookies
    async with proxy.http.get(f"{proxy.url}/v1/conversations", headers=alice.headers) as answer:
        assert answer.status == 401
    out = await alice.post("/ui/sign-out")
    assert 'branchline_session=""' in out.headers["Set-Cookie"]


async def talk_with(proxy, key: str) -> str:
    """A conversation of whoever has this key."""
    _, conversation = await proxy.call("POST", "/v1/conversations", key=key)
    await respond(proxy, key=key, conversation=conversation["id"])
    return str(conversation["id"])


async def test_a_session_ends_with_its_key(start_proxy: StartProxy):
    first = await start_proxy(auth=API_KEYS, sealing={"key": Secret("s" * 40)})
    signed = await Visitor(first, {}).post("/ui/sign-in", {"key": KEY})
    changed = {"mode": "api_keys", "api_keys": {"alice": "0" * 64}}
    for proxy, status in ((first, 200), (await start_proxy(auth=changed, sealing={"key": Secret("s" * 40)}), 303)):
        assert (await Visitor(proxy, {"Cookie": cookie_of(signed)}).get("/ui/")).status == status
    other = await start_proxy(auth=API_KEYS, sealing={"key": Secret("t" * 40)})
    assert (await Visitor(other, {"Cookie": cookie_of(signed)}).get("/ui/")).status == 303


@pytest.mark.parametrize("cookie", ["", "blseal1_", "blseal1_" + "A" * 400, "x" * 4000])
async def test_a_cookie_that_was_not_made_here_is_none(start_proxy: StartProxy, cookie: str):
    proxy = await start_proxy(auth=API_KEYS)
    assert (await Visitor(proxy, {"Cookie": f"branchline_session={cookie}"}).get("/ui/")).status == 303


async def test_a_token_s_session_ends_no_later_than_the_token(start_proxy: StartProxy):
    secret = "s" * 40
    auth = {"mode": "jwt", "jwt": JwtConfig(algorithms=("HS256",), secret=Secret(secret))}
    proxy = await start_proxy(auth=auth)
    token = jwt.encode({"sub": "alice", "exp": int(time.time()) + 600}, secret, "HS256")
    signed = await Visitor(proxy, {}).post("/ui/sign-in", {"key": token})
    seconds = int(str(signed.headers["Set-Cookie"]).partition("Max-Age=")[2].partition(";")[0])
    assert 590 <= seconds <= 600
    expired = jwt.encode({"sub": "alice", "exp": int(time.time()) - 600}, secret, "HS256")
    assert (await Visitor(proxy, {}).post("/ui/sign-in", {"key": expired})).status == 401


async def test_a_key_of_the_model_server_is_kept_to_call_it(start_proxy: StartProxy):
    proxy = await start_proxy()
    anonymous = Visitor(proxy, {})
    assert (await anonymous.get("/ui/")).status == 200
    signed = await anonymous.post("/ui/sign-in", {"key": "sk-alice"})
    conversation = await talk(proxy, "one")
    alice = Visitor(proxy, {"Cookie": cookie_of(signed)})
    await alice.follow(f"/ui/c/{conversation}/turn", {"message": "two", "model": "echo", "branch": "MAIN"})
    assert proxy.upstream.requests[-1].headers["Authorization"] == "Bearer sk-alice"
    assert (await anonymous.get(f"/ui/c/{conversation}")).status == 404


async def test_the_model_server_s_own_key_needs_no_copy_in_the_cookie(start_proxy: StartProxy):
    proxy = await start_proxy(upstream={"api_key": Secret("sk-upstream")})
    short = cookie_of(await Visitor(proxy, {}).post("/ui/sign-in", {"key": "k"}))
    long = cookie_of(await Visitor(proxy, {}).post("/ui/sign-in", {"key": "k" * 2000}))
    assert abs(len(long) - len(short)) < 40


async def test_five_tries_a_minute(start_proxy: StartProxy):
    proxy = await start_proxy(auth=API_KEYS)
    visitor = Visitor(proxy, {})
    statuses = [(await visitor.post("/ui/sign-in", {"key": "sk-wrong"})).status for _ in range(6)]
    assert statuses == [401] * 5 + [429]
    assert (await visitor.post("/ui/sign-in", {"key": KEY})).status == 429


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/ui/..//evil", "/ui/\\evil", "/v1/x"])
async def test_signing_in_leads_nowhere_else(start_proxy: StartProxy, target: str):
    proxy = await start_proxy(auth=API_KEYS)
    signed = await Visitor(proxy, {}).post(f"/ui/sign-in?next={target}", {"key": KEY})
    assert signed.location == "/ui/"


async def test_over_https_the_cookie_stays_there(start_proxy: StartProxy):
    proxy = await start_proxy(auth=API_KEYS, ui={"url": "https://llm.example"})
    signed = await Visitor(proxy, {}).post("/ui/sign-in", {"key": KEY})
    assert signed.headers["Set-Cookie"].startswith("__Secure-branchline_session=")
    assert "Secure" in signed.headers["Set-Cookie"].partition("=")[2]


async def test_what_belongs_to_somebody_else_does_not_exist(visitor: Visitor):
    proxy = visitor.proxy
    conversation = await talk(proxy, "one")
    response = await respond(proxy, input="alone")
    stranger = Visitor(proxy, {"Authorization": "Bearer sk-bob"})
    for path in (
        f"/ui/c/{conversation}",
        f"/ui/c/{conversation}/branches",
        f"/ui/c/{conversation}/compare",
        f"/ui/c/{conversation}/search?q=one",
        f"/ui/c/{conversation}/export",
        f"/ui/c/{conversation}/live",
        f"/ui/r/{response['id']}",
        f"/ui/r/{response['id']}/json",
        f"/ui/go?id={response['id']}",
    ):
        assert (await stranger.get(path)).status == 404, path
    for action in ("turn", "fork", "activate", "rename", "delete", "delete-branch", "stop"):
        form = {"message": "x", "model": "echo", "branch": "MAIN", "name": "n", "title": "t", "response": "resp_x"}
        sent = await stranger.post(f"/ui/c/{conversation}/{action}", form | {"item": "msg_x"})
        assert sent.status == 404, action


async def test_there_is_no_page_where_others_can_reach_it_unless_that_is_said(start_proxy: StartProxy):
    public = {"host": "0.0.0.0"}
    proxy = await start_proxy(server=public, auth=API_KEYS)
    assert (await Visitor(proxy, {}).get("/ui/")).status == 404
    proxy = await start_proxy(server=public, auth=API_KEYS, ui={"enabled": True})
    assert (await Visitor(proxy, {}).get("/ui/")).status == 303
    proxy = await start_proxy(ui={"enabled": False})
    assert (await Visitor(proxy, {}).get("/ui/")).status == 404


@needs_browser
@in_its_loop
async def test_a_browser_on_another_machine_says_our_origin(browser: Browser, valkey_url: str):
    """Over plain HTTP, to a name that is not this machine's, browsers send no `Sec-Fetch-Site`, only `Origin`."""
    async with proxies(valkey_url) as start:
        proxy = await start(server={"allowed_hosts": ("llm.example",)})
        page = await Looker(proxy, browser).page(extra_http_headers={})
        sent = []
        page.on("request", lambda request: sent.append(request) if request.method == "POST" else None)
        await page.goto(f"http://llm.example:{proxy.url.rpartition(':')[2]}/ui/")
        await page.click("text=Fill in a demo conversation")
        await page.wait_for_selector("h1:has-text('A week in Lisbon')")
        headers = await sent[0].all_headers()
        assert "sec-fetch-site" not in headers
        assert headers["origin"].startswith("http://llm.example:")
        await page.context.close()
