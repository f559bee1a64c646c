"""Two stores that are told the same, one with the scripts' plain cases and one without: they must not differ.

What is asked of the store is done on one database of a server with the scripts as they are, and on another one with the
same scripts without their plain cases. All answers are compared, and on demand every key, value and time to live.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from storage import CONTINUED, Safeguards, Store
from storage.client.channel import Channel, Command
from storage.client.keyspace import Portion
from storage.client.library import load_scripts
from storage.store import Hosting
from tests.fake import channels_to, contents_of_fake
from tests.storage.builders import PREFIX, RETENTION_SECONDS

#: By how much times may differ: both are asked one after the other, on machines that stall.
TOLERANCE_SECONDS = 20
#: What the names of scripts that only read begin with.
READING = ("read_", "list_", "compare_", "resolve_")
#: Numbers this near to the clock's are times.
_NEAR_SECONDS = 400 * 86_400
_NUMBER = re.compile(rb"(?<![0-9A-Za-z])(\d{10}(?:\d{3})?)(?![0-9A-Za-z])")
#: A score of what was gone on from.
_SCORE = re.compile(rb"^-\d{14}$")
_CONTENTS = """
local contents = {}
local reads = { hash = { 'HGETALL' }, list = { 'LRANGE', 0, -1 }, zset = { 'ZRANGE', 0, -1, 'WITHSCORES' },
  string = { 'GET' } }
for i, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key)['ok']
  local command, from, to, with = unpack(reads[kind])
  local value
  if with then
    value = redis.call(command, key, from, to, with)
  elseif to then
    value = redis.call(command, key, from, to)
  else
    value = redis.call(command, key)
  end
  contents[i] = { key, redis.call('PTTL', key), kind, value }
end
return contents
"""

#: Key → milliseconds to live (-1: for ever), and value.
Contents = Mapping[bytes, tuple[float, Any]]


class TwinChannel(Channel):
    """Sends what may write to both of two channels, to the second one without plain cases, and compares the answers.

    What only reads, and has no plain case, goes to the first one.
    """

    def __init__(self, first: Channel, second: Channel, conversation_seconds: int) -> None:
        self._first = first
        self._second = second
        #: Hash or text of a script → that of the same one without its plain case; and hash → text of the latter.
        self._general: dict[Any, str] = {}
        self._texts: dict[Any, str] = {}
        plain = load_scripts(conversation_seconds)
        for name, script in load_scripts(conversation_seconds, plain_cases=False).items():
            if not name.startswith(READING):
                self._general |= {plain[name].sha: script.sha, plain[name].source: script.source}
                self._texts[script.sha] = script.source

    async def exchange(self, requests: Sequence[Command]) -> list[Any]:
        replies = await self._first.exchange(requests)
        for request, reply in zip(requests, replies, strict=True):
            # what the first does not know comes again, as a whole
            if _script_of(request) in self._general and not _is_unknown(reply):
                assert_alike(reply, await self._ask_second(request), str(request))
        return replies

    async def _ask_second(self, request: Command) -> Any:
        name, script, *rest = request
        general = self._general[script]
        reply: Any = None
        for how, text in ((name, general), ("EVAL", self._texts.get(general, general))):
            (reply,) = await self._second.exchange([(how, text, *rest)])
            if not _is_unknown(reply):
                break
        return reply

    async def close(self) -> None:
        await self._first.close()
        await self._second.close()


def _script_of(request: Command) -> Any:
    return request[1] if request[0] in ("EVALSHA", "EVAL") else None


def _is_unknown(reply: Any) -> bool:
    first = reply[0] if isinstance(reply, list) and reply else reply
    return isinstance(first, NoScriptError)


class Twins:
    """A store on both of two databases. first, second: clients of those, of one server. portion: see `Stage`."""

    def __init__(
        self, first: Redis, second: Redis, *, conversation_seconds: int = 0, portion: Portion | None = None
    ) -> None:
        self._clients = first, second
        channels = [channels_to(client) for client in self._clients]
        channel = TwinChannel(channels[0][0], channels[1][0], conversation_seconds)
        queue = TwinChannel(channels[0][1], channels[1][1], conversation_seconds)
        self.store = Store(
            channel,
            queue,
            prefix=PREFIX,
            retention_seconds=RETENTION_SECONDS,
            conversation_seconds=conversation_seconds,
            hosting=Hosting(Safeguards(portion=portion or Portion())),
        )

    async def compare(self) -> None:
        """Compare every key, value and time to live of both."""
        first, second = [await contents_of(client) for client in self._clients]
        assert first.keys() == second.keys()
        for key, (life, value) in first.items():
            other_life, other = second[key]
            assert_alike(value, other, repr(key))
            is_near = abs(life - other_life) <= TOLERANCE_SECONDS * 1000 and min(life, other_life) >= 0
            assert is_near or life == other_life == -1, f"{key!r} lives {life} ms, or {other_life}"


async def contents_of(client: Any) -> Contents:
    """Return all that a database holds."""
    if isinstance(client, FakeAsyncRedis):
        return contents_of_fake(client)
    contents: dict[bytes, tuple[float, Any]] = {}
    for key, life, kind, value in await client.eval(_CONTENTS, 0):
        is_pairs = kind in (b"hash", b"zset")
        contents[key] = life, dict(zip(value[::2], value[1::2], strict=True)) if is_pairs else value
    return contents


def _until(left_ms: int) -> int:
    return round(time.time() * 1000) + left_ms


def _as_time(score: re.Match[bytes]) -> bytes:
    """Return the time in the score of what was gone on from."""
    return b"%d" % (int(score[0]) + CONTINUED)


def assert_alike(one: Any, other: Any, what: str) -> None:
    """Check that two values are the same but for times, which are near to each other."""
    if one == other:
        return
    assert type(one) is type(other), what
    if isinstance(one, dict):
        assert one.keys() == other.keys(), what
        for key, value in one.items():
            assert_alike(value, other[key], f"{what} {key!r}")
    elif isinstance(one, list):
        assert len(one) == len(other), what
        if one[0] == other[0] == b"locked":
            # for how long
            one, other = [one[0], *map(_until, one[1:])], [other[0], *map(_until, other[1:])]
        for value, other_value in zip(one, other, strict=True):
            assert_alike(value, other_value, what)
    elif isinstance(one, bytes):
        one, other = _SCORE.sub(_as_time, one), _SCORE.sub(_as_time, other)
        assert _NUMBER.sub(b"", one) == _NUMBER.sub(b"", other), what
        for number, other_number in zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=True):
            assert_alike(int(number), int(other_number), what)
    elif isinstance(one, Exception):
        assert str(one) == str(other), what
    else:
        in_ms = one > 10**12
        unit = 1000 if in_ms else 1
        assert abs(one - time.time() * unit) < _NEAR_SECONDS * unit, what
        assert abs(one - other) <= TOLERANCE_SECONDS * unit, what
