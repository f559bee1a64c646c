"""`branchline conversations`, `tail`, `owner`, `config`, `doctor`, `completion` as their user meets them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import jwt
import orjson
import pytest

from proxy.cli.commands.item_text import line_of
from proxy.config.settings import Config, RedisConfig, Secret
from proxy.protocol.ids import new_conversation_id, new_turn_item_id
from proxy.stores import open_store
from storage import Conversation, Entry, Fork, ForkPoint, Origin, Store, new_partition, partition_of
from tests.processes import ROOT, capture, environment, run
from tests.proxy.cli.conftest import Serve


@pytest.fixture
def config(valkey_url: str) -> Config:
    """A key space of this test's own."""
    return Config(redis=RedisConfig(url=Secret(valkey_url), prefix=f"looking-{new_partition()}"))


@pytest.fixture
async def store(config: Config) -> AsyncIterator[Store]:
    async with open_store(config) as store:
        yield store


def settings(config: Config) -> dict[str, str]:
    return {"BRANCHLINE_REDIS_URL": str(config.redis.url), "BRANCHLINE_REDIS_PREFIX": config.redis.prefix}


async def tell(config: Config, *arguments: object) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(run, *arguments, **settings(config))


async def make(store: Store, owner: str, *texts: str, title: str | None = None) -> Conversation:
    """Make a conversation of user messages, and a branch `draft` behind its first one."""
    made = Conversation(new_conversation_id(new_partition()), 0, 0, title=title)
    created, _ = await store.conversations.create(owner, made, [entry(made.id, text) for text in texts])
    return created


