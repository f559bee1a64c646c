"""The command as its user meets it: processes, exit statuses, what is printed where."""

import asyncio
import re
import signal
import socket
import sys

import aiohttp
import pytest

from proxy import __version__
from tests.processes import capture, environment, run
from tests.upstream import HANG, Reply, ScriptedUpstream


def test_version_is_told_without_loading_a_server():
    code = (
        "import sys; from proxy.__main__ import main\n"
        "try: main(['version'])\n"
        "finally: print(sorted({'aiohttp', 'msgspec', 'redis', 'asyncio'} & sys.modules.keys()))"
    )
    told = capture([sys.executable, "-c", code], environment())
    assert told.stdout == f"branchline {__version__}\n[]\n"


def test_help_fits_a_screen_and_names_the_commands():
    told = run("--help")
    assert told.returncode == 0
    assert all(command in told.stdout for command in ("serve", "check", "gc", "fsck", "export", "import", "version"))
    assert all(flag in run("serve", "--help").stdout for flag in ("--config", "--data-dir", "--redis"))


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_wrong_configuration_is_one_line_and_status_2(command, tmp_path):
    (tmp_path / "c.toml").write_text("[server]\nprot = 1\n")
    told = run(command, "--config", tmp_path / "c.toml")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == (f"branchline: server.prot in {tmp_path}/c.toml: no such key; did you mean server.port?\n")


def test_settings_that_only_fail_at_the_start_are_one_line_and_status_2(tmp_path):
    told = run(
        *("serve", "--port", "0", "--upstream", "echo", "--data-dir", tmp_path),
        BRANCHLINE_AUTH_MODE="jwt",
        BRANCHLINE_AUTH_JWT_ALGORITHMS="RS256",
        BRANCHLINE_AUTH_JWT_KEY_FILE=str(tmp_path / "none.pem"),
    )
    assert told.returncode == 2
    assert re.fullmatch(r"(.* INFO .*\n)*branchline: auth\.jwt\.key_file.*\n", told.stderr)


async def test_serve_says_where_it_is_answers_there_and_stops_on_sigterm(serve, tmp_path):
    served = await serve()
    assert re.search(r"listens on http://127\.0\.0\.1:\d+\n", served.block)
    assert re.search(rf"store     embedded Valkey .* in {tmp_path}/data\n", served.block)
    async with aiohttp.ClientSession() as session:
        answer = await session.post(f"{served.url}/responses", json={"model": "echo", "input": "hello"})
        assert answer.status == 200
    served.process.send_signal(signal.SIGTERM)
    status, errors = await served.end()
    assert status == 0
    assert "Traceback" not in errors
    assert not (tmp_path / "data" / "valkey.sock").exists()


async def test_flags_and_environment_reach_the_server(serve):
    served = await serve("--host", "localhost")
    assert "listens on http://" in served.block
    assert "echo, the built-in model" in served.block


async def test_a_second_signal_ends_at_once(serve):
    async with ScriptedUpstream() as upstream:
        upstream.script(Reply.raw(200, "text/event-stream", chunks=[HANG]))
        served = await serve("--upstream", upstream.url)
        async with aiohttp.ClientSession() as session:
            body = {"model": "m", "input": "hello", "stream": True}
            turn = asyncio.create_task(session.post(f"{served.url}/responses", json=body))
            await upstream.wait_for_requests(1)
            served.process.send_signal(signal.SIGTERM)
            await served.logged("stopping")
            served.process.send_signal(signal.SIGTERM)
            assert (await served.end())[0] == 128 + signal.SIGTERM
            turn.cancel()
            await asyncio.wait({turn})


async def test_what_comes_in_on_an_open_connection_while_turns_end_is_refused_and_not_kept_waiting(serve):
    async with ScriptedUpstream() as upstream, aiohttp.ClientSession() as session, aiohttp.ClientSession() as another:
        upstream.script(Reply.raw(200, "application/json", chunks=[go := asyncio.Event(), b"{}"]))
        served = await serve("--upstream", upstream.url)
        await (await session.get(f"{served.url}/responses/resp_0")).read()
        body = {"model": "m", "input": "hello"}
        turn = asyncio.create_task(another.post(f"{served.url}/responses", json=body))
        await upstream.wait_for_requests(1)
        served.process.terminate()
        await served.logged("waiting for 1 running turns")
        assert (await session.get(f"{served.url}/responses/resp_0")).status == 503
        go.set()
        await turn
        assert (await served.end())[0] == 0


async def test_a_port_in_use_is_one_line_and_leaves_no_store_running(serve, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = run("serve", "--port", port, "--upstream", "echo", "--data-dir", tmp_path / "data")
    assert told.returncode == 1
    assert told.stderr.splitlines()[-1] == (
        f"branchline: can't listen on 127.0.0.1 port {port}: another program listens there; choose another --port"
    )
    assert "Traceback" not in told.stderr
    assert not (tmp_path / "data" / "valkey.sock").exists()


async def test_a_host_that_does_not_exist_is_one_line(tmp_path):
    told = run("serve", "--host", "no.such.host.invalid", "--upstream", "echo", "--data-dir", tmp_path / "data")
    assert told.returncode == 1
    assert told.stderr.splitlines()[-1] == ("branchline: can't listen on no.such.host.invalid: there is no such host")


async def test_a_data_folder_in_use_is_one_line(serve, tmp_path):
    served = await serve()
    told = run("serve", "--port", "0", "--upstream", "echo", "--data-dir", tmp_path / "data")
    assert told.returncode == 1
    assert f"in use by another Branchline (process {served.process.pid})" in told.stderr.splitlines()[-1]
    assert "Traceback" not in told.stderr


async def test_check_lists_what_works_and_fails_with_what_does_not(tmp_path):
    told = run("check", "--upstream", "echo", "--data-dir", tmp_path)
    assert told.returncode == 0
    assert [line.split()[:2] for line in told.stdout.splitlines()] == [
        ["ok", "store"],
        ["ok", "upstream"],
        ["ok", "auth"],
        ["ok", "recording"],
    ]
    assert run("check", "--upstream", "echo", "--data-dir", tmp_path, "--workers", "3").stdout.splitlines()[4:] == [
        "ok    workers   3 processes"
    ]
    told = run("check", "--upstream", "echo", "--redis", "redis://:hunter2@127.0.0.1:9")
    assert told.returncode == 1
    assert told.stdout.startswith("FAIL  store     redis://127.0.0.1:9 can't be reached")
    assert told.stderr == ""
