"""Where commands find the store: at its URL, in the folder of a running server, or in one that they start."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.settings import Config, DataConfig, RedisConfig, Secret
from proxy.stores import open_store
from storage import Conversation, Unavailable
from storage.embedded import EmbeddedUnavailable, EmbeddedValkey

#: More than any disk has.
EXBIBYTE = 2**60
DRAFT = Conversation(f"conv_{'a' * 48}", 0, 0)


def config_of(directory: Path) -> Config:
    return Config(data=DataConfig(dir=str(directory)))


@pytest.mark.parametrize("name", ["data", "x" * 120], ids=["short path", "long path"])
async def test_beside_a_running_server_its_valkey_is_used_and_left_running(tmp_path: Path, name: str):
    config = config_of(tmp_path / name)
    async with open_store(config, alone=True) as server:
        await server.conversations.create("alice", DRAFT, [])
        async with open_store(config) as store:
            assert (await store.conversations.read("alice", DRAFT.id)).id == DRAFT.id
            assert store.description == f"the embedded Valkey that runs in {tmp_path / name}"
        await server.condition.look()


async def test_without_a_running_server_one_is_started_and_stopped(tmp_path: Path):
    config = config_of(tmp_path / "data")
    async with open_store(config) as store:
        await store.conversations.create("alice", DRAFT, [])
        assert store.description.startswith("embedded ")
    assert not (tmp_path / "data" / "valkey.sock").exists()
    async with open_store(config) as store:
        assert await store.conversations.read("alice", DRAFT.id)


async def test_a_server_shares_its_folder_with_no_other(tmp_path: Path):
    config = config_of(tmp_path / "data")
    async with open_store(config):
        with pytest.raises(EmbeddedUnavailable, match="in use by another Branchline"):
            async with open_store(config, alone=True):
                pass


async def test_a_url_is_used_as_it_is_and_named_without_its_password(tmp_path: Path, valkey_url: str):
    async with open_store(
        Config(redis=RedisConfig(url=Secret(valkey_url)), data=DataConfig(dir=str(tmp_path / "data")))
    ) as store:
        await store.condition.look()
    assert not (tmp_path / "data").exists()
    async with open_store(Config(redis=RedisConfig(url=Secret("redis://:hunter2@127.0.0.1:9/0")))) as store:
        assert store.description == "redis://127.0.0.1:9/0"
        with pytest.raises(Unavailable):
            await store.condition.look()


@pytest.mark.parametrize("name", ["data", "x" * 120], ids=["short path", "long path"])
async def test_the_disk_of_the_embedded_valkey_is_looked_at_by_workers_that_know_its_socket_too(
    tmp_path: Path, name: str
):
    data = DataConfig(dir=str(tmp_path / name), min_free_bytes=EXBIBYTE)
    async with open_store(Config(data=data)) as store:
        with pytest.raises(Unavailable, match="disk space"):
            await store.condition.look()
    embedded = await EmbeddedValkey.start(tmp_path / name)
    try:
        redis = RedisConfig(url=Secret(embedded.url))
        async with open_store(Config(redis=redis, data=data)) as store:
            with pytest.raises(Unavailable, match="disk space"):
                await store.condition.look()
        elsewhere = DataConfig(dir=str(tmp_path / "other"), min_free_bytes=EXBIBYTE)
        for other in (elsewhere, DataConfig(dir=data.dir, min_free_bytes=0)):
            async with open_store(Config(redis=redis, data=other)) as store:
                await store.condition.look()
    finally:
        await embedded.stop()


async def test_a_folder_without_a_store_is_refused_where_there_has_to_be_one_and_is_not_made(tmp_path: Path):
    with pytest.raises(EmbeddedUnavailable, match="there is no store in the data folder"):
        async with open_store(config_of(tmp_path / "typo"), existing=True):
            pass
    assert not (tmp_path / "typo").exists()
