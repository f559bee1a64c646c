import pytest

from proxy.cli.banner import render_banner
from proxy.config.settings import Config, ServerConfig, UiConfig
from proxy.config.values import base_url, describe_redis, describe_upstream


def test_the_block_has_what_an_app_needs():
    block = render_banner(Config(), ("127.0.0.1", 8080), "embedded Valkey 9.1.2 in /data")
    for line in (
        'base_url = "http://127.0.0.1:8080/v1"',
        "OPENAI_BASE_URL=http://127.0.0.1:8080/v1",
        "store     embedded Valkey 9.1.2 in /data",
        "upstream  https://api.openai.com/v1",
        "auth      passthrough: every caller by its own upstream key",
        "page      http://127.0.0.1:8080/ui/",
    ):
        assert f"  {line}\n" in block
    assert "workers" not in block
    assert "  workers   4\n" in render_banner(Config(), ("127.0.0.1", 8080), "embedded", workers=4)


def test_the_page_is_named_where_there_is_one():
    public = ServerConfig(host="0.0.0.0")
    assert "page" not in render_banner(Config(server=public), ("0.0.0.0", 80), "embedded")
    on = Config(server=public, ui=UiConfig(enabled=True, url="https://llm.example/"))
    assert "  page      https://llm.example/ui/\n" in render_banner(on, ("0.0.0.0", 80), "embedded")
    assert "page" not in render_banner(Config(ui=UiConfig(enabled=False)), ("127.0.0.1", 80), "embedded")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80/v1"),
        ("0.0.0.0", "http://127.0.0.1:80/v1"),
        ("::", "http://127.0.0.1:80/v1"),
        ("::1", "http://[::1]:80/v1"),
        ("box.example", "http://box.example:80/v1"),
    ],
)
def test_the_base_url_is_one_that_can_be_opened_here(host, url):
    assert base_url(host, 80) == url


def test_places_are_named_without_their_secrets():
    assert describe_redis("rediss://user:pw@h.example:6380/2?password=pw") == "rediss://h.example:6380/2"
    assert describe_redis("redis+cluster://:pw@a:1,b:2") == "redis+cluster://a:1,b:2"
    assert describe_redis("unix:///run/redis.sock?password=pw") == "unix:///run/redis.sock"
    assert describe_upstream("https://h.example/v1?key=pw") == "https://h.example/v1"
