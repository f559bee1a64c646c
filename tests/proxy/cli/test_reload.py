from __future__ import annotations

import pytest

from proxy.cli.reload import keep_fixed
from proxy.config.loading import ConfigError
from proxy.config.settings import AuthConfig, Config, DataConfig, RedisConfig, Secret, ServerConfig

HERE, THERE = Secret("redis://here:6379"), Secret("redis://there:6379")


def test_what_the_supervisor_holds_stays_and_is_named():
    running = Config()
    new = Config(server=ServerConfig(host="::1", port=1, workers=3), data=DataConfig(dir="/other"))
    kept, names = keep_fixed(running, new)
    assert kept == Config(server=ServerConfig(workers=3))
    assert names == ["server.host", "server.port", "data.dir"]


@pytest.mark.parametrize(
    ("before", "after", "stays"),
    [
        (HERE, THERE, False),
        (HERE, Secret(""), True),
        (Secret(""), HERE, True),
    ],
)
def test_another_server_may_be_used_but_not_in_place_of_the_embedded_one(before: Secret, after: Secret, stays: bool):
    kept, names = keep_fixed(Config(redis=RedisConfig(url=before)), Config(redis=RedisConfig(url=after, prefix="p")))
    assert kept.redis == RedisConfig(url=before if stays else after, prefix="p")
    assert names == (["redis.url"] if stays else [])


def test_nothing_to_keep_is_nothing_to_say():
    assert keep_fixed(Config(), Config()) == (Config(), [])


def test_what_only_goes_with_an_address_that_stays_is_refused():
    running = Config(server=ServerConfig(host="0.0.0.0"))
    new = Config(server=ServerConfig(host="127.0.0.1"), auth=AuthConfig(mode="none"))
    with pytest.raises(ConfigError, match=r'auth\.mode: "none" .* \(until a restart server\.host can\'t change\)'):
        keep_fixed(running, new)
