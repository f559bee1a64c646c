from redis.asyncio import Redis

from storage import ConversationNotFound, Store
from storage.client.library import load_scripts
from storage.client.scripts import Call
from tests.storage.builders import OWNER, add, read_all, start, take_turn
from tests.storage.everything import use_everything


async def test_the_server_knows_a_script_by_the_hash_that_is_sent(redis: Redis):
    for script in load_scripts().values():
        sha = await redis.script_load(script.source)
        assert (sha.decode() if isinstance(sha, bytes) else sha) == script.sha


async def test_a_script_that_the_server_forgot_is_sent_again(redis: Redis, store: Store):
    conversation = await start(store, "one")
    await redis.script_flush()
    await add(store, conversation, "two")
    await redis.script_flush()
    assert await read_all(store, conversation) == ["one", "two"]


async def test_scripts_that_the_server_forgot_are_sent_again_in_a_pipeline(redis: Redis, store: Store):
    conversation = await start(store)
    await redis.script_flush()
    await take_turn(store, conversation=conversation)
    await redis.script_flush()
    assert await read_all(store, conversation) == ["question", "answer"]


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


async def test_every_script_runs_on_this_server(redis: Redis, store: Store):
    await use_everything(store)
