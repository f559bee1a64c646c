"""`branchline backup` and `branchline restore`: the drill, and what either refuses."""

from __future__ import annotations

import asyncio
import shutil
import stat
from argparse import Namespace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from proxy.cli.commands.maintenance import UpkeepError
from proxy.cli.commands.store_backup import run_backup, run_restore
from proxy.config.settings import Config, DataConfig, RedisConfig, SealingConfig, Secret
from proxy.protocol.ids import new_conversation_id
from proxy.stores import UnusableStore, open_store
from storage import BackupHead, BackupReader, BackupWriter, Conversation, new_partition
from storage.client.keys import layout_key
from tests.processes import run
from tests.proxy.cli.conftest import Serve


@pytest.fixture
def config(valkey_url: str, tmp_path: Path) -> Config:
    """A key space of this test's own, and another data folder."""
    redis = RedisConfig(url=Secret(valkey_url), prefix=f"backup-{new_partition()}")
    return Config(redis=redis, data=DataConfig(dir=str(tmp_path / "data")))


@pytest.fixture
def elsewhere(valkey_url: str, tmp_path: Path) -> Config:
    """Where a backup of it is restored."""
    redis = RedisConfig(url=Secret(valkey_url), prefix=f"backup-{new_partition()}")
    return Config(redis=redis, data=DataConfig(dir=str(tmp_path / "elsewhere")))


async def make(config: Config, number: int = 1) -> list[str]:
    made = [Conversation(new_conversation_id(new_partition()), 0, 0) for _ in range(number)]
    async with open_store(config) as store:
        for one in made:
            await store.conversations.create("alice", one, [])
    return [one.id for one in made]


async def held(config: Config) -> list[str]:
    async with open_store(config) as store:
        return sorted([name async for name in store.sweeper.partitions()])


def backups_in(folder: Path) -> list[Path]:
    """Return backups, and what is left of unfinished ones."""
    return [*folder.glob("*.backup*"), *folder.glob(".*")]


async def back_up(config: Config, file: Path) -> int:
    return await run_backup(config, Namespace(file=file, json=False))


async def restore(config: Config, file: Path, *, over: bool = False, check: bool = False) -> int:
    return await run_restore(config, Namespace(file=file, replace=over, check=check, json=False))


async def ask(http: aiohttp.ClientSession, method: str, url: str, body: Any = None) -> Any:
    async with http.request(method, url, json=body, headers={"Authorization": "Bearer alice"}) as answer:
        assert answer.status < 300, await answer.text()
        return await answer.json()


async def test_the_drill(serve: Serve, tmp_path: Path):
    served, file = await serve(), tmp_path / "nightly.backup"
    async with aiohttp.ClientSession() as http:
        conversation = (await ask(http, "POST", f"{served.url}/conversations", {}))["id"]
        body = {"model": "echo", "input": "keep this", "conversation": conversation}
        response = await ask(http, "POST", f"{served.url}/responses", body)
        items = await ask(http, "GET", f"{served.url}/conversations/{conversation}/items")
        told = await asyncio.to_thread(run, "backup", file, "--data-dir", tmp_path / "data")
        assert (told.returncode, told.stderr) == (0, "")
        assert told.stdout.startswith(f"backed up 1 conversation, 1 response, 10 keys to {file}, "), told.stdout
        assert str(tmp_path / "data" / "sealing.key") in told.stdout
        await ask(http, "POST", f"{served.url}/responses", {**body, "input": "this came later"})
        await served.kill()
        # as `backup` says: the key is kept beside it
        (tmp_path / "new").mkdir()
        shutil.copy(tmp_path / "data" / "sealing.key", tmp_path / "new")
        told = await asyncio.to_thread(run, "restore", file, "--data-dir", tmp_path / "new")
        assert (told.returncode, told.stderr) == (0, "")
        assert told.stdout.splitlines()[-1].startswith("restored 1 conversation, 1 response, 10 keys, ")
        again = await serve("--data-dir", tmp_path / "new")
        assert await ask(http, "GET", f"{again.url}/conversations/{conversation}/items") == items
        assert await ask(http, "GET", f"{again.url}/responses/{response['id']}") == response
        went_on = await ask(http, "POST", f"{again.url}/responses", {**body, "input": "and on"})
        assert went_on["status"] == "completed"


