"""Every method of the store called at least once: for what must hold whatever is called."""

from __future__ import annotations

import asyncio
import io
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson

from proxy.backup.format import write_lines
from proxy.backup.verifier import Backup
from proxy.protocol import ids
from proxy.protocol.ids import new_conversation_id
from storage import (
    ANYBODY,
    ON_LINE,
    BackupHead,
    CommitMode,
    CommitResult,
    Conversation,
    DigestNote,
    DigestNotes,
    DigestQuery,
    EventBatch,
    EventLog,
    EventQuery,
    Fork,
    ForkPoint,
    ItemNotFound,
    Job,
    JobEntry,
    KeptAnswer,
    KeyClaim,
    Lead,
    Lease,
    OpenedTurn,
    PageRequest,
    RecordAct,
    RecordedTurn,
    Spot,
    Store,
    Submission,
    TurnSlot,
    TurnSource,
    WatchedBranch,
    WindowRequest,
    new_partition,
    partition_of,
)
from storage.client.keyspace import Portion
from storage.maintenance.recounter import Recounter
from storage.quotas import Ledger
from tests.storage.builders import (
    EVERYTHING,
    OWNER,
    add,
    brought,
    draft,
    finished,
    id_of,
    ids_in,
    minted,
    open_turn,
    reference,
    start,
    take_named_turn,
    take_turn,
)


async def use_everything(store: Store) -> None:
    """Call every method of the store at least once, over several segments and partitions."""
    elsewhere = await start(store, "elsewhere")
    far = (await ids_in(store, elsewhere))[0]
    conversation = await start(store, "one", "two", project_id="p", referrer="r", metadata={"a": "b"})
    await store.conversations.update(OWNER, conversation.id, {"project_id": "q", "m:a": None, "title": "t"})
    await add(store, conversation, "three", brought("msg_mine"))
    first = (await ids_in(store, conversation))[0]
    response = await take_turn(store, conversation=conversation)
    await use_branches(store, conversation, response)
    await use_views(store, conversation)
    beside = await take_turn(store, previous=response)
    await add(store, conversation, reference(id_of((await store.responses.read(OWNER, beside)).output[0])))
    failed = await take_turn(store, previous=response, mode=CommitMode.RECORD, status="failed")
    await take_turn(store, conversation=conversation, stored=False)
    partition = partition_of(conversation.id)
    opened = await open_turn(store, conversation=conversation, item_ids=[far, first, "msg_mine"], call_ids=["call_1"])
    lease = Lease(partition, opened.lock, "token")
    await store.turns.renew([lease, Lease(new_partition(), "0", "x")], 10)
    await store.turns.release(lease)
    await store.responses.list_input(OWNER, beside, EVERYTHING)
    await store.items.resolve(OWNER, [far, first])
    await store.items.read(OWNER, conversation.id, first)
    await store.items.delete(OWNER, conversation.id, first)
    await store.conversations.list_page(OWNER, PageRequest())
    await store.responses.delete(OWNER, failed)
    await store.conversations.delete(OWNER, conversation.id)
    alone = await take_turn(store)
    await store.responses.recent(OWNER, PageRequest())
    await use_events(store, beside, alone)
    await store.responses.delete(OWNER, alone)
    await store.conversations.delete_all(OWNER)
    await store.conversations.create(OWNER, draft(), [])
    await use_staging(store)
    await use_keys(store)
    await use_recognition(store)
    await take_turn(store, conversation=await start(store, "x", owner="bob"), owner="bob")
    await store.purger.purge("bob")


