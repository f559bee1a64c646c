"""The store on Redis 6.2 and 7, and over TLS with a user who may do nothing but what the documentation names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis as SyncRedis
from redis.crc import key_slot

from benchmarks.processes import free_ports
from storage import Safeguards, Store
from tests.certificates import make_certificate
from tests.storage.builders import OWNER, PREFIX, RETENTION_SECONDS, connect, take_turn
from tests.storage.clusters import run_cluster, wait_until
from tests.storage.everything import use_archive, use_backup, use_everything, use_jobs, use_quotas
from tests.storage.servers import run_valkey, tls_options

REDIS = ("6.2", "7.")
RIGHTS = Path(__file__).parents[3] / "docs" / "storage.md"
PASSWORD = "secret"


def find_redis(version: str) -> Path | None:
    """Return a redis-server of this version: of the path, or one that `REDIS_SERVERS` names (`a:b`)."""
    for named in (shutil.which("redis-server"), *os.environ.get("REDIS_SERVERS", "").split(":")):
        if named and Path(named).is_file():
            told = subprocess.run([named, "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
            if f" v={version}" in told:
                return Path(named)
    return None


@pytest.fixture(params=REDIS)
def binary(request: pytest.FixtureRequest) -> Path:
    found = find_redis(request.param)
    if found is None:
        pytest.skip(f"NO REDIS {request.param}: put its redis-server on PATH, or name it in REDIS_SERVERS")
    return found


async def walk(store: Store) -> None:
    """Call every script."""
    await store.layout.open("a test")
    await store.condition.look()
    assert await store.risks.missing_rights() == []
    await use_everything(store)
    await use_archive(store)
    await use_jobs(store)
    await use_quotas(store)
    await take_turn(store)
    assert (await store.auditor.audit()).complaints == []
    await use_backup(store)


@pytest.mark.parametrize("protocol", ["2", "3"])
async def test_every_method_works_on_an_older_redis(binary: Path, protocol: str):
    with run_valkey(binary=binary) as server:
        async with connect(f"{server.url}?protocol={protocol}") as store:
            await walk(store)


def documented_rights() -> list[str]:
    """Return the commands that docs/storage.md says the user of `redis.url` needs, as rules of an ACL."""
    (paragraph,) = re.findall(r"\*\*Rights\.\*\*(.+?)\n- \*\*", RIGHTS.read_text(), re.DOTALL)
    listed = " ".join(" ".join(re.findall(r"`([A-Z ]+)`", paragraph.replace("\n ", ""))).split())
    for parent in ("CLUSTER", "XGROUP", "XINFO"):
        listed = listed.replace(f"{parent} ", f"{parent}|")
    return [f"+{command.lower()}" for command in listed.split()]


def rules_for(operator: SyncRedis) -> list[str]:
    """Return what makes a user with them, as far as this server knows them."""
    version = tuple(int(number) for number in operator.info("server")["redis_version"].split("."))
    rights = [rule for rule in documented_rights() if version >= (7, 2) or rule != "+waitaof"]
    return ["on", f">{PASSWORD}", f"~{PREFIX}:*", "resetchannels", "-@all", *rights]


@pytest.fixture(params=["valkey", *REDIS])
def few_rights(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a server for a user with no more than the documented rights; Redis speaks TLS, Valkey's build does not."""
    binary = None if request.param == "valkey" else find_redis(request.param)
    if request.param != "valkey" and binary is None:
        pytest.skip(f"NO REDIS {request.param}: put its redis-server on PATH, or name it in REDIS_SERVERS")
    certificate = make_certificate(tmp_path / "server.pem")
    (port,) = free_ports(1)
    options, url = [], ""
    if binary is not None and knows_tls(binary):
        options = tls_options(port, certificate)
        url = f"rediss://app:{PASSWORD}@127.0.0.1:{port}/0?ssl_ca_certs={certificate}"
    with run_valkey(*options, binary=binary) as server:
        with SyncRedis(unix_socket_path=server.url.removeprefix("unix://")) as operator:
            operator.execute_command("ACL SETUSER", "app", *rules_for(operator))
        yield url or server.url.replace("unix://", f"unix://app:{PASSWORD}@")


def knows_tls(binary: Path) -> bool:
    """Whether a server was built with TLS."""
    # with TLS and without a certificate it ends too, but for want of that
    told = subprocess.run([binary, "--port", "0", "--tls-port", "1"], check=False, capture_output=True, timeout=10)
    return b"No tls-cert-file configured" in told.stdout


async def test_the_documented_rights_suffice(few_rights: str):
    async with connect(few_rights) as store:
        await walk(store)


@pytest.mark.parametrize("on_disk", [False, True])
async def test_the_documented_rights_suffice_where_replicas_are_waited_for(on_disk: bool):
    (port,) = free_ports(1)
    kept = ("--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0")
    with (
        run_valkey(*kept, "--port", str(port), "--bind", "127.0.0.1") as server,
        run_valkey(*kept, "--replicaof", f"127.0.0.1 {port}"),
        SyncRedis(port=port) as operator,
    ):
        wait_until(lambda: operator.info("replication")["connected_slaves"] == 1)
        operator.execute_command("ACL SETUSER", "app", *rules_for(operator))
        store = Store.connect(
            server.url.replace("unix://", f"unix://app:{PASSWORD}@"),
            prefix=PREFIX,
            timeout_seconds=5.0,
            max_connections=8,
            retention_seconds=RETENTION_SECONDS,
            safeguards=Safeguards(min_replicas=1, replicas_on_disk=on_disk),
        )
        try:
            # with WAITAOF one call takes up to a second: so only some
            await (take_turn(store) if on_disk else walk(store))
        finally:
            await store.close()


async def test_a_cluster_is_used_over_tls_with_the_documented_rights(tmp_path: Path):
    binary = find_redis("7.")
    if binary is None or not knows_tls(binary):
        pytest.skip("NO REDIS 7 WITH TLS: put its redis-server on PATH, or name it in REDIS_SERVERS")
    certificate = make_certificate(tmp_path / "server.pem")
    with run_cluster(binary=binary, certificate=certificate) as world:
        for node in [*world.primaries, *world.replicas]:
            node.client.execute_command("ACL SETUSER", "app", *rules_for(node.client))
        url = f"rediss+cluster://app:{PASSWORD}@{world.hosts}?ssl_ca_certs={certificate}"
        async with connect(url) as store:
            await walk(store)
            # what is new in a slot that is on its way is for where that goes
            source = world.place_of(OWNER)
            world.move_half(key_slot(OWNER.encode()), world.primaries[source], world.primaries[source - 1])
            left = [(await store.quotas.count_request(OWNER, 10)).left for _ in range(3)]
            assert left == [9, 8, 7]
