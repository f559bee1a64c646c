from __future__ import annotations

import io
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from proxy.backup.format import write_lines
from proxy.backup.verifier import Backup
from proxy.protocol import ids
from storage import (
    CallMark,
    CommitMode,
    Conflict,
    Conversation,
    ConversationExists,
    ConversationNotFound,
    Entry,
    Fork,
    ForkPoint,
    ItemNotFound,
    Origin,
    ResponseNotFound,
    Store,
    new_partition,
    partition_of,
)
from storage.archive import export as exporting
from storage.archive import importer
from storage.archive.archive import Archive
from tests.fake import channels_to
from tests.storage.builders import (
    EVERYTHING,
    OWNER,
    RETENTION_SECONDS,
    STRANGER,
    add,
    continue_from,
    ids_in,
    input_of,
    list_ids,
    minted,
    open_turn,
    output_of,
    read_all,
    reference,
    start,
    store_on,
    take_named_turn,
    take_turn,
)
from tests.storage.inspection import keys_of
from tests.storage.stages import staging_store

ELSEWHERE = "elsewhere"
ACTIONS = ["turn", "turn", "add", "fork", "edit", "delete item", "delete", "activate", "chain"]


@pytest.fixture
async def other(redis: Redis) -> AsyncIterator[Store]:
    """A second, empty store on the same server."""
    async with store_on(redis, prefix=ELSEWHERE) as store:
        yield store


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch):
    """Let everything take more than one page."""
    monkeypatch.setattr(exporting, "PAGE_ITEMS", 3)
    monkeypatch.setattr(importer, "PAGE_ITEMS", 2)
    monkeypatch.setattr(importer, "BRANCHES", 1)


async def export(store: Store, conversation: Conversation, owner: str = OWNER) -> bytes:
    return b"".join([lines async for lines in write_lines(await store.archive.export(owner, conversation.id))])


async def restore(store: Store, text: bytes, owner: str = OWNER) -> bool:
    return (await store.archive.restore(owner, Backup(io.BytesIO(text))))[1]


async def forked(store: Store, conversation: Conversation, point: ForkPoint, target: str = "", **names: str) -> str:
    done = await store.branches.create(OWNER, conversation.id, "", Fork(point, target, **names), [])
    return done.branch.name


def call(partition: str, mark: str) -> Entry:
    """A call of a tool; `~` for a tool that was declared as one that needs no output."""
    item_id = ids.new_turn_item_id("function_call", partition, stored=True)
    item = {
        "id": item_id,
        "type": "function_call",
        "text": mark,
        "call_id": mark[1:],
        "name": "look",
        "arguments": "{}",
    }
    return Entry(Origin.MINTED, item_id, orjson.dumps(item), CallMark.parse(mark))


async def richly(store: Store) -> tuple[Conversation, dict[str, str]]:
    """A conversation with everything in it, and some of its responses by name."""
    conversation = await start(
        store, "one", "two", title="A title", project_id="p", referrer="r", metadata={"a": "b", "empty": ""}
    )
    first = await take_named_turn(store, "first", conversation=conversation)
    second = await take_named_turn(store, "second", conversation=conversation)
    items = await ids_in(store, conversation)
    partition = partition_of(conversation.id)
    await add(store, conversation, call(partition, "+call_1"), call(partition, "~call_2"))
    await forked(store, conversation, ForkPoint.AFTER, items[3], name="draft", description="An idea")
    await store.items.append(OWNER, conversation.id, "draft", [minted(partition, "on draft")])
    await forked(store, conversation, ForkPoint.BEFORE, items[4], backup="MAIN_old")
    third = await take_named_turn(store, "third", conversation=conversation)
    await store.items.append(OWNER, conversation.id, "", [Entry(Origin.REFERENCE, items[5], b"")])
    await forked(store, conversation, ForkPoint.TIP, name="doomed")
    await store.branches.activate(OWNER, conversation.id, "doomed")
    lost = await take_named_turn(store, "lost", conversation=conversation)
    await store.branches.activate(OWNER, conversation.id, "MAIN")
    await store.branches.delete(OWNER, conversation.id, "doomed")
    aside = await take_named_turn(store, "aside", previous=first)
    await store.items.delete(OWNER, conversation.id, items[1])
    await forked(store, conversation, ForkPoint.TIP, name="empty")
    await store.branches.activate(OWNER, conversation.id, "draft")
    responses = {"first": first, "second": second, "third": third, "lost": lost, "aside": aside}
    return conversation, responses