def entry(conversation_id: str, text: str) -> Entry:
    item_id = new_turn_item_id("message", partition_of(conversation_id), stored=True)
    item = {"id": item_id, "type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    return Entry(Origin.MINTED, item_id, orjson.dumps(item))


async def test_conversations_are_listed_the_last_used_first(config: Config, store: Store):
    first = await make(store, "key:alice", "hello there", "and")
    second = await make(store, "key:bob", title="A plan")
    while second.updated_at <= first.updated_at:
        # both may be of one millisecond
        await store.items.append("key:bob", second.id, "", [entry(second.id, "a step")])
        second = await store.conversations.read("key:bob", second.id)
    told = await tell(config, "conversations", "list")
    assert (told.returncode, told.stderr) == (0, "")
    rows = [line.split("\t") for line in told.stdout.splitlines()]
    assert [(row[0], row[2], row[3]) for row in rows] == [
        (second.id, "key:bob", "A plan"),
        (first.id, "key:alice", '"hello there"'),
    ]
    assert [
        line.split("\t")[0] for line in (await tell(config, "conversations", "list", "--limit", 1)).stdout.splitlines()
    ] == [second.id]
    told = await tell(config, "conversations", "list", "--owner", "key:alice", "--json")
    (line,) = told.stdout.splitlines()
    assert json.loads(line).items() >= {"id": first.id, "owner": "key:alice", "active_branch": "MAIN"}.items()


async def test_an_owner_that_has_nothing_is_an_error_and_an_empty_store_is_none(config: Config, store: Store):
    told = await tell(config, "conversations", "list")
    assert (told.returncode, told.stdout) == (0, "")
    assert "there are no conversations" in told.stderr
    await make(store, "key:alice")
    told = await tell(config, "conversations", "list", "--owner", "alice")
    assert told.returncode == 1
    assert "nothing belongs to the owner alice" in told.stderr


async def test_a_conversation_is_shown_with_its_last_items(config: Config, store: Store):
    made = await make(store, "key:alice", "one", "two", "x" * 400, title="Counting")
    told = await tell(config, "conversations", "show", made.id, "--last", 2)
    assert told.returncode == 0
    assert re.search(r"^owner +key:alice$", told.stdout, re.MULTILINE)
    assert re.search(r"^branch +MAIN \(active\), 3 items$", told.stdout, re.MULTILINE)
    assert told.stdout.endswith(f"… 1 earlier items\nuser: two\nuser: {'x' * 300}…\n")
    assert f"user: {'x' * 400}\n" in (await tell(config, "conversations", "show", made.id, "--full")).stdout
    facts, *items = (await tell(config, "conversations", "show", made.id, "--json")).stdout.splitlines()
    assert json.loads(facts).items() >= {"id": made.id, "title": "Counting", "branch": "MAIN", "item_count": 3}.items()
    assert [json.loads(item)["content"][0]["text"] for item in items] == ["one", "two", "x" * 400]


async def test_what_is_not_there_is_said_by_name(config: Config, store: Store):
    made = await make(store, "key:alice", "one")
    for arguments, named in [
        (("conversations", "show", "conv_nobody"), "conv_nobody"),
        (("conversations", "show", made.id, "--branch", "nowhere"), "nowhere"),
        (("conversations", "tree", "conv_nobody"), "conv_nobody"),
        (("conversations", "delete", "--yes", "conv_nobody"), "conv_nobody"),
        (("tail", "conv_nobody"), "conv_nobody"),
        (("tail", "resp_nobody"), "resp_nobody"),
    ]:
        told = await tell(config, *arguments)
        assert (told.returncode, told.stdout) == (1, ""), arguments
        assert named in told.stderr
        assert len(told.stderr.splitlines()) == 1


async def test_branches_are_drawn_below_what_they_were_forked_from(config: Config, store: Store):
    made = await make(store, "key:alice", "one", "two", title="Counting")
    await store.branches.create("key:alice", made.id, "", Fork(ForkPoint.TIP, name="draft"), [entry(made.id, "three")])
    await store.branches.create("key:alice", made.id, "draft", Fork(ForkPoint.TIP, name="deep"), [])
    lines = (await tell(config, "conversations", "tree", made.id)).stdout.splitlines()
    assert [re.sub(r"  .*", "", line.lstrip("│ ├└─")) for line in lines] == ["Counting", "MAIN active", "draft", "deep"]
    assert [len(line) - len(line.lstrip("│ ├└─")) for line in lines] == [0, 4, 8, 12]
    told = await tell(config, "conversations", "tree", made.id, "--json")
    assert {one["name"]: one["item_count"] for one in map(json.loads, told.stdout.splitlines())} == {
        "MAIN": 2,
        "draft": 3,
        "deep": 3,
    }


async def test_deleting_asks_and_deletes(config: Config, store: Store):
    made = await make(store, "key:alice", "one")
    other = await make(store, "key:bob", "two")
    told = await tell(config, "conversations", "delete", made.id)
    assert told.returncode == 1
    assert "nothing was deleted" in told.stderr
    told = await tell(config, "conversations", "delete", made.id, "conv_nobody", other.id, "--yes")
    assert told.returncode == 1
    assert told.stdout.splitlines()[0] == f"deleted {made.id} of key:alice"
    assert "conv_nobody" in told.stdout.splitlines()[1]
    assert told.stdout.splitlines()[2] == f"deleted {other.id} of key:bob"
    assert (await tell(config, "conversations", "list")).stdout == ""


async def test_tail_follows_a_conversation_until_ctrl_c(config: Config, store: Store):
    made = await make(store, "key:alice", "one", "two")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "tail", made.id, "--last", "1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment() | settings(config),
        cwd=ROOT,
    )
    assert process.stdout
    assert await process.stdout.readline() == b"user: two\n"
    await store.items.append("key:alice", made.id, "", [entry(made.id, "three"), entry(made.id, "four")])
    assert await process.stdout.readline() == b"user: three\n"
    assert await process.stdout.readline() == b"user: four\n"
    process.send_signal(signal.SIGINT)
    _, errors = await process.communicate()
    assert (process.returncode, errors) == (130, b"")


async def test_tail_follows_a_response_to_its_end(serve: Serve, tmp_path: Path):
    served = await serve()
    async with aiohttp.ClientSession() as session:
        body = {"model": "echo", "input": "hello", "background": True, "stream": True}
        async with session.post(f"{served.url}/responses", json=body) as answer:
            streamed = re.search(r'"id":"(resp_\w+)"', await answer.text())
            assert streamed
        body = {"model": "echo", "input": "hello"}
        async with session.post(f"{served.url}/responses", json=body) as answer:
            plain = (await answer.json())["id"]
    store = ("--data-dir", tmp_path / "data")
    told = await asyncio.to_thread(run, "tail", streamed[1], *store)
    assert told.stdout == 'You said: "hello" (I saw 0 earlier items.)\n(completed)\n'
    told = await asyncio.to_thread(run, "tail", streamed[1], *store, "--json")
    events = [json.loads(line)["type"] for line in told.stdout.splitlines()]
    assert (events[0], events[-1]) == ("response.created", "response.completed")
    told = await asyncio.to_thread(run, "tail", plain, *store)
    assert told.stdout == 'assistant: You said: "hello" (I saw 0 earlier items.)\n(completed)\n'


