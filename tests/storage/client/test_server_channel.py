"""Exchanges over shared connections: what is written together, what is repeated, what is given up, what waits."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from redis import exceptions as redis_errors
from redis.asyncio import ConnectionPool, Redis

from storage.client.channel import Channel, Command, Uncopied
from storage.client.connection import connect, open_blocking_channel, open_channel
from storage.client.dialer import Dialer
from storage.client.pipelined import BUSY_BYTES, PipelinedConnection
from storage.client.server_channel import ServerChannel
from tests.storage.client.scripted import HEALTHY, REFUSALS, Act, ScriptedServer
from tests.storage.lossy import LossyProxy
from tests.storage.servers import run_valkey
from tests.virtual_time import in_virtual_time

TIMEOUT_SECONDS = 5.0


@asynccontextmanager
async def channel_to(url: str, *, limit: int = 3) -> AsyncIterator[Channel]:
    client = connect(url, timeout_seconds=TIMEOUT_SECONDS, max_connections=limit)
    channel = open_channel(client, timeout_seconds=TIMEOUT_SECONDS, max_connections=limit)
    try:
        yield channel
    finally:
        await channel.close()


@asynccontextmanager
async def scripted(*acts: Act, limit: int = 3) -> AsyncIterator[tuple[ScriptedServer, Channel]]:
    """Give a server that does these acts, and a channel over a connection that has worked."""
    async with ScriptedServer([Act.BULK, *acts]) as server, channel_to(server.url, limit=limit) as channel:
        assert await echo(channel, "ready") == b"ready"
        yield server, channel


async def echo(channel: Channel, text: str) -> Any:
    (reply,) = await channel.exchange([("ECHO", text)])
    return reply


def echoing(channel: Channel, *texts: str) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(echo(channel, text)) for text in texts]


async def test_what_is_not_copied_arrives_as_what_is():
    large = bytes(range(256)) * 8192
    with run_valkey() as server:
        async with channel_to(server.url) as channel:
            replies = await channel.exchange(
                [
                    ("SET", "k", Uncopied(large)),
                    ("ECHO", "small"),
                    ("RPUSH", "l", Uncopied(large), "é", 7, Uncopied(b""), b"end", Uncopied(large)),
                    ("STRLEN", "k"),
                    ("LRANGE", "l", 0, -1),
                ]
            )
    assert replies == [b"OK", b"small", 6, len(large), [large, "é".encode(), b"7", b"", b"end", large]]


# --- what is shared -----------------------------------------------------------------------------------------------


@in_virtual_time
async def test_what_is_sent_in_one_iteration_of_the_loop_leaves_in_one_write():
    async with scripted(*HEALTHY * 5) as (server, channel):
        before = server.peers[0].pieces
        await asyncio.gather(*echoing(channel, *(f"text{number}" for number in range(30))))
        assert server.peers[0].pieces - before == 1
        assert len(server.peers) == 1


@in_virtual_time
async def test_all_that_come_before_there_is_a_connection_wait_for_one():
    async with ScriptedServer() as server, channel_to(server.url) as channel:
        assert await asyncio.gather(*echoing(channel, "a", "b", "c")) == [b"a", b"b", b"c"]
        assert len(server.peers) == 1


@in_virtual_time
async def test_an_exchange_of_nothing_sends_nothing():
    async with scripted() as (server, channel):
        assert await channel.exchange([]) == []
        assert server.heard == {b"ready": 1}


@in_virtual_time
async def test_a_command_that_can_not_be_written_harms_nobody():
    async with scripted() as (_, channel):
        other = echoing(channel, "other")
        with pytest.raises(TypeError):
            await channel.exchange([("ECHO", "text"), ("ECHO", None)])  # type: ignore[list-item]
        assert await asyncio.gather(*other) == [b"other"]


async def test_a_reply_may_be_false_or_nothing(valkey_url: str):
    async with channel_to(valkey_url) as channel:
        say_false: Command = ("EVAL", "redis.setresp(3) return false", 0)
        assert await channel.exchange([say_false, ("GET", "nothing"), say_false]) == [False, None, False]


# --- what is given up ---------------------------------------------------------------------------------------------


@in_virtual_time
async def test_the_reply_to_a_cancelled_exchange_is_nobody_elses():
    async with scripted(Act.BULK, Act.NESTED) as (server, channel):
        (first,) = echoing(channel, "first")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.cancel()
        assert await echo(channel, "second") == [1, [b"second"], None]
        assert first.cancelled()
        assert server.heard == {b"ready": 1, b"first": 1, b"second": 1}


@in_virtual_time
async def test_what_is_cancelled_before_it_is_written_is_not_written():
    async with scripted() as (server, channel):
        first, second = echoing(channel, "first", "second")
        await asyncio.sleep(0)
        first.cancel()
        assert await second == b"second"
        assert server.heard == {b"ready": 1, b"second": 1}


@in_virtual_time
async def test_after_a_timeout_nothing_more_is_asked_on_that_connection_and_nothing_is_repeated():
    async with scripted(Act.NEVER) as (server, channel):
        with pytest.raises(TimeoutError):
            await echo(channel, "first")
        assert asyncio.get_running_loop().time() == pytest.approx(TIMEOUT_SECONDS, abs=0.1)
        assert await echo(channel, "second") == b"second"
        assert [peer.heard for peer in server.peers] == [[b"ready", b"first"], [b"second"]]
        assert [peer.is_open for peer in server.peers] == [False, True]


@in_virtual_time
async def test_a_late_reply_is_thrown_away_and_what_waits_behind_it_is_answered():
    async with scripted(Act.LATE) as (server, channel):
        (first,) = echoing(channel, "first")
        await asyncio.sleep(4)
        (second,) = echoing(channel, "second")
        with pytest.raises(TimeoutError):
            await first
        third = await echo(channel, "third")
        assert (await second, third) == (b"second", b"third")
        assert [peer.heard for peer in server.peers] == [[b"ready", b"first", b"second"], [b"third"]]
        await asyncio.sleep(0.01)
        assert [peer.is_open for peer in server.peers] == [False, True]


@in_virtual_time
async def test_a_mute_server_is_noticed_even_if_everybody_gives_up_early():
    async with scripted(Act.NEVER) as (server, channel):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await echo(channel, "first")
        await asyncio.sleep(TIMEOUT_SECONDS)
        assert server.open_peers == []
        assert await echo(channel, "second") == b"second"


@in_virtual_time
async def test_an_exchange_has_its_time_in_all_the_wait_for_a_connection_included():
    async with ScriptedServer([Act.NEVER]) as server, channel_to(server.url) as channel:
        server.reads.clear()
        (waiting,) = echoing(channel, "text")
        await asyncio.sleep(3)
        server.reads.set()
        with pytest.raises(TimeoutError):
            await waiting
        assert asyncio.get_running_loop().time() == pytest.approx(TIMEOUT_SECONDS, abs=0.1)


# --- what is repeated ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [Act.CLOSE, Act.CUT], ids=lambda act: act.name)
@in_virtual_time
async def test_what_waits_on_a_connection_that_breaks_is_repeated_once_on_another(act: Act):
    async with scripted(Act.BULK, act) as (server, channel):
        assert await asyncio.gather(*echoing(channel, "a", "b", "c")) == [b"a", b"b", b"c"]
        assert [peer.heard for peer in server.peers] == [[b"ready", b"a", b"b"], [b"b", b"c"]]


@in_virtual_time
async def test_what_breaks_a_second_time_fails():
    async with scripted(Act.CLOSE, Act.CLOSE) as (server, channel):
        with pytest.raises(redis_errors.ConnectionError):
            await echo(channel, "text")
        assert server.heard[b"text"] == 2
        assert await echo(channel, "later") == b"later"


@in_virtual_time
async def test_what_breaks_on_a_connection_that_never_worked_fails_at_once():
    async with ScriptedServer([Act.CLOSE]) as server, channel_to(server.url) as channel:
        with pytest.raises(redis_errors.ConnectionError):
            await echo(channel, "text")
        assert server.heard == {b"text": 1}


class Unlucky(Dialer):
    """Its first connection breaks as soon as it is made."""

    dialed = 0

    async def dial(self, changed: Callable[[PipelinedConnection], None]) -> PipelinedConnection:
        connection = await super().dial(changed)
        self.dialed += 1
        if self.dialed == 1:
            connection.abort()
        return connection


@in_virtual_time
async def test_a_connection_that_breaks_as_soon_as_it_is_made_is_not_kept():
    async with ScriptedServer() as server:
        channel = ServerChannel(Unlucky(ConnectionPool.from_url(server.url)), limit=1, timeout_seconds=TIMEOUT_SECONDS)
        with pytest.raises(redis_errors.ConnectionError):
            await echo(channel, "first")
        assert await echo(channel, "second") == b"second"
        await channel.close()


@in_virtual_time
async def test_a_server_that_was_restarted_is_asked_as_if_nothing_had_been():
    async with scripted() as (server, channel):
        await server.stop()
        with pytest.raises(redis_errors.ConnectionError):
            await echo(channel, "away")
        await server.start()
        assert await echo(channel, "back") == b"back"


@in_virtual_time
async def test_what_is_no_reply_fails_who_waited_for_it_and_the_others_ask_again():
    async with scripted(Act.GARBAGE) as (server, channel):
        first, second = echoing(channel, "first", "second")
        with pytest.raises(redis_errors.InvalidResponse):
            await first
        assert await second == b"second"
        assert server.heard[b"first"] == 1


@in_virtual_time
async def test_a_reply_that_nobody_waits_for_ends_the_connection():
    async with scripted(Act.TWICE) as (server, channel):
        assert await echo(channel, "first") == b"first"
        assert await echo(channel, "second") == b"second"
        assert [peer.heard for peer in server.peers] == [[b"ready", b"first"], [b"second"]]


# --- a server that is no primary ----------------------------------------------------------------------------------


@pytest.mark.parametrize("act", REFUSALS, ids=lambda act: act.name)
@in_virtual_time
async def test_a_connection_to_a_server_that_refuses_is_dropped_at_once(act: Act):
    async with scripted(Act.BULK, act, Act.BULK) as (server, channel):
        assert await asyncio.gather(*echoing(channel, "a", "b", "c")) == [b"a", b"b", b"c"]
        assert [peer.heard for peer in server.peers] == [[b"ready", b"a", b"b", b"c"], [b"b"]]
        assert [peer.is_open for peer in server.peers] == [False, True]


@pytest.mark.parametrize("act", REFUSALS, ids=lambda act: act.name)
@in_virtual_time
async def test_a_server_that_refuses_on_a_new_connection_too_is_told_of_and_asked_anew_next_time(act: Act):
    async with scripted(act, act) as (server, channel):
        try:
            refusal = await echo(channel, "text")
        except redis_errors.ConnectionError as error:
            refusal = error
        assert isinstance(refusal, redis_errors.RedisError)
        assert str(refusal).endswith("text")
        await asyncio.sleep(0.01)
        assert server.open_peers == []
        assert await echo(channel, "later") == b"later"


@in_virtual_time
async def test_a_refusal_on_one_connection_drops_the_others_too():
    async with scripted(Act.BULK, Act.BULK, Act.READONLY) as (server, channel):
        server.reads.clear()
        large = echoing(channel, "x" * (8 * BUSY_BYTES))
        await asyncio.sleep(0.1)
        small = echoing(channel, "small")
        await asyncio.sleep(0.1)
        server.reads.set()
        await asyncio.gather(*large, *small)
        assert len(server.open_peers) == 2
        assert await echo(channel, "refused once") == b"refused once"
        assert [peer.heard[-1] for peer in server.peers if peer.is_open] == [b"refused once"]
        assert [peer.is_open for peer in server.peers] == [False, False, True]


@in_virtual_time
async def test_a_server_that_refuses_while_it_is_greeted():
    async with ScriptedServer([Act.READONLY]) as server, channel_to(f"{server.url}?db=3") as channel:
        with pytest.raises(redis_errors.ReadOnlyError):
            await echo(channel, "text")
        assert await echo(channel, "later") == b"later"
        assert [peer.heard for peer in server.peers] == [[b"3"], [b"3", b"later"]]


@in_virtual_time
async def test_what_is_not_written_yet_when_a_server_refuses_goes_to_the_next_one():
    async with scripted(Act.NEVER) as (server, channel):
        (connection,) = channel._connections  # type: ignore[attr-defined]
        (first,) = echoing(channel, "first")
        await asyncio.sleep(0.1)
        (second,) = echoing(channel, "second")
        # it has been sent, and leaves in the next iteration of the loop
        await asyncio.sleep(0)
        connection.data_received(b"-READONLY first\r\n")
        assert [await first, await second] == [b"first", b"second"]
        assert [peer.heard for peer in server.peers] == [[b"ready", b"first"], [b"second", b"first"]]


async def test_a_primary_that_becomes_a_replica_is_left_at_once():
    with run_valkey() as old, run_valkey() as new:
        folder = Path(new.url.removeprefix("unix://")).parent
        address = folder / "primary.sock"
        address.symlink_to(old.url.removeprefix("unix://"))
        async with channel_to(f"unix://{address}") as channel, Redis.from_url(old.url) as client:
            write: list[Command] = [("EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", 1, "key", "value")]
            assert await channel.exchange(write) == [b"OK"]
            await client.replicaof("127.0.0.1", "1")
            (refusal,) = await channel.exchange(write)
            assert isinstance(refusal, redis_errors.ReadOnlyError)
            address.unlink()
            address.symlink_to(new.url.removeprefix("unix://"))
            assert await channel.exchange(write) == [b"OK"]
        async with Redis.from_url(new.url) as client:
            assert await client.get("key") == b"value"


# --- much at a time -----------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_few_bytes_do_not_wait_for_many_that_the_server_does_not_read_yet():
    async with scripted() as (server, channel):
        server.reads.clear()
        (large,) = echoing(channel, "x" * (8 * BUSY_BYTES))
        await asyncio.sleep(0.1)
        (small,) = echoing(channel, "small")
        await asyncio.sleep(0.1)
        server.reads.set()
        assert await small == b"small"
        assert len(await large) == 8 * BUSY_BYTES
        assert [b"small" in peer.heard for peer in server.peers] == [False, True]
        await asyncio.gather(*echoing(channel, "a", "b"))
        assert server.peers[0].heard[-2:] == [b"a", b"b"]


async def make_long(valkey: Redis, size: int) -> None:
    """Have so many bytes under `long`, without sending them."""
    await valkey.setrange("long", size - 1, b"x")
    await valkey.expire("long", 600)


async def test_a_few_bytes_do_not_wait_for_a_long_reply(valkey: Redis, valkey_url: str):
    size = 64 << 20
    await make_long(valkey, size)
    async with channel_to(valkey_url) as channel:
        assert await echo(channel, "ready") == b"ready"
        (connection,) = channel._connections  # type: ignore[attr-defined]
        long = asyncio.create_task(channel.exchange([("GET", "long")]))
        while not connection.is_receiving:
            await valkey.ping()
        assert await echo(channel, "small") == b"small"
        assert not long.done()
        assert [len(reply) for reply in await long] == [size]
        assert not connection.is_receiving
        assert len(channel._connections) == 2  # type: ignore[attr-defined]
    await valkey.delete("long")


@in_virtual_time
async def test_without_a_further_connection_large_commands_wait_until_there_is_room():
    async with scripted(limit=1) as (server, channel):
        server.reads.clear()
        large = echoing(channel, *(letter * 4 * BUSY_BYTES for letter in "abcde"))
        await asyncio.sleep(1)
        (connection,) = channel._connections  # type: ignore[attr-defined]
        assert connection._transport.get_write_buffer_size() < 5 * BUSY_BYTES
        server.reads.set()
        assert [reply[:1] for reply in await asyncio.gather(*large)] == [b"a", b"b", b"c", b"d", b"e"]
        assert len(server.peers) == 1


@in_virtual_time
async def test_connections_are_as_many_as_may_be_and_no_more():
    async with scripted(limit=2) as (server, channel):
        server.reads.clear()
        large = echoing(channel, *(letter * 4 * BUSY_BYTES for letter in "abcde"))
        await asyncio.sleep(1)
        server.reads.set()
        await asyncio.gather(*large)
        assert len(server.peers) == 2


async def test_where_a_further_connection_is_refused_the_first_one_will_do(valkey: Redis, valkey_url: str):
    await make_long(valkey, 32 << 20)
    async with channel_to(valkey_url) as channel:
        assert await echo(channel, "ready") == b"ready"
        (connection,) = channel._connections  # type: ignore[attr-defined]
        await valkey.config_set("maxclients", len(await valkey.client_list()))
        try:
            long = asyncio.create_task(channel.exchange([("GET", "long")]))
            while not connection.is_receiving:
                await valkey.ping()
            assert await echo(channel, "small") == b"small"
        finally:
            await valkey.config_set("maxclients", 10_000)
        assert len((await long)[0]) == 32 << 20
        assert channel._connections == [connection]  # type: ignore[attr-defined]
    await valkey.delete("long")


# --- what blocks --------------------------------------------------------------------------------------------------


async def test_a_blocking_command_that_is_given_up_takes_nothing_away(valkey: Redis, valkey_url: str):
    queue = open_blocking_channel(
        connect(valkey_url, timeout_seconds=TIMEOUT_SECONDS, max_connections=1), timeout_seconds=TIMEOUT_SECONDS
    )
    waiting = asyncio.create_task(queue.exchange([("BLPOP", "list", 0)]))
    async with asyncio.timeout(20):
        while (await valkey.info("clients"))["blocked_clients"] == 0:
            pass
        waiting.cancel()
        while (await valkey.info("clients"))["blocked_clients"]:
            pass
    await valkey.rpush("list", "element")
    assert await queue.exchange([("LPOP", "list")]) == [b"element"]
    await queue.close()


# --- the end ------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_what_is_under_way_when_the_channel_is_closed_fails():
    async with scripted(Act.NEVER) as (server, channel):
        waiting = echoing(channel, "text")
        await asyncio.sleep(0.1)
        closing = asyncio.create_task(channel.close())
        with pytest.raises(redis_errors.ConnectionError):
            await waiting[0]
        await closing
        await asyncio.sleep(0.01)
        assert server.open_peers == []


@in_virtual_time
async def test_who_waits_for_a_connection_when_the_channel_is_closed_fails():
    async with ScriptedServer() as server, channel_to(server.url) as channel:
        server.reads.clear()
        waiting = echoing(channel, "text")
        await asyncio.sleep(0.1)
        await channel.close()
        with pytest.raises(redis_errors.ConnectionError):
            await waiting[0]
        server.reads.set()


LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


def run(main: Coroutine[Any, Any, None], loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main)


@pytest.mark.parametrize("loop_factory", LOOPS, ids=lambda make: inspect.getmodule(make).__name__)  # type: ignore[union-attr]
def test_nothing_stays_open_on_any_loop(valkey_url: str, loop_factory: Callable[[], asyncio.AbstractEventLoop]):
    async def main() -> None:
        async with LossyProxy(Path(valkey_url.removeprefix("unix://"))) as proxy, channel_to(proxy.url) as channel:
            assert await echo(channel, "ready") == b"ready"
            proxy.lose_next_answer()
            assert await asyncio.gather(*echoing(channel, "a", "b")) == [b"a", b"b"]
            size = 4 * BUSY_BYTES
            assert len(await echo(channel, "x" * size)) == size
            (forgotten,) = echoing(channel, "forgotten")
            await asyncio.sleep(0)
            forgotten.cancel()

    run(main(), loop_factory)
    # a transport that was not closed says so when it is collected, and warnings are errors
    gc.collect()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_channel_goes_on_in_another_loop(valkey_url: str):
    channel = open_channel(
        connect(valkey_url, timeout_seconds=TIMEOUT_SECONDS, max_connections=1),
        timeout_seconds=TIMEOUT_SECONDS,
        max_connections=1,
    )

    run(_echo_in(channel, "first"), asyncio.new_event_loop)

    async def again() -> None:
        await _echo_in(channel, "second")
        await channel.close()

    run(again(), asyncio.new_event_loop)
    gc.collect()


async def _echo_in(channel: Channel, text: str) -> None:
    assert await echo(channel, text) == text.encode()
