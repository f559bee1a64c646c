"""Hosts: the names under which a server that asks for no credential answers.

A web page may have its own name's address changed to 127.0.0.1 while it is open (DNS rebinding). Its requests are then
of the same origin: no preflight, no foreign `Origin`, any header it likes. What still tells is the name in `Host`,
which a page can't choose. Addresses and loopback names are nobody's to rebind; all others are the operator's to list.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from proxy.config.values import is_loopback
from proxy.protocol.errors import Forbidden

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.config.settings import Config

#: The names that are answered to; None where everybody has to prove who they are.
KNOWN_HOSTS: web.AppKey[KnownHosts | None] = web.AppKey("known_hosts")

#: Longest `Host` that is looked at, in characters: a name of 253 and a port.
_MAX_LENGTH = 260


class KnownHosts:
    """The names of `server.allowed_hosts` and `server.host`: `api.example`, `*.example` for all below it, `*` for all.

    Ports do not matter: a page of another port on the same name can't be told apart by DNS anyway, `Origin` does that.
    """

    def __init__(self, names: Iterable[str]) -> None:
        lowered = {name.lower().rstrip(".") for name in names}
        self._exact = frozenset(name for name in lowered if not name.startswith("*"))
        self._endings = tuple(name.removeprefix("*") for name in lowered if name.startswith("*."))
        self._all = "*" in lowered
        #: What was found out of the names that came lately: a client says the same with each request.
        self._remember = lru_cache(maxsize=256)(self._judge)

    @classmethod
    def of(cls, config: Config) -> KnownHosts | None:
        """Return what `config` says; None if callers have to show a credential."""
        loopback = is_loopback(config.server.host)
        if config.auth.mode == "none" or (config.auth.mode == "passthrough" and loopback):
            public = urlsplit(config.ui.url).hostname
            return cls([*config.server.allowed_hosts, config.server.host, *([public] if public else [])])
        return None

    def know(self, host: str) -> bool:
        """Tell whether a `Host` header, with its port or without, has a name that may be answered to."""
        return self._all or (len(host) <= _MAX_LENGTH and self._remember(host))

    def _judge(self, host: str) -> bool:
        name = _name_of(host)
        return _is_own(name) or name in self._exact or name.endswith(self._endings)


def require_known_host(request: web.Request, known: KnownHosts | None) -> None:
    """Refuse a request that came under a name that a web page may have made its own. One without any is no page's.

    known: see `KNOWN_HOSTS`.
    """
    if known is not None and not all(map(known.know, request.headers.getall(hdrs.HOST, ()))):
        raise Forbidden(
            "This server asks for no credential, so it answers only to its addresses, to localhost and to the names in "
            "server.allowed_hosts; the Host of this request is none of them.",
            code="host_not_allowed",
        )


def _name_of(host: str) -> str:
    """Return the name or the address in a `Host` header, in lower case, without brackets and the root's dot."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name = host if host.count(":") > 1 else host.partition(":")[0]
    return name.lower().rstrip(".")


def _is_own(name: str) -> bool:
    """Whether it is an address, or a name that no DNS server is asked for (RFC 6761, 6.3)."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
