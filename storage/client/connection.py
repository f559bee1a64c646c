"""Connection: one Redis client from one URL; single server, Unix socket, Sentinel or Cluster."""

from __future__ import annotations

from typing import Any, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialBackoff

from storage.client.barrier import Barrier
from storage.client.channel import Channel
from storage.client.cluster_channel import ClusterChannel
from storage.client.dialer import Dialer
from storage.client.primary import Primary
from storage.client.replicated import ReplicatedChannel
from storage.client.server_channel import ServerChannel

Client: TypeAlias = Redis | RedisCluster

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")


def connect(url: str, *, timeout_seconds: float, max_connections: int) -> Client:
    """Return a client for `url`; nothing is sent yet. timeout_seconds: for a connection; calls have their own.

    url: `redis://[user:password@]host:port/db`, `rediss://…`, `unix:///path`,
    `redis+sentinel://[user:password@]host:port[,host:port…]/service?db=0`, `redis+cluster://host:port[,…]`.
    Raises ValueError for any other URL.
    """
    scheme, _, rest = url.partition("://")
    options: dict[str, Any] = {
        # With a timeout redis-py waits in asyncio.wait_for, which on Python 3.11 can swallow a cancellation.
        "socket_timeout": None,
        "socket_connect_timeout": timeout_seconds,
        "retry": Retry(ExponentialBackoff(cap=0.1, base=0.02), 1),
    }
    if scheme == "redis+cluster":
        return _cluster(rest, options, max_connections)
    if scheme == "redis+sentinel":
        return _sentinel(rest, options, max_connections)
    if scheme not in SCHEMES:
        raise ValueError(f"redis.url must start with one of {', '.join(f'{name}://' for name in SCHEMES)}")
    # Without, each connection looks redis-py's own version up in the installed packages (3 ms) and tells it.
    return Redis.from_pool(ConnectionPool.from_url(url, driver_info=None, **options))


def _hosts(netloc: str) -> tuple[dict[str, Any], list[tuple[str, int]]]:
    credentials, _, hosts = netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    login = {"username": unquote(user), "password": unquote(password)}
    addresses = []
    for host in hosts.split(","):
        name, _, port = host.partition(":")
        addresses.append((name, int(port or 6379)))
    return {key: value for key, value in login.items() if value}, addresses


def _cluster(rest: str, options: dict[str, Any], max_connections: int) -> RedisCluster:
    parts = urlsplit("//" + rest)
    login, addresses = _hosts(parts.netloc)
    nodes = [ClusterNode(host, port) for host, port in addresses]
    return RedisCluster(startup_nodes=nodes, max_connections=max_connections, **login, **options)


def _sentinel(rest: str, options: dict[str, Any], max_connections: int) -> Redis:
    parts = urlsplit("//" + rest)
    login, addresses = _hosts(parts.netloc)
    service = parts.path.strip("/")
    if not service:
        raise ValueError("redis.url names no service: redis+sentinel://host:port/SERVICE")
    database = int(dict(parse_qsl(parts.query)).get("db", "0"))
    sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
        addresses, sentinel_kwargs={**options, **login}, **options
    )
    master: Redis = sentinel.master_for(service, db=database, max_connections=max_connections, **login)
    return master


def find_primary(client: Client) -> Primary | None:
    """Return what follows the primary of a client for Sentinel; None for any other."""
    pool = None if isinstance(client, RedisCluster) else client.connection_pool
    return Primary(pool) if isinstance(pool, SentinelConnectionPool) else None


def open_channel(
    client: Client, *, timeout_seconds: float, max_connections: int, primary: Primary | None = None
) -> Channel:
    """Return the channel that the store talks over. timeout_seconds: for one exchange, its connection included.

    primary: the client's, where it has one and the channel is to follow it.
    """
    if isinstance(client, RedisCluster):
        return ClusterChannel(client, timeout_seconds=timeout_seconds)
    return _server_channel(client, primary, limit=max_connections, timeout_seconds=timeout_seconds)


def open_blocking_channel(client: Client, *, timeout_seconds: float, primary: Primary | None = None) -> Channel:
    """Return a channel for commands that the server keeps waiting: nothing else waits behind them."""
    if isinstance(client, RedisCluster):
        return ClusterChannel(client, timeout_seconds=timeout_seconds)
    return _server_channel(client, primary, limit=1, timeout_seconds=timeout_seconds, blocking=True)


def open_replicated_channel(
    client: Client, barrier: Barrier, *, timeout_seconds: float, primary: Primary | None = None
) -> Channel:
    """Return a channel for writes that are to be with replicas before they are told."""
    if isinstance(client, RedisCluster):
        return ClusterChannel(client, timeout_seconds=timeout_seconds, barrier=barrier)
    channel = _server_channel(client, primary, limit=1, timeout_seconds=timeout_seconds)
    return ReplicatedChannel(channel, barrier)


def _server_channel(
    client: Redis, primary: Primary | None, *, limit: int, timeout_seconds: float, blocking: bool = False
) -> ServerChannel:
    primary = primary or find_primary(client)
    dialer = Dialer(client.connection_pool, primary)
    channel = ServerChannel(dialer, limit=limit, timeout_seconds=timeout_seconds, blocking=blocking)
    if primary is not None:
        primary.on_change(channel.drop)
    return channel
