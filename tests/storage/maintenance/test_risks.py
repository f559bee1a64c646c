"""What can go wrong with a server that works now: settings that lose something, rights that are missing."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from redis.asyncio import Redis

from storage import Reason, Store, Unavailable
from storage.client.library import read_files
from tests.storage.builders import connect
from tests.storage.servers import OwnServer, run_valkey


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with run_valkey("--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


async def risks_with(server: OwnServer, setting: str, value: str) -> list[str]:
    """Return what is found with a setting changed."""
    async with Redis.from_url(server.url) as operator, connect(server.url) as store:
        (before,) = (await operator.config_get(setting)).values()
        await operator.config_set(setting, value)
        try:
            return await store.risks.find()
        finally:
            await operator.config_set(setting, str(before))


async def test_a_server_that_is_set_right_has_no_risks(server: OwnServer):
    assert await risks_with(server, "maxmemory-policy", "noeviction") == []


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("maxmemory-policy", "allkeys-lru", "maxmemory-policy is allkeys-lru: once memory is full"),
        ("maxmemory-policy", "volatile-ttl", "maxmemory-policy is volatile-ttl: once memory is full"),
        ("appendonly", "no", "appendonly is no: with a restart all that was stored is lost"),
        ("appendfsync", "everysec", "appendfsync is everysec: a power cut loses up to a second"),
        ("appendfsync", "no", "appendfsync is no: a power cut loses an unknown time"),
    ],
)
async def test_a_setting_that_can_lose_something_is_named(server: OwnServer, setting: str, value: str, told: str):
    (risk,) = await risks_with(server, setting, value)
    assert risk.startswith(told)


@pytest.mark.parametrize("protocol", ["2", "3"])
async def test_settings_are_read_in_both_protocols(valkey_url: str, protocol: str):
    async with connect(f"{valkey_url}?protocol={protocol}") as store:
        assert [risk.partition(":")[0] for risk in await store.risks.find()] == ["appendonly is no"]


async def test_rights_that_are_missing_are_named(server: OwnServer):
    async with Redis.from_url(server.url) as operator:
        commands = ["+@all", "-config", "-info", "-zadd", "-lset"]
        await operator.acl_setuser("few", enabled=True, nopass=True, keys=["test:*"], commands=commands)
        url = server.url.replace("unix://", "unix://few:any@")
        async with connect(url) as store:
            assert await store.risks.missing_rights() == ["LSET", "ZADD"]
            await store.condition.look()
            (risk,) = await store.risks.find()
            assert risk.startswith("maxmemory-policy, appendonly, appendfsync can't be checked")
        await operator.acl_setuser("few", commands=["-evalsha"])
        async with connect(url) as store:
            with pytest.raises(Unavailable) as refused:
                await store.condition.look()
            assert refused.value.reason is Reason.NO_PERMISSION
        assert await operator.keys("*") == []


async def test_with_all_rights_none_is_missing(valkey_store: Store):
    assert await valkey_store.risks.missing_rights() == []


def commands_of_scripts() -> set[str]:
    texts = [text for texts in read_files() for name, text in texts.items() if name != "check_rights"]
    words = {word for text in texts for word in re.findall(r"'([A-Z]{3,})'", text)}
    return words - {"COUNT", "CREATE", "CONSUMERS", "DELCONSUMER", "JUSTID", "LIMIT", "MAIN", "MATCH", "WITHSCORES"}


def test_every_command_of_the_scripts_is_asked_for():
    asked = set(re.findall(r"'([A-Z]+)'", read_files()[0]["check_rights"]))
    assert commands_of_scripts() - asked == {"INFO"}, "which a user may lack"
