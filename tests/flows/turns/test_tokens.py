"""A WebSocket lives no longer than the token that opened it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import jwt
import pytest
from aiohttp import WSCloseCode

from proxy.config.settings import JwtConfig
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.connection import Connection, said
from tests.flows.streams import answer_after
from tests.proxy.auth.keys import KeyServer, private_key, public_jwk


@pytest.fixture
async def keys(aiohttp_server: Any) -> KeyServer:
    server = KeyServer(public_jwk("P-256", "one"))
    server.url = str((await aiohttp_server(server.app())).make_url("/jwks"))
    return server


@pytest.fixture
async def proxy(start_proxy: StartProxy, keys: KeyServer) -> Proxy:
    verified = JwtConfig(algorithms=("ES256",), jwks_url=keys.url, leeway_seconds=0, jwks_ttl_seconds=0.000_001)
    return await start_proxy(auth={"mode": "jwt", "jwt": verified})


def token(seconds: float) -> str:
    claims = {"sub": "user", "exp": int(time.time() + seconds)}
    return jwt.encode(claims, private_key("P-256", "one"), "ES256", {"kid": "one"})


async def test_a_token_that_is_not_taken_any_more_begins_no_turn_and_ends_the_connection(proxy: Proxy, keys: KeyServer):
    async with Connection(proxy, token(600)) as connection:
        assert said(await connection.turn(input="one"))
        keys.serve(public_jwk("P-256", "another"))
        error = await connection.refused(input="two", stream_id="a")
        assert (error["status"], error["code"]) == (401, "invalid_api_key")
        assert await connection.closed() == WSCloseCode.POLICY_VIOLATION
    assert len(proxy.upstream.requests) == 1


async def test_an_idle_connection_is_closed_when_its_token_expires(proxy: Proxy):
    async with Connection(proxy, token(2)) as connection:
        assert await connection.closed() == WSCloseCode.POLICY_VIOLATION
        (error,) = connection.received
        assert (error["type"], error["status"]) == ("error", 401)


async def test_a_turn_that_runs_when_the_token_expires_still_ends(proxy: Proxy):
    gate = asyncio.Event()
    proxy.upstream.script(answer_after(gate))
    async with Connection(proxy, token(2)) as connection:
        await connection.create(input="slow")
        await connection.until("response.output_text.delta")
        async with Connection(proxy, token(2)) as other:
            await other.closed()
        gate.set()
        await connection.until("response.completed")
        assert await connection.closed() == WSCloseCode.POLICY_VIOLATION
