"""Many clients, each on connections of its own, at work on one conversation of a real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import chain

import pytest
from redis.asyncio import Redis

from storage import (
    BranchNotFound,
    CommitResult,
    Committed,
    Conflict,
    Conversation,
    Fork,
    Forked,
    ForkPoint,
    Lease,
    Locked,
    OpenedTurn,
    Store,
    TurnSource,
    partition_of,
)
from tests.storage.builders import (
    OWNER,
    add,
    connect,
    continue_from,
    finished,
    history_of,
    input_of,
    list_ids,
    minted,
    open_turn,
    output_of,
    read_all,
    start,
    take_turn,
)
from tests.storage.talks import Talk

CLIENTS = 16
TURNS = 5


@pytest.fixture
async def clients(valkey_url: str, valkey: Redis) -> AsyncIterator[list[Store]]:
    """Stores that share nothing but the server."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(connect(valkey_url, timeout_seconds=30, max_connections=2))
            for _ in range(CLIENTS)
        ]


async def open_when_free(store: Store, conversation: Conversation, token: str) -> OpenedTurn:
    """Open a turn as soon as no other one runs."""
    while True:
        try:
            return await open_turn(store, conversation=conversation, token=token)
        except Locked:
            await asyncio.sleep(0)


async def talk(store: Store, conversation: Conversation, name: str) -> list[str]:
    """Take turns on the conversation; return their response ids."""
    responses = []
    for number in range(TURNS):
        token = f"{name}.{number}"
        opened = await open_when_free(store, conversation, token)
        commit = finished(
            opened,
            partition=partition_of(conversation.id),
            conversation=conversation,
            token=token,
            says=[f"q {token}", f"Q {token}"],
            answers=[f"a {token}"],
        )
        assert (await store.turns.commit(commit)).result is CommitResult.OK
        responses.append(commit.response_id)
    return responses


async def append(store: Store, conversation: Conversation, name: str) -> None:
    """Add pairs of items."""
    for number in range(TURNS):
        await add(store, conversation, f"x {name}.{number}", f"y {name}.{number}")


async def watch(store: Store, conversation: Conversation) -> list[list[str]]:
    """List the conversation over and over; return what was seen."""
    return [await read_all(store, conversation) for _ in range(TURNS * 3)]


async def test_turns_appends_and_listings_of_sixteen_clients_do_not_disturb_each_other(
    clients: list[Store], valkey_store: Store
):
    made = await start(valkey_store)
    talkers, writers, readers = clients[:6], clients[6:11], clients[11:]
    responses, seen, _ = await asyncio.gather(
        asyncio.gather(*(talk(store, made, f"t{i}") for i, store in enumerate(talkers))),
        asyncio.gather(*(watch(store, made) for store in readers)),
        asyncio.gather(*(append(store, made, f"w{i}") for i, store in enumerate(writers))),
    )
    final = await read_all(valkey_store, made)
    expect_whole_groups(final, talkers=len(talkers), writers=len(writers))
    for listing in chain.from_iterable(seen):
        assert listing == final[: len(listing)]
    for response in chain.from_iterable(responses):
        history = await continue_from(valkey_store, response)
        assert [text for text in final if text in set(history)] == history
        assert history == await input_of(valkey_store, response) + await output_of(valkey_store, response)


def expect_whole_groups(items: list[str], *, talkers: int, writers: int) -> None:
    """Check that each turn and each append is there once, whole, and in its client's order."""
    rest, groups = list(items), []
    while rest:
        kind, name = rest[0].split(" ")
        parts = ["q", "Q", "a"] if kind == "q" else ["x", "y"]
        assert rest[: len(parts)] == [f"{part} {name}" for part in parts]
        groups.append(name)
        del rest[: len(parts)]
    clients = [*(f"t{i}" for i in range(talkers)), *(f"w{i}" for i in range(writers))]
    assert sorted(groups) == sorted(f"{client}.{number}" for client in clients for number in range(TURNS))
    for client in clients:
        mine = [name for name in groups if name.startswith(f"{client}.")]
        assert mine == [f"{client}.{number}" for number in range(TURNS)]


async def test_every_turn_sees_all_turns_before_it(clients: list[Store], valkey_store: Store):
    made = await start(valkey_store)

    async def take(store: Store, token: str) -> tuple[list[str], str]:
        opened = await open_when_free(store, made, token)
        await store.turns.commit(
            finished(opened, partition=partition_of(made.id), conversation=made, token=token, says=[], answers=[token])
        )
        return history_of(opened), token

    turns = await asyncio.gather(*(take(store, f"{i}") for i, store in enumerate(clients)))
    final = await read_all(valkey_store, made)
    assert sorted(final) == sorted(token for _, token in turns)
    for history, token in turns:
        assert history == final[: final.index(token)]


async def test_of_sixteen_turns_at_once_one_gets_the_lock(clients: list[Store], valkey_store: Store):
    made = await start(valkey_store)
    opened = await asyncio.gather(
        *(open_turn(store, conversation=made, token=str(i)) for i, store in enumerate(clients)), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in opened) == ["Locked"] * 15 + ["OpenedTurn"]


