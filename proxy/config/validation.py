"""Settings validation: what single values can't tell, settings that don't go together and URLs that can't be used.

A rule yields pairs of the key to change and what is wrong with it; no text holds a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from proxy.config.settings import upstream_settings
from proxy.config.upstreams import ECHO, UPSTREAMS_TABLE, UpstreamConfig, is_meant_by
from proxy.config.values import is_loopback, key_from_text

if TYPE_CHECKING:
    from proxy.config.settings import Config
    from proxy.config.upstreams import NamedUpstreamConfig

Violation: TypeAlias = tuple[str, str]

#: Where path, query or fragment of a URL without its scheme begin.
_NETLOC_END = re.compile(r"(?=[/?#])")

#: What `redis.url` may begin with.
REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")


#: What `data.max_memory_bytes` has to be at least.
LEAST_MAX_MEMORY_BYTES = 16 * 1024 * 1024


def violations(config: Config) -> Iterator[Violation]:
    """Yield every rule that `config` breaks: the key to change and what is wrong with it."""
    for rule in _RULES:
        yield from rule(config)


def warnings(config: Config) -> Iterator[str]:
    """Yield what is allowed but seldom meant, for the log at start-up."""
    keys = [f"{_place(name)}.api_key" for name, one in upstream_settings(config).items() if one.api_key]
    if config.auth.mode == "passthrough" and keys and not is_loopback(config.server.host):
        yield (
            f'auth.mode = "passthrough" with {" and ".join(keys)} on {config.server.host}: any token spends that key; '
            'use "jwt" or "api_keys" for callers of your own'
        )
    if config.metrics.port and not is_loopback(config.metrics.host):
        yield f"metrics.host is {config.metrics.host}: whoever reaches its port may read the metrics, without a key"
    if config.redis.url and not config.sealing.key:
        yield (
            "redis.url is set and sealing.key is not: other replicas can't take over this one's background responses, "
            "nor read its compactions or the sessions of its page; give all of them the same key"
        )
    on_the_network = config.ui.enabled is True and not is_loopback(config.server.host)
    if on_the_network and not config.ui.url.lower().startswith("https://"):
        yield (
            "ui.enabled is set and ui.url does not begin with https://: keys that people sign in with, and all that "
            "they look at, go over the network in the clear"
        )


def _check_auth(config: Config) -> Iterator[Violation]:
    auth = config.auth
    if auth.mode == "none" and not is_loopback(config.server.host) and not auth.allow_public_none:
        public = f'"none" makes everybody who reaches {config.server.host} one owner'
        yield "auth.mode", f"{public}; listen on 127.0.0.1 or set auth.allow_public_none = true"
    if auth.mode == "api_keys" and not auth.api_keys:
        yield "auth.api_keys", 'is empty, so nobody could call while auth.mode is "api_keys"'


def _check_jwt(config: Config) -> Iterator[Violation]:
    if config.auth.mode != "jwt":
        return
    jwt = config.auth.jwt
    given = [name for name in ("secret", "key_file", "jwks_url") if getattr(jwt, name)]
    if len(given) != 1:
        found = " and ".join(f"auth.jwt.{name}" for name in given) or "none"
        yield "auth.mode", f'"jwt" needs one of auth.jwt.secret, .key_file and .jwks_url; set: {found}'
    if not jwt.algorithms:
        yield "auth.jwt.algorithms", 'is empty; name the algorithms to accept, as in ["RS256"]'


def _check_upstreams(config: Config) -> Iterator[Violation]:
    for name, one in upstream_settings(config).items():
        if problem := _url_problem(one.url, _place(name)):
            yield f"{_place(name)}.url", problem
    if config.upstreams:
        for field in ("url", "api_key"):
            if getattr(config.upstream, field) != getattr(UpstreamConfig(), field):
                others = ", ".join(map(_place, config.upstreams))
                yield f"upstream.{field}", f"is not used beside {others}: set upstreams.NAME.{field}, or remove those"
    for name, named in config.upstreams.items():
        yield from _check_named(name, named, config.auth.mode)


def _check_named(name: str, one: NamedUpstreamConfig, mode: str) -> Iterator[Violation]:
    place = _place(name)
    if not one.models:
        yield f"{place}.models", 'is empty; name the models that it serves, as in ["gpt-4*"], or "*" for all'
    for model in one.rename:
        if not any(is_meant_by(pattern, model) for pattern in one.models):
            yield f"{place}.rename", f'has "{model}", which none of {place}.models is'
    if one.caller_key and one.api_key:
        yield f"{place}.caller_key", f"must be false where there is {place}.api_key: only one of them can be sent"
    elif one.caller_key and mode != "passthrough":
        yield (
            f"{place}.caller_key",
            f'must be false under auth.mode "{mode}": what callers send is not for it',
        )


def _place(name: str) -> str:
    """Return the section of a model server. name: '' for the only one."""
    return f"{UPSTREAMS_TABLE}.{name}" if name else "upstream"


def _url_problem(text: str, place: str) -> str:
    """Return what is wrong with the URL of a model server, '' if nothing is. place: its section."""
    if text == ECHO:
        return ""
    try:
        url = urlsplit(text)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        usable = False
    if not usable:
        return f'must be an http:// or https:// URL, or "{ECHO}"'
    if "@" in url.netloc:
        return f"must not hold credentials; put the key into {place}.api_key"
    return "must not have a fragment (#…)" if url.fragment else ""


def _check_redis(config: Config) -> Iterator[Violation]:
    if not config.redis.url:
        return
    scheme, separator, rest = config.redis.url.partition("://")
    if not separator or scheme not in REDIS_SCHEMES:
        yield "redis.url", f"must begin with {', '.join(f'{name}://' for name in REDIS_SCHEMES)}"
    elif scheme == "unix":
        if not rest.startswith("/"):
            yield "redis.url", "must name the socket by its absolute path: unix:///path/to/socket"
    elif not _names_hosts(rest):
        yield (
            "redis.url",
            f"must be {scheme}://user:password@host:port; special characters in the password are percent-encoded",
        )
    elif scheme.endswith("+sentinel") and not _service_of(rest):
        yield "redis.url", f"must name the service: {scheme}://host:port/service"


def _check_data(config: Config) -> Iterator[Violation]:
    if 0 < config.data.max_memory_bytes < LEAST_MAX_MEMORY_BYTES:
        yield "data.max_memory_bytes", "must be 0 or at least 16777216 (16 MiB): an empty Valkey takes some of it"


def _check_sealing(config: Config) -> Iterator[Violation]:
    try:
        if config.sealing.key:
            key_from_text(config.sealing.key)
    except ValueError as exc:
        yield "sealing.key", str(exc)


def _check_retention(config: Config) -> Iterator[Violation]:
    conversations, responses = config.conversations.retention_days, config.responses.retention_days
    if conversations and (not responses or conversations < responses):
        yield (
            "conversations.retention_days",
            "must be 0 or at least responses.retention_days: responses need the items of their conversations",
        )


def _check_metrics(config: Config) -> Iterator[Violation]:
    server, metrics = config.server, config.metrics
    if metrics.port and metrics.port == server.port:
        yield "metrics.port", "must be another one than server.port: what is in front of that must not show the metrics"


def _check_ui(config: Config) -> Iterator[Violation]:
    try:
        url = urlsplit(config.ui.url)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0 and "@" not in url.netloc
    except ValueError:
        usable = False
    if config.ui.url and not (usable and url.path in ("", "/") and not url.query and not url.fragment):
        yield "ui.url", "must be http:// or https:// with a host, and no path: the page is at /ui/ below it"


def _service_of(rest: str) -> str:
    """Return the path of what follows the scheme, without slashes."""
    return urlsplit(rest[len(_NETLOC_END.split(rest, maxsplit=1)[0]) :]).path.strip("/")


def _names_hosts(rest: str) -> bool:
    """Tell whether what follows the scheme is host:port, once or several times separated by commas."""
    try:
        # urlsplit takes one IPv6 address in brackets, not several
        netloc = _NETLOC_END.split(rest, maxsplit=1)[0]
        parts = urlsplit(rest[len(netloc) :])
        # an @ further on was meant to end a password that has a bare slash
        if "@" in parts.path or "@" in parts.query or "@" in parts.fragment:
            return False
        hosts = [urlsplit(f"//{host}") for host in netloc.rpartition("@")[2].split(",")]
        return all(host.hostname and host.port != 0 for host in hosts)
    except ValueError:
        return False


_RULES = (
    _check_auth,
    _check_jwt,
    _check_upstreams,
    _check_redis,
    _check_data,
    _check_sealing,
    _check_retention,
    _check_ui,
    _check_metrics,
)
