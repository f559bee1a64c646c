"""The names that are answered to where nobody has to prove who they are: DNS rebinding reads nothing."""

from __future__ import annotations

import hashlib

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.settings import AuthConfig, Config, ServerConfig
from proxy.http.hosts import KnownHosts
from tests.upstream import ScriptedUpstream

EVIL = "evil.example"
OWN = ["localhost", "LOCALHOST:8080", "localhost.", "app.localhost:1", "127.0.0.1", "127.0.0.1:80", "[::1]:80", "[::1]"]


def known(*allowed: str, host: str = "127.0.0.1") -> KnownHosts:
    auth = AuthConfig(mode="none", allow_public_none=True)
    found = KnownHosts.of(Config(server=ServerConfig(host=host, allowed_hosts=allowed), auth=auth))
    assert found is not None
    return found


@pytest.mark.parametrize("host", [*OWN, "192.168.1.7:8080", "[fe80::1]", "::1"])
def test_addresses_and_loopback_names_are_answered(host: str):
    assert known().know(host)


@pytest.mark.parametrize(
    "host",
    [
        EVIL,
        f"{EVIL}:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "xlocalhost",
        "",
        "[evil.example]",
        "a@b",
    ],
)
def test_no_other_name_is(host: str):
    assert not known().know(host)


def test_the_names_that_are_configured_are_answered():
    hosts = known("llm.example", "*.lan", host="box.home")
    for name in ("llm.example", "LLM.example.:8080", "a.lan", "a.b.lan:1", "box.home"):
        assert hosts.know(name)
    for name in ("x.llm.example", "lan", "xlan", "llm.example.evil.example"):
        assert not hosts.know(name)
    assert known("*").know(EVIL)


@given(
    st.from_regex(
        r"[a-z0-9-]{1,20}(\.[a-z0-9-]{1,20}){0,3}\.(example|com|internal|lan)\.?(:[0-9]{1,5})?", fullmatch=True
    )
)
def test_no_name_that_a_page_can_own_is_answered(host: str):
    assert not known().know(host)


@pytest.mark.parametrize(
    ("mode", "host", "asks"),
    [
        ("none", "127.0.0.1", False),
        ("none", "0.0.0.0", False),
        ("passthrough", "127.0.0.1", False),
        ("passthrough", "0.0.0.0", True),
        ("api_keys", "127.0.0.1", True),
        ("jwt", "127.0.0.1", True),
    ],
)
def test_names_matter_where_no_credential_is_asked_for(mode, host: str, asks: bool):
    config = Config(server=ServerConfig(host=host), auth=AuthConfig(mode=mode, allow_public_none=True))
    assert (KnownHosts.of(config) is None) is asks


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer made-up"}, {"Origin": f"http://{EVIL}"}])
@pytest.mark.parametrize("path", ["v1/conversations", "v1/models", "v1/responses/resp_1", "readyz"])
async def test_a_rebound_page_is_refused_whatever_it_sends(proxy, client, upstream, path: str, headers: dict[str, str]):
    async with client.get(proxy / path, headers={"Host": EVIL, **headers}) as answer:
        assert answer.status == 403
        assert (await answer.json())["error"]["code"] == "host_not_allowed"
    assert upstream.requests == []


async def test_so_is_its_websocket(proxy, client):
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await client.ws_connect(proxy / "v1/responses", headers={"Host": EVIL, "Origin": f"http://{EVIL}"})
    assert refused.value.status == 403


async def test_a_name_that_is_listed_is_served(serve_proxy, client, upstream: ScriptedUpstream):
    proxy = await serve_proxy(upstream.url, server=ServerConfig(allowed_hosts=("llm.example",)))
    for host, status in [("llm.example", 200), (EVIL, 403)]:
        async with client.get(proxy / "v1/models", headers={"Host": host}) as answer:
            assert answer.status == status


async def test_one_known_name_does_not_hide_another(proxy, exchange, upstream: ScriptedUpstream):
    answer = await exchange(
        proxy, b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    )
    assert answer.split()[1] in {b"400", b"403"}
    assert upstream.requests == []


async def test_where_a_credential_is_asked_for_names_do_not_matter(serve_proxy, client, upstream: ScriptedUpstream):
    keys = AuthConfig(mode="api_keys", api_keys={"alice": hashlib.sha256(b"k").hexdigest()})
    proxy = await serve_proxy(upstream.url, auth=keys)
    async with client.get(proxy / "v1/models", headers={"Host": EVIL, "Authorization": "Bearer k"}) as answer:
        assert answer.status == 200
