"""`branchline gc` and `branchline fsck` as their user meets them."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.cli.commands import maintenance as upkeep
from proxy.config.settings import Config, RedisConfig, Secret
from proxy.protocol.ids import new_conversation_id, new_turn_item_id
from proxy.stores import open_store
from storage import (
    Conversation,
    ConversationNotFound,
    Entry,
    Fork,
    ForkPoint,
    Origin,
    Report,
    Store,
    Swept,
    new_partition,
    partition_of,
)
from tests.processes import environment, run
from tests.storage.servers import run_valkey


@pytest.fixture
def config(valkey_url: str) -> Config:
    """A key space of this test's own."""
    return Config(redis=RedisConfig(url=Secret(valkey_url), prefix=f"upkeep-{new_partition()}"))


def settings(config: Config) -> dict[str, str]:
    return {"BRANCHLINE_REDIS_URL": str(config.redis.url), "BRANCHLINE_REDIS_PREFIX": config.redis.prefix}


async def leave_garbage(store: Store) -> Conversation:
    """Make a conversation, and a branch with three items of its own that is deleted again."""
    made = Conversation(new_conversation_id(new_partition()), 0, 0)
    await store.conversations.create("alice", made, [])
    await store.branches.create("alice", made.id, "", Fork(ForkPoint.TIP, name="draft"), [])
    ids = [new_turn_item_id("message", partition_of(made.id), stored=True) for _ in range(3)]
    entries = [Entry(Origin.MINTED, one, b'{"id":"%s","type":"message"}' % one.encode()) for one in ids]
    await store.items.append("alice", made.id, "draft", entries)
    await store.branches.delete("alice", made.id, "draft")
    return made


async def break_something(config: Config, store: Store, made: Conversation) -> None:
    key = f"{config.redis.prefix}:{{{partition_of(made.id)}}}:branches"
    await store._channel.exchange([("DEL", key)])


async def test_gc_says_what_it_freed_and_then_there_is_nothing_left(config: Config):
    async with open_store(config) as store:
        await leave_garbage(store)
    told = await asyncio.to_thread(run, "gc", **settings(config))
    assert (told.returncode, told.stderr) == (0, "")
    assert re.fullmatch(r"freed 0 segments, 0 items, 3 index entries, 1 note in 1 partition, \d\.\d s\n", told.stdout)
    told = await asyncio.to_thread(run, "gc", **settings(config))
    assert told.stdout.startswith("freed 0 segments, 0 items, 0 index entries, 0 notes in 1 partition")


async def test_gc_goes_on_until_it_is_told_to_stop(config: Config):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "gc", "--every", "0.01"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment() | settings(config),
    )
    assert process.stdout
    assert process.stderr
    for _ in range(3):
        assert (await process.stdout.readline()).startswith(b"freed 0 segments")
    process.send_signal(signal.SIGINT)
    _, errors = await process.communicate()
    assert (process.returncode, errors) == (130, b"")


async def test_gc_outlives_a_store_that_goes_away(tmp_path: Path):
    with run_valkey() as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy", "gc", "--every", "0.01", "--redis", server.url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
        )
        assert process.stdout
        assert process.stderr
        await process.stdout.readline()
        server.kill()
        for _ in range(2):
            assert b" can't be reached " in await process.stderr.readline()
        process.send_signal(signal.SIGINT)
        await process.communicate()
        assert process.returncode == 130


async def test_fsck_fails_with_a_sentence_for_what_is_broken(config: Config):
    async with open_store(config) as store:
        made = await leave_garbage(store)
        told = await asyncio.to_thread(run, "fsck", **settings(config))
        assert (told.returncode, told.stderr) == (0, "")
        assert told.stdout == (
            "checked 1 partition, 1 conversation, 0 items: all is well\n"
            "left over, without harm: index entries 3, notes 1\n"
        )
        await break_something(config, store, made)
        told = await asyncio.to_thread(run, "fsck", **settings(config))
        assert told.returncode == 1
        assert f"{partition_of(made.id)}: MAIN is no branch\n" in told.stdout
        assert told.stdout.splitlines()[-2] == "checked 1 partition, 1 conversation, 0 items: 3 complaints"
        told = await asyncio.to_thread(run, "fsck", "--owner", "bob", **settings(config))
        assert (told.returncode, told.stdout) == (1, "")
        assert told.stderr.startswith("branchline: nothing belongs to the owner bob in unix://")


