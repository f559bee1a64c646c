import pytest
from redis.asyncio import Redis

from storage import ConversationNotFound, Store, Unavailable
from storage.client.library import load_scripts
from storage.client.scripts import Call
from tests.fake import on_both_servers
from tests.storage.builders import OWNER, add, read_all, start, take_turn
from tests.storage.everything import use_everything


@on_both_servers
async def test_the_server_knows_a_script_by_the_hash_that_is_sent(redis: Redis):
    for script in load_scripts().values():
        sha = await redis.script_load(script.source)
        assert (sha.decode() if isinstance(sha, bytes) else sha) == script.sha


@on_both_servers
async def test_a_script_that_the_server_forgot_is_sent_again(redis: Redis, store: Store):
    conversation = await start(store, "one")
    await redis.script_flush()
    await add(store, conversation, "two")
    await redis.script_flush()
    assert await read_all(store, conversation) == ["one", "two"]


@on_both_servers
async def test_scripts_that_the_server_forgot_are_sent_again_in_a_pipeline(redis: Redis, store: Store):
    conversation = await start(store)
    await redis.script_flush()
    await take_turn(store, conversation=conversation)
    await redis.script_flush()
    assert await read_all(store, conversation) == ["question", "answer"]


@on_both_servers
async def test_in_a_pipeline_one_refusal_leaves_the_other_answers_alone(store: Store):
    conversation = await start(store)
    scripts = store.conversations._scripts

    def read(partition: str, conversation_id: str) -> Call:
        keys = [f"test:{{{partition}}}:partition", f"test:{{{partition}}}:conversation"]
        return Call("read_conversation", keys, [OWNER, conversation_id], conversation_id)

    known = read(conversation.id[-16:], conversation.id)
    refused, answered = await scripts.run_all([read("0" * 16, "conv_unknown"), known])
    assert isinstance(refused, ConversationNotFound)
    assert refused.subject == "conv_unknown"
    assert isinstance(answered, list)


async def test_no_calls_have_no_answers(store: Store):
    assert await store.conversations._scripts.run_all([]) == []


@on_both_servers
async def test_every_script_runs_on_this_server(redis: Redis, store: Store):
    await use_everything(store)


async def test_a_watcher_is_told_of_each_call_and_what_came_of_it(store: Store):
    told: list[tuple[str, str]] = []
    conversation = await start(store)
    store.watch(lambda script, began, outcome: told.append((script, outcome)) if began else None)
    await store.conversations.read(OWNER, conversation.id)
    with pytest.raises(ConversationNotFound):
        await store.conversations.read(OWNER, f"conv_{'0' * 48}")
    assert told == [("read_conversation", "ok"), ("read_conversation", "refused")]
    store.watch(None)
    await store.conversations.read(OWNER, conversation.id)
    assert len(told) == 2


async def test_a_watcher_is_told_of_calls_that_were_not_answered():
    told: list[tuple[str, str]] = []
    store = Store.connect(
        "redis://127.0.0.1:1", prefix="test", timeout_seconds=1.0, max_connections=1, retention_seconds=60
    )
    store.watch(lambda script, _, outcome: told.append((script, outcome)))
    with pytest.raises(Unavailable):
        await store.conversations.read(OWNER, f"conv_{'0' * 48}")
    await store.close()
    assert told == [("read_conversation", "unavailable")]
