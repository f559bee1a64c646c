"""Connection: one Redis client from one URL; single server, Unix socket, Sentinel or Cluster."""

from __future__ import annotations

import ipaddress
import re
from functools import partial
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import ConnectionPool, Redis, SSLConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialBackoff, NoBackoff

from storage.client.barrier import Barrier
from storage.client.channel import Channel
from storage.client.cluster.channel import ClusterChannel
from storage.client.cluster.topology import Address, Topology
from storage.client.dialer import Dialer
from storage.client.followed import Followed
from storage.client.named import NamedServer
from storage.client.primary import Primary
from storage.client.replicated import ReplicatedChannel
from storage.client.server_channel import ServerChannel

#: Where path, query or fragment begin.
_NETLOC_END = re.compile(r"(?=[/?#])")

Client: TypeAlias = Redis | Topology

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")


def connect(url: str, *, timeout_seconds: float, max_connections: int) -> Client:
    """Return a client for `url`; nothing is sent yet. timeout_seconds: for a connection; calls have their own.

    url: `redis://[user:password@]host:port/db`, `rediss://…`, `unix:///path`,
    `redis+sentinel://[user:password@]host:port[,host:port…]/service?db=0`, `redis+cluster://host:port[,…]`; with TLS
    `rediss+sentinel://…` (to Sentinels and servers) and `rediss+cluster://…`, with the options of `rediss://`.
    Raises ValueError for any other URL.
    """
    scheme, _, _ = url.partition("://")
    options: dict[str, Any] = {
        # With a timeout redis-py waits in asyncio.wait_for, which on Python 3.11 can swallow a cancellation.
        "socket_timeout": None,
        "socket_connect_timeout": timeout_seconds,
        "retry": Retry(ExponentialBackoff(cap=0.1, base=0.02), 1),
    }
    if scheme.endswith("+cluster") and scheme in SCHEMES:
        return _cluster(url, options, timeout_seconds)
    if scheme.endswith("+sentinel") and scheme in SCHEMES:
        return _sentinel(url, options, max_connections)
    if scheme not in SCHEMES:
        raise ValueError(f"redis.url must start with one of {', '.join(f'{name}://' for name in SCHEMES)}")
    # Without, each connection looks redis-py's own version up in the installed packages (3 ms) and tells it.
    return Redis.from_pool(ConnectionPool.from_url(url, driver_info=None, **options))


class _Place(NamedTuple):
    """What a URL of several hosts says. login: user and password, as far as it has them; tls: redis-py's options."""

    addresses: list[tuple[str, int]]
    login: dict[str, Any]
    path: str
    query: dict[str, str]
    tls: dict[str, Any]


def _read_place(url: str) -> _Place:
    """Read a URL of Sentinel or a cluster: hosts with commas between them, IPv6 addresses in brackets."""
    scheme, _, rest = url.partition("://")
    # urlsplit takes one address in brackets, not several
    netloc = _NETLOC_END.split(rest, maxsplit=1)[0]
    parts = urlsplit(rest[len(netloc) :])
    credentials, _, hosts = netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    login = {"username": unquote(user), "password": unquote(password)}
    found = [urlsplit(f"//{host}") for host in hosts.split(",")]
    return _Place(
        addresses=[(host.hostname or "", host.port or 6379) for host in found],
        login={key: value for key, value in login.items() if value},
        path=parts.path.strip("/"),
        query=dict(parse_qsl(parts.query)),
        tls=_tls_options(parts.query) if scheme.startswith("rediss+") else {},
    )


def _tls_options(query: str) -> dict[str, Any]:
    """Return what `rediss://` takes of a query (`ssl_ca_certs`, `ssl_certfile`, …), for a connection with TLS."""
    known = {name: value for name, value in parse_url(f"rediss://host?{query}").items() if name.startswith("ssl_")}
    return {"ssl": True, **known}


