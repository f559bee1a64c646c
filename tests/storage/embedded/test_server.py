from __future__ import annotations

import asyncio
import fcntl
import importlib.metadata
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from storage.embedded import EmbeddedUnavailable, EmbeddedValkey, data_dir, find_binary, probe
from storage.embedded import server as serving

ROOT = Path(__file__).parents[3]

KILLED_PROXY = """
import asyncio, sys, uvloop
from pathlib import Path
from redis.asyncio import Redis
from storage.embedded import EmbeddedValkey

async def main():
    server = await EmbeddedValkey.start(Path(sys.argv[1]))
    async with Redis.from_url(server.url) as client:
        await client.set("written", "before the kill")
    print(server.pid, flush=True)
    await asyncio.Event().wait()

uvloop.run(main())
"""


def patient(server):
    """A client that waits out a restart of the server."""
    return Redis.from_url(server.url, retry=Retry(ConstantBackoff(0.01), 1000), retry_on_error=[RedisConnectionError])


@pytest.fixture
async def server(tmp_path):
    running = await EmbeddedValkey.start(tmp_path / "data")
    yield running
    await running.stop()


async def put(server, value):
    async with Redis.from_url(server.url) as client:
        await client.set("written", value)


async def got(server):
    async with patient(server) as client:
        return await client.get("written")


