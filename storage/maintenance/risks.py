"""Risks: settings of a server that can lose what it acknowledged, and rights that its user lacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from redis import exceptions as redis_errors

from storage.client.channel import Channel
from storage.client.keys import probe_key
from storage.client.keyspace import Keyspace
from storage.client.scripts import Call, translated

#: The settings that are looked at.
RISKY_SETTINGS = ("maxmemory-policy", "appendonly", "appendfsync", "save")


class Risks:
    """What can go wrong with a server that works now. min_replicas: how many a write waits for."""

    def __init__(self, channel: Channel, keyspace: Keyspace, min_replicas: int) -> None:
        self._channel = channel
        self._scripts = keyspace.scripts
        self._probe = probe_key(keyspace.prefix, "0")
        self._min_replicas = min_replicas

    async def find(self) -> list[str]:
        """Return a sentence for each setting that can lose what was acknowledged, with its name. Raises Unavailable."""
        with translated():
            settings, role = await self._channel.exchange([("CONFIG", "GET", *RISKY_SETTINGS), ("INFO", "replication")])
        if isinstance(settings, redis_errors.ResponseError):
            found = [
                f"{', '.join(RISKY_SETTINGS[:3])} can't be checked: the server does not tell its settings (CONFIG GET)"
            ]
        else:
            found = list(_of_settings(_as_dict(settings)))
        replicas = _replicas(role)
        if replicas and not self._min_replicas:
            followed = f"the server has {replicas} replica{'s' if replicas > 1 else ''}"
            found.append(f"redis.min_replicas is 0 and {followed}: a failover may lose the last writes")
        return found

    async def missing_rights(self) -> list[str]:
        """Return the commands that scripts need and this user may not run. Raises Unavailable."""
        (forbidden,) = await self._scripts.run(Call("check_rights", [self._probe], []))
        return [name.decode() for name in forbidden]


def _of_settings(settings: Mapping[str, str]) -> Iterator[str]:
    policy, fsync = settings.get("maxmemory-policy", "noeviction"), settings.get("appendfsync", "always")
    if policy != "noeviction":
        yield f"maxmemory-policy is {policy}: once memory is full conversations are thrown away; set it to noeviction"
    if settings.get("appendonly") == "no":
        kept = "since the last snapshot is" if settings.get("save") else "is"
        yield f"appendonly is no: with a restart all that was stored {kept} lost; set it to yes"
    elif fsync != "always":
        span = "up to a second" if fsync == "everysec" else "an unknown time"
        yield f"appendfsync is {fsync}: a power cut loses {span} of what was acknowledged; set it to always"


def _as_dict(reply: Any) -> dict[str, str]:
    """Return the settings of a reply to CONFIG GET: a map, or (RESP2) a flat list."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {_text(name): _text(value) for name, value in pairs}


def _replicas(reply: Any) -> int:
    """Return how many replicas follow, as INFO tells; 0 where it may not be asked."""
    if isinstance(reply, Exception):
        return 0
    if isinstance(reply, dict):
        return int(reply.get("connected_slaves", 0))
    lines = _text(reply).splitlines()
    return next((int(line.partition(":")[2]) for line in lines if line.startswith("connected_slaves:")), 0)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