def _cluster(url: str, options: dict[str, Any], timeout_seconds: float) -> Topology:
    place = _read_place(url)
    # who knows the cluster repeats, and elsewhere
    options = {**options, **place.login, **place.tls, "retry": Retry(NoBackoff(), 0), "driver_info": None}
    if options.pop("ssl", False):
        options["connection_class"] = SSLConnection

    def pool_of(address: Address) -> ConnectionPool:
        host, port = address
        return ConnectionPool(host=host, port=port, **options)

    return Topology(place.addresses, pool_of, timeout_seconds=timeout_seconds)


def _sentinel(url: str, options: dict[str, Any], max_connections: int) -> Redis:
    place = _read_place(url)
    if not place.path:
        raise ValueError("redis.url names no service: redis+sentinel://host:port/SERVICE")
    options = {**options, **place.tls}
    sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
        place.addresses, sentinel_kwargs={**options, **place.login}, **options
    )
    database = int(place.query.get("db", "0"))
    master: Redis = sentinel.master_for(place.path, db=database, max_connections=max_connections, **place.login)
    return master


def find_followed(client: Client) -> Followed | None:
    """Return what follows the server of a client: Sentinel's primary, or where a name leads. None where nothing can.

    A cluster's nodes tell of each other.
    """
    if isinstance(client, Topology):
        return None
    pool = client.connection_pool
    if isinstance(pool, SentinelConnectionPool):
        return Primary(pool)
    host, port = pool.connection_kwargs.get("host", ""), pool.connection_kwargs.get("port", 6379)
    return NamedServer(host, port) if host and not _is_ip(host) else None


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def open_channel(
    client: Client, *, timeout_seconds: float, max_connections: int, followed: Followed | None = None
) -> Channel:
    """Return the channel that the store talks over. timeout_seconds: for one exchange, its connection included.

    followed: the client's server, where that may change and the channel is to follow it.
    """
    if isinstance(client, Topology):
        return _cluster_channel(client, limit=max_connections, timeout_seconds=timeout_seconds)
    return _server_channel(client, followed, limit=max_connections, timeout_seconds=timeout_seconds)


def open_blocking_channel(client: Client, *, timeout_seconds: float, followed: Followed | None = None) -> Channel:
    """Return a channel for commands that the server keeps waiting: nothing else waits behind them."""
    if isinstance(client, Topology):
        return _cluster_channel(client, limit=1, timeout_seconds=timeout_seconds, blocking=True)
    return _server_channel(client, followed, limit=1, timeout_seconds=timeout_seconds, blocking=True)


def open_replicated_channel(
    client: Client, barrier: Barrier, *, timeout_seconds: float, followed: Followed | None = None
) -> Channel:
    """Return a channel for writes that are to be with replicas before they are told."""
    if isinstance(client, Topology):
        return _cluster_channel(client, limit=1, timeout_seconds=timeout_seconds, barrier=barrier)
    channel = _server_channel(client, followed, limit=1, timeout_seconds=timeout_seconds)
    return ReplicatedChannel(channel, barrier)


def _cluster_channel(
    topology: Topology,
    *,
    limit: int,
    timeout_seconds: float,
    blocking: bool = False,
    barrier: Barrier | None = None,
) -> ClusterChannel:
    """Return a channel to a cluster. limit: connections to each node. barrier: what stands behind the commands."""

    def open_node(address: Address) -> Channel:
        dialer = topology.dialer_to(address)
        node = ServerChannel(dialer, limit=limit, timeout_seconds=timeout_seconds, blocking=blocking, repeats=False)
        if barrier is None:
            return node
        return ReplicatedChannel(node, barrier, partial(topology.some_tag, address))

    return ClusterChannel(topology, open_node, timeout_seconds=timeout_seconds)


def _server_channel(
    client: Redis, followed: Followed | None, *, limit: int, timeout_seconds: float, blocking: bool = False
) -> ServerChannel:
    followed = followed or find_followed(client)
    dialer = Dialer(client.connection_pool, followed)
    channel = ServerChannel(dialer, limit=limit, timeout_seconds=timeout_seconds, blocking=blocking)
    if followed is not None:
        followed.on_change(channel.drop)
    return channel
