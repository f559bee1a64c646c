"""Connections to real servers of each kind: what they are told first, TLS, Sentinel, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from redis import Redis as SyncRedis
from redis import exceptions as redis_errors
from redis.asyncio import Redis

from benchmarks.processes import free_ports
from storage.client.channel import Channel
from storage.client.connection import connect, open_channel
from tests.certificates import make_certificate, server_context
from tests.storage.servers import run_sentinel, run_valkey
from tests.virtual_time import in_virtual_time

TIMEOUT_SECONDS = 5.0
PASSWORD = "p%ss:wörd"
IN_URL = "p%25ss%3Aw%C3%B6rd"


@asynccontextmanager
async def channel_to(url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> AsyncIterator[Channel]:
    client = connect(url, timeout_seconds=timeout_seconds, max_connections=2)
    channel = open_channel(client, timeout_seconds=timeout_seconds, max_connections=2)
    try:
        yield channel
    finally:
        await channel.close()


async def ask(channel: Channel, *command: str) -> Any:
    (reply,) = await channel.exchange([command])
    return reply


async def client_info(channel: Channel) -> dict[str, str]:
    """What the server knows about the connection."""
    line = (await ask(channel, "CLIENT", "INFO")).decode()
    return dict(part.partition("=")[::2] for part in line.split())


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Port of a server that has the user `app`; without a login it serves nobody."""
    (port,) = free_ports(1)
    options = ("--bind", "127.0.0.1", "--port", str(port), "--requirepass", PASSWORD)
    with run_valkey(*options, password=PASSWORD), SyncRedis(port=port, password=PASSWORD) as client:
        client.acl_setuser("app", enabled=True, passwords=[f"+{PASSWORD}"], keys="*", categories=["+@all"])
        yield port


# --- what a connection is told first ------------------------------------------------------------------------------


@pytest.mark.parametrize(("protocol", "resp"), [("", "3"), ("?protocol=3", "3"), ("?protocol=2", "2")])
@pytest.mark.parametrize(("login", "user"), [(f"app:{IN_URL}@", "app"), (f":{IN_URL}@", "default")])
async def test_a_connection_logs_in_and_chooses_protocol(port: int, protocol: str, resp: str, login: str, user: str):
    async with channel_to(f"redis://{login}127.0.0.1:{port}/0{protocol}") as channel:
        info = await client_info(channel)
        assert (info["user"], info["resp"], info["db"], info["name"], info["lib-name"]) == (user, resp, "0", "", "")


async def test_a_connection_has_a_name_and_a_database_if_the_url_says_so(port: int):
    async with channel_to(f"redis://app:{IN_URL}@127.0.0.1:{port}/3?client_name=branchline") as channel:
        info = await client_info(channel)
        assert (info["db"], info["name"]) == ("3", "branchline")


async def test_a_connection_without_a_login_says_hello_only(valkey_url: str):
    for protocol in ("3", "2"):
        async with channel_to(f"{valkey_url}?protocol={protocol}") as channel:
            assert (await client_info(channel))["resp"] == protocol


@pytest.mark.parametrize("protocol", ["2", "3"])
@pytest.mark.parametrize("login", ["app:wrong@", ":wrong@", f"nobody:{IN_URL}@"])
async def test_a_login_that_is_refused(port: int, login: str, protocol: str):
    async with channel_to(f"redis://{login}127.0.0.1:{port}?protocol={protocol}") as channel:
        with pytest.raises(redis_errors.AuthenticationError):
            await ask(channel, "PING")


async def test_a_database_that_is_not_there_leaves_no_connection(port: int):
    login = f"redis://app:{IN_URL}@127.0.0.1:{port}"
    async with channel_to(f"{login}/999") as channel, Redis.from_url(login) as witness:
        with pytest.raises(redis_errors.ResponseError, match="out of range"):
            await ask(channel, "PING")
        async with asyncio.timeout(20):
            while [one for one in await witness.client_list() if one["user"] == "app" and one["cmd"] == "select"]:
                pass


async def test_a_server_that_has_all_clients_it_may_have():
    (port,) = free_ports(1)
    with run_valkey("--bind", "127.0.0.1", "--port", str(port)) as server:
        async with Redis.from_url(server.url) as client, channel_to(f"redis://127.0.0.1:{port}") as channel:
            await client.config_set("maxclients", 1)
            with pytest.raises(redis_errors.ConnectionError, match="max number of clients"):
                await ask(channel, "PING")
            await client.config_set("maxclients", 10)
            assert await ask(channel, "PING") == b"PONG"