def test_an_owner_is_told_for_each_way_of_calling():
    told = run("owner", "sk-1")
    assert told.stdout == f"token:{hashlib.sha256(b'sk-1').hexdigest()}\n"
    keys = f"alice={hashlib.sha256(b'secret').hexdigest()}"
    assert (
        run("owner", "secret", BRANCHLINE_AUTH_MODE="api_keys", BRANCHLINE_AUTH_API_KEYS=keys).stdout == "key:alice\n"
    )
    refused = run("owner", "wrong", BRANCHLINE_AUTH_MODE="api_keys", BRANCHLINE_AUTH_API_KEYS=keys)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "wrong" not in refused.stderr
    assert run("owner", "x", BRANCHLINE_AUTH_MODE="none").stdout == "local\n"
    assert "without a key a caller is anonymous" in run("owner").stdout


def test_a_token_that_is_refused_still_names_its_owner():
    variables = {
        "BRANCHLINE_AUTH_MODE": "jwt",
        "BRANCHLINE_AUTH_JWT_SECRET": "s" * 32,
        "BRANCHLINE_AUTH_JWT_ALGORITHMS": "HS256",
    }
    claims = {"iss": "https://id.example", "sub": "u1", "exp": int(time.time()) + 60}
    owner = f"jwt:{hashlib.sha256(b'https://id.example%cu1' % 10).hexdigest()}\n"
    told = run("owner", jwt.encode(claims, "s" * 32, "HS256"), **variables)
    assert (told.returncode, told.stdout, told.stderr) == (0, owner, "")
    told = run("owner", jwt.encode(claims | {"exp": 1}, "s" * 32, "HS256"), **variables)
    assert (told.returncode, told.stdout) == (1, owner)
    assert "would refuse this token" in told.stderr


def test_settings_are_told_with_where_they_come_from(tmp_path: Path):
    (tmp_path / "c.toml").write_text('[server]\nport = 9000\n[upstream]\napi_key = "sk-secret"\n')
    told = run(
        *("config", "--changed", "--config", tmp_path / "c.toml", "--host", "::1"),
        BRANCHLINE_REDIS_URL="redis://user:hidden@127.0.0.1:6379/0",
        BRANCHLINE_SERVER_WORKERS="2",
    )
    assert sorted(line.split("\t") for line in told.stdout.splitlines()) == [
        ["redis.url", "redis://127.0.0.1:6379/0", "from BRANCHLINE_REDIS_URL"],
        ["server.host", "::1", "from --host"],
        ["server.port", "9000", f"in {tmp_path}/c.toml"],
        ["server.workers", "2", "from BRANCHLINE_SERVER_WORKERS"],
        ["upstream.api_key", "********", f"in {tmp_path}/c.toml"],
    ]
    everything = run("config", "--json", "--config", tmp_path / "c.toml").stdout
    assert "sk-secret" not in everything
    told_keys = {json.loads(line)["key"] for line in everything.splitlines()}
    assert {"server.host", "auth.jwt.secret", "models.windows"} <= told_keys


def test_a_setting_that_is_wrong_is_one_line_for_config_too(tmp_path: Path):
    told = run("config", "--port", "x")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith("branchline: server.port from --port: expected an integer")


async def test_doctor_says_what_to_do(config: Config, store: Store):
    told = await tell(config, "doctor", "--upstream", "http://127.0.0.1:9/v1")
    assert told.returncode == 1
    assert re.search(r"^FAIL  upstream  .*\n  do  .*set upstream\.url", told.stdout, re.MULTILINE)
    assert re.search(r"^ok    clock     within 2 s", told.stdout, re.MULTILINE)
    assert re.search(r"^ok    memory    the store uses \d", told.stdout, re.MULTILINE)
    assert re.search(r"^warn  settings  .*sealing\.key.*\n  do  .*32 characters", told.stdout, re.MULTILINE)
    found = json.loads((await tell(config, "doctor", "--json", "--upstream", "echo")).stdout)
    assert found["ok"] is True
    assert {"store", "upstream", "auth", "clock", "memory", "files", "software"} <= {
        one["subject"] for one in found["findings"]
    }