@pytest.mark.parametrize("command", ["gc", "fsck"])
def test_a_store_that_is_not_there_is_one_line(command: str, tmp_path: Path):
    told = run(command, "--redis", "redis://:hunter2@127.0.0.1:9")
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.startswith("branchline: redis://127.0.0.1:9 can't be reached")
    (tmp_path / "file").touch()
    told = run(command, "--data-dir", tmp_path / "file")
    assert (told.returncode, told.stderr.count("\n")) == (1, 1)
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize("pause", ["0", "-1", "inf", "nan", "soon"])
def test_a_pause_that_is_none_is_refused(pause: str):
    told = run("gc", f"--every={pause}")
    assert told.returncode == 2
    assert "argument --every" in told.stderr


def test_numbers_are_written_for_people():
    assert upkeep.summarize_sweep(Swept(1, 2, 10_000, 1, 1), 0.25) == (
        "freed 2 segments, 10,000 items, 1 index entry, 1 note in 1 partition, 0.2 s"
    )
    assert upkeep.summarize_report(Report(1, 1, 1, ["x"])).endswith("1 item: 1 complaint")


async def test_purge_deletes_what_an_owner_has_if_it_is_confirmed(config: Config):
    async with open_store(config) as store:
        mine, other = (Conversation(new_conversation_id(new_partition()), 0, 0) for _ in range(2))
        await store.conversations.create("key:alice", mine, [])
        await store.conversations.create("key:bob", other, [])
        told = await asyncio.to_thread(run, "purge", "--owner", "key:alice", **settings(config))
        assert (told.returncode, "nothing was deleted" in told.stderr) == (1, True)
        await store.conversations.read("key:alice", mine.id)
        told = await asyncio.to_thread(run, "purge", "--owner", "key:alice", "--yes", **settings(config))
        assert (told.returncode, told.stderr) == (0, "")
        assert re.fullmatch(r"deleted 1 conversation, 0 responses, 5 keys in 1 partition, \d+\.\d s\n", told.stdout)
        with pytest.raises(ConversationNotFound):
            await store.conversations.read("key:alice", mine.id)
        await store.conversations.read("key:bob", other.id)


def test_purge_asks_before_it_deletes(config: Config):
    command = [sys.executable, "-m", "proxy", "purge", "--owner", "x"]
    asyncio.run(own_something(config, "x"))
    for answer, status in (("n\n", 1), ("y\n", 0), ("y\n", 1)):
        told = subprocess.run(
            command, input=answer, env=environment() | settings(config), capture_output=True, text=True, check=False
        )
        assert told.returncode == status
        assert "Delete everything that belongs to x, for good?" in told.stderr
    assert "branchline: nothing belongs to the owner x in unix://" in told.stderr


async def own_something(config: Config, owner: str) -> None:
    async with open_store(config) as store:
        await store.conversations.create(owner, Conversation(new_conversation_id(new_partition()), 0, 0), [])


@pytest.mark.parametrize("arguments", [["gc"], ["fsck"], ["purge", "--owner", "x", "--yes"], ["export", "BACKUP"]])
def test_a_command_on_what_is_not_there_is_an_error_and_makes_nothing(
    arguments: list[str], config: Config, tmp_path: Path
):
    wrong, backup = tmp_path / "typo", tmp_path / "backup"
    arguments = [str(backup) if word == "BACKUP" else word for word in arguments]
    told = run(*arguments, "--data-dir", wrong)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == f"branchline: there is no store in the data folder {wrong}\n"
    told = run(*arguments, **settings(config))
    assert told.returncode == 1
    assert f"under the prefix {config.redis.prefix}" in told.stderr
    assert list(tmp_path.iterdir()) == []


async def test_an_export_for_an_owner_who_has_nothing_is_an_error(config: Config, tmp_path: Path):
    await own_something(config, "key:alice")
    told = await asyncio.to_thread(run, "export", tmp_path / "backup", "--owner", "alice", **settings(config))
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.startswith("branchline: nothing belongs to the owner alice in unix://")
    assert not (tmp_path / "backup").exists()


def test_an_import_of_a_folder_without_conversations_is_an_error(config: Config, tmp_path: Path):
    told = run("import", tmp_path, **settings(config))
    assert told.returncode == 1
    assert f"{tmp_path}: there is no exported conversation in this folder" in told.stderr


async def test_purge_needs_a_store(tmp_path: Path):
    told = await asyncio.to_thread(run, "purge", "--owner", "x", "--yes", "--redis", "redis://127.0.0.1:1")
    assert (told.returncode, told.stdout) == (1, "")
    assert "can't be reached" in told.stderr
