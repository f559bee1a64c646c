import asyncio
import inspect
from collections.abc import Awaitable, Sequence

import pytest
from redis import exceptions as redis_errors
from redis.asyncio import Redis

from storage import CommitResult, PageRequest, Reason, Store, Unavailable, partition_of
from storage.client.scripts import translate_error
from tests.storage.builders import (
    EVERYTHING,
    OWNER,
    add,
    connect,
    draft,
    finished,
    ids_in,
    list_ids,
    minted,
    open_turn,
    read_all,
    start,
    take_turn,
)
from tests.storage.inspection import find_leaks
from tests.storage.servers import answer_always, run_valkey

SECRET = "s3cret-pa55word"


def some_calls(store: Store) -> list[Awaitable[object]]:
    """Return a call of each way that commands are sent: alone, as a script, as several scripts."""
    made = draft()
    return [
        store.condition.look(),
        store.conversations.read(OWNER, made.id),
        store.conversations.create(OWNER, made, []),
    ]


def all_calls(store: Store) -> list[Awaitable[object]]:
    """Return a call of every method of the store."""
    made = draft()
    response = f"resp_{made.id[-16:]}{'0' * 34}"
    return [
        store.condition.look(),
        store.conversations.create(OWNER, made, []),
        store.conversations.read(OWNER, made.id),
        store.conversations.update(OWNER, made.id, {"title": "t"}),
        store.conversations.delete(OWNER, made.id),
        store.conversations.delete_all(OWNER),
        store.conversations.list_page(OWNER, PageRequest()),
        store.items.append(OWNER, made.id, "", [minted(made.id[-16:], "x")]),
        store.items.list_page(OWNER, made.id, EVERYTHING),
        store.items.read(OWNER, made.id, "msg_x"),
        store.items.delete(OWNER, made.id, "msg_x"),
        store.items.resolve(OWNER, ["msg_x", "msg_y"]),
        open_turn(store, conversation=made, item_ids=["msg_x"]),
        store.responses.read(OWNER, response),
        store.responses.list_input(OWNER, response, EVERYTHING),
        store.responses.delete(OWNER, response),
    ]


async def expect_unavailable(calls: Sequence[Awaitable[object]]) -> set[str]:
    """Check that each call raises Unavailable, without a secret; return the reasons."""
    reasons = set()
    for call in calls:
        with pytest.raises(Unavailable) as refused:
            await call
        reasons.add(refused.value.subject)
        assert SECRET not in f"{refused.value} {refused.value!r} {refused.value.subject}"
    return reasons


async def test_every_method_tells_that_the_server_is_not_there():
    async with connect("unix:///nowhere/valkey.sock") as store:
        assert await expect_unavailable(all_calls(store)) == {"ConnectionError"}


@pytest.mark.parametrize(
    "url",
    [
        f"redis://user:{SECRET}@127.0.0.1:1/0",
        f"rediss://:{SECRET}@127.0.0.1:1/0",
        f"redis+sentinel://user:{SECRET}@127.0.0.1:1/main",
        f"redis+cluster://user:{SECRET}@127.0.0.1:1",
    ],
)
async def test_a_server_that_is_not_there_is_unavailable(url: str):
    async with connect(url) as store:
        await expect_unavailable(some_calls(store))


ANSWERS = {
    "LOADING Valkey is loading the dataset in memory": "BusyLoadingError",
    "OOM command not allowed when used memory > 'maxmemory'.": "OutOfMemoryError",
    "READONLY You can't write against a read only replica.": "ReadOnlyError",
    "MISCONF Valkey is configured to save RDB snapshots, but it's unable to persist to disk.": "MISCONF",
    "NOREPLICAS Not enough good replicas to write.": "NOREPLICAS",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": "MasterDownError",
    "CLUSTERDOWN The cluster is down": "ClusterDownError",
    "TRYAGAIN Multiple keys request during rehashing of slot": "TryAgainError",
    "BUSY Valkey is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.": "BUSY",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)": "UNBLOCKED",
    "NOAUTH Authentication required.": "AuthenticationError",
    f"WRONGPASS invalid username-password pair {SECRET}": "AuthenticationError",
    "ERR max number of clients reached": "ConnectionError",
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_server_that_can_not_serve_now_is_unavailable(answer: str):
    async with answer_always(f"-{answer}\r\n".encode()) as url, connect(url) as store:
        assert await expect_unavailable(some_calls(store)) == {ANSWERS[answer]}