async def everything(store: Store, conversation: Conversation, responses: dict[str, str]) -> dict[str, Any]:
    """All that can be read of a conversation."""
    page = await store.branches.list_page(OWNER, conversation.id, EVERYTHING)
    seen: dict[str, Any] = {"conversation": await store.conversations.read(OWNER, conversation.id), "branches": page}
    for branch in page.branches:
        seen[branch.name] = (await store.items.list_page(OWNER, conversation.id, EVERYTHING, branch=branch.name)).items
    for name, one in responses.items():
        seen[f"response {name}"] = await store.responses.read(OWNER, one)
        seen[f"input of {name}"] = await input_of(store, one)
        seen[f"after {name}"] = await continue_from(store, one)
        seen[f"at {name}"] = (await store.items.list_page(OWNER, conversation.id, EVERYTHING, at=one)).items
    return seen


async def find_faults(store: Store) -> list[str]:
    return list((await store.auditor.audit("")).complaints)


async def test_an_imported_response_is_forked_from_the_branch_for_which_it_was_staged(
    redis: Redis, store: Store, other: Store
):
    conversation = await start(store, "one")
    first = await take_named_turn(store, conversation=conversation)
    async with staging_store(*channels_to(redis)) as staging:
        staged = await take_named_turn(staging, answers=["a", "b", "c"], conversation=conversation)
    assert await restore(other, await export(store, conversation))
    for response in (first, staged):
        forked = await other.branches.create(OWNER, conversation.id, "", Fork(ForkPoint.AT, response, response), [])
        assert (forked.source, forked.branch.parent_branch) == ("MAIN", "MAIN")


async def test_what_is_exported_and_imported_is_the_same_in_everything_that_can_be_read(store: Store, other: Store):
    conversation, responses = await richly(store)
    assert await restore(other, await export(store, conversation))
    assert await everything(other, conversation, responses) == await everything(store, conversation, responses)
    assert await find_faults(other) == []
    mixed = [[b.mixed for b in (await one.archive.export(OWNER, conversation.id)).branches] for one in (store, other)]
    assert mixed[0] == mixed[1]
    assert {True, False} <= set(mixed[0])
    listed = [await list_ids(other), await list_ids(other, project_id="p"), await list_ids(other, referrer="r")]
    assert listed == [[conversation.id]] * 3


async def test_an_export_of_an_import_is_imported_as_the_same_text(redis: Redis, store: Store, other: Store):
    conversation, _ = await richly(store)
    await restore(other, await export(store, conversation))
    text = await export(other, conversation)
    async with store_on(redis, prefix="third") as third:
        await restore(third, text)
        assert await export(third, conversation) == text


async def test_all_goes_on_after_an_import(store: Store, other: Store):
    conversation, responses = await richly(store)
    await restore(other, await export(store, conversation))
    for one in (store, other):
        await take_named_turn(one, "fourth", conversation=conversation)
        await take_named_turn(one, "beside", previous=responses["second"])
        await forked(one, conversation, ForkPoint.AT, responses["third"], name="again")
        await one.branches.activate(OWNER, conversation.id, "again")
        await take_named_turn(one, "on again", conversation=conversation)
    assert await read_all(other, conversation) == await read_all(store, conversation)
    opened = [await open_turn(one, conversation=conversation, branch="MAIN_old") for one in (store, other)]
    assert opened[0].pending == opened[1].pending == {"call_1"}
    assert await find_faults(other) == []


async def test_importing_twice_changes_nothing(redis: Redis, store: Store, other: Store):
    conversation, _ = await richly(store)
    text = await export(store, conversation)
    await restore(other, text)
    await add(other, conversation, "later")
    before = await dump_of(redis, conversation)
    assert await restore(other, text) is False
    assert await dump_of(redis, conversation) == before


