"""URLs of Sentinel and clusters: IPv6 addresses, and TLS to every server."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from storage import Store, Unavailable
from tests.certificates import make_certificate, server_context
from tests.storage.servers import read_command


def _bulk(*parts: Any) -> bytes:
    """Return RESP for nested lists of text and numbers."""
    out = b""
    for part in parts:
        if isinstance(part, list):
            out += b"*%d\r\n" % len(part) + _bulk(*part)
        elif isinstance(part, int):
            out += b":%d\r\n" % part
        else:
            out += b"$%d\r\n%b\r\n" % (len(part), part.encode())
    return out


class Everything:
    """One server that is a Sentinel, the master it names, and a cluster's only node. seen: the commands it got."""

    def __init__(self, host: str) -> None:
        self.host, self.port = host, 0
        self.seen: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while command := await read_command(reader):
            self.seen.append(b" ".join(command[:2]).upper())
            writer.write(self._answer(self.seen[-1]))
        writer.close()

    def _answer(self, command: bytes) -> bytes:
        master = [
            "name",
            "main",
            "ip",
            self.host,
            "port",
            str(self.port),
            "flags",
            "master",
            "num-other-sentinels",
            "0",
            "config-epoch",
            "0",
        ]
        match command.split()[0], command:
            case b"HELLO", _:
                return b"%1\r\n+proto\r\n:3\r\n"
            case b"PING", _:
                return b"+PONG\r\n"
            case b"ROLE", _:
                return _bulk(["master", 0, []])
            case b"SENTINEL", b"SENTINEL MASTER":
                return b"%%%d\r\n" % (len(master) // 2) + _bulk(*master)
            case b"EVALSHA", _:
                return _bulk(["ok", 0, 0])
            case b"SENTINEL", b"SENTINEL MASTERS":
                return b"*1\r\n%%%d\r\n" % (len(master) // 2) + _bulk(*master)
            case b"SENTINEL", _:
                return _bulk([self.host, str(self.port)])
            case b"CLUSTER", b"CLUSTER SLOTS":
                return _bulk([[0, 16383, [self.host, self.port, "a" * 40]]])
            case b"COMMAND", _:
                return b"*0\r\n"
            case _:
                return b"+OK\r\n"


@asynccontextmanager
async def everything(host: str, context: ssl.SSLContext | None) -> AsyncIterator[Everything]:
    it = Everything(host)
    server = await asyncio.start_server(it.serve, host, 0, ssl=context)
    it.port = server.sockets[0].getsockname()[1]
    async with server:
        yield it


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls") / "server.pem")


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


HOSTS = ["127.0.0.1", pytest.param("::1", marks=pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 on this machine"))]


async def ping(url: str) -> None:
    store = Store.connect(url, prefix="p", timeout_seconds=5, max_connections=4, retention_seconds=60)
    try:
        await store.condition.look()
    finally:
        await store.close()


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
async def test_both_kinds_take_ipv6_addresses_and_tls(certificate: Path, kind: str, tls: bool, host: str):
    async with everything(host, server_context(certificate) if tls else None) as server:
        place = f"[{host}]:{server.port}" if ":" in host else f"{host}:{server.port}"
        scheme = f"rediss+{kind}" if tls else f"redis+{kind}"
        service = "/main" if kind == "sentinel" else "/"
        query = f"?ssl_ca_certs={certificate}" if tls else ""
        await ping(f"{scheme}://{place},{place}{service}{query}")
        assert any(seen.startswith(b"EVALSHA ") for seen in server.seen)
        asked = {b"SENTINEL MASTER"} if kind == "sentinel" else {b"CLUSTER SLOTS"}
        assert asked & set(server.seen)


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
async def test_an_unknown_certificate_is_not_trusted(certificate: Path, kind: str):
    async with everything("127.0.0.1", server_context(certificate)) as server:
        with pytest.raises(Unavailable):
            await ping(f"rediss+{kind}://127.0.0.1:{server.port}/main")
        assert server.seen == []