async def test_keys_of_tcp_that_tell_a_dead_peer_are_set(port: int):
    async with channel_to(f"redis://app:{IN_URL}@127.0.0.1:{port}") as channel:
        await ask(channel, "PING")
        (connection,) = channel._connections  # type: ignore[attr-defined]
        its_socket = connection._transport.get_extra_info("socket")
        assert its_socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert its_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        assert its_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


# --- what can't be reached ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "unix:///nowhere/valkey.sock",
        "redis://127.0.0.1:1",
        f"redis://{'x' * 70}.example",
        "redis+sentinel://127.0.0.1:1/main",
    ],
)
async def test_a_server_that_can_not_be_reached(url: str):
    async with channel_to(url) as channel:
        with pytest.raises(redis_errors.ConnectionError):
            await ask(channel, "PING")


@in_virtual_time
async def test_a_server_that_does_not_say_hello_back(tmp_path: Path):
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()

    async with (
        await asyncio.start_unix_server(mute, tmp_path / "mute"),
        channel_to(f"unix://{tmp_path}/mute") as channel,
    ):
        with pytest.raises(TimeoutError):
            await ask(channel, "PING")
        assert asyncio.get_running_loop().time() == pytest.approx(TIMEOUT_SECONDS)


# --- TLS ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def tls_in_front_of(server_socket: Path, certificate: Path) -> AsyncIterator[int]:
    """Run a proxy that speaks TLS; gives its port. The tests' server knows none."""
    context = server_context(certificate)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(server_socket)
        one = asyncio.create_task(forward(reader, server_writer))
        other = asyncio.create_task(forward(server_reader, writer))
        await asyncio.wait([one, other], return_when=asyncio.FIRST_COMPLETED)
        for task, end in ((one, writer), (other, server_writer)):
            task.cancel()
            end.transport.abort()
        await asyncio.gather(one, other, return_exceptions=True)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 20):
            writer.write(data)
            await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.mark.parametrize("loop", LOOPS)
def test_tls(valkey_url: str, tmp_path: Path, loop: str):
    certificate = make_certificate(tmp_path / "server.pem")

    async def main() -> None:
        async with tls_in_front_of(Path(valkey_url.removeprefix("unix://")), certificate) as port:
            async with channel_to(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}") as channel:
                assert await ask(channel, "ECHO", "a") == b"a"
                long = "x" * (3 << 20)
                assert list(await asyncio.gather(ask(channel, "ECHO", long), ask(channel, "ECHO", "b"))) == [
                    long.encode(),
                    b"b",
                ]
            async with channel_to(f"rediss://127.0.0.1:{port}") as channel:
                with pytest.raises(redis_errors.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
                    await ask(channel, "PING")
            await asyncio.sleep(0.1)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


# --- Sentinel -----------------------------------------------------------------------------------------------------


async def test_sentinel_names_the_primary_before_and_after_a_failover(tmp_path: Path):
    with run_sentinel(tmp_path) as world:
        (replica,) = world.replicas
        async with channel_to(f"{world.url}?db=1") as channel:
            assert await ask(channel, "SET", "key", "before") == b"OK"
            assert b"role:master\r" in await ask(channel, "INFO", "replication")
            assert (await client_info(channel))["db"] == "1"
            async with asyncio.timeout(20), Redis(port=world.sentinel) as watcher:
                while await watcher.execute_command("SENTINEL", "REPLICAS", "main") == []:
                    pass
                world.primary.kill()
                while True:
                    with contextlib.suppress(redis_errors.ConnectionError):
                        assert await ask(channel, "SET", "key", "after") == b"OK"
                        break
            assert b"tcp_port:%d\r" % replica in await ask(channel, "INFO", "server")


# --- a server that is no primary ----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["2", "3"])
async def test_a_replica_is_not_used_and_its_primary_is(protocol: str):
    with run_valkey() as primary, run_valkey("--replicaof", "127.0.0.1 1") as replica:
        async with channel_to(f"{primary.url}?protocol={protocol}") as channel:
            assert await ask(channel, "GET", "key") is None
        async with channel_to(f"{replica.url}?protocol={protocol}") as channel, Redis.from_url(replica.url) as client:
            # even for reading: what it has may be old
            with pytest.raises(redis_errors.ReadOnlyError):
                await ask(channel, "GET", "key")
            await client.replicaof("NO", "ONE")
            assert await ask(channel, "GET", "key") is None


async def test_a_server_that_does_not_tell_its_role_is_used(port: int):
    with SyncRedis(port=port, password=PASSWORD) as client:
        client.acl_setuser("shy", enabled=True, passwords=[f"+{PASSWORD}"], keys="*", commands=["+@all", "-role"])
    async with channel_to(f"redis://shy:{IN_URL}@127.0.0.1:{port}?protocol=2") as channel:
        assert await ask(channel, "PING") == b"PONG"