async def test_an_answer_that_says_nothing_to_us_is_unavailable_too_and_logged(caplog: pytest.LogCaptureFixture):
    answer = b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
    async with answer_always(answer) as url, connect(url) as store:
        for call in (store.conversations.read(OWNER, draft().id), take_turn(store, conversation=draft())):
            with pytest.raises(Unavailable) as refused:
                await call
            # such an answer may come from the middle of a script
            assert (refused.value.subject, refused.value.reason, refused.value.unsure) == (
                "WRONGTYPE",
                Reason.UNKNOWN,
                True,
            )
    assert "the store answered with an error: ResponseError: WRONGTYPE" in caplog.text


async def test_a_server_that_does_not_answer_is_unavailable():
    async with answer_always(b"") as url, connect(url, timeout_seconds=0.05) as store:
        with pytest.raises(Unavailable) as refused:
            await store.conversations.read(OWNER, draft().id)
        assert refused.value.subject == "TimeoutError"
        with pytest.raises(Unavailable):
            await store.condition.look()


async def test_more_callers_than_connections_wait_for_one(valkey_url: str, valkey: Redis):
    async with connect(valkey_url) as store:
        made = await start(store, "one")
        assert await asyncio.gather(*(read_all(store, made) for _ in range(50))) == [["one"]] * 50
        assert len(await valkey.client_list()) <= 5


def all_client_errors() -> list[type[Exception]]:
    classes = [one for _, one in inspect.getmembers(redis_errors, inspect.isclass)]
    return [one for one in classes if issubclass(one, Exception) and one.__module__ == redis_errors.__name__]


@pytest.mark.parametrize("error_class", all_client_errors(), ids=lambda one: one.__name__)
def test_every_error_of_the_client_is_translated(error_class: type[Exception]):
    error = error_class.__new__(error_class)
    error.args = (f"1 {SECRET}:1",)
    translated = translate_error(error)
    assert translated.subject == error_class.__name__
    assert (translated.reason is Reason.UNKNOWN) == (error_class.__name__ in FAULTS)


FAULTS = {
    "AskError",
    "ChildDeadlockedError",
    "ClusterCrossSlotError",
    "ClusterError",
    "CrossSlotTransactionError",
    "DataError",
    "ExecAbortError",
    "IncorrectPolicyType",
    "InvalidPipelineStack",
    "LockError",
    "LockNotOwnedError",
    "ModuleError",
    "MovedError",
    "NoScriptError",
    "NoSuchFieldsetError",
    "PubSubError",
    "RedisClusterException",
    "RedisError",
    "ResponseError",
    "SlotNotCoveredError",
    "WatchError",
}

REASONS = {
    "OOM command not allowed when used memory > 'maxmemory'.": Reason.FULL,
    "OOM command not allowed when used memory > 'maxmemory'. script: on @user_script:1.": Reason.FULL,
    "ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -OOM command not allowed": Reason.FULL,
    "MISCONF Errors writing to the AOF file: No space left on device": Reason.FULL,
    "MISCONF Valkey is configured to save RDB snapshots, but it's unable to persist to disk.": Reason.READ_ONLY,
    "READONLY You can't write against a read only replica.": Reason.READ_ONLY,
    "NOREPLICAS Not enough good replicas to write.": Reason.REPLICAS,
    "LOADING Valkey is loading the dataset in memory": Reason.LOADING,
    "MASTERDOWN Link with MASTER is down": Reason.LOADING,
    "NOAUTH Authentication required.": Reason.NO_PERMISSION,
    "NOPERM User u has no permissions to run the 'evalsha' command": Reason.NO_PERMISSION,
    "ERR ACL failure in script: User u has no permissions to run the 'set' command": Reason.NO_PERMISSION,
    "ERR The user executing the script can't run this command or subcommand": Reason.NO_PERMISSION,
    "BUSY Valkey is busy running a script.": Reason.BUSY,
    "CLUSTERDOWN The cluster is down": Reason.AWAY,
    "ERR max number of clients reached": Reason.AWAY,
}


