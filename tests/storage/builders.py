"""What the tests of the store are written with: items whose text says what they are, and whole turns in one call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
from redis.asyncio import Redis

from proxy.protocol import ids
from storage import (
    CallMark,
    CommitMode,
    CommitResult,
    Conversation,
    Entry,
    EventLog,
    Lease,
    OpenedTurn,
    Origin,
    PageRequest,
    Safeguards,
    Store,
    TurnCommit,
    TurnSource,
    new_partition,
    partition_of,
)
from storage.client.keyspace import Portion
from storage.client.library import load_scripts
from tests.fake import channels_to

PREFIX = "test"
OWNER = "alice"
STRANGER = "mallory"
RETENTION_SECONDS = 30 * 86_400
#: What one script stores and reads unless a test says otherwise.
PORTION = Portion()
EVERYTHING = PageRequest(limit=100_000, ascending=True)


@asynccontextmanager
async def store_on(
    client: Redis, *, retention_seconds: int = RETENTION_SECONDS, conversation_seconds: int = 0, prefix: str = PREFIX
) -> AsyncIterator[Store]:
    """Give a store on a client."""
    store = Store(
        *channels_to(client),
        prefix=prefix,
        retention_seconds=retention_seconds,
        conversation_seconds=conversation_seconds,
    )
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def connect(
    url: str,
    *,
    timeout_seconds: float = 5.0,
    max_connections: int = 4,
    most_conversations: int = 0,
    portion: Portion = PORTION,
) -> AsyncIterator[Store]:
    """Give a store on the server at a URL."""
    store = Store.connect(
        url,
        prefix=PREFIX,
        timeout_seconds=timeout_seconds,
        max_connections=max_connections,
        retention_seconds=RETENTION_SECONDS,
        safeguards=Safeguards(most_conversations=most_conversations, portion=portion),
    )
    try:
        yield store
    finally:
        await store.close()


async def load_all(redis: Redis) -> None:
    """Make a server know all scripts, so that no call has to send one."""
    for script in load_scripts().values():
        await redis.script_load(script.source)


# Items


def json_item(item_id: str, text: str) -> bytes:
    """Return an item as JSON bytes; `text` tells it from others."""
    return orjson.dumps({"id": item_id, "type": "message", "text": text, "content": []})


def minted(partition: str, text: str, mark: str = "") -> Entry:
    """Return a new item with an id of ours."""
    item_id = ids.new_turn_item_id("message", partition, stored=True)
    return Entry(Origin.MINTED, item_id, json_item(item_id, text), CallMark.parse(mark))


def brought(item_id: str, text: str = "brought", mark: str = "") -> Entry:
    """Return an item with an id that the client chose or knows."""
    return Entry(Origin.CLIENT, item_id, json_item(item_id, text), CallMark.parse(mark))


def reference(item_id: str) -> Entry:
    """Return a reference to a stored item."""
    return Entry(Origin.REFERENCE, item_id, b"")


def id_of(item: bytes) -> str:
    """Return an item's id."""
    item_id: str = orjson.loads(item)["id"]
    return item_id


def texts(items: Sequence[bytes]) -> list[str]:
    """Return the texts of items."""
    return [orjson.loads(item)["text"] for item in items]


def history_of(opened: OpenedTurn) -> list[str]:
    """Return the texts of the history that a turn was opened with."""
    return texts_of_array(opened.history)


def texts_of_array(inside: bytes) -> list[str]:
    """Return the texts of items given as the inside of a JSON array."""
    items: list[dict[str, Any]] = orjson.loads(b"[" + inside + b"]")
    return [item["text"] for item in items]


# Conversations


def draft(partition: str | None = None, **facts: Any) -> Conversation:
    """Return a conversation that does not exist yet."""
    return Conversation(ids.new_conversation_id(partition or new_partition()), 0, 0, **facts)


async def start(store: Store, *items: str, owner: str = OWNER, **facts: Any) -> Conversation:
    """Create a conversation with items of these texts."""
    made = draft(**facts)
    entries = [minted(partition_of(made.id), text) for text in items]
    conversation, _ = await store.conversations.create(owner, made, entries)
    return conversation


async def add(store: Store, conversation: Conversation, *items: str | Entry) -> list[str]:
    """Append items (texts become new ones) and return their ids."""
    partition = partition_of(conversation.id)
    entries = [minted(partition, item) if isinstance(item, str) else item for item in items]
    return [id_of(item) for item in await store.items.append(OWNER, conversation.id, "", entries)]