async def test_upkeep_answers_in_json(config: Config, store: Store, tmp_path: Path):
    await make(store, "key:alice", "one")
    assert json.loads((await tell(config, "check", "--json", "--upstream", "echo")).stdout)["ok"] is True
    found = json.loads((await tell(config, "fsck", "--json")).stdout)
    assert (found["conversations"], found["complaints"], found["complaint_count"]) == (1, [], 0)
    assert json.loads((await tell(config, "gc", "--json")).stdout)["partitions"] == 1
    told = await tell(config, "export", tmp_path / "e", "--json")
    assert json.loads(told.stdout) == {"done": 1, "unchanged": 0, "gone": 0, "failed": 0}
    told = await tell(config, "backup", tmp_path / "b", "--json")
    assert json.loads(told.stdout)["conversations"] == 1
    told = await tell(config, "restore", "--check", tmp_path / "b", "--json")
    assert json.loads(told.stdout)["restored"] is False
    told = await tell(config, "purge", "--owner", "key:alice", "--yes", "--json")
    assert json.loads(told.stdout)["conversations"] == 1
    assert json.loads(run("version", "--json").stdout).keys() == {"version"}
    assert run("--version").stdout == run("version").stdout


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_the_commands(shell: str):
    told = run("completion", shell)
    assert told.returncode == 0
    assert all(word in told.stdout for word in ("conversations", "doctor", "--data-dir"))


def test_every_command_has_examples_that_parse():
    from proxy.cli.parser import EXAMPLES, create_parser

    parser = create_parser()
    for command, examples in EXAMPLES.items():
        for example in re.findall(r"^  branchline (.+?)(?:  +\S.*| [<>|] .*)?$", examples, re.MULTILINE):
            assert parser.parse_args(example.split()).command == command


def test_an_items_text_can_do_a_terminal_no_harm():
    item = {"id": "msg_1", "type": "message", "role": "user", "content": "a\x1b[31m\u202eb\nc"}
    assert line_of(json.dumps(item).encode()).text == "a�[31m�b\nc"
    call = {"type": "function_call", "name": "f", "arguments": '{"a":1}', "call_id": "c"}
    assert line_of(json.dumps(call).encode()).text == 'f {"a":1}'
    image = {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "data:…"}]}
    assert line_of(json.dumps(image).encode()).text == "[input_image]"


def test_a_stranger_named_proxy_is_told_of(tmp_path: Path):
    (tmp_path / "proxy").mkdir()
    (tmp_path / "proxy" / "__init__.py").write_text("")
    code = f"""
import sys
sys.path[:0] = [{str(tmp_path)!r}]
sys.path.append({str(ROOT)!r})
import branchline
branchline.main()
"""
    told = capture([sys.executable, "-c", code], {**environment(), "PYTHONPATH": ""})
    assert told.returncode == 1
    assert "another package has the name" in told.stderr
    assert str(tmp_path / "proxy") in told.stderr
    assert "pipx install branchline" in told.stderr


async def test_reload_starts_the_server_again_when_its_settings_change(tmp_path: Path):
    settings_file = tmp_path / "c.toml"
    settings_file.write_text('[log]\nlevel = "info"\n')
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "serve", "--reload", "--port", "0", "--upstream", "echo"),
        *("--data-dir", str(tmp_path / "data"), "--config", str(settings_file)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
        cwd=ROOT,
    )
    assert process.stdout
    output = process.stdout

    async def listening() -> None:
        while b"OPENAI_BASE_URL" not in await output.readline():
            assert not output.at_eof()

    try:
        async with asyncio.timeout(40):
            await listening()
            settings_file.write_text('[log]\nlevel = "debug"\n')
            await listening()
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
    assert b"changed: " in errors
    assert b"Traceback" not in errors