async def use_staging(store: Store) -> None:
    """Store more items than one script does, and be refused with as many; store and read one that is too large."""
    many = ["x"] * (Portion().items + 1)
    conversation = await start(store, *many)
    large = await start(store, "x" * (Portion().bytes + 1))
    # of short items so many are read at once
    long = await start(store, *["x" * (Portion().bytes // 10)] * 20)
    await open_turn(store, conversation=long, token="")
    await store.items.list_page(OWNER, large.id, PageRequest())
    with suppress(ItemNotFound):
        await add(store, conversation, *many, reference("msg_unknown"))


async def use_views(store: Store, conversation: Conversation) -> None:
    """Call every method that people look at conversations with, and those that watch them."""
    owner, place = OWNER, conversation.id
    for _ in range(2):
        graph = await store.branches.graph(owner, place)
        window = await store.items.window(owner, place, WindowRequest(around=(await ids_in(store, conversation))[0]))
        await store.items.excerpts(owner, place, graph.branches[0].chain)
        await store.items.locate(owner, place, window.items[0].id)
        await store.items.scan(owner, place)
        await store.items.find(owner, window.items[0].id)
        await store.conversations.heads(owner, [place])
        await store.conversations.newest(owner)
        await store.watching.mark([(owner, place)])
        await store.watching.look([WatchedBranch(owner, place, "")])
    opened = await open_turn(store, conversation=conversation, token="resp_x/secret")
    for _ in range(2):
        await store.watching.stop(owner, place, "", "resp_x", 10)
    await store.turns.release(Lease(partition_of(place), opened.lock, "resp_x/secret"))


async def use_archive(store: Store) -> None:
    """Export a conversation with a branch and a response beside it, import it again, and check everything."""
    conversation = await start(store, "one", "two")
    response = await take_named_turn(store, conversation=conversation)
    last = (await ids_in(store, conversation))[-1]
    await store.branches.create(OWNER, conversation.id, "", Fork(ForkPoint.AFTER, last, "draft"), [])
    await take_named_turn(store, previous=response)
    await store.archive.identify([partition_of(conversation.id)])
    lines = [line async for line in write_lines(await store.archive.export(OWNER, conversation.id))]
    await store.conversations.delete(OWNER, conversation.id)
    await store.archive.restore(OWNER, Backup(io.BytesIO(b"".join(lines))))
    report = await store.auditor.audit()
    assert report.complaints == [], report


async def use_recognition(store: Store) -> None:
    """Call every method of recognition; a conversation with a side branch, a new MAIN and its digests is left."""
    conversation_id = new_conversation_id(new_partition())
    partition, spot = partition_of(conversation_id), Spot()
    for act in (RecordAct.NEW, RecordAct.GROW, RecordAct.SIDE, RecordAct.TIP, RecordAct.GROW):
        response_id = ids.new_response_id(partition, stored=True)
        entries = [minted(partition, "question")], [minted(partition, "answer")]
        turn = RecordedTurn(OWNER, conversation_id, act, response_id, b"{}", *entries, spot=spot, name="other")
        turn.leads = [Lead(["one", "three"], 2, "t x", 1, ""), Lead(["two"], ON_LINE, "s x", 1, "", replaces=True)]
        turn.marks = [DigestNote("one", f"{partition}:{spot.line}:{spot.segment}:{spot.offset}t x", 1, adds=False)]
        done = await store.recognition.record(turn)
        spot = done.spots[0] if act is RecordAct.GROW else done.spots[-1]
        notes = [DigestNote(digest, f"{partition}:{spot.offset} x", 1) for digest in ("one", "two")]
        await store.recognition.note([DigestNotes(OWNER, partition, notes)])
    await store.recognition.find(OWNER, [DigestQuery("one"), DigestQuery("two", "t ", "x")])
    await store.recognition.drop(OWNER, partition, ["two"])


async def use_keys(store: Store) -> None:
    """Call every method of idempotency; one answered key is left."""
    claim = KeyClaim(OWNER, "ab" * 32, "token")
    await store.idempotency.claim(claim, "f", 10, 60)
    await store.idempotency.renew([claim], 10)
    await store.idempotency.note(claim, "resp_x", 10)
    await store.idempotency.free(claim)
    await store.idempotency.claim(claim, "f", 10, 60, aside=ANYBODY)
    await store.idempotency.answer(claim, KeptAnswer(200, "text/plain", b"x"), 60)
    await store.idempotency.look(claim, "f")


async def use_events(store: Store, *responses: str) -> None:
    """Call every method of events; the logs stay."""
    for response in responses:
        log = EventLog(OWNER, response)
        await store.events.append(
            log, EventBatch(0, 1, b"event"), ttl_seconds=10, lease_seconds=10, last=response == responses[0]
        )
        await store.events.claim(EventLog(OWNER, response, "token"), ttl_seconds=10, lease_seconds=10)
        await store.events.release(log)
    await store.events.read_all([EventQuery(OWNER, response, 0) for response in responses], 1000)
    await store.events.read(EventQuery(OWNER, responses[0], 0), 1000)


async def use_branches(store: Store, conversation: Conversation, response: str) -> None:
    """Call every method of branches, and turns that make them; two backups are left beside MAIN."""
    partition = partition_of(conversation.id)
    branches, last = store.branches, (await ids_in(store, conversation))[-1]
    for i, point in enumerate((ForkPoint.TIP, ForkPoint.AFTER, ForkPoint.WITHOUT)):
        await branches.create(OWNER, conversation.id, "", Fork(point, last, f"b{i}"), [minted(partition, "on it")])
    await branches.create(OWNER, conversation.id, "b0", Fork(ForkPoint.AT, response, backup="old"))
    await branches.read(OWNER, conversation.id, "old")
    await branches.list_page(OWNER, conversation.id, PageRequest(2, "b0"))
    await branches.update(OWNER, conversation.id, "b0", new_name="renamed", description="d")
    await branches.compare(OWNER, conversation.id, "MAIN", "renamed", 5)
    await branches.activate(OWNER, conversation.id, "renamed")
    for name, backup in (("made", ""), ("", "older")):
        fork = Fork(ForkPoint.AFTER, last, name, backup)
        lease = Lease(partition, "", "token")
        opened = await store.turns.open(OWNER, TurnSource(conversation.id, fork=fork), lease, 10, [last], ["call_1"])
        mode = CommitMode.FORK if name else CommitMode.PROMOTE
        commit = finished(opened, partition=partition, conversation=conversation, mode=mode, fork=fork)
        await store.turns.commit(commit)
    await branches.activate(OWNER, conversation.id, "MAIN")
    for name in ("b1", "b2", "renamed", "made"):
        await branches.delete(OWNER, conversation.id, name)
    await store.items.list_page(OWNER, conversation.id, EVERYTHING, at=response)
    await store.sweeper.sweep_all()


async def submit(
    store: Store, *, conversation: Conversation | None = None, previous: str | None = None, job: str = "sealed"
) -> Any:
    """Accept a response as its proxy does: the branch is opened and stays locked."""
    opened, partition = OpenedTurn(), new_partition()
    if place := conversation.id if conversation else previous:
        opened, partition = (
            await open_turn(store, conversation=conversation, previous=previous),
            partition_of(place),
        )
    response_id = ids.new_response_id(partition, stored=True)
    facts = {"id": response_id, "object": "response", "created_at": 7, "status": "queued", "error": None}
    body = orjson.dumps({**facts, "metadata": {"status": "queued", "text": '"status":"queued"'}})
    submission = Submission(OWNER, response_id, "token", body, job, opened, streamed=False)
    await store.jobs.submit(submission)
    return submission


async def taken(store: Store, worker: str = "w1") -> JobEntry:
    """Take one entry; the first look only finds out that there is a queue."""
    async with asyncio.timeout(20):
        while not (entries := await store.jobs.take(worker, 1)):
            pass
    return entries[0]


async def claimed(store: Store, token: str, entry: JobEntry | None = None, lease_seconds: float = 10) -> Job:
    job = await store.jobs.claim(entry or await taken(store), token, lease_seconds)
    assert isinstance(job, Job)
    return job


async def status_of(store: Store, response_id: str) -> Any:
    body = orjson.loads((await store.responses.read(OWNER, response_id)).body)
    assert body["metadata"] == {"status": "queued", "text": '"status":"queued"'}
    return body["status"]


async def commit(store: Store, submission: Submission, job: Job, conversation: Conversation | None = None) -> Any:
    opened = replace(submission.opened)
    partition = partition_of(submission.response_id)
    turn = finished(opened, partition=partition, conversation=conversation, response_id=submission.response_id)
    body = orjson.dumps({"object": "response", "status": "completed", "metadata": {}})
    return (await store.turns.commit(replace(turn, token=job.token, job_token=job.token, body=body))).result


async def use_quotas(store: Store) -> None:
    """Call every method of quotas at least once."""
    slot = TurnSlot(OWNER, "token", 1, 1)
    await store.quotas.count_request(OWNER, 10)
    assert await store.quotas.enter(slot) is None
    await store.quotas.keep([slot])
    await store.quotas.leave(slot)
    keyspace = replace(store.conversations._keyspace, most_conversations=9)
    made = new_conversation_id(new_partition())
    reserve = keyspace.reserve(OWNER, made)
    assert reserve is not None
    await keyspace.scripts.run_all([reserve, keyspace.drop(OWNER, made, None, None)])
    await use_ledger(store)


async def use_ledger(store: Store) -> None:
    """Call every method of the ledger, and count everything anew; what is counted is left."""
    keyspace = replace(store.conversations._keyspace, counts_bytes=True, most_bytes=10**9)
    ledger, partition = Ledger(keyspace), new_partition()
    for _ in range(2):
        await ledger.require(OWNER)
        await ledger.charge(OWNER, partition, "token", 10, in_conversation=False)
    await ledger.forget(OWNER, partition)
    await start(store, "one")
    assert await Recounter(store._channel, keyspace).recount()


async def use_jobs(store: Store) -> None:
    """Call every method of jobs at least once."""
    conversation = await start(store, "one")
    submission = await submit(store, conversation=conversation)
    job = await claimed(store, "t1")
    assert await store.jobs.renew([job], 10, worker="w1") == [True]
    assert await store.jobs.give_back(job, "t2", 10)
    await store.jobs.requeue(job.entry)
    job = await claimed(store, "t3")
    assert await commit(store, submission, job, conversation) is CommitResult.OK
    assert await store.jobs.is_over(submission.response_id)
    await store.jobs.finish(job.entry)
    large = await submit(store, job="x" * (Portion().bytes + 1))
    failing = await claimed(store, "t4", await taken(store))
    assert failing.job == large.job
    assert await store.jobs.fail(failing, b"{}")
    await store.jobs.cancel(OWNER, failing.entry.response_id)
    assert [one.id for one in await store.jobs.reclaim("w2", 0, 10)] == [failing.entry.id]
    await store.jobs.join()
    assert (await store.jobs.survey()).jobs == 0
    await store.jobs.finish(failing.entry)


async def use_backup(store: Store) -> None:
    """Call every method of layouts, backups and restores at least once."""
    head = BackupHead(1, "a test", 0, "a server", "")
    await store.layout.open("a test")
    await submit(store)
    parts = [part async for part in store.copier.copy()]
    await store.restorer.prepare(head, replace=True)
    await store.restorer.restore(head, parts)
