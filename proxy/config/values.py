"""Values of settings: addresses to listen on, URLs without their secrets, keys from text."""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.config.settings import Config

KEY_BYTES = 32

#: Least number of characters of a key that is any text.
MIN_KEY_CHARACTERS = 32


def is_loopback(host: str) -> bool:
    """Tell whether `host`, a name or an address to listen on, is reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def base_url(host: str, port: int) -> str:
    """Return what an app on this machine sets as its base URL, for a server on `host` and `port`."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}/v1"
    if address.is_unspecified:
        return f"http://127.0.0.1:{port}/v1"
    return f"http://[{host}]:{port}/v1" if address.version == 6 else f"http://{host}:{port}/v1"


def page_url(config: Config, address: tuple[str, int]) -> str:
    """Return where the page for people is; '' if there is none (`ui.enabled`). address: host and port listened on."""
    is_on = is_loopback(config.server.host) if config.ui.enabled == "auto" else config.ui.enabled
    if not is_on:
        return ""
    return (config.ui.url.rstrip("/") or base_url(*address).removesuffix("/v1")) + "/ui/"


def describe_upstream(url: str) -> str:
    """Return the upstream's URL without its query, which may hold a key."""
    return "echo, the built-in model" if url == "echo" else url.partition("?")[0]


def describe_redis(url: str) -> str:
    """Return `redis.url` without user, password and options."""
    scheme, _, rest = url.partition("://")
    place = re.split("[?#]", rest, maxsplit=1)[0]
    netloc, slash, path = place.partition("/")
    return f"{scheme}://{netloc.rpartition('@')[2]}{slash}{path}"


def key_from_text(text: str) -> bytes:
    """Return the key that a setting stands for: base64 of 32 bytes as it is, other text through SHA-256.

    Raises ValueError for text of fewer than 32 characters.
    """
    if len(text) < MIN_KEY_CHARACTERS:
        raise ValueError(f"must have at least {MIN_KEY_CHARACTERS} characters")
    standard = text.replace("-", "+").replace("_", "/")
    try:
        key = base64.b64decode(standard + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    return key if len(key) == KEY_BYTES else hashlib.sha256(text.encode()).digest()