async def test_from_one_server_to_another(config: Config, elsewhere: Config, tmp_path: Path):
    await make(config, 3)
    file = tmp_path / "all.backup"
    assert await back_up(config, file) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert await restore(elsewhere, file) == 0
    assert await held(elsewhere) == await held(config)
    with pytest.raises(UpkeepError, match=r"is not empty .*: nothing was changed; --replace deletes what is there"):
        await restore(elsewhere, file)
    await make(elsewhere)
    assert await restore(elsewhere, file, over=True) == 0
    assert await held(elsewhere) == await held(config)


async def test_a_new_backup_takes_the_place_of_the_old_one_when_it_is_whole(config: Config, tmp_path: Path):
    file = tmp_path / "all.backup"
    file.write_bytes(b"the old one")
    with pytest.raises(UpkeepError, match="nothing is stored in"):
        await back_up(config, file)
    assert backups_in(tmp_path) == [file]
    assert file.read_bytes() == b"the old one"
    await make(config)
    await back_up(config, file)
    with file.open("rb") as opened:
        assert BackupReader(opened).verify().conversations == 1
    with pytest.raises(UpkeepError, match=r"missing/all\.backup can't be written: No such file or directory"):
        await back_up(config, tmp_path / "missing" / "all.backup")


async def test_a_file_that_is_not_whole_changes_nothing(config: Config, elsewhere: Config, tmp_path: Path):
    await make(config)
    file = tmp_path / "all.backup"
    await back_up(config, file)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UpkeepError, match=r"all\.backup can't be restored: it ends too early; nothing was changed"):
        await restore(elsewhere, file, over=True)
    with pytest.raises(UpkeepError, match="can't be read: No such file"):
        await restore(elsewhere, tmp_path / "another.backup")
    file.write_bytes(b"{}")
    with pytest.raises(UpkeepError, match="it is no backup"):
        await restore(elsewhere, file, check=True)


async def test_check_only_reads(config: Config, elsewhere: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    await make(config)
    await back_up(config, tmp_path / "all.backup")
    capsys.readouterr()
    assert await restore(elsewhere, tmp_path / "all.backup", check=True) == 0
    assert "1 conversation, 0 responses, 5 keys of " in capsys.readouterr().out
    assert await held(elsewhere) == []


async def test_a_backup_of_a_newer_layout_is_refused(config: Config, tmp_path: Path):
    file = tmp_path / "new.backup"
    with file.open("wb") as opened:
        BackupWriter(opened, BackupHead(99, "Branchline 9", 0, "a server", "")).finish()
    with pytest.raises(UpkeepError, match=r"the backup has layout 99, which Branchline 9 wrote; Branchline .* up to 2"):
        await restore(config, file, over=True)


async def test_another_sealing_key_is_told_of(
    config: Config, elsewhere: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    await make(config)
    file, key = tmp_path / "all.backup", SealingConfig(key=Secret("k" * 40))
    await back_up(replace(config, sealing=key), file)
    await restore(replace(elsewhere, sealing=key), file)
    assert capsys.readouterr().err == ""
    await restore(replace(elsewhere, sealing=SealingConfig(key=Secret("l" * 40))), file, over=True)
    told = capsys.readouterr().err
    assert told.startswith("branchline: the sealing key (sealing.key) is another one: ")
    assert "kkkk" not in told


async def test_a_store_of_a_newer_version_is_refused_by_every_command(config: Config):
    async with open_store(config) as store:
        fields = ("version", "9", "writer", "Branchline 9")
        await store._channel.exchange([("HSET", layout_key(config.redis.prefix), *fields)])
    with pytest.raises(UnusableStore, match="has layout 9, which Branchline 9 wrote"):
        await make(config)
    variables = {"BRANCHLINE_REDIS_URL": str(config.redis.url), "BRANCHLINE_REDIS_PREFIX": config.redis.prefix}
    told = await asyncio.to_thread(run, "serve", "--port", "0", "--upstream", "echo", **variables)
    assert (told.returncode, told.stdout) == (1, "")
    assert "has layout 9, which Branchline 9 wrote; Branchline 0.1.0 knows layouts up to 2: run what" in told.stderr