async def dump_of(redis: Any, conversation: Conversation) -> dict[str, bytes]:
    return {key: await redis.dump(key) for key in await keys_of(redis, conversation.id)}


async def test_a_foreign_conversation_can_be_neither_exported_nor_overwritten(store: Store, other: Store):
    conversation, _ = await richly(store)
    with pytest.raises(ConversationNotFound):
        await store.archive.export(STRANGER, conversation.id)
    text = await export(store, conversation)
    await restore(other, text)
    with pytest.raises(ConversationExists):
        await restore(other, text, STRANGER)
    await other.conversations.delete(OWNER, conversation.id)
    with pytest.raises(ConversationExists):
        await restore(other, text, STRANGER)


async def test_an_import_takes_no_place_among_responses_without_a_conversation(store: Store):
    response = await take_turn(store)
    partition = partition_of(response)
    conversation = await start(store, "one")
    text = await export(store, conversation)
    moved = text.replace(partition_of(conversation.id).encode(), partition.encode())
    with pytest.raises(ConversationExists):
        await restore(store, moved)


async def test_a_deleted_conversation_comes_back(store: Store):
    conversation, responses = await richly(store)
    before = await everything(store, conversation, responses)
    text = await export(store, conversation)
    chained = await take_named_turn(store, "chained", previous=responses["second"])
    await store.conversations.delete(OWNER, conversation.id)
    later = await take_named_turn(store, "after the deletion", previous=chained)
    history = await continue_from(store, later)
    assert await restore(store, text)
    assert await everything(store, conversation, responses) == before
    assert await continue_from(store, later) == history
    assert await list_ids(store) == [conversation.id]
    # one that reads little of what the others read must not be taken for all that is read
    await take_named_turn(store, "beside", previous=responses["first"])
    await store.sweeper.sweep_all(lambda _: None)
    assert await everything(store, conversation, responses) == before
    assert await continue_from(store, later) == history
    assert await find_faults(store) == []


async def test_an_item_deleted_after_a_return_is_gone_from_where_it_lay_before_too(redis: Redis, store: Store):
    conversation = await start(store, "secret", "other")
    response = await take_named_turn(store, conversation=conversation)
    item = (await ids_in(store, conversation))[0]
    text = await export(store, conversation)
    await store.conversations.delete(OWNER, conversation.id)
    await restore(store, text)
    await store.items.delete(OWNER, conversation.id, item)
    assert "secret" not in await continue_from(store, response)
    assert await find_faults(store) == []


async def test_a_conversation_can_be_deleted_and_brought_back_again_and_again(store: Store):
    conversation, responses = await richly(store)
    before = await everything(store, conversation, responses)
    for _ in range(3):
        text = await export(store, conversation)
        await store.conversations.delete(OWNER, conversation.id)
        assert await list_ids(store) == []
        assert await restore(store, text)
    assert await everything(store, conversation, responses) == before


class Interrupted(Exception):
    """Stands for the end of a process."""


class Broken:
    """A backup that breaks off after some items, or (-1) after all of them and two appends."""

    def __init__(self, backup: Backup, items: int) -> None:
        self._backup = backup
        self._items = items

    def appends(self) -> Any:
        for number, append in enumerate(self._backup.appends()):
            if number == 2:
                raise Interrupted
            yield append

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backup, name)

    def items(self) -> Any:
        for number, item in enumerate(self._backup.items()):
            if number == self._items:
                raise Interrupted
            yield item


async def break_off(store: Store, text: bytes, items: int) -> None:
    with pytest.raises(Interrupted):
        await store.archive.restore(OWNER, Broken(Backup(io.BytesIO(text)), items))


