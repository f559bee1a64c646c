"""Snapshot: all keys of a Redis server as text, and back onto a server at any later time.

The first line of the text says when it was taken, each other one is a key, sorted by name:

    {"now_ms": 1795921840492, "origin": "Branchline 0.1.0 on Valkey 9.1.2"}
    {"key": "branchline:{…}:partition", "type": "hash", "ttl_ms": null, "value": {"owner": "…", "reach:0": "…"}}

Values are text; bytes that are no UTF-8 are `{"base64": "…"}`. Lists and hashes are as in JSON, hashes in the order of
their fields; a sorted set is a list of `[member, score]`, a stream has `entries`, `last_id` and its `groups` with the
entries that wait for an acknowledgement: `[id, consumer, ms since it was delivered, times delivered]`.

A server's clock goes on, and a store counts on it. So `load` gives every key the time to live that it had, counted
from now, and moves along what the store compares with the clock (`_DEADLINES`); nothing else is changed.

`redis` is a client whose answers are bytes: redis-py's types allow for text.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

#: Key and field of hashes whose values begin with a time of the server's clock in ms; 0 stands for none.
_DEADLINES = (
    (re.compile(r".+\}:partition"), re.compile(r"reach:\d+")),
    (re.compile(r".+\}:response:.+"), re.compile(r"accepted_at|lease_until")),
    (re.compile(r".+\}:idempotency:.+"), re.compile(r"lease")),
)
#: Arguments of one command.
_CHUNK = 1000

Command = list[Any]


@dataclass(frozen=True)
class Snapshot:
    """What a server held. now_ms: its clock. origin: who wrote it, and where. keys: see the module's text."""

    now_ms: int
    origin: str
    keys: Sequence[dict[str, Any]]

    @classmethod
    async def take(cls, redis: Any, origin: str) -> Snapshot:
        """Return all that a server holds; nobody else may write there meanwhile."""
        names = sorted([name async for name in redis.scan_iter(count=1000)])
        keys = [await _read(redis, name) for name in names]
        return cls(await _now_ms(redis), origin, keys)

    @classmethod
    def parse(cls, text: bytes) -> Snapshot:
        """Return what `text` gave."""
        head, *keys = [orjson.loads(line) for line in text.split(b"\n") if line]
        return cls(head["now_ms"], head["origin"], keys)

    def text(self) -> bytes:
        """Return it as text, an object a line."""
        head = {"now_ms": self.now_ms, "origin": self.origin}
        return b"".join(orjson.dumps(line) + b"\n" for line in (head, *self.keys))

    def at(self, now_ms: int, *, later_seconds: float = 0.0) -> Snapshot:
        """Return it as of another time of the clock, at which it is so much older."""
        later_ms = round(later_seconds * 1000)
        keys = [key for key in self.keys if key["ttl_ms"] is None or key["ttl_ms"] > later_ms]
        shift_ms = now_ms - self.now_ms - later_ms
        return replace(self, now_ms=now_ms, keys=[_moved(key, shift_ms, later_ms) for key in keys])

    async def load(self, redis: Any, *, later_seconds: float = 0.0) -> Snapshot:
        """Write the keys to a server, so much older than they were; return them as they are there."""
        snapshot = self.at(await _now_ms(redis), later_seconds=later_seconds)
        pipeline = redis.pipeline(transaction=False)
        for key in snapshot.keys:
            for command in _WRITERS[key["type"]](key["key"], key["value"]):
                pipeline.execute_command(*command)
            if key["ttl_ms"] is not None:
                # counted from the moment that all instants are moved to: writing the keys takes a while
                pipeline.pexpireat(key["key"], snapshot.now_ms + key["ttl_ms"])
        await pipeline.execute()
        return snapshot


async def _now_ms(redis: Any) -> int:
    seconds, microseconds = await redis.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


def _moved(key: dict[str, Any], shift_ms: int, later_ms: int) -> dict[str, Any]:
    """Return a key on a clock that is ahead by so much, and older by so much."""
    value = key["value"]
    if key["type"] == "hash":
        fields = [field for name, field in _DEADLINES if name.fullmatch(key["key"])]
        value = {
            field: _ahead(content, shift_ms) if any(one.fullmatch(field) for one in fields) else content
            for field, content in value.items()
        }
    elif key["type"] == "stream":
        value = {**value, "groups": [_older(group, later_ms) for group in value["groups"]]}
    return {**key, "value": value, "ttl_ms": key["ttl_ms"] and key["ttl_ms"] - later_ms}


def _ahead(deadline: str, shift_ms: int) -> str:
    """Return a deadline, perhaps with something behind it, so much later; 0 is none."""
    return re.sub(r"^[1-9]\d*", lambda found: str(int(found[0]) + shift_ms), deadline)