@pytest.fixture
def orphan(tmp_path):
    """A server as a killed proxy leaves it: it holds the server's lock, nobody holds the proxy's."""
    lock = os.open(tmp_path / "server.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    options = [word for key, value in serving.SETTINGS.items() for word in (f"--{key}", value)]
    with (tmp_path / data_dir.LOG).open("wb") as log:
        process = subprocess.Popen([find_binary(), *options], cwd=tmp_path, pass_fds=(lock,), stdout=log)
    os.close(lock)
    yield process
    process.kill()
    process.wait()


async def test_data_survive_a_restart(tmp_path):
    for value in (b"first", b"second"):
        server = await EmbeddedValkey.start(tmp_path)
        if value == b"second":
            assert await got(server) == b"first"
        await put(server, value)
        await server.stop()


async def test_a_killed_server_is_started_again_with_everything_it_acknowledged(server):
    await put(server, "kept")
    killed = server.pid
    os.kill(killed, signal.SIGKILL)
    assert await got(server) == b"kept"
    assert server.pid != killed


async def test_no_times_of_commands_are_kept(server):
    await put(server, "kept")
    async with Redis.from_url(server.url) as client:
        assert "latency_percentiles_usec_set" not in await client.info("latencystats")


async def test_a_response_is_kept_in_one_piece_also_when_it_was_loaded(tmp_path):
    for _ in range(2):
        server = await EmbeddedValkey.start(tmp_path)
        async with Redis.from_url(server.url) as client:
            await client.hset("response", "body", "x" * 4000)
            assert await client.object("ENCODING", "response") == b"listpack"
        await server.stop()


async def test_a_kill_in_the_middle_of_writes_loses_no_acknowledged_one(server):
    acknowledged = set()
    async with patient(server) as client:
        for number in range(600):
            if number in {200, 400}:
                asyncio.get_running_loop().call_later(0.002, os.kill, server.pid, signal.SIGKILL)
            await client.sadd("numbers", number)
            acknowledged.add(b"%d" % number)
        assert await client.smembers("numbers") == acknowledged


async def test_a_restart_is_tried_until_it_works(server, monkeypatch):
    refused = asyncio.Event()
    monkeypatch.setattr(serving.LOGGER, "warning", lambda *_: refused.set())
    await put(server, "kept")
    manifest = server.directory / "appendonlydir" / "appendonly.aof.manifest"
    content = manifest.read_bytes()
    manifest.write_bytes(b"nonsense\n")
    os.kill(server.pid, signal.SIGKILL)
    await refused.wait()
    manifest.write_bytes(content)
    assert await got(server) == b"kept"


async def test_a_stop_during_a_restart_leaves_nothing_running(server):
    os.kill(server.pid, signal.SIGKILL)
    await server._process.wait()
    await server.stop()
    assert server.pid is None
    again = await EmbeddedValkey.start(server.directory)
    await again.stop()


async def test_the_server_listens_on_a_private_socket_only(server):
    async with Redis.from_url(server.url) as client:
        settings = await client.config_get("*")
        with pytest.raises(ResponseError, match="DEBUG command not allowed"):
            await client.execute_command("DEBUG", "SLEEP", "0")
    assert (settings["port"], settings["tls-port"]) == ("0", "0")
    assert (settings["appendfsync"], settings["maxmemory-policy"]) == ("always", "noeviction")
    assert stat.S_IMODE((server.directory / data_dir.SOCKET).stat().st_mode) == 0o700
    assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
    data = next((server.directory / "appendonlydir").iterdir())
    assert stat.S_IMODE(data.stat().st_mode) & 0o077 == 0


async def test_the_server_is_no_part_of_the_terminals_process_group(server):
    assert os.getpgid(server.pid) == server.pid


async def test_the_server_gets_no_settings_of_ours(tmp_path, monkeypatch):
    wrapper = tmp_path / "valkey-server"
    wrapper.write_text(f"#!/bin/sh\nexport -p > environment\nexec '{find_binary()}' \"$@\"\n")
    wrapper.chmod(0o755)
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("BRANCHLINE_UPSTREAM_API_KEY", "hunter2")
    server = await EmbeddedValkey.start(tmp_path / "data")
    await server.stop()
    environment = (server.directory / "environment").read_text()
    assert "PATH" in environment
    assert "hunter2" not in environment


async def test_the_servers_lock_is_held_for_as_long_as_it_lives(server):
    assert server._folder.server_lock() is None
    await server.stop()
    lock = server._folder.server_lock()
    assert lock is not None
    os.close(lock)


async def test_the_server_tells_its_version(server):
    assert server.version.startswith(("Valkey ", "Redis "))
    assert await probe(server.directory) == f"{server.version} in {server.directory} (running there now)"


async def test_a_second_start_on_the_same_folder_is_refused(server):
    with pytest.raises(EmbeddedUnavailable, match=f"in use by another Branchline .process {os.getpid()}."):
        await EmbeddedValkey.start(server.directory)
    await put(server, "the first one is not disturbed")


async def test_stop_removes_the_socket_and_can_be_repeated(server):
    await server.stop()
    await server.stop()
    assert not (server.directory / data_dir.SOCKET).exists()


@pytest.mark.parametrize("name", ["x" * 120, "ü b%20?#"])
async def test_any_folder_name_is_reachable(tmp_path, name):
    server = await EmbeddedValkey.start(tmp_path / name)
    await put(server, "reached")
    assert await got(server) == b"reached"
    await server.stop()
    assert not (server.directory / data_dir.SOCKET).exists()


async def test_the_link_to_a_long_folder_name_is_removed_at_the_end(tmp_path):
    server = await EmbeddedValkey.start(tmp_path / ("x" * 120))
    link = Path(unquote(server.url.removeprefix("unix://"))).parent
    assert link.resolve() == server.directory
    await server.stop()
    assert not link.parent.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
async def test_a_killed_proxy_takes_its_server_along_and_the_next_one_has_the_data(tmp_path):
    proxy = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED_PROXY, tmp_path, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert proxy.stdout
    pid = int(await proxy.stdout.readline())
    server_ended = os.pidfd_open(pid)
    proxy.kill()
    await proxy.communicate()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(server_ended, ended.set)
    await asyncio.wait_for(ended.wait(), 10)
    asyncio.get_running_loop().remove_reader(server_ended)
    os.close(server_ended)
    server = await EmbeddedValkey.start(tmp_path)
    assert await got(server) == b"before the kill"
    await server.stop()


async def test_a_server_left_behind_is_ended_first(orphan, tmp_path):
    async with Redis(
        unix_socket_path=str(tmp_path / data_dir.SOCKET),
        retry=Retry(ConstantBackoff(0.01), 1000),
        retry_on_error=[RedisConnectionError],
    ) as client:
        await client.set("written", "by the orphan")
    server = await EmbeddedValkey.start(tmp_path)
    assert orphan.wait() == 0
    assert await got(server) == b"by the orphan"
    await server.stop()


async def test_a_server_left_behind_that_does_not_stop_is_named(orphan, tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "STOP_SECONDS", 0.2)
    monkeypatch.setattr(serving, "ANSWER_SECONDS", 0.1)
    orphan.send_signal(signal.SIGSTOP)
    with pytest.raises(EmbeddedUnavailable, match="an earlier Valkey still runs"):
        await EmbeddedValkey.start(tmp_path)
    orphan.kill()
    orphan.wait()
    await (await EmbeddedValkey.start(tmp_path)).stop()


async def test_a_server_that_does_not_stop_is_killed(server, monkeypatch):
    monkeypatch.setattr(serving, "STOP_SECONDS", 0.1)
    process = server._process
    os.kill(server.pid, signal.SIGSTOP)
    await server.stop()
    assert process.returncode == -signal.SIGKILL
    assert not (server.directory / data_dir.SOCKET).exists()


async def test_a_torn_last_write_is_cut_off(server):
    await put(server, "whole")
    await server.stop()
    with next((server.directory / "appendonlydir").glob("*.incr.aof")).open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$7\r\nwrit")
    again = await EmbeddedValkey.start(server.directory)
    assert await got(again) == b"whole"
    await again.stop()


async def test_a_server_that_does_not_start_is_quoted_and_the_folder_is_free_again(tmp_path):
    (tmp_path / "appendonlydir").mkdir()
    manifest = tmp_path / "appendonlydir" / "appendonly.aof.manifest"
    manifest.write_text("nonsense\n")
    with pytest.raises(EmbeddedUnavailable, match=r"ended with status 1 at its start .*manifest"):
        await EmbeddedValkey.start(tmp_path)
    manifest.unlink()
    await (await EmbeddedValkey.start(tmp_path)).stop()


@pytest.mark.parametrize("run", [EmbeddedValkey.start, probe])
async def test_a_folder_that_can_not_be_used_is_named(tmp_path, run):
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedUnavailable, match=r"the data folder .*file/data can't be"):
        await run(tmp_path / "file" / "data")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("run", [EmbeddedValkey.start, probe])
async def test_a_folder_without_write_permission_is_named(tmp_path, run):
    tmp_path.chmod(0o500)
    with pytest.raises(EmbeddedUnavailable, match="can't be written"):
        await run(tmp_path)


async def test_probe_changes_nothing(tmp_path):
    assert str(tmp_path / "new" / "data") in await probe(tmp_path / "new" / "data")
    assert list(tmp_path.iterdir()) == []


def test_without_the_wheel_the_servers_on_path_are_used_in_order(tmp_path, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedUnavailable, match="no Valkey server was found"):
        find_binary()
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).touch(mode=0o755)
        assert find_binary() == tmp_path / name


async def test_a_binary_that_can_not_run_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [])
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "valkey-server").write_bytes(b"not a program")
    (tmp_path / "valkey-server").chmod(0o755)
    for run in (EmbeddedValkey.start, probe):
        with pytest.raises(EmbeddedUnavailable, match="valkey-server can't be run: Exec format error"):
            await run(tmp_path / "data")