@pytest.mark.parametrize("restored", [False, True])
async def test_nothing_is_seen_of_an_import_before_it_is_complete(store: Store, other: Store, restored: bool):
    conversation, responses = await richly(store)
    text = await export(store, conversation)
    target = store if restored else other
    item = (await ids_in(store, conversation))[0]
    if restored:
        await store.conversations.delete(OWNER, conversation.id)
    await break_off(target, text, 7)
    assert await list_ids(target) == []
    with pytest.raises(ConversationNotFound):
        await read_all(target, conversation)
    with pytest.raises(ConversationNotFound):
        await target.items.read(OWNER, conversation.id, item)
    assert await target.items.resolve(OWNER, [item]) == {}
    if not restored:
        with pytest.raises(ResponseNotFound):
            await output_of(target, responses["first"])
        with pytest.raises(ConversationExists):
            await restore(target, text, STRANGER)
    assert await restore(target, text)


@pytest.mark.parametrize("items", [0, 1, 6, 11, -1])
async def test_an_import_that_broke_off_can_be_repeated(store: Store, other: Store, items: int):
    conversation, responses = await richly(store)
    text = await export(store, conversation)
    await break_off(other, text, items)
    assert await restore(other, text)
    assert await everything(other, conversation, responses) == await everything(store, conversation, responses)
    assert await find_faults(other) == []


class Twice:
    """Sends every call twice, as when its first answer was lost."""

    def __init__(self, scripts: Any) -> None:
        self._scripts = scripts

    async def run(self, call: Any) -> Any:
        await self._scripts.run(call)
        return await self._scripts.run(call)

    async def run_all(self, calls: Any) -> Any:
        return await self._scripts.run_all(calls)


async def test_every_step_of_an_import_may_be_sent_twice(store: Store, other: Store):
    conversation, responses = await richly(store)
    text = await export(store, conversation)
    keyspace = other.archive._keyspace
    twice = Archive(replace(keyspace, scripts=Twice(keyspace.scripts)))  # type: ignore[arg-type]
    restored, created = await twice.restore(OWNER, Backup(io.BytesIO(text)))
    assert (restored.id, created) == (conversation.id, False)
    assert await everything(other, conversation, responses) == await everything(store, conversation, responses)
    assert await find_faults(other) == []


async def test_what_another_file_left_unfinished_is_not_mixed_in(redis: Redis, store: Store, other: Store):
    conversation, responses = await richly(store)
    old = await export(store, conversation)
    item = (await ids_in(store, conversation))[0]
    await store.items.delete(OWNER, conversation.id, item)
    await break_off(other, old, 11)
    assert await restore(other, await export(store, conversation))
    assert await everything(other, conversation, responses) == await everything(store, conversation, responses)
    assert await other.items.resolve(OWNER, [item]) == {}
    with pytest.raises(ItemNotFound):
        await other.items.read(OWNER, conversation.id, item)
    await other.sweeper.sweep_all(lambda _: None)
    assert await find_faults(other) == []


async def test_a_response_that_another_file_left_unfinished_is_not_mixed_in(store: Store, other: Store):
    conversation, responses = await richly(store)
    old = await export(store, conversation)
    await store.responses.delete(OWNER, responses["first"])
    await break_off(other, old, -1)
    assert await restore(other, await export(store, conversation))
    with pytest.raises(ResponseNotFound):
        await output_of(other, responses["first"])
    report = await other.auditor.audit("")
    assert (list(report.complaints), report.garbage["notes"]) == ([], 0)