def _older(group: dict[str, Any], later_ms: int) -> dict[str, Any]:
    pending = [[entry, consumer, idle_ms + later_ms, times] for entry, consumer, idle_ms, times in group["pending"]]
    return {**group, "pending": pending}


# Reading.


async def _read(redis: Any, name: bytes) -> dict[str, Any]:
    kind, ttl_ms = (await redis.type(name)).decode(), await redis.pttl(name)
    value = await _READERS[kind](redis, name)
    return {"key": name.decode(), "type": kind, "ttl_ms": None if ttl_ms == -1 else ttl_ms, "value": value}


async def _read_string(redis: Any, name: bytes) -> Any:
    return _text(await redis.get(name))


async def _read_list(redis: Any, name: bytes) -> list[Any]:
    return [_text(element) for element in await redis.lrange(name, 0, -1)]


async def _read_hash(redis: Any, name: bytes) -> dict[str, Any]:
    pairs = (await redis.hgetall(name)).items()
    return dict(sorted((field.decode(), _text(value)) for field, value in pairs))


async def _read_sorted_set(redis: Any, name: bytes) -> list[Any]:
    pairs = await redis.zrange(name, 0, -1, withscores=True)
    assert all(score == int(score) for _, score in pairs)
    return [[_text(member), int(score)] for member, score in pairs]


async def _read_stream(redis: Any, name: bytes) -> dict[str, Any]:
    entries = [
        [entry_id.decode(), {field.decode(): _text(value) for field, value in fields.items()}]
        for entry_id, fields in await redis.xrange(name)
    ]
    last_id = (await redis.xinfo_stream(name))["last-generated-id"].decode()
    groups = [await _read_group(redis, name, group) for group in await redis.xinfo_groups(name)]
    return {"entries": entries, "last_id": last_id, "groups": groups}


async def _read_group(redis: Any, name: bytes, group: Any) -> dict[str, Any]:
    consumers = [consumer["name"].decode() for consumer in await redis.xinfo_consumers(name, group["name"])]
    pending = [
        [one["message_id"].decode(), one["consumer"].decode(), one["time_since_delivered"], one["times_delivered"]]
        for one in await redis.xpending_range(name, group["name"], "-", "+", 1000)
    ]
    last = group["last-delivered-id"].decode()
    return {"name": group["name"].decode(), "last_id": last, "consumers": sorted(consumers), "pending": pending}


_READERS = {
    "string": _read_string,
    "list": _read_list,
    "hash": _read_hash,
    "zset": _read_sorted_set,
    "stream": _read_stream,
}


def _text(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


# Writing.


def _write_string(key: str, value: Any) -> Iterator[Command]:
    yield ["SET", key, _bytes(value)]


def _write_list(key: str, value: Any) -> Iterator[Command]:
    for first in range(0, len(value), _CHUNK):
        yield ["RPUSH", key, *map(_bytes, value[first : first + _CHUNK])]


def _write_hash(key: str, value: Any) -> Iterator[Command]:
    yield ["HSET", key, *(part for field, content in value.items() for part in (field, _bytes(content)))]


def _write_sorted_set(key: str, value: Any) -> Iterator[Command]:
    yield ["ZADD", key, *(part for member, score in value for part in (score, _bytes(member)))]


def _write_stream(key: str, value: Any) -> Iterator[Command]:
    for entry_id, fields in value["entries"]:
        yield ["XADD", key, entry_id, *(part for name, content in fields.items() for part in (name, _bytes(content)))]
    if not value["entries"] or value["entries"][-1][0] != value["last_id"]:
        # an entry that is gone: the next one must not get its id
        yield ["XADD", key, value["last_id"], "gone", "1"]
        yield ["XDEL", key, value["last_id"]]
    for group in value["groups"]:
        yield ["XGROUP", "CREATE", key, group["name"], group["last_id"]]
        for consumer in group["consumers"]:
            yield ["XGROUP", "CREATECONSUMER", key, group["name"], consumer]
        for entry_id, consumer, idle_ms, times in group["pending"]:
            how = ("IDLE", idle_ms, "RETRYCOUNT", times, "FORCE")
            yield ["XCLAIM", key, group["name"], consumer, 0, entry_id, *how]


_WRITERS = {
    "string": _write_string,
    "list": _write_list,
    "hash": _write_hash,
    "zset": _write_sorted_set,
    "stream": _write_stream,
}


def _bytes(value: str | dict[str, str]) -> bytes:
    return value.encode() if isinstance(value, str) else base64.b64decode(value["base64"])
