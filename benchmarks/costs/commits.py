"""What the largest turns that the limits allow cost the store: how long one script keeps all others waiting.

    python -m benchmarks.costs.commits [--rounds 5]

A turn outside a conversation and one in it, in a Valkey of its own, and reading what it brought; the longest command of
both as Valkey's slow log has it.
"""

from __future__ import annotations

import argparse
import asyncio
import time

import orjson
from redis.asyncio import Redis

from benchmarks.processes import listening, valkey
from proxy.config.settings import Config
from proxy.protocol import ids
from storage import (
    CommitMode,
    Conversation,
    Entry,
    Lease,
    OpenedTurn,
    Origin,
    PageRequest,
    Store,
    TurnCommit,
    TurnSource,
    new_partition,
    partition_of,
)

OWNER, TOKEN = "key:measured", "token"
ITEMS, BYTES = Config().turns.max_input_items, Config().server.max_json_bytes
#: More than the commands that one commit takes, those inside of scripts too.
LOGGED = 5_000
#: Items and bytes of a commit.
SHAPES = {
    "an everyday turn": (2, 2_000),
    "most items, short": (ITEMS, ITEMS * 100),
    "most items, most bytes": (ITEMS, BYTES),
    "one item of most bytes": (1, BYTES),
}


def entry(partition: str, size: int) -> Entry:
    """Return a new message of so many bytes of text."""
    item_id = ids.new_turn_item_id("message", partition, stored=True)
    item = {"id": item_id, "type": "message", "role": "user", "content": "x" * size}
    return Entry(Origin.MINTED, item_id, orjson.dumps(item))


def draft() -> Conversation:
    """Return a conversation that is to be made."""
    return Conversation(ids.new_conversation_id(new_partition()), 0, 0)


async def commit(store: Store, conversation: Conversation | None, count: int, size: int) -> tuple[float, str]:
    """Store a turn; return how long that took, in seconds, and the id of its response."""
    partition, opened = new_partition(), OpenedTurn()
    if conversation is not None:
        partition = partition_of(conversation.id)
        source, lease = TurnSource(conversation.id), Lease(partition, "", TOKEN)
        opened = await store.turns.open(OWNER, source, lease, 10.0, [], [])
    turn = TurnCommit(
        owner=OWNER,
        response_id=ids.new_response_id(partition, stored=True),
        partition=partition,
        mode=CommitMode.CHAIN if conversation is None else CommitMode.APPEND,
        opened=opened,
        conversation_id=conversation.id if conversation else None,
        token=TOKEN if conversation else "",
        stored=True,
        status="completed",
        body=b'{"object":"response"}',
        inputs=[entry(partition, size) for _ in range(count)],
        outputs=[],
    )
    begun = time.perf_counter()
    await store.turns.commit(turn)
    return time.perf_counter() - begun, turn.response_id


async def longest(admin: Redis) -> float:
    """Return how long the longest command took since this was asked last, in ms."""
    log = await admin.slowlog_get(LOGGED)
    await admin.slowlog_reset()
    return float(max(one["duration"] for one in log)) / 1000


def spread(durations: list[float]) -> str:
    """Return the least, the median and the most."""
    return ", ".join(f"{sorted(durations)[place]:.1f}" for place in (0, len(durations) // 2, -1))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print("| turn | items | MB | where | longest script, ms: least, median, most | to read it | round trip, ms |")
    print("|---|---|---|---|---|---|---|")
    with valkey() as (url, _):
        await listening(url.replace("redis://", "http://"))
        store = Store.connect(url, prefix="b", timeout_seconds=60, max_connections=4, retention_seconds=86_400)
        async with Redis.from_url(url) as admin:
            await admin.config_set("slowlog-log-slower-than", 0)
            await admin.config_set("slowlog-max-len", LOGGED)
            for name, (count, total) in SHAPES.items():
                for where in ("chain", "conversation"):
                    scripts, readings, trips = [], [], []
                    for _ in range(rounds):
                        made = (
                            (await store.conversations.create(OWNER, draft(), []))[0]
                            if where == "conversation"
                            else None
                        )
                        await admin.slowlog_reset()
                        trip, response_id = await commit(store, made, count, total // count)
                        trips.append(trip * 1000)
                        scripts.append(await longest(admin))
                        await store.responses.list_input(OWNER, response_id, PageRequest(limit=100, ascending=True))
                        readings.append(await longest(admin))
                    times = f"{spread(scripts)} | {spread(readings)} | {sorted(trips)[rounds // 2]:.1f}"
                    facts = f"{count} | {total / 1e6:.1f} | {where} | {times}"
                    print(f"| {name} | {facts} |", flush=True)
        await store.close()


if __name__ == "__main__":
    asyncio.run(main())