def dated(text: bytes, milliseconds: int) -> bytes:
    """An export with other times."""
    head, rest = text.split(b"\n", 1)
    line = orjson.loads(head) | {"created_at": milliseconds // 1000, "updated_at": milliseconds}
    return orjson.dumps(line) + b"\n" + rest


async def test_times_are_the_file_s_but_not_in_the_future(store: Store, other: Store):
    conversation, _ = await richly(store)
    await restore(other, dated(await export(store, conversation), 2**50))
    late = await other.conversations.read(OWNER, conversation.id)
    newer = await start(store)
    assert late.created_at <= newer.created_at
    assert late.updated_at <= newer.updated_at


async def test_the_list_of_conversations_is_in_the_order_that_it_had(store: Store, other: Store):
    older, newer = await start(store, "older"), await start(store, "newer")
    await restore(other, dated(await export(store, newer), 2_000))
    await restore(other, dated(await export(store, older), 1_000))
    assert await list_ids(other) == [newer.id, older.id]


async def test_an_import_whose_place_another_one_took_begins_anew(store: Store, other: Store):
    conversation, _ = await richly(store)
    old = await export(store, conversation)
    await add(store, conversation, "newer")
    new = await export(store, conversation)

    class Overtaken(Broken):
        def items(self) -> Any:
            yield from self._backup.items()

        async def overtake(self) -> None:
            await break_off(other, new, 5)

    source = Overtaken(Backup(io.BytesIO(old)), 0)
    base, _ = await other.archive._begin(OWNER, source)
    await source.overtake()
    with pytest.raises(Conflict):
        await importer.Importer(other.archive._keyspace, OWNER, source, base).run()
    assert await restore(other, old)
    assert "newer" not in await read_all(other, conversation)


async def test_what_an_import_leaves_unfinished_expires(redis: Redis, store: Store, other: Store):
    conversation, _ = await richly(store)
    text = await export(store, conversation)
    await break_off(other, text, 11)
    await store.conversations.delete(OWNER, conversation.id)
    await break_off(store, text, 11)
    assert await find_faults(store) == await find_faults(other) == []
    keys = [key for key in await keys_of(redis, conversation.id) if key.startswith(ELSEWHERE)]
    assert len(keys) > 5
    for key in keys:
        assert 0 < await redis.ttl(key) <= importer.UNFINISHED_SECONDS, key


async def test_imported_responses_are_kept_for_the_whole_time_again(redis: Redis, store: Store, other: Store):
    conversation, responses = await richly(store)
    for key in await keys_of(redis, conversation.id):
        if ":response:" in key:
            await redis.expire(key, 1000)
    await restore(other, await export(store, conversation))
    partition = partition_of(conversation.id)
    for one in responses.values():
        seconds = await redis.ttl(f"{ELSEWHERE}:{{{partition}}}:response:{one}")
        assert RETENTION_SECONDS - 60 < seconds <= RETENTION_SECONDS


async def test_an_export_has_what_was_there_when_it_began(store: Store, other: Store):
    conversation, responses = await richly(store)
    before = await export(store, conversation)
    begun = await store.archive.export(OWNER, conversation.id)
    late = await take_named_turn(store, "late", conversation=conversation)
    await take_named_turn(store, "after late", previous=late)
    seen = (await ids_in(store, conversation))[-1]
    await take_named_turn(store, "reads what came late", previous=responses["aside"], says=[reference(seen)])
    await take_named_turn(store, "failed", previous=responses["first"], mode=CommitMode.RECORD, says=[], answers=[])
    await forked(store, conversation, ForkPoint.TIP, name="late")
    lines = b"".join([piece async for piece in write_lines(begun)])
    assert lines == before
    assert await restore(other, lines)


async def test_an_item_that_is_deleted_during_an_export_is_null_in_it(store: Store, other: Store):
    conversation = await start(store, "one", "two", "three", "four")
    begun = await store.archive.export(OWNER, conversation.id)
    await store.items.delete(OWNER, conversation.id, (await ids_in(store, conversation))[3])
    text = b"".join([piece async for piece in write_lines(begun)])
    assert text.count(b'"item":null') == 1
    await restore(other, text)
    assert await read_all(other, conversation) == ["one", "two", "three"]


async def test_a_branch_that_is_deleted_during_an_export_is_whole_in_it(store: Store, other: Store):
    conversation = await start(store, "one")
    await forked(store, conversation, ForkPoint.TIP, name="side")
    partition = partition_of(conversation.id)
    await store.items.append(OWNER, conversation.id, "side", [minted(partition, f"side {i}") for i in range(5)])
    before = await export(store, conversation)
    begun = await store.archive.export(OWNER, conversation.id)
    await store.branches.delete(OWNER, conversation.id, "side")
    await store.sweeper.sweep_all(lambda _: None)
    assert b"".join([piece async for piece in write_lines(begun)]) == before


async def test_what_is_exported_is_kept_for_as_long_as_that_may_take(redis: Redis):
    async with store_on(redis, retention_seconds=60) as store:
        conversation, _ = await richly(store)
        await export(store, conversation)
        partition = f"test:{{{partition_of(conversation.id)}}}"
        notes: dict[Any, Any] = await redis.hgetall(f"{partition}:partition")
        now = (await redis.time())[0]
        segments = [int(key.rpartition(":")[2]) for key in await keys_of(redis, conversation.id) if ":segment:" in key]
        assert len(segments) > 4
        for segment in segments:
            assert int(notes[b"reach:%d" % segment].partition(b":")[0]) / 1000 - now > exporting.HOLD_SECONDS - 60
            assert not 0 <= await redis.ttl(f"{partition}:segment:{segment}") < exporting.HOLD_SECONDS - 60


async def test_an_export_of_a_conversation_that_is_deleted_meanwhile_breaks_off(store: Store):
    conversation, _ = await richly(store)
    begun = await store.archive.export(OWNER, conversation.id)
    await store.conversations.delete(OWNER, conversation.id)
    with pytest.raises(ConversationNotFound):
        [piece async for piece in write_lines(begun)]


async def test_large_items_make_small_pages(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exporting, "PAGE_ITEMS", 500)
    monkeypatch.setattr(exporting, "PAGE_BYTES", 20_000)
    conversation = await start(store, *[f"{i} " + "x" * 1000 for i in range(120)])
    pages = [page async for page in (await store.archive.export(OWNER, conversation.id)).items()]
    assert [len(page) for page in pages] == [50, 50, 20]


async def test_identify_tells_whose_conversation_lives_where(store: Store):
    mine, foreign = await start(store, title="mine"), await start(store, owner=STRANGER)
    gone = await start(store)
    await store.conversations.delete(OWNER, gone.id)
    partitions = [partition_of(one.id) for one in (mine, gone, foreign)]
    assert await store.archive.identify([*partitions, new_partition()]) == [(OWNER, mine), (STRANGER, foreign)]


async def test_random_histories_survive_an_import(redis: Redis, store: Store, other: Store):
    random_source = random.Random(11)
    conversation = await start(store, "first")
    responses: dict[str, str] = {}
    for step in range(60):
        items = await ids_in(store, conversation)
        action = random_source.choice(
            ["turn", "turn", "add", "fork", "edit", "delete item", "delete", "activate", "chain"]
        )
        names = [one.name for one in (await store.branches.list_page(OWNER, conversation.id, EVERYTHING)).branches]
        active = (await store.conversations.read(OWNER, conversation.id)).active_branch
        free = [name for name in names if name not in {"MAIN", active}]
        if action == "turn":
            responses[f"{step}"] = await take_named_turn(store, f"answer {step}", conversation=conversation)
        elif action == "chain" and responses:
            previous = random_source.choice(list(responses.values()))
            responses[f"{step}"] = await take_named_turn(store, f"beside {step}", previous=previous)
        elif action == "fork" and items:
            await forked(store, conversation, ForkPoint.AFTER, random_source.choice(items), name=f"b{step}")
        elif action == "edit" and items:
            await forked(store, conversation, ForkPoint.WITHOUT, random_source.choice(items), backup=f"old{step}")
        elif action == "delete item" and items:
            await store.items.delete(OWNER, conversation.id, random_source.choice(items))
        elif action == "delete" and free:
            await store.branches.delete(OWNER, conversation.id, random_source.choice(free))
        elif action == "activate":
            await store.branches.activate(OWNER, conversation.id, random_source.choice(names))
        else:
            await add(store, conversation, f"added {step}")
    assert len(responses) > 10
    await restore(other, await export(store, conversation))
    expected = await everything(store, conversation, responses)
    assert await everything(other, conversation, responses) == expected
    text = await export(other, conversation)
    await other.conversations.delete(OWNER, conversation.id)
    await restore(other, text)
    assert await everything(other, conversation, responses) == expected
    assert await find_faults(other) == []
    await other.sweeper.sweep_all(lambda _: None)
    assert await everything(other, conversation, responses) == expected
    assert await find_faults(other) == []