async def test_of_sixteen_turns_that_all_lost_their_lease_the_last_to_open_commits(
    clients: list[Store], valkey: Redis, valkey_store: Store
):
    made = await start(valkey_store)
    commits = []
    for i in range(CLIENTS):
        opened = await open_turn(valkey_store, conversation=made, token=str(i))
        await valkey.delete(f"test:{{{partition_of(made.id)}}}:lock:0")
        commits.append(
            finished(opened, partition=partition_of(made.id), conversation=made, token=str(i), answers=[str(i)])
        )
    ends = await asyncio.gather(
        *(store.turns.commit(commit) for store, commit in zip(clients, commits, strict=True)), return_exceptions=True
    )
    assert [type(end) for end in ends] == [Conflict] * 15 + [Committed]
    assert await read_all(valkey_store, made) == ["question", "15"]


async def test_sixteen_chains_grow_from_one_response_at_once(clients: list[Store], valkey_store: Store):
    made = await start(valkey_store, "one")
    root = await take_turn(valkey_store, conversation=made)

    async def grow(store: Store, name: str) -> str:
        response = root
        for number in range(TURNS):
            response = await take_turn(
                store, previous=response, says=[f"q{name}.{number}"], answers=[f"a{name}.{number}"]
            )
        return response

    tips = await asyncio.gather(*(grow(store, str(i)) for i, store in enumerate(clients)))
    for i, tip in enumerate(tips):
        own = [f"{kind}{i}.{number}" for number in range(TURNS) for kind in "qa"]
        assert await continue_from(valkey_store, tip) == ["one", "question", "answer", *own]
    assert await read_all(valkey_store, made) == ["one", "question", "answer"]


async def test_sixteen_repeats_of_one_commit_count_once(clients: list[Store], valkey_store: Store):
    made = await start(valkey_store)
    opened = await open_turn(valkey_store, conversation=made)
    commit = finished(opened, partition=partition_of(made.id), conversation=made)
    ends = await asyncio.gather(*(store.turns.commit(commit) for store in clients))
    assert sorted(end.result for end in ends) == [CommitResult.OK] + [CommitResult.REPEATED] * 15
    assert await read_all(valkey_store, made) == ["question", "answer"]


async def test_conversations_created_at_once_are_all_listed(clients: list[Store], valkey_store: Store):
    made = await asyncio.gather(*(start(store, "x" * 100_000) for store in clients for _ in range(4)))
    listed, *_ = await asyncio.gather(list_ids(valkey_store), *(list_ids(store) for store in clients))
    assert sorted(listed) == sorted(conversation.id for conversation in made)


async def test_a_turn_and_the_deletion_of_its_conversation_at_once_leave_nothing_half_done(
    clients: list[Store], valkey_store: Store
):
    for _ in range(10):
        made = await start(valkey_store, "one")
        source, lease = TurnSource(made.id), Lease(partition_of(made.id), "", "token")
        opened = await clients[0].turns.open(OWNER, source, lease, 10, [], [])
        commit = finished(opened, partition=partition_of(made.id), conversation=made)
        committed, _ = await asyncio.gather(
            clients[0].turns.commit(commit), clients[1].conversations.delete(OWNER, made.id)
        )
        assert committed.result in {CommitResult.OK, CommitResult.DROPPED}
        assert await continue_from(valkey_store, commit.response_id) == ["one", "question", "answer"]
        await list_ids(valkey_store)


async def test_of_sixteen_branches_of_one_name_one_is_made(clients: list[Store], valkey_store: Store):
    talk = await Talk(valkey_store).begin("u1 a1")
    fork = Fork(ForkPoint.TIP, name="draft")
    made = await asyncio.gather(
        *(store.branches.create(OWNER, talk.id, "", fork, [minted(talk.partition, "x")]) for store in clients),
        return_exceptions=True,
    )
    assert sorted(type(one).__name__ for one in made) == ["BranchExists"] * 15 + ["Forked"]
    assert (await talk.names(), await talk.on("draft")) == (["MAIN", "draft"], "u1 a1 x")


async def test_sixteen_new_mains_at_once_leave_every_old_one_as_a_backup(clients: list[Store], valkey_store: Store):
    talk = await Talk(valkey_store).begin("u1 a1")
    await asyncio.gather(
        *(
            store.branches.create(
                OWNER,
                talk.id,
                "",
                Fork(ForkPoint.AFTER, talk.ids["a1"], backup="old"),
                [minted(talk.partition, str(i))],
            )
            for i, store in enumerate(clients)
        )
    )
    names = await talk.names()
    assert sorted(names) == sorted(["MAIN", *("old" + "x" * i for i in range(CLIENTS))])
    lines = [await talk.on(name) for name in names]
    assert sorted(lines) == sorted(["u1 a1", *(f"u1 a1 {i}" for i in range(CLIENTS))])


async def test_a_fork_and_the_deletion_of_its_source_at_once_leave_nothing_half_done(
    clients: list[Store], valkey_store: Store
):
    talk = await Talk(valkey_store).begin("u1")
    for _ in range(10):
        await talk.draft()
        await talk.say("u2 a2", "draft")
        ends = await asyncio.gather(
            clients[0].branches.delete(OWNER, talk.id, "draft"),
            *(
                store.branches.create(OWNER, talk.id, "draft", Fork(ForkPoint.AFTER, talk.ids["u2"], name=str(i)), [])
                for i, store in enumerate(clients[1:4])
            ),
            clients[4].sweeper.sweep_all(),
            return_exceptions=True,
        )
        for i, end in enumerate(ends[1:4]):
            assert isinstance(end, Forked | BranchNotFound)
            if isinstance(end, Forked):
                assert await talk.on(str(i)) == "u1 u2"
                await valkey_store.branches.delete(OWNER, talk.id, str(i))
    assert await talk.names() == ["MAIN"]
