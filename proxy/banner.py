"""What `branchline serve` prints once it listens, and how places are named without their secrets."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proxy import __version__

if TYPE_CHECKING:
    from proxy.config import Config

_AUTH = {
    "passthrough": "passthrough: every caller by its own upstream key",
    "jwt": "jwt: every caller by its verified token",
    "api_keys": "api_keys: every caller by its Branchline key",
    "none": "none: everybody is one owner",
}


def render(config: Config, address: tuple[str, int], store: str) -> str:
    """Return the start-up block. address: host and port listened on. store: what holds the state."""
    base = base_url(*address)
    return "\n".join(
        [
            f"Branchline {__version__} listens on {base.removesuffix('/v1')}",
            "",
            f"  store     {store}",
            f"  upstream  {describe_upstream(config.upstream.url)}",
            f"  auth      {_AUTH[config.auth.mode]}",
            "",
            f'  base_url = "{base}"',
            f"  OPENAI_BASE_URL={base}",
            "",
        ]
    )


def base_url(host: str, port: int) -> str:
    """Return what an app on this machine sets as its base URL, for a server on `host` and `port`."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}/v1"
    if address.is_unspecified:
        return f"http://127.0.0.1:{port}/v1"
    return f"http://[{host}]:{port}/v1" if address.version == 6 else f"http://{host}:{port}/v1"


def describe_upstream(url: str) -> str:
    """Return the upstream's URL without its query, which may hold a key."""
    return "echo, the built-in model" if url == "echo" else url.partition("?")[0]


def describe_redis(url: str) -> str:
    """Return `redis.url` without user, password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
