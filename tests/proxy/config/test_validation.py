import pytest

from proxy.config.loading import build
from proxy.config.settings import Config
from proxy.config.validation import violations, warnings


def broken(**values):
    """Keys that the rules complain about; `values` have `__` for the dots of their keys."""
    return [key for key, _ in violations(configured(values))]


def configured(values):
    return build(Config, "", {key.replace("__", "."): value for key, value in values.items()})


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({}, 0),
        ({"server__host": "0.0.0.0"}, 0),
        ({"upstream__api_key": "sk-up"}, 0),
        ({"server__host": "0.0.0.0", "upstream__api_key": "sk-up"}, 1),
    ],
)
def test_a_key_that_anybody_may_spend_is_warned_of_without_showing_it(values, count):
    found = list(warnings(configured(values)))
    assert len(found) == count
    assert "sk-up" not in "".join(found)


def test_the_defaults_break_no_rule():
    assert broken() == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "box.example"])
def test_mode_none_needs_a_loopback_address_or_leave(host):
    assert broken(auth__mode="none", server__host=host) == ["auth.mode"]
    assert broken(auth__mode="none", server__host=host, auth__allow_public_none=True) == []
    assert broken(auth__mode="none") == []


def test_mode_api_keys_needs_keys():
    assert broken(auth__mode="api_keys") == ["auth.api_keys"]
    assert broken(auth__mode="api_keys", auth__api_keys={"a": "0" * 64}) == []


def test_mode_jwt_needs_one_source_of_keys_and_algorithms():
    given = {"auth__mode": "jwt", "auth__jwt__algorithms": ("HS256",)}
    assert broken(**given, auth__jwt__secret="s") == []
    assert broken(**given) == ["auth.mode"]
    assert broken(**given, auth__jwt__secret="s", auth__jwt__key_file="f") == ["auth.mode"]
    assert broken(auth__mode="jwt", auth__jwt__secret="s") == ["auth.jwt.algorithms"]
    assert broken(auth__jwt__secret="s", auth__jwt__key_file="f") == []


@pytest.mark.parametrize(
    "url", ["echo", "http://127.0.0.1:8000/v1", "https://[::1]/v1", "https://h.example/v1?api-version=1"]
)
def test_upstreams_that_can_be_used(url):
    assert broken(upstream__url=url) == []


@pytest.mark.parametrize(
    "url", ["", "ftp://h/v1", "h.example/v1", "http://", "http://h:x/v1", "http://u:p@h/v1", "http://h/v1#x"]
)
def test_upstreams_that_can_not_be_used(url):
    assert broken(upstream__url=url) == ["upstream.url"]


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "rediss://user:p%2Fw@h.example:6380/2?ssl_cert_reqs=required",
        "redis://[::1]:6379",
        "unix:///run/redis.sock?db=1",
        "redis+sentinel://:pw@a:26379,b:26379/main?db=0",
        "redis+cluster://a:7000,b:7001",
        "redis+sentinel://[::1]:26379,a:26379,[fe80::1]:26379/main",
        "rediss+sentinel://u:p@[::1]:26379/main?ssl_ca_certs=/ca.pem",
        "rediss+cluster://[::1]:7000,[::2]:7000",
    ],
)
def test_stores_that_can_be_used(url):
    assert broken(redis__url=url) == []


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "valkey://h",
        "redis:h",
        "redis://",
        "redis://h:port",
        "redis://:p/w@h:6379",
        "redis://u:12/34@h:6379",
        "unix://run/redis.sock",
        "redis+sentinel://a:26379",
        "redis+sentinel://a:26379?db=0",
        "rediss+sentinel://[::1]:26379",
        "redis+cluster://[::1:7000",
        "redissentinel+cluster://a:7000",
        "redis+cluster://a:7000,:7001",
    ],
)
def test_stores_that_can_not_be_used(url):
    assert broken(redis__url=url) == ["redis.url"]


@pytest.mark.parametrize(
    ("conversations", "responses", "works"),
    [(0, 30, True), (0, 0, True), (30, 30, True), (31, 30, True), (29, 30, False), (29, 0, False)],
)
def test_conversations_are_kept_at_least_as_long_as_responses(conversations, responses, works):
    found = broken(conversations__retention_days=conversations, responses__retention_days=responses)
    assert found == ([] if works else ["conversations.retention_days"])