async def read_all(store: Store, conversation: Conversation) -> list[str]:
    """Return the texts of a conversation's items, oldest first."""
    return texts((await store.items.list_page(OWNER, conversation.id, EVERYTHING)).items)


async def ids_in(store: Store, conversation: Conversation) -> list[str]:
    """Return the ids of a conversation's items, oldest first."""
    return [id_of(item) for item in (await store.items.list_page(OWNER, conversation.id, EVERYTHING)).items]


async def list_ids(
    store: Store,
    *,
    owner: str = OWNER,
    limit: int = 100,
    after: str | None = None,
    ascending: bool = False,
    **filters: str,
) -> list[str]:
    """Return the ids of a page of an owner's conversations. filters: project_id, referrer."""
    page = await store.conversations.list_page(owner, PageRequest(limit, after, ascending), **filters)
    return [conversation.id for conversation in page.conversations]


# Turns


async def open_turn(
    store: Store,
    *,
    conversation: Conversation | None = None,
    previous: str | None = None,
    owner: str = OWNER,
    token: str = "token",
    lease_seconds: float = 10,
    item_ids: Sequence[str] = (),
    call_ids: Sequence[str] = (),
    branch: str = "",
) -> OpenedTurn:
    """Open a turn on a conversation, a previous response, or nothing."""
    place = conversation.id if conversation else previous
    partition = partition_of(place) if place else new_partition()
    source = TurnSource(conversation.id if conversation else None, previous, branch)
    return await store.turns.open(owner, source, Lease(partition, "", token), lease_seconds, item_ids, call_ids)


def finished(
    opened: OpenedTurn,
    *,
    partition: str,
    conversation: Conversation | None = None,
    says: Sequence[str | Entry] = ("question",),
    answers: Sequence[str | Entry] = ("answer",),
    **facts: Any,
) -> TurnCommit:
    """Return the commit of an opened turn; texts become new items."""

    def entries(given: Sequence[str | Entry]) -> list[Entry]:
        return [minted(partition, one) if isinstance(one, str) else one for one in given]

    commit = TurnCommit(
        owner=OWNER,
        response_id=ids.new_response_id(partition, stored=True),
        partition=partition,
        mode=CommitMode.APPEND if conversation else CommitMode.CHAIN,
        opened=opened,
        conversation_id=conversation.id if conversation else None,
        token="token" if conversation else "",
        stored=True,
        status="completed",
        body=b'{"object":"response"}',
        inputs=entries(says),
        outputs=entries(answers),
    )
    return replace(commit, **facts)


async def take_turn(
    store: Store,
    *,
    conversation: Conversation | None = None,
    previous: str | None = None,
    owner: str = OWNER,
    **facts: Any,
) -> str:
    """Run a whole turn and return the id of its response."""
    place = conversation.id if conversation else previous
    partition = partition_of(place) if place else new_partition()
    opened = await open_turn(store, conversation=conversation, previous=previous, owner=owner)
    commit = finished(opened, partition=partition, conversation=conversation, owner=owner, **facts)
    done = await store.turns.commit(commit)
    assert done.result is CommitResult.OK, done
    return commit.response_id


async def take_named_turn(
    store: Store, answer: str = "answer", answers: Sequence[str] | None = None, **facts: Any
) -> str:
    """Take a turn whose response names its own id, as real ones do."""
    place = facts["conversation"].id if "conversation" in facts else facts["previous"]
    response_id = ids.new_response_id(partition_of(place), stored=True)
    body = orjson.dumps({"id": response_id, "object": "response", "metadata": {"says": answer}, "tools": []})
    return await take_turn(
        store,
        response_id=response_id,
        body=body,
        answers=[answer] if answers is None else answers,
        model="m-1",
        **facts,
    )


def new_log(token: str = "", *, response_id: str = "", owner: str = OWNER) -> EventLog:
    """Return the event log of a response, a new one unless it is named."""
    return EventLog(owner, response_id or ids.new_response_id(new_partition(), stored=True), token)


async def continue_from(store: Store, response_id: str) -> list[str]:
    """Return the texts of the history that a turn after this response has."""
    return history_of(await open_turn(store, previous=response_id))


async def input_of(store: Store, response_id: str) -> list[str]:
    """Return the texts of what the model was given for a response, oldest first."""
    return texts((await store.responses.list_input(OWNER, response_id, EVERYTHING)).items)


async def output_of(store: Store, response_id: str) -> list[str]:
    """Return the texts of a response's output."""
    return texts((await store.responses.read(OWNER, response_id)).output)