@pytest.mark.parametrize("answer", REASONS)
async def test_the_reason_of_a_refusal_is_told(answer: str):
    async with answer_always(f"-{answer}\r\n".encode()) as url, connect(url) as store:
        with pytest.raises(Unavailable) as refused:
            await store.conversations.read(OWNER, draft().id)
        assert refused.value.reason is REASONS[answer]
        assert refused.value.unsure is ("ACL" in answer)


async def test_when_memory_is_full_writing_is_unavailable_and_reading_is_not():
    with run_valkey("--maxmemory-policy", "noeviction") as server:
        async with connect(server.url) as store, Redis.from_url(server.url) as client:
            made = await start(store, "one")
            item_id = (await ids_in(store, made))[0]
            opened = await open_turn(store, conversation=made)
            commit = finished(opened, partition=partition_of(made.id), conversation=made)
            alone = finished(await open_turn(store), partition="0123456789abcdef")
            await client.config_set("maxmemory", 1)
            writes = [
                add(store, made, "two"),
                start(store),
                store.turns.commit(commit),
                store.turns.commit(alone),
                store.conversations.update(OWNER, made.id, {"title": "t"}),
                store.items.delete(OWNER, made.id, item_id),
            ]
            assert await expect_unavailable(writes) == {"OutOfMemoryError"}
            assert await read_all(store, made) == ["one"]
            await client.config_set("maxmemory", 0)
            assert (await store.turns.commit(commit)).result is CommitResult.OK
            assert (await store.turns.commit(alone)).result is CommitResult.OK
            assert await read_all(store, made) == ["one", "question", "answer"]
            assert await list_ids(store) == [made.id]
            assert await find_leaks(client) == []


async def reason_of(call: Awaitable[object]) -> str | None:
    """Return why a call is Unavailable, None if it is not."""
    try:
        await call
    except Unavailable as refused:
        return refused.subject
    return None


async def test_a_server_that_runs_a_script_for_too_long_is_unavailable():
    with run_valkey("--busy-reply-threshold", "1") as server:
        async with connect(server.url) as store, Redis.from_url(server.url, socket_timeout=None) as client:
            made = await start(store)
            endless = asyncio.ensure_future(client.eval("while true do end", 0))
            async with asyncio.timeout(20):
                while (reason := await reason_of(store.conversations.read(OWNER, made.id))) is None:
                    pass
            assert reason == "BUSY"
            async with Redis.from_url(server.url) as other:
                await other.script_kill()
            with pytest.raises(redis_errors.ResponseError, match="killed"):
                await endless
            assert await read_all(store, made) == []


async def test_a_store_works_again_when_its_connections_were_cut(valkey: Redis, valkey_url: str):
    async with connect(valkey_url) as store:
        made = await start(store)
        await asyncio.gather(*(read_all(store, made) for _ in range(4)))
        await valkey.client_kill_filter(_type="normal", skipme=True)
        await add(store, made, "after the connections were cut")
        assert await read_all(store, made) == ["after the connections were cut"]


async def test_a_server_that_was_killed_is_unavailable():
    with run_valkey() as server:
        async with connect(server.url) as store:
            made = await start(store)
            server.kill()
            with pytest.raises(Unavailable):
                await read_all(store, made)
